"""`lm-jax inspect --batch` shows the rows that a step of training gets."""

import json

import numpy as np
import pytest

from lm_jax import experiment, flags
from lm_jax.data import pipeline, tokenizers
from lm_jax.data.tokenizers import TokenizerConfig
from lm_jax.objectives.base import Field
from lm_jax.verbs import batch
from tests.commands import golden_flags, lm_jax

BYTES = tokenizers.train(TokenizerConfig(kind="bytes"), [])
MASK, EOS = BYTES.mask, BYTES.eos


def test_the_arrays_are_those_of_the_step(tmp_path, capsys):
    words = golden_flags(tmp_path)
    config, _ = flags.configure(flags.load_recipe("bert:tiny"), words)
    exp = experiment.prepare(experiment.parse(config))
    expected = pipeline.batch_at(exp.feed.rows("train"), exp.objective.features, 7, seed=0, batch=16)
    capsys.readouterr()

    assert lm_jax("inspect", "--config=bert:tiny", "--batch=7", "--json", *words) == 0
    shown = json.loads(capsys.readouterr().out)

    assert set(shown["arrays"]) == set(expected)
    for name, array in expected.items():
        np.testing.assert_array_equal(np.array(shown["arrays"][name], array.dtype), array)
    assert lm_jax("inspect", "--config=bert:tiny", "--batch=7", "--rows=2", *words) == 0
    text = capsys.readouterr().out
    assert text.count("[CLS]") == text.count("\nrow ") == 2
    assert text.count(" -> ") + text.count("{= ") == int(expected["weights"][:2].sum())
    assert f"is_next {expected['is_next'][0]}" in text and "row plan pairs" in text


def test_predicted_tokens_borders_and_padding_are_marked():
    ids = BYTES.encode("ab cd").tolist()
    row = {
        "tokens": np.array([ids[0], MASK, ids[2], EOS, *ids[3:], 0, 0]),
        "segments": np.array([1, 1, 1, 1, 2, 2, 0, 0]),
        "positions": np.array([1, 5, 0]),
        "labels": np.array([ids[1], ids[4], 0]),
        "weights": np.array([1.0, 1.0, 0.0]),
        "order": np.array(1),
    }
    spec = {
        "tokens": Field(shape=(8,), ids=True, used="segments"),
        "segments": Field(shape=(8,)),
        "positions": Field(shape=(3,), used="weights"),
        "labels": Field(shape=(3,), ids=True, at="positions", used="weights"),
        "weights": Field(shape=(3,), dtype="float32"),
        "order": Field(),
    }
    assert batch.describe(BYTES, spec, row) == [
        "  tokens: 6 tokens, 2 of padding",
        "    a{[MASK] -> b} [EOS] | c{= d}",
        "  labels: 2 of at most 3",
        "  order 1",
    ]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--config=gpt:tiny", "--batch=-1"], "expected a step from 0 on"),
        (["--config=gpt:tiny", "--batch=0", "--rows=99"], "1 to 16 rows"),
        (["--config=gpt:tiny", "--rows=2"], "add --batch=STEP"),
        (["--batch=1"], "needs --config=RECIPE or --workdir=DIR"),
    ],
)
def test_a_batch_that_does_not_exist_is_one_line(words, message, tmp_path, capsys):
    settings = golden_flags(tmp_path) if words[0].startswith("--config") else []
    assert lm_jax("inspect", *words, *settings) == 2
    assert message in capsys.readouterr().err
