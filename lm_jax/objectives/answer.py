"""Extractive question answering: an answer is a span of a text (Rajpurkar et al. 2016, arXiv:1606.05250).

The model scores every token as the first and as the last of the answer (Devlin et al. 2019, sections 4.2 and 4.3). A
text that is too long for a row takes several rows; [CLS] is the answer of a row without one.
"""

from __future__ import annotations

import dataclasses
import functools
import itertools
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from lm_jax.core.config import InputError, Tree, setting
from lm_jax.core.sums import Sums
from lm_jax.data.rows import Reads
from lm_jax.data.tables import Records
from lm_jax.data.windows import Windows
from lm_jax.models.heads import is_largest
from lm_jax.models.interface import Output
from lm_jax.models.model import Bound
from lm_jax.models.pooling import pooled
from lm_jax.models.task import TaskHeadConfig
from lm_jax.objectives.base import Batch, Field, Vocabulary, Work, counted, padded, weighted
from lm_jax.objectives.cross_entropy import cross_entropy
from lm_jax.objectives.framing import Framing, frame
from lm_jax.objectives.task import Outputs, Task

KEY = "config.objective.answer"
# Spans of each row that are candidates for the answer.
CANDIDATES = 20
# The logit of a position that is no choice: finite, because a row of padding has no choice at all.
EXCLUDED = -1e9


@dataclasses.dataclass(frozen=True, kw_only=True)
class AnswerConfig:
    """Settings of the rows and of the answers.

    Attributes:
      question: the column of the questions.
      context: the column of the texts with the answers.
      answers: the column of the answers, spans of `context`; the first one is learned.
      overlap: tokens that neighbouring windows of a long context share.
      question_length: longest question, in tokens; the rest is cut.
      longest: longest answer that is predicted, in tokens.
      unanswerable: whether a prediction may be that there is no answer.
      null_threshold: there is no answer if the score of [CLS] is higher than that of the best span by more than this.
    """

    question: str = "question"
    context: str = "context"
    answers: str = "answers"
    overlap: int = setting(128, at_least=0)
    question_length: int = setting(64, at_least=1)
    longest: int = setting(30, at_least=1)
    unanswerable: bool = False
    null_threshold: float = 0.0


class Candidates(NamedTuple):
    """What a row says about the answer.

    Attributes:
      spans: [(score, first token, token after the last), ...], the tokens counted in the whole context; best first.
      null: the score of [CLS], which stands for no answer.
    """

    spans: list[tuple[float, int, int]]
    null: float


class Answered(NamedTuple):
    """The answer to a record.

    Attributes:
      text: the answer; empty if there is none.
      start, stop: its characters in the original context, which are context[start:stop]; 0 if there is none.
      score: of the best span.
      null: of no answer, the lowest of all windows.
    """

    text: str
    start: int
    stop: int
    score: float
    null: float


@dataclasses.dataclass(frozen=True)
class Answer(Task):
    """Rows [CLS] question [SEP] window of the context [SEP].

    The loss of a row is the mean of the cross-entropies of the first and of the last token, of softmaxes over the
    tokens of the row, without padding: a row has the same loss in any length.

    Example:
      >>> vocabulary = Vocabulary(size=100, pad=0, eos=1, cls=2, sep=3, ordinary=(5, 100))
      >>> answer = Answer(AnswerConfig(overlap=1, question_length=2), vocabulary, length=9)
      >>> row = {"question": np.array([11, 12]), "context": np.array([23, 24, 25]), "answers": np.array([[4, 6, 0]])}
      >>> row = answer.features({**row, "window": 3}, np.random.default_rng(0))
      >>> print(row["tokens"], row["answers"])
      [ 2 11 12  3 23 24 25  3  0] [5 6]
    """

    config: AnswerConfig
    vocabulary: Vocabulary
    length: int
    kind: str = "encoder"

    kind_of_answers = "spans"

    def __post_init__(self):
        config = self.config
        left = self.framing.room(2) - config.question_length
        if left <= config.overlap:
            raise InputError(
                f"config.data.length {self.length} leaves {left} tokens for a window of the context beside a question "
                f"of {KEY}.question_length {config.question_length}, but windows share {KEY}.overlap {config.overlap}; "
                "increase the first, or lower one of the others"
            )

    @property
    def answer_columns(self) -> tuple[str, ...]:
        """The column of the answers."""
        return (self.config.answers,)

    @functools.cached_property
    def framing(self) -> Framing:
        """The special tokens of a row."""
        return frame(self.vocabulary, self.kind, self.length, 2, "answer")

    @property
    def sequences(self) -> tuple[tuple[str, ...], ...]:
        """One sequence, of a question and a window of its context."""
        return ((self.config.question, self.config.context),)

    @property
    def reads(self) -> Reads:
        """Questions, contexts in windows, and answers."""
        config, room = self.config, self.framing.room(2)
        windows = Windows(column=config.context, beside=(config.question,), room=room, overlap=config.overlap)
        columns = {config.question: config.question_length, config.context: room, config.answers: 0}
        return Reads(plan="columns", length=self.length, columns=Tree(columns), windows=windows, lengths=self.lengths)

    @property
    def spec(self) -> Mapping[str, Field]:
        """Fields of the features."""
        row, pair = Field(shape=(self.length,), axes=("length",)), Field(shape=(2,))
        spec = {"tokens": dataclasses.replace(row, ids=True, used="segments"), "types": row, "segments": row}
        return {**spec, "context": pair, "window": Field(), "answers": pair, "weights": Field(dtype="float32")}

    @property
    def work(self) -> tuple[Work, ...]:
        """The model reads the row, and its head every token."""
        return (Work(role="model", length=self.length, scored=0, heads=Tree(task=self.length)),)

    def head(self, config: TaskHeadConfig) -> TaskHeadConfig:
        """Two logits for each token, by a projection alone unless the model's family has more layers."""
        if config.pool == "all" and config.classes not in (0, 2):
            raise InputError(
                f"config.model.task.classes is {config.classes}, but the head scores the start and the end of an "
                "answer; set it to 0 or 2"
            )
        return config.per_token(2)

    def features(self, row: Mapping[str, Any], rng: np.random.Generator) -> dict[str, np.ndarray]:
        """Arranges a row.

        Returns:
          `tokens`, `types` and `segments` of `length`. `context`: the first position of the context, and the one after
          its last. `window`: the token of the whole context that is at the first of them. `answers`: the positions of
          the first and of the last token of the answer, 0 if it is not wholly in the row. `weights`: 0 if the row has
          no answers.
        """
        texts = [row[self.config.question], row[self.config.context]]
        tokens, types = self.framing.arrange(texts)
        question, context = self.framing.cut([len(text) for text in texts])
        first = len(self.framing.before) + question + len(self.framing.between)
        window, spans = int(row.get("window", 0)), row.get(self.config.answers)
        answers = np.zeros(2, np.int32)
        if spans is not None and len(spans):
            start, stop = (spans[0, :2] - window).tolist()
            if 0 <= start < stop <= context:
                answers = np.array([first + start, first + stop - 1], np.int32)
        features: dict[str, Any] = {
            "tokens": padded(tokens, self.length, self.vocabulary.pad),
            "types": padded(types, self.length),
            "segments": counted(len(tokens), self.length, np.int32),
            "context": np.array([first, first + context], np.int32),
            "window": np.int32(window),
            "answers": answers,
            "weights": np.float32(spans is not None),
        }
        return features

    def outputs(self, model: Bound, output: Output, batch: Batch, dropout: jax.Array | None) -> Outputs:
        """What `scored` says about the logits of the model."""
        return self.scored(model.task(pooled(output.hidden, batch["segments"], "all"), dropout=dropout), batch)

    def scored(self, logits: Float[Array, "batch length 2"], batch: Batch) -> Outputs:
        """Finds the best spans of the context in each row, from the logits of start and end.

        Returns:
          `start_logits` and `end_logits` [batch length], `null` [batch], the best `scores` [batch candidates] and their
          `spans` [batch candidates 2]: the first token, and the one after the last, of the whole context.
        """
        logits = logits.astype(jnp.float32)
        start, end = logits[..., 0], logits[..., 1]
        first, stop = batch["context"][:, :1], batch["context"][:, 1:]
        at = jnp.arange(start.shape[1])[None]
        inside = (at >= first) & (at < stop)
        masked = [jnp.where(inside, each, EXCLUDED) for each in (start, end)]
        scores, positions = best_spans(masked[0], masked[1], self.config.longest)
        spans = positions + (batch["window"][:, None] - first)[..., None] + jnp.array([0, 1])[None, None]
        return {
            "start_logits": start,
            "end_logits": end,
            "null": start[:, 0] + end[:, 0],
            "scores": scores,
            "spans": spans,
        }

    def _logits(self, outputs: Outputs, batch: Batch) -> tuple[jax.Array, jax.Array]:
        """The logits of start and end, without padding."""
        real = batch["segments"] > 0
        return tuple(jnp.where(real, outputs[name], EXCLUDED) for name in ("start_logits", "end_logits"))  # type: ignore[return-value]

    def losses(self, outputs: Outputs, batch: Batch) -> tuple[Float[Array, " batch"], Float[Array, " batch"]]:
        """The mean of the cross-entropies of start and end, over all tokens of a row but padding."""
        start, end = self._logits(outputs, batch)
        answers = batch["answers"]
        return (cross_entropy(start, answers[:, 0]) + cross_entropy(end, answers[:, 1])) / 2, batch["weights"]

    def measures(self, outputs: Outputs, batch: Batch) -> Sums:
        """The share of rows whose start and end both have the largest logit."""
        start, end = self._logits(outputs, batch)
        right = is_largest(start, batch["answers"][:, 0]) & is_largest(end, batch["answers"][:, 1])
        return {"accuracy": weighted(right.astype(jnp.float32), batch["weights"])}

    def _candidates(self, outputs: Mapping[str, np.ndarray]) -> list[Candidates]:
        """The candidates of each row; `answered` chooses one for each record."""
        columns = (np.asarray(outputs[name]).tolist() for name in ("scores", "spans", "null"))
        return [
            Candidates(
                [(score, *span) for score, span in zip(scores, spans, strict=True) if score > EXCLUDED / 2], null
            )
            for scores, spans, null in zip(*columns, strict=True)
        ]

    def answered(self, outputs: Mapping[str, np.ndarray], rows: Records) -> list[Answered]:
        """The answer to each record: the best span of all windows, or none.

        The score of no answer is the lowest of all windows, because most windows of an answered question lack it.
        """
        candidates = zip(rows.numbers.tolist(), self._candidates(outputs), strict=True)
        groups = itertools.groupby(candidates, lambda row: row[0])
        return [self._answered(rows, record, [row for _, row in group]) for record, group in groups]

    def _answered(self, plan: Records, record: int, windows: list[Candidates]) -> Answered:
        null = min(window.null for window in windows)
        ranked = sorted((span for window in windows for span in window.spans), key=lambda span: -span[0])
        best = ranked[0][0] if ranked else EXCLUDED
        none = Answered("", 0, 0, best, null)
        if not ranked or (self.config.unanswerable and null - best > self.config.null_threshold):
            return none
        located = plan.columns.located(self.config.context, record)
        for score, first, stop in ranked:
            start, end = located.span(first, stop)
            # A span of white space is no answer.
            if start < end:
                return Answered(located.text[start:end], start, end, score, null)
        return none

    def answers_of(self, outputs: Mapping[str, np.ndarray], rows: Records) -> list[str]:
        """The texts of the answers."""
        return [answer.text for answer in self.answered(outputs, rows)]

    def described(self, outputs: Mapping[str, np.ndarray], rows: Records) -> list[dict[str, Any]]:
        """`answer`, its characters `start` and `stop` in the context, its `score`, and that of no answer, `null`."""
        return [
            {"answer": answer.text, **{name: value for name, value in answer._asdict().items() if name != "text"}}
            for answer in self.answered(outputs, rows)
        ]

    def references(self, rows: Records) -> list[list[str]]:
        """The texts of all answers to each record; none if there is no answer."""
        contexts, answers = (rows.columns.originals[name] for name in (self.config.context, self.config.answers))
        return [
            list(dict.fromkeys(contexts[record][start:stop] for start, stop, _ in answers[record]))
            for record in rows.records
        ]


def best_spans(
    start: Float[Array, "batch length"], end: Float[Array, "batch length"], longest: int
) -> tuple[Float[Array, "batch spans"], Int[Array, "batch spans 2"]]:
    """The spans of at most `longest` positions with the highest sums of a start and an end.

    Returns:
      The sums of `CANDIDATES` spans, highest first, and the first and the last position of each span. If there are
      fewer spans, the others have a sum below that of any span.

    Example:
      >>> scores, spans = best_spans(jnp.array([[3.0, 0.0, 2.0]]), jnp.array([[0.0, 1.0, 4.0]]), 2)
      >>> scores[0, :3].tolist(), spans[0, :3].tolist()
      ([6.0, 4.0, 4.0], [[2, 2], [0, 1], [1, 2]])
    """
    length = start.shape[1]
    longest = min(longest, length)
    ends = jnp.pad(end, ((0, 0), (0, longest - 1)), constant_values=EXCLUDED)
    # Of each start in a row, the end of spans of each length.
    windows = ends[:, np.arange(longest)[:, None] + np.arange(length)]
    sums = (start[:, None] + windows).reshape(len(start), -1)
    sums = jnp.pad(sums, ((0, 0), (0, max(0, CANDIDATES - longest * length))), constant_values=2 * EXCLUDED)
    scores, at = jax.lax.top_k(sums, CANDIDATES)
    return scores, jnp.stack([at % length, at % length + at // length], -1)
