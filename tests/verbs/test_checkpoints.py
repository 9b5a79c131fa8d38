"""`import`, `export` and `verify` on small checkpoints that our own export wrote."""

import json
import shutil

import numpy as np
import pytest
from commands import lm_jax

from lm_jax.data import tokenizers
from lm_jax.interop import safetensors


@pytest.fixture(scope="module")
def checkpoint(repository, tmp_path_factory):
    """A GPT-2 checkpoint with a vocabulary of 512 and its tokenizer."""
    golden, folder = repository / "tests" / "golden", tmp_path_factory.mktemp("checkpoint")
    for name in ("config.json", "model.safetensors"):
        shutil.copy(golden / "huggingface_gpt2" / name, folder)
    tokenizers.load(golden / "tokenizer").save(folder)
    return folder


@pytest.fixture(scope="module")
def imported(checkpoint, tmp_path_factory):
    """The work directory that `import` writes for the checkpoint."""
    workdir = tmp_path_factory.mktemp("run") / "imported"
    assert lm_jax("import", checkpoint, f"--workdir={workdir}") == 0
    return workdir


@pytest.mark.parametrize("name", ["gpt2", "bert"])
def test_stored_results_still_agree(repository, capsys, name):
    folder = repository / "tests" / "golden" / f"huggingface_{name}"
    assert lm_jax("verify", f"--case={folder}") == 0
    lines = capsys.readouterr().out.splitlines()
    assert any(line.startswith("loss ") and line.endswith(" ok") for line in lines)
    assert "not computed" not in lines[-1]


def test_verify_names_the_outputs_that_differ(repository, tmp_path, capsys):
    folder = shutil.copytree(repository / "tests" / "golden" / "huggingface_bert", tmp_path / "case")
    with np.load(folder / "outputs.npz") as file:
        stored = dict(file)
    stored["seq_relationship_logits"] = stored["seq_relationship_logits"] + np.float32(0.01)
    np.savez(folder / "outputs.npz", **stored)
    assert lm_jax("verify", f"--case={folder}", "--json") == 1
    (case,) = json.loads(capsys.readouterr().out)["cases"]
    assert [output["name"] for output in case["outputs"] if not output["ok"]] == ["seq_relationship_logits"]


def test_an_imported_run_generates_text(imported, capsys):
    assert lm_jax("generate", f"--workdir={imported}", "--prompt=The", "--max_tokens=4", "--json") == 0
    assert len(json.loads(capsys.readouterr().out)["answers"]) == 1


def on_text(repository, store):
    """Flags that read the small fixed text and write its tokens to `store`."""
    text = repository / "tests" / "golden" / "text.txt"
    flags = (f"--config.data.path={text}", "--config.data.document=paragraph", f"--config.data.store={store}")
    return (*flags, "--config.data.workers=1")


def test_an_imported_run_is_evaluated_on_a_text(imported, repository, tmp_path, capsys):
    words = (*on_text(repository, tmp_path), "--config.evaluate.batches=1")
    assert lm_jax("evaluate", f"--workdir={imported}", *words, "--json") == 0
    assert json.loads(capsys.readouterr().out)["perplexity"] > 1


@pytest.mark.slow
def test_an_imported_run_is_trained_further(imported, repository, tmp_path):
    words = (*on_text(repository, tmp_path), "--config.train.steps=1", "--config.data.batch=8")
    recipe, workdir = imported / "recipe.py", tmp_path / "tuned"
    assert lm_jax("train", f"--config={recipe}", f"--fork={imported}", f"--workdir={workdir}", *words) == 0
    assert (workdir / "checkpoints" / "1").is_dir()
    # The export of the tuned model has the imported config.json.
    output = tmp_path / "exported"
    assert lm_jax("export", f"--workdir={workdir}", f"--output={output}", "--format=huggingface") == 0
    exported = json.loads((output / "config.json").read_text())
    assert exported == json.loads((imported / "huggingface" / "about.json").read_text())["config"]


def test_an_imported_checkpoint_is_exported_bit_for_bit(imported, checkpoint, tmp_path, capsys):
    output = tmp_path / "exported"
    assert lm_jax("export", f"--workdir={imported}", f"--output={output}", "--format=huggingface") == 0
    report = capsys.readouterr().out
    assert "KL" in report and "overlap by 100.0%" in report
    assert json.loads((output / "config.json").read_text()) == json.loads((checkpoint / "config.json").read_text())
    before, after = safetensors.entries(checkpoint), safetensors.entries(output)
    assert set(before) == set(after)
    for name, entry in before.items():
        np.testing.assert_array_equal(entry.read(), after[name].read(), err_msg=name)
    assert tokenizers.load(output).fingerprint == tokenizers.load(checkpoint).fingerprint


def test_export_does_not_overwrite(imported, tmp_path, capsys):
    assert lm_jax("export", f"--workdir={imported}", f"--output={tmp_path}") == 2
    assert "already exists" in capsys.readouterr().err


def test_import_does_not_overwrite(imported, checkpoint, capsys):
    assert lm_jax("import", checkpoint, f"--workdir={imported}") == 2
    assert "not empty" in capsys.readouterr().err


def test_import_of_a_damaged_checkpoint_leaves_nothing(checkpoint, tmp_path, capsys):
    folder = shutil.copytree(checkpoint, tmp_path / "damaged")
    content = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(content[: len(content) // 2])
    assert lm_jax("import", folder, f"--workdir={tmp_path / 'run'}") == 2
    assert capsys.readouterr().err.count("\n") == 1
    assert not (tmp_path / "run").exists()
