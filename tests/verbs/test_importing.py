"""`import` of checkpoints with unknown or missing fields, with a tokenizer from elsewhere, or without one."""

import json
import shutil

import numpy as np
import pytest
from commands import lm_jax

from lm_jax.data import tokenizers
from lm_jax.interop import safetensors
from lm_jax.interop.huggingface import open_checkpoint
from lm_jax.verbs import generate


def copy_checkpoint(repository, folder, **over):
    """Copies the small GPT-2 with changed fields of config.json; None removes a field."""
    golden = repository / "tests" / "golden" / "huggingface_gpt2"
    tree = json.loads((golden / "config.json").read_text()) | over
    folder.mkdir(exist_ok=True)
    tree = {name: value for name, value in tree.items() if value is not None}
    (folder / "config.json").write_text(json.dumps(tree))
    shutil.copy(golden / "model.safetensors", folder)
    return folder


@pytest.fixture(scope="module")
def ids_only(repository, tmp_path_factory):
    """A run of a checkpoint without model_type, class and tokenizer."""
    folder = tmp_path_factory.mktemp("ids_only")
    checkpoint = copy_checkpoint(
        repository, folder / "checkpoint", model_type=None, architectures=None, condition_on_chain=True
    )
    assert lm_jax("import", checkpoint, f"--workdir={folder / 'run'}", "--hf.eos_token_id=5") == 0
    return folder / "run"


def answers_of(capsys, *words):
    """Returns the answers of `generate`."""
    assert lm_jax("generate", *words, "--temperature=0", "--max_tokens=4", "--json") == 0
    return json.loads(capsys.readouterr().out)["answers"]


def test_a_run_without_a_tokenizer_continues_ids(ids_only, capsys):
    answers = answers_of(capsys, f"--workdir={ids_only}", "--prompt_ids=1,2,3", "--prompt_ids=9 8", "--prompt_ids=7")
    assert [answer["prompt_ids"] for answer in answers] == [[1, 2, 3], [9, 8], [7]]
    assert all(1 <= len(answer["tokens"]) <= 4 and "text" not in answer for answer in answers)


def test_answers_in_ids_are_printed_as_ids(capsys):
    generate._say_ids({"prompt_ids": [1, 2, 3], "tokens": [17, 4]})
    assert capsys.readouterr().out == "1,2,3 -> 17,4\n"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["generate", "--prompt=The"], "takes ids"),
        (["generate"], "needs --prompt_ids=1,2,3"),
        (["generate", "--prompt_ids=1,x"], "expected token ids, such as 1,2,3"),
        (["evaluate", "--config.data.path=README.md"], "takes ids"),
    ],
)
def test_input_that_is_not_ids_is_refused_in_one_line(ids_only, capsys, words, message):
    assert lm_jax(words[0], f"--workdir={ids_only}", *words[1:]) == 2
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1


def test_a_run_without_a_tokenizer_is_exported_without_one(ids_only, tmp_path):
    output = tmp_path / "exported"
    assert lm_jax("export", f"--workdir={ids_only}", f"--output={output}") == 0
    names = {file.name for file in output.iterdir()}
    assert names == {"config.json", "generation_config.json", "model.safetensors"}
    tree = json.loads((output / "config.json").read_text())
    assert (tree["model_type"], tree["architectures"], tree["eos_token_id"]) == ("gpt2", ["GPT2LMHeadModel"], 5)
    assert tree["condition_on_chain"] is True


def test_import_reports_what_it_guessed_and_ignored(repository, tmp_path, capsys):
    checkpoint = copy_checkpoint(repository, tmp_path / "checkpoint", architectures=None, condition_on_chain=True)
    words = (f"--tokenizer={repository / 'tests' / 'golden' / 'tokenizer'}", "--json")
    assert lm_jax("import", checkpoint, f"--workdir={tmp_path / 'run'}", *words) == 0
    report = json.loads(capsys.readouterr().out)
    inferred, ignored = report["notes"]
    assert "inferred from the tensors: GPT2LMHeadModel" in inferred
    assert ignored.startswith("ignored, because no class") and ignored.endswith(": condition_on_chain")
    # The run has a copy of the tokenizer from elsewhere.
    elsewhere = tokenizers.load(repository / "tests" / "golden" / "tokenizer")
    assert tokenizers.load(tmp_path / "run" / "tokenizer").fingerprint == elsewhere.fingerprint


def test_a_field_of_the_command_line_overrides_config_json(repository, tmp_path, capsys):
    checkpoint = copy_checkpoint(repository, tmp_path / "checkpoint", quantization_config={"bits": 4})
    assert lm_jax("import", checkpoint, f"--workdir={tmp_path / 'run'}") == 2
    assert "--hf.quantization_config= leaves it out" in capsys.readouterr().err
    opened = open_checkpoint(checkpoint, {"quantization_config": "", "activation_function": "silu"})
    assert opened.config.stack.block.feedforward.activation == "silu"
    assert "quantization_config" not in opened.tree


@pytest.mark.parametrize("word", ["--hf.", "--hf.vocab_size", "--hf.=3"])
def test_a_field_without_a_name_or_a_value_is_refused(tmp_path, capsys, word):
    assert lm_jax("import", tmp_path, f"--workdir={tmp_path / 'run'}", word) == 2
    assert "--hf." in capsys.readouterr().err


def test_a_tokenizer_of_another_model_is_refused_with_advice(repository, tmp_path, capsys):
    checkpoint = copy_checkpoint(repository, tmp_path / "checkpoint")
    config = tokenizers.TokenizerConfig(kind="characters", vocab=900)
    tokenizers.train(config, [bytes(range(33, 126)).decode()]).save(checkpoint)
    arrays = {name: entry.read() for name, entry in safetensors.entries(checkpoint).items()}
    arrays["transformer.wte.weight"] = arrays["transformer.wte.weight"][:40]
    tensor = lambda name, array: safetensors.Tensor(name, array.shape, array.dtype, lambda: array)
    safetensors.write(checkpoint, [tensor(name, array) for name, array in arrays.items()])
    assert lm_jax("import", checkpoint, f"--workdir={tmp_path / 'run'}", "--hf.vocab_size=40") == 2
    error = capsys.readouterr().err
    assert "the model's table has 40 rows" in error and "--tokenizer=ids" in error


@pytest.fixture(scope="module")
def narrow(repository, tmp_path_factory):
    """A run whose padding id is beyond the model's embedding table."""
    from tokenizers import Tokenizer, models, pre_tokenizers

    folder = tmp_path_factory.mktemp("narrow")
    checkpoint = copy_checkpoint(repository, folder / "checkpoint")
    pieces = {"<eos>": 0, **{f"w{index}": index for index in range(1, 512)}}
    library = Tokenizer(models.WordLevel(pieces, unk_token="<eos>"))
    library.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    library.add_special_tokens(["<eos>", "<pad>"])
    library.save(str(checkpoint / "tokenizer.json"))
    names = {"eos_token": "<eos>", "pad_token": "<pad>", "unk_token": "<eos>"}
    (checkpoint / "tokenizer_config.json").write_text(json.dumps(names))
    assert lm_jax("import", checkpoint, f"--workdir={folder / 'run'}") == 0
    return folder / "run"


def test_padding_beyond_the_table_is_never_read(narrow, capsys):
    tokenizer = tokenizers.load(narrow / "tokenizer")
    assert (tokenizer.pad, tokenizer.vocab_size) == (512, 513)
    # The second text is padded; the same prompt as ids is not.
    words = ("--prompt=w1 w2 w3 w4 w5", "--prompt=w7", "--prompt_ids=7")
    _, padded, ids = answers_of(capsys, f"--workdir={narrow}", *words)
    assert padded["text"] == ids["text"] != ""
    assert lm_jax("generate", f"--workdir={narrow}", "--prompt_ids=1,512") == 2
    assert "holds id 512, but the model's vocabulary is 0..511" in capsys.readouterr().err


@pytest.mark.slow
def test_text_without_the_missing_row_is_evaluated(narrow, tmp_path, capsys):
    text = tmp_path / "text.txt"
    text.write_text("\n\n".join(" ".join(f"w{1 + (row * 7 + at) % 500}" for at in range(30)) for row in range(40)))
    words = (f"--config.data.path={text}", f"--config.data.store={tmp_path / 'store'}", "--config.data.workers=1")
    more = ("--config.data.document=paragraph", "--config.data.batch=8", "--config.evaluate.batches=1", "--json")
    assert lm_jax("evaluate", f"--workdir={narrow}", *words, *more) == 0
    assert np.isfinite(json.loads(capsys.readouterr().out)["loss"])


def test_a_model_without_the_tokens_of_its_objective_still_generates(repository, tmp_path, capsys):
    # A run without a tokenizer lacks the sentinels of T5's objective, but only training needs the objective.
    checkpoint, run = repository / "tests" / "golden" / "text_t5", tmp_path / "run"
    assert lm_jax("import", checkpoint, f"--workdir={run}", "--tokenizer=ids") == 0
    assert lm_jax("generate", f"--workdir={run}", "--prompt_ids=5,6,7", "--max_tokens=2", "--json") == 0
    assert '"tokens"' in capsys.readouterr().out
