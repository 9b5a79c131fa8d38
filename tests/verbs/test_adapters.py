"""Runs that were tuned by an adaptation: exported, forked, and their adapters put on the run that they started from."""

import contextlib
import io
import json
import shutil

import jax
import numpy as np
import pytest
import workdirs

from lm_jax import experiment
from lm_jax.adapt import AdaptConfig
from lm_jax.core.config import Tree
from lm_jax.core.trees import flatten, unflatten
from lm_jax.data import tokenizers
from lm_jax.data.config import DataConfig
from lm_jax.decode import prompting
from lm_jax.flags import Request
from lm_jax.interop import huggingface
from lm_jax.models.interface import Inputs
from lm_jax.objectives import ObjectiveConfig
from lm_jax.train.checkpoint import Checkpointer
from lm_jax.verbs import predict
from lm_jax.verbs import runs as runs_module
from lm_jax.verbs import workdir as workdir_module
from lm_jax.verbs.runs import restore_model, restore_role
from tests.commands import GOLDEN, lm_jax

METHODS = {
    "lora": AdaptConfig(method="lora", rank=2, targets=("query", "feedforward")),
    "ia3": AdaptConfig(method="ia3"),
    "nf4": AdaptConfig(method="lora", rank=2, base="nf4"),
    "houlsby": AdaptConfig(method="houlsby", width=3),
}
ROWS = [{"text": text} for text in ("the statement is", "a new value is returned", "x")]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("adapters")
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    return folder


class Classifiers(workdirs.Drawn):
    """Classifiers by method; `base` is plain: parameters of `lora`, a head of its own."""

    def __missing__(self, name):
        exp = super().__missing__(name)
        if name == "base":
            _, tuned = restore_role(Request(verb="predict", workdir=str(self.at("lora"))), self["lora"])
            save_plain(self.folder / "base", exp, tuned)
        return exp


@pytest.fixture(scope="module")
def runs(folder):
    columns, store = Tree(text=Tree(), label=Tree(kind="label")), str(folder / "store")
    options = {
        "objective": ObjectiveConfig(name="classify"),
        "data": DataConfig(length=32, batch=8, store=store, workers=1, threads=0, columns=columns),
        "labels": Tree(label=("a", "b")),
        "stack__depth": 2,
    }
    choices = {name: ("bert", {"adapt": adapt, **options}) for name, adapt in {**METHODS, "base": None}.items()}
    return Classifiers(folder, tokenizers.load(GOLDEN / "tokenizer"), choices)


def save_plain(workdir, exp, tuned):
    """Saves the parameters of a tuned run that a plain one has, with another head."""
    own = flatten(exp.product.shapes)
    params = {path: leaf for path, leaf in flatten(tuned).items() if path in own}
    params |= {path: leaf + 1 for path, leaf in params.items() if path.startswith("task/")}
    with Checkpointer(workdir / "checkpoints") as checkpointer:
        about = checkpointer.extra(0)
        checkpointer.save(1, {"params": {"model": unflatten(params)}}, about)


def scores(folder, workdir, *words):
    """The scores of the label `a`."""
    output = folder / f"{workdir.name}{len(words)}.answers.jsonl"
    output.unlink(missing_ok=True)
    files = [f"--workdir={workdir}", f"--input={folder / 'rows.jsonl'}", f"--output={output}"]
    assert lm_jax("predict", *files, *words) == 0
    return [json.loads(line)["scores"]["a"] for line in output.read_text().splitlines()]


def test_an_adapter_on_its_base_answers_as_the_tuned_run(folder, runs, capsys):
    adapter = folder / "adapter"
    assert lm_jax("export", f"--workdir={runs.at('lora')}", "--format=peft", f"--output={adapter}") == 0
    assert "exported as an adapter of BertForSequenceClassification" in capsys.readouterr().out
    tree = json.loads((adapter / "adapter_config.json").read_text())
    assert {"classifier", "bert.pooler.dense"} == {*tree["modules_to_save"]}
    tuned = scores(folder, runs.at("lora"))
    assert np.abs(np.subtract(scores(folder, runs.at("base")), tuned)).max() > 1e-3
    np.testing.assert_allclose(scores(folder, runs.at("base"), f"--adapter={adapter}"), tuned, atol=1e-6)


@pytest.mark.slow
def test_several_adapters_are_put_on_a_base_that_is_restored_once(folder, runs, capsys, monkeypatch):
    for method in ("lora", "ia3"):
        words = [f"--workdir={runs.at(method)}", "--format=peft", f"--output={folder / f'one-{method}'}"]
        assert lm_jax("export", *words) == 0
    base, restored, restore = runs.at("base"), [], runs_module.restore_params
    monkeypatch.setattr(runs_module, "restore_params", lambda *args, **options: restored.append(1) or restore(*args))
    both = f"--adapter={folder / 'one-lora'},{folder / 'one-ia3'}"
    words = [f"--workdir={base}", f"--input={folder / 'rows.jsonl'}", both]
    assert lm_jax("predict", *words, f"--output={folder / '{adapter}.jsonl'}") == 0
    assert len(restored) == 1
    read = lambda path: [json.loads(line)["scores"]["a"] for line in path.read_text().splitlines()]
    for name in ("one-lora", "one-ia3"):
        assert read(folder / f"{name}.jsonl") == scores(folder, base, f"--adapter={folder / name}")
        (folder / "base1.answers.jsonl").unlink()
    capsys.readouterr()
    assert lm_jax("predict", *words, f"--output={folder / 'same.jsonl'}") == 2
    assert "would be one file for 2 adapters; write {adapter} into it" in capsys.readouterr().err


@pytest.mark.parametrize(
    "method", ["lora", *(pytest.param(method, marks=pytest.mark.slow) for method in ("ia3", "nf4"))]
)
def test_an_export_is_the_folded_model(method, folder, runs):
    output = folder / f"exported-{method}"
    assert lm_jax("export", f"--workdir={runs.at(method)}", f"--output={output}") == 0
    _, folded = restore_model(Request(verb="export", workdir=str(runs.at(method))), runs[method])
    theirs = huggingface.open_checkpoint(output).params()
    for path, leaf in flatten(theirs).items():
        np.testing.assert_array_equal(leaf, flatten(folded)[path], err_msg=path)


@pytest.mark.slow
def test_a_run_on_a_base_in_codes_is_exported_as_an_adapter_of_the_rounded_base(folder, runs, capsys):
    adapter = folder / "adapter-of-nf4"
    assert lm_jax("export", f"--workdir={runs.at('nf4')}", "--format=peft", f"--output={adapter}") == 0
    assert "hidden states and head differ by at most 0.0e+00" in capsys.readouterr().out
    assert len(scores(folder, runs.at("nf4"))) == len(ROWS)


@pytest.fixture(scope="module")
def forked(folder, runs):
    """A run that goes on from `lora`, one step without a change."""
    rows = folder / "train.jsonl"
    rows.write_text("".join(json.dumps({**row, "label": "ab"[at % 2]}) + "\n" for at, row in enumerate(ROWS * 4)))
    words = ["--config=classify", f"--fork={runs.at('lora')}", f"--config.data.path={rows}", "--config.data.length=32"]
    words += ["--config.data.batch=8", "--config.train.epochs=0", "--config.train.steps=1", "--config.evaluate.every=0"]
    words += ["--config.optimizer.learning_rate=0", "--config.data.validation=0", "--config.evaluate.best="]
    words += [f"--config.data.store={folder / 'store'}", "--config.evaluate.per_epoch=0", "--config.data.buckets="]
    words += ["--config.adapt.method=dora", "--config.adapt.rank=3", f"--workdir={folder / 'forked'}"]
    with contextlib.redirect_stdout(io.StringIO()) as output:
        assert lm_jax("train", *words) == 0
    return output.getvalue()


@pytest.mark.slow
def test_a_fork_of_a_tuned_run_begins_with_the_folded_model(folder, runs, forked):
    assert "trained    " in forked and ", by dora" in forked and "MB of frozen parameters" in forked
    request = Request(verb="predict", workdir=str(folder / "forked"))
    _, merged = restore_model(request, experiment.load(folder / "forked"))
    _, expected = restore_model(Request(verb="predict", workdir=str(runs.at("lora"))), runs["lora"])
    assert jax.tree.structure(merged) == jax.tree.structure(expected)
    for path, leaf in flatten(merged).items():
        np.testing.assert_allclose(leaf, flatten(expected)[path], atol=1e-6, err_msg=path)


@pytest.mark.slow
def test_a_fork_stores_what_is_trained_and_what_its_base_lacks(folder, runs, forked, capsys):
    assert f"of frozen parameters stay in {runs.at('lora')}, step 0, which this run needs" in forked
    base = Checkpointer(folder / "forked/checkpoints").base
    names = {path.removeprefix("frozen/model/") for path in base.places}
    # The kernels that the products of the base were folded into are not those of the base.
    assert {"token/embedding", "stack/layers/attention/out/kernel"} <= names
    assert "stack/layers/attention/query/kernel" not in names
    shutil.move(runs.at("lora"), folder / "away")
    assert lm_jax("predict", f"--workdir={folder / 'forked'}", f"--input={folder / 'rows.jsonl'}") == 2
    shutil.move(folder / "away", runs.at("lora"))
    assert f"lm-jax predict: the base of {folder / 'forked'} is missing" in capsys.readouterr().err


def test_a_fork_with_other_shapes_is_refused(folder, runs, capsys):
    rows = folder / "wide.jsonl"
    rows.write_text("".join(json.dumps({**row, "label": "ab"[at % 2]}) + "\n" for at, row in enumerate(ROWS * 4)))
    words = ["--config=classify", f"--fork={runs.at('lora')}", f"--config.data.path={rows}", "--config.data.batch=8"]
    words += ["--config.model.stack.depth=1", f"--workdir={folder / 'wide'}", "--config.data.validation=0"]
    assert lm_jax("train", *words, "--config.evaluate.per_epoch=0", "--config.evaluate.best=") == 2
    assert "has other parameters than this model: model/stack/layers" in capsys.readouterr().err


@pytest.mark.slow
def test_answers_of_another_adapter_are_not_continued(folder, runs, capsys):
    adapter, output = folder / "adapter-of-answers", folder / "other.jsonl"
    assert lm_jax("export", f"--workdir={runs.at('lora')}", "--format=peft", f"--output={adapter}") == 0
    request = Request(verb="predict", workdir=str(runs.at("base")), input=str(folder / "rows.jsonl"))
    exp = predict.with_rows(runs["base"], str(folder / "rows.jsonl"))
    predict.partial_file(request, exp, 1, output).touch()
    words = [f"--workdir={runs.at('base')}", f"--input={folder / 'rows.jsonl'}", f"--output={output}"]
    assert lm_jax("predict", *words, f"--adapter={adapter}") == 2
    assert "has answers of another command" in capsys.readouterr().err


def test_adapters_that_cannot_be_folded_are_refused(folder, runs, capsys):
    assert lm_jax("export", f"--workdir={runs.at('houlsby')}", f"--output={folder / 'houlsby-out'}") == 2
    assert "was tuned by 'houlsby', whose parameters, such as stack/layers/adapter" in capsys.readouterr().err
    assert lm_jax("export", f"--workdir={runs.at('houlsby')}", "--format=peft", f"--output={folder / 'out'}") == 2
    assert "--format=peft is for runs with config.adapt.method lora" in capsys.readouterr().err
    assert not (folder / "houlsby-out").exists() and not (folder / "out").exists()


def test_an_adapter_is_refused_on_a_tuned_run(folder, runs, capsys):
    words = [f"--workdir={runs.at('ia3')}", f"--input={folder / 'rows.jsonl'}", f"--adapter={folder}"]
    assert lm_jax("predict", *words) == 2
    assert "was tuned by 'ia3'; give the run that it started from" in capsys.readouterr().err


def test_two_choices_of_what_is_trained_are_refused(folder, runs, capsys):
    words = ["--config=gpt:tiny", f"--config.data.path={GOLDEN / 'text.txt'}", f"--workdir={folder / 'both'}"]
    assert lm_jax("train", *words, "--config.train.only=norm", "--config.adapt.method=lora") == 2
    assert "which both choose what is trained" in capsys.readouterr().err
    assert workdir_module.LOCK not in [path.name for path in folder.glob("both/*")]


@pytest.mark.parametrize(
    "method", ["houlsby", *(pytest.param(name, marks=pytest.mark.slow) for name in ("lora", "last"))]
)
def test_generation_reads_what_was_added(method, folder, capsys):
    adapt = AdaptConfig(method=method, **{"lora": {"rank": 2}, "houlsby": {"width": 3}, "last": {"layers": 1}}[method])
    tokenizer = tokenizers.load(GOLDEN / "tokenizer")
    exp = workdirs.draw(folder / f"decoder-{method}", "gpt2", tokenizer, adapt=adapt, stack__depth=2)
    _, params = restore_role(Request(verb="generate", workdir=str(folder / f"decoder-{method}")), exp)
    tokens = tokenizer.encode("the value").tolist()
    logits = jax.jit(lambda params, ids: exp.product.bind(params)(Inputs(tokens=ids), logits=True).logits[0])
    ids = np.array([*exp.config.conventions.prefix, *tokens])
    expected, row = [], np.zeros((1, len(ids) + 4), np.int32)
    for _ in range(4):
        row[0, : len(ids)] = ids
        scores = np.array(logits(params, row)[len(ids) - 1])
        scores[list(prompting.unwritable(tokenizer, len(scores)))] = -np.inf
        expected.append(int(scores.argmax()))
        ids = np.append(ids, expected[-1])
    words = [f"--workdir={folder / f'decoder-{method}'}", "--prompt=the value", "--max_tokens=4", "--temperature=0"]
    assert lm_jax("generate", *words, "--json") == 0
    (answer,) = json.loads(capsys.readouterr().out)["answers"]
    assert answer["text"] == prompting.continuation(tokenizer, tokens, expected)


@pytest.mark.slow
@pytest.mark.parametrize("method", ["prompt", "prefix"])
def test_learned_tokens_on_their_base_are_the_tuned_run(method, folder, capsys):
    tokenizer, adapt = tokenizers.load(GOLDEN / "tokenizer"), AdaptConfig(method=method, tokens=3)
    tuned, base, adapter = (folder / f"{method}-{name}" for name in ("tuned", "base", "adapter"))
    exp = workdirs.draw(tuned, "gpt2", tokenizer, adapt=adapt, stack__depth=2)
    plain = workdirs.draw(base, "gpt2", tokenizer, stack__depth=2)
    save_plain(base, plain, restore_role(Request(verb="generate", workdir=str(tuned)), exp)[1])
    assert lm_jax("export", f"--workdir={tuned}", "--format=peft", f"--output={adapter}") == 0
    assert "as an adapter of GPT2LMHeadModel" in capsys.readouterr().out
    texts = []
    for words in ([f"--workdir={tuned}"], [f"--workdir={base}", f"--adapter={adapter}"], [f"--workdir={base}"]):
        assert lm_jax("generate", *words, "--prompt=the value", "--max_tokens=6", "--temperature=0", "--json") == 0
        texts.append(json.loads(capsys.readouterr().out)["answers"][0]["text"])
    assert texts[0] == texts[1] != texts[2]


def test_learned_tokens_of_a_classifier_are_not_exported(folder, capsys):
    options = {"objective": ObjectiveConfig(name="classify"), "labels": Tree(label=("a", "b"))}
    columns = Tree(text=Tree(), label=Tree(kind="label"))
    data = DataConfig(length=32, batch=8, store=str(folder / "store"), columns=columns)
    adapt, tokenizer = AdaptConfig(method="prompt", tokens=3), tokenizers.load(GOLDEN / "tokenizer")
    workdirs.draw(folder / "prompted", "bert", tokenizer, adapt=adapt, data=data, **options)
    assert lm_jax("export", f"--workdir={folder / 'prompted'}", "--format=peft", f"--output={folder / 'none'}") == 2
    assert "has the head of a task, which PEFT lets read the first learned token" in capsys.readouterr().err
    assert not (folder / "none").exists()
