"""Scores of generated texts: what of a text is scored, and against what."""

import dataclasses

import pytest

from lm_jax.data.tables import Records
from lm_jax.data.tasks import TaskConfig
from lm_jax.evaluate.language_modelling import LanguageModelling
from lm_jax.evaluate.written import TextScores, scored

ROWS = object.__new__(Records)


@dataclasses.dataclass(frozen=True)
class Likelihood(LanguageModelling):
    """The loss without a model."""

    def run(self, params):
        yield "loss", params

    def values(self, params, batch):
        return ("loss",)


def evaluator(texts, originals, *metrics, sides=("", ""), after=""):
    return TextScores(
        likelihood=object.__new__(Likelihood),
        task=TaskConfig(metrics=metrics, answer_after=after),
        sides=sides,
        write=lambda weights, rows: texts,
        original=lambda rows: originals,
        rows=ROWS,
    )


def test_the_metrics_follow_the_loss():
    scores = evaluator(["a b", "c d"], ["a b", "c e"], "exact_match", "rougeL")
    assert dict(scores.run(2.5)) == pytest.approx({"loss": 2.5, "exact_match": 0.5, "rougeL": 0.75})
    assert scores.values(None, None) == ("loss", "exact_match", "rougeL") == tuple(dict(scores.run(2.5)))


def test_white_space_around_a_text_is_not_scored():
    assert dict(evaluator([" a b\n"], ["a b "], "exact_match").run(0))["exact_match"] == 1


def test_the_final_answer_alone_is_scored():
    texts = ["so 3 + 4 = 8\n#### 7", "#### 1 #### 9 ", "7", "#### 7,"]
    originals = ["3 + 4 = 7\n#### 7"] * 4
    assert dict(evaluator(texts, originals, "exact_match", after="####").run(0))["exact_match"] == 0.5
    assert [scored(text, "####") for text in texts] == ["7", "9", "7", "7,"]


def test_the_template_of_the_targets_is_not_scored():
    scores = evaluator(["Answer: 7 .", "Answer: 8 .", "9"], ["7", "7", "9"], "exact_match", sides=("Answer: ", " ."))
    assert dict(scores.run(0))["exact_match"] == pytest.approx(2 / 3)
