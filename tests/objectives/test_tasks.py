"""Tasks: their rows, the laws of training, and their answers."""

import dataclasses

import jax.numpy as jnp
import laws
import numpy as np
import pytest
import tiny

from lm_jax.core.config import InputError, Tree
from lm_jax.data import tokenizers
from lm_jax.data.tables import Records
from lm_jax.models.pooling import pooled
from lm_jax.models.task import TaskHeadConfig
from lm_jax.objectives import OBJECTIVES, ObjectiveConfig, build_objective
from lm_jax.objectives.choice import ChoiceConfig
from lm_jax.objectives.classify import ClassifyConfig
from lm_jax.objectives.embed import EmbedTaskConfig
from lm_jax.objectives.framing import Framing
from lm_jax.objectives.pattern import PatternConfig
from lm_jax.objectives.tag import TagConfig
from lm_jax.objectives.task import Task

LENGTH = 16
LABELS = Tree(label=("a", "b", "c"), tags=("O", "B-X", "I-X"))
TOKENIZER = tokenizers.train(tokenizers.TokenizerConfig(kind="characters"), ["abcxyz :"])
VOCABULARY = dataclasses.replace(tiny.MARKED, labels=LABELS, tokenizer=TOKENIZER)
# Each word has one or two tokens.
WORDS = PatternConfig(template="{text}: {mask}", words=("a=x", "b=yz", "c=zy"))
# For answers that do not depend on the rows.
ANY = object.__new__(Records)
SIZES = (2, 9, 5, 9, 3, 7, 9, 4)


# By name: settings of the objective, columns of a row besides its texts, and settings of the model's head.
TASKS = {
    "label": (dict(name="classify"), lambda row: {"label": row % 3}, {}),
    "label of a pair": (
        dict(name="classify", classify=ClassifyConfig(pair="pair", weights=(1.0, 2.0, 0.5))),
        lambda row: {"label": row % 3},
        {"dense": True, "activation": "tanh"},
    ),
    "labels": (
        dict(name="classify", classify=ClassifyConfig(answers="labels")),
        lambda row: {"label": np.arange(row % 3).reshape(-1, 1)},
        {"pool": "mean"},
    ),
    "number": (
        dict(name="classify", classify=ClassifyConfig(answers="number")),
        lambda row: {"label": np.float32(row / 4)},
        {"pool": "last"},
    ),
    "relation": (
        dict(name="classify", classify=ClassifyConfig(markers=("<fim_prefix>", "<fim_suffix>"))),
        lambda row: {"label": row % 3},
        {},
    ),
    "tag": (dict(name="tag"), lambda row: {"tags": np.array([[at, at + 1, (row + at) % 3] for at in range(2)])}, {}),
    "choice": (dict(name="choice", choice=ChoiceConfig(choices=("text", "pair", "more"), texts=("more",))), None, {}),
    "pattern": (dict(name="pattern", pattern=WORDS), lambda row: {"label": row % 3}, {}),
    "continuation": (dict(name="pattern", pattern=WORDS), lambda row: {"label": row % 3}, {}),
    "contrastive": (dict(name="embed"), lambda row: {}, {}),
    "cosine": (
        dict(name="embed", embed=EmbedTaskConfig(loss="cosine", score="label", highest=4.0)),
        lambda row: {"label": np.float32(row / 2)},
        {},
    ),
}
# These differ enough in what the device does for laws of their own.
TESTED = (
    *("label of a pair", "labels", "relation", "tag", "choice", "pattern", "continuation", "contrastive", "cosine"),
)
# The laws of the others are tested with the marker slow.
QUICK = ("tag", "contrastive")
DECODERS = ("continuation",)
# Larger logits, over a vocabulary, need smaller steps.
RATES = {"pattern": 0.01}


def built(name):
    """The objective of a task, and eight rows."""
    settings, extra, head = TASKS[name]
    kind = "decoder" if name in DECODERS else "encoder"
    objective = build_objective(ObjectiveConfig(**settings), VOCABULARY, LENGTH, kind)
    texts = lambda size: {"text": laws.text(size), "pair": laws.text(size, 1), "more": laws.text(2, 2)}
    extra = extra or (lambda row: {"label": row % 2})
    rows = [{**texts(size), **extra(number)} for number, size in enumerate(SIZES)]
    if name == "relation":
        markers = [VOCABULARY.pieces.index(piece) for piece in objective.config.markers]
        rows = [{**row, "text": np.concatenate([markers[:1], row["text"][:3], markers[1:]])} for row in rows]
    return objective, rows, head


def model_of(objective, head):
    preset = "bert" if objective.kind == "encoder" else "gpt2"
    config = tiny.config(preset, over={**tiny.STILL, "embed.max_length": LENGTH})
    return dataclasses.replace(config, task=objective.head(TaskHeadConfig(**head)))


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=() if name in QUICK else pytest.mark.slow) for name in TESTED]
)
def test_it_overfits_a_batch_and_keeps_the_laws(name, tmp_path):
    objective, rows, head = built(name)
    case = laws.case(objective, {"model": model_of(objective, head)}, rows, rate=RATES.get(name, 0.05))
    laws.check(case, tmp_path, steps=60, fall=0.35)


@pytest.mark.parametrize("name", TASKS)
def test_rows_without_answers_have_no_weight(name):
    objective, rows, _ = built(name)
    unanswered = [column for column in objective.answer_columns if column not in objective.stand_ins]
    row = {column: value for column, value in rows[0].items() if column not in unanswered}
    features, answered = (objective.features(each, np.random.default_rng(0)) for each in (row, rows[0]))
    assert np.array_equal(features["tokens"], answered["tokens"])
    if unanswered:
        assert features["weights"].sum() == 0 < answered["weights"].sum()
    assert {name: array.shape for name, array in features.items()} == {
        name: field.shape for name, field in objective.spec.items()
    }


def test_every_task_is_tested():
    tasks = {name for name, cls in OBJECTIVES.items() if issubclass(cls, Task)}
    assert tasks <= {settings["name"] for settings, _, _ in TASKS.values()} | {"answer"}


def test_a_pair_loses_tokens_of_its_longer_text():
    framing = Framing((1,), (2,), (3,), 9)
    texts = [np.arange(10, 18), np.arange(20, 22)]
    tokens, types = framing.arrange(texts)
    assert tokens.tolist() == [1, 10, 11, 12, 13, 2, 20, 21, 3] and types.tolist() == [0] * 6 + [1] * 3
    assert framing.cut([8, 8]) == [3, 3] and framing.cut([1, 2]) == [1, 2] and framing.cut([7, 2]) == [4, 2]


def test_class_weights_weigh_the_rows_of_their_class():
    objective, rows, _ = built("label of a pair")
    weights = [objective.features(row, np.random.default_rng(0))["weights"] for row in rows]
    assert weights == [1.0, 2.0, 0.5, 1.0, 2.0, 0.5, 1.0, 2.0]
    with pytest.raises(InputError, match="weights has 1 weights"):
        build_objective(
            ObjectiveConfig(name="classify", classify=ClassifyConfig(weights=(1.0,))), VOCABULARY, LENGTH, "encoder"
        )


def test_the_markers_of_a_relation_are_where_they_are_in_the_row():
    objective, rows, _ = built("relation")
    features = objective.features(rows[1], np.random.default_rng(0))
    pieces = [VOCABULARY.pieces[features["tokens"][at]] for at in features["markers"]]
    assert pieces == ["<fim_prefix>", "<fim_suffix>"]


def test_a_row_has_the_tags_of_its_share_of_the_words():
    objective = build_objective(ObjectiveConfig(name="tag", tag=TagConfig()), VOCABULARY, 6, "encoder")
    row = {"text": laws.text(9)[:4], "tags": np.array([[0, 3, 1], [3, 4, 2], [4, 5, 1], [5, 7, 2], [7, 8, 1]])}
    row |= {"window": np.int32(3), "share": np.array([4, 7])}
    features = objective.features(row, np.random.default_rng(0))
    assert features["answers"].tolist() == [0, 0, 1, 2, 0, 0] and features["weights"].tolist() == [0, 0, 1, 1, 0, 0]


def test_the_first_word_of_a_decoders_row_is_tagged():
    objective = build_objective(ObjectiveConfig(name="tag", tag=TagConfig()), VOCABULARY, 4, "decoder")
    row = {"text": laws.text(9)[:2], "tags": np.array([[0, 1, 1], [1, 2, 2]])}
    features = objective.features(row, np.random.default_rng(0))
    assert features["answers"].tolist() == [1, 2, 0, 0] and features["weights"].tolist() == [1, 1, 0, 0]


def test_a_word_without_a_token_gets_no_position():
    objective = build_objective(ObjectiveConfig(name="tag", tag=TagConfig()), VOCABULARY, 8, "encoder")
    row = {"text": laws.text(9)[:2], "tags": np.array([[0, 1, 1], [1, 1, 2], [1, 2, 1], [2, 2, 2]])}
    features = objective.features(row, np.random.default_rng(0))
    # Neither the next word nor the [SEP] has its tag.
    assert features["answers"].tolist() == [0, 1, 1, 0, 0, 0, 0, 0] == features["weights"].astype(int).tolist()


def test_pools_do_not_read_padding():
    hidden = jnp.arange(12.0).reshape(1, 4, 3)
    real = jnp.array([[1, 1, 0, 0]])
    assert pooled(hidden, real, "first").tolist() == [[0, 1, 2]]
    assert pooled(hidden, real, "last").tolist() == [[3, 4, 5]]
    assert pooled(hidden, real, "mean").tolist() == [[1.5, 2.5, 3.5]]
    assert pooled(hidden, real, "all").shape == (1, 4, 3)
    with pytest.raises(InputError, match="config.model.task.pool"):
        pooled(hidden, real, "middle")


@pytest.mark.parametrize(
    ("name", "logits", "answers", "described"),
    [
        ("label", [[0.0, 2.0, 1.0]], [1], [{"label": "b", "scores": {"a": 0.0900, "b": 0.6652, "c": 0.2447}}]),
        ("labels", [[-1.0, 2.0, 1.0]], [[1, 2]], [{"labels": ["b", "c"]}]),
        ("pattern", [[0.0, 2.0, 1.0]], [1], [{"label": "b", "scores": {"a": 0.0900, "b": 0.6652, "c": 0.2447}}]),
        ("number", [[0.25]], [0.25], [{"number": 0.25}]),
        ("choice", [[0.0, 1.0, -1.0]], [1], [{"label": "b", "choice": "pair"}]),
    ],
)
def test_answers_are_named(name, logits, answers, described):
    objective, _, _ = built(name)
    outputs = {"logits": np.array(logits, np.float32)}
    assert objective.answers_of(outputs, ANY) == answers
    for actual, expected in zip(objective.described(outputs, ANY), described, strict=True):
        for key, value in expected.items():
            assert actual[key] == (pytest.approx(value, abs=1e-4) if key == "scores" else value)


def test_contrastive_pairs_are_ranked_among_all():
    objective, _, _ = built("contrastive")
    vectors = np.array([[[1.0, 0.0], [0.8, 0.6]], [[0.0, 1.0], [1.0, 0.0]]])
    assert objective.answers_of({"vectors": vectors}, ANY) == [[1, 0], [0, 1]]
    assert objective.coupled
