"""Masked language modelling and its sentence-level tasks: BERT and the encoders that followed it.

BERT (Devlin et al. 2019, arXiv:1810.04805, section 3.1): masked tokens and next sentences. RoBERTa (Liu et al. 2019,
arXiv:1907.11692): full sentences. ALBERT (Lan et al. 2020, arXiv:1909.11942): n-grams and sentence order. SpanBERT
(Joshi et al. 2020, arXiv:1907.10529): spans and their boundaries. ERNIE (Sun et al. 2019, arXiv:1904.09223): phrases
and entities. `choose` draws the tokens to predict.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from lm_jax.core.config import InputError, Tree, setting
from lm_jax.data.rows import Reads
from lm_jax.models.config import ModelConfig
from lm_jax.models.heads import gather
from lm_jax.models.interface import Inputs
from lm_jax.models.model import Bound
from lm_jax.objectives.base import (
    Batch,
    Field,
    Loss,
    Objective,
    Part,
    Vocabulary,
    Work,
    accuracy,
    balanced,
    counted,
    enclosed,
    padded,
    per_weight,
    weighted,
)
from lm_jax.objectives.choose import NO_SPANS, ChooseConfig, Chooser, Runs
from lm_jax.objectives.cross_entropy import cross_entropy, token_loss
from lm_jax.objectives.roles import Role

KEY = "config.objective.masked"


@dataclasses.dataclass(frozen=True, kw_only=True)
class MaskedConfig:
    """Settings of the corruption and of the rows.

    Attributes:
      rate: share of the tokens to predict; fewer if no unit of `choose` fits the rest.
      mask, random: shares of the predicted tokens to replace by the mask and by a random token; the rest is unchanged.
      together: whether all tokens of a run are masked, random or unchanged (SpanBERT), not each by itself.
      choose: which tokens are predicted together.
      static: number of fixed versions of every row, masks, segments and windows included; epoch e shows version e mod
        `static` (the released BERT data: 10); 0: every epoch draws anew (RoBERTa, section 4.1).
      next_sentence: whether rows are sentence pairs, with next-sentence prediction.
      sentence_order: whether rows are consecutive segments, half of them swapped, with sentence-order prediction.
      full_sentences: whether rows are full sentences, with [SEP] between documents (RoBERTa, section 4.2).
      boundary: the longest span, in tokens, whose tokens are also predicted from its boundaries (SpanBERT: 15); tokens
        behind are not. 0: none are. Equal to `config.model.boundary`.
      text, spans: names of the columns with the text and with the spans of the unit "span".
    """

    rate: float = 0.15
    mask: float = 0.8
    random: float = 0.1
    together: bool = False
    choose: ChooseConfig = ChooseConfig()
    static: int = setting(0, at_least=0)
    next_sentence: bool = True
    sentence_order: bool = False
    full_sentences: bool = False
    boundary: int = setting(0, at_least=0)
    text: str = "text"
    spans: str = "spans"

    def __post_init__(self):
        if not 0 < self.rate < 1:
            raise InputError(f"{KEY}.rate is {self.rate}; expected a share between 0 and 1")
        if self.mask < 0 or self.random < 0 or self.mask + self.random > 1:
            raise InputError(f"{KEY}.mask {self.mask} and .random {self.random}; expected shares with sum <= 1")
        if len(self.forms) > 1:
            raise InputError(
                f"{KEY} sets {' and '.join(self.forms)}, but a row has one form; keep one of them"
                f"{' (next_sentence=false drops the default)' if self.next_sentence else ''}"
            )

    @property
    def forms(self) -> list[str]:
        """The settings that decide the form of the rows; at most one."""
        names = [name for name in ("next_sentence", "sentence_order", "full_sentences") if getattr(self, name)]
        return names + (["choose.unit=span"] if self.choose.unit == "span" else [])

    @property
    def pairs(self) -> str:
        """The sentence-level task, `next_sentence` or `sentence_order`; empty: none."""
        return "next_sentence" if self.next_sentence else "sentence_order" if self.sentence_order else ""


# The row plan of each form of rows, and the feature with the class of a pair.
PLANS = {
    "next_sentence": "pairs",
    "sentence_order": "consecutive",
    "full_sentences": "sentences",
    "choose.unit=span": "columns",
}
CLASSES = {"next_sentence": "is_next", "sentence_order": "swapped"}


@dataclasses.dataclass(frozen=True)
class Masked(Objective):
    """Rows [CLS] A [SEP] B [SEP], or [CLS] text [SEP] without a sentence-level task.

    Example:
      >>> vocabulary = Vocabulary(size=100, pad=0, eos=1, cls=2, sep=3, mask=4, ordinary=(5, 100))
      >>> masked = Masked(MaskedConfig(next_sentence=False), vocabulary, length=8)
      >>> row = masked.features({"tokens": np.arange(20, 26)}, np.random.default_rng(2))
      >>> print(row["tokens"], row["positions"], row["labels"])
      [ 2 20 21 22  4 24 25  3] [4 0] [23  0]
    """

    config: MaskedConfig
    vocabulary: Vocabulary
    length: int
    kind: str = "encoder"

    roles = {"model": Role(kinds=("encoder",))}

    def __post_init__(self):
        _ = self._specials
        self._chooser  # noqa: B018 - raises for settings that do not fit the vocabulary.

    @property
    def reads(self) -> Reads:
        """Rows of the form of `config`, shorter than `length` by the special tokens of a row."""
        config, room = self.config, self.length - (3 if self.config.pairs else 2)
        plan = PLANS[config.forms[0]] if config.forms else "packed"
        columns = Tree({config.text: room, config.spans: 0} if plan == "columns" else {})
        return Reads(plan=plan, length=room, columns=columns, versions=config.static)

    @property
    def terms(self) -> tuple[str, ...]:
        """Metrics whose means add up to the loss."""
        pairs = (f"{self.config.pairs}_loss",) if self.config.pairs else ()
        return ("masked_lm_loss", *pairs, *(("boundary_loss",) if self.config.boundary else ()))

    @functools.cached_property
    def predictions(self) -> int:
        """The largest number of positions to predict in a row."""
        return max(1, math.ceil(self.length * self.config.rate))

    @property
    def spec(self) -> Mapping[str, Field]:
        """Fields of the features."""
        row, predicted = Field(shape=(self.length,), axes=("length",)), Field(shape=(self.predictions,), used="weights")
        spec = {"tokens": dataclasses.replace(row, ids=True, used="segments"), "types": row, "segments": row}
        spec |= {"positions": predicted, "labels": dataclasses.replace(predicted, ids=True, at="positions")}
        spec["weights"] = weights = dataclasses.replace(predicted, dtype="float32", used="")
        if self.config.pairs:
            spec |= {CLASSES[self.config.pairs]: Field(), "pairs": Field(dtype="float32")}
        if self.config.boundary:
            spec |= {
                name: dataclasses.replace(predicted, used="boundary_weights")
                for name in ("before", "after", "distances")
            }
            spec["boundary_weights"] = weights
        return spec

    @property
    def work(self) -> tuple[Work, ...]:
        """The model reads the row and scores the chosen positions, once more from their boundaries."""
        scored = self.predictions * (2 if self.config.boundary else 1)
        heads = {"pair": 1} if self.config.pairs else {}
        heads |= {"boundary": self.predictions} if self.config.boundary else {}
        return (Work(role="model", length=self.length, scored=scored, heads=Tree(heads)),)

    @property
    def device(self) -> int:
        """The setting that the loss reads, besides the sentence-level task, which a batch shows by its features."""
        return self.config.boundary

    def check(self, configs: Mapping[str, ModelConfig]) -> None:
        """Raises InputError if a model's span-boundary head is not for spans of the length `boundary`."""
        for model in configs.values():
            rows = getattr(model, "boundary", 0)
            if self.config.boundary and rows != self.config.boundary:
                raise InputError(
                    f"{KEY}.boundary is {self.config.boundary}, but config.model.boundary is {rows}; use one value"
                )

    def features(self, row: Mapping[str, Any], rng: np.random.Generator) -> dict[str, np.ndarray]:
        """`tokens` (corrupted), `types`, `segments` of `length`; `positions`, `labels`, `weights` of `predictions`.

        `labels` are the original tokens. A sentence-level task adds the scalars `pairs` (always 1) and `is_next`, or
        `swapped`: 0 if the segments are in order, as in ALBERT. `boundary` adds, of `predictions`, the positions
        `before` and `after` each token's span, `distances` from its first token, and `boundary_weights`.
        """
        vocabulary, config = self.vocabulary, self.config
        tokens, types, classes = self._arranged(row, rng)
        candidates = self._predictable[tokens]
        ordinary = int(np.count_nonzero(candidates))
        most = min(self.predictions, max(1, round(ordinary * config.rate)), ordinary)
        spans = row[config.spans] + np.array([1, 1, 0], np.int32) if config.choose.unit == "span" else NO_SPANS
        runs = self._chooser(tokens, candidates, most, rng, spans)
        chosen = runs.positions
        labels = tokens[chosen]
        tokens[chosen] = self._replaced(labels, runs, rng)
        features = {
            "tokens": padded(tokens, self.length, vocabulary.pad),
            "types": padded(types, self.length),
            "segments": counted(len(tokens), self.length, np.int32),
            "positions": padded(chosen, self.predictions),
            "labels": padded(labels, self.predictions, vocabulary.pad),
            "weights": counted(len(chosen), self.predictions),
            **classes,
        }
        return features | self._boundaries(runs, chosen) if config.boundary else features

    def inputs(self, batch: Batch) -> Inputs:
        """Tokens and types; `segments` are 0 at padding."""
        return Inputs(tokens=batch["tokens"], types=batch["types"], segments=batch["segments"])

    def weights(self, batch: Batch) -> dict[str, Float[Array, ""]]:
        """The number of predicted tokens, of pairs, and of tokens predicted from the boundaries of their spans."""
        weights = {"tokens": batch["weights"].sum()}
        weights |= {"pairs": batch["pairs"].sum()} if self.config.pairs else {}
        return weights | ({"boundary": batch["boundary_weights"].sum()} if self.config.boundary else {})

    def loss(self, models: Mapping[str, Bound], part: Part) -> Loss:
        """The mean loss of the predicted tokens, plus that of the pairs and that of the tokens in spans."""
        model, batch = models["model"], part.batch
        output = model(self.inputs(batch), dropout=part.key)
        hidden = gather(output.hidden, batch["positions"])
        tokens, correct = token_loss(model, hidden, batch["labels"], batch["weights"])
        metrics = {"masked_lm_loss": tokens, "masked_accuracy": correct}
        total = per_weight(tokens.total, part.weights["tokens"])
        if task := self.config.pairs:
            logits, classes = model.head("pair", output.hidden[:, 0]), batch[CLASSES[task]]
            pairs = weighted(cross_entropy(logits, classes), batch["pairs"])
            metrics[f"{task}_loss"] = pairs
            metrics[f"{task}_accuracy"] = accuracy(logits, classes, batch["pairs"])
            total = total + per_weight(pairs.total, part.weights["pairs"])
        if self.config.boundary:
            inside, correct = self._boundary_loss(model, output.hidden, batch)
            metrics |= {"boundary_loss": inside, "boundary_accuracy": correct}
            total = total + per_weight(inside.total, part.weights["boundary"])
        return balanced(total, metrics, output)

    @functools.cached_property
    def _chooser(self) -> Chooser:
        return Chooser(self.config.choose, self.vocabulary, f"{KEY}.choose")

    @functools.cached_property
    def _specials(self) -> tuple[int, ...]:
        return self.vocabulary.require("masked", "cls", "sep", "mask")

    @functools.cached_property
    def _predictable(self) -> Bool[np.ndarray, " vocab"]:
        """Whether an id may be predicted: all but those of the special tokens of a row."""
        predictable = np.ones(self.vocabulary.size, bool)
        cls, sep, _ = self._specials
        predictable[[cls, sep, self.vocabulary.eos]] = False
        return predictable

    def _arranged(
        self, row: Mapping[str, Any], rng: np.random.Generator
    ) -> tuple[Int[np.ndarray, " row"], Int[np.ndarray, " row"], dict[str, np.ndarray]]:
        """Tokens and types of a row with its special tokens, and the class of a pair."""
        cls, sep, _ = self._specials
        if not (task := self.config.pairs):
            text = row[self.config.text] if self.config.choose.unit == "span" else row["tokens"]
            if self.config.full_sentences:
                # The last document end is the [SEP] that every row has.
                text = text[:-1] if len(text) and text[-1] == self.vocabulary.eos else text
                text = np.where(text == self.vocabulary.eos, sep, text)
            tokens = enclosed((cls,), text, (sep,))
            return tokens, np.zeros(len(tokens), np.int32), {}
        first, second = row["first"], row["second"]
        if self.config.sentence_order:
            label = int(rng.random() < 0.5)
            first, second = (second, first) if label else (first, second)
        else:
            label = row["is_next"]
        middle = len(first) + 2
        tokens, types = np.empty(middle + len(second) + 1, np.int32), np.zeros(middle + len(second) + 1, np.int32)
        tokens[0], tokens[1 : middle - 1], tokens[middle - 1] = cls, first, sep
        tokens[middle:-1], tokens[-1], types[middle:] = second, sep, 1
        return tokens, types, {CLASSES[task]: np.asarray(label, np.int32), "pairs": np.ones((), np.float32)}

    def _replaced(
        self, labels: Int[np.ndarray, " chosen"], runs: Runs, rng: np.random.Generator
    ) -> Int[np.ndarray, " chosen"]:
        """What the model reads in place of the tokens to predict."""
        config = self.config
        uniform = rng.random(len(runs.starts) if config.together else len(labels))
        uniform = uniform.repeat(runs.stops - runs.starts) if config.together else uniform
        # An instance of `dtype` saves numpy its construction.
        replaced = rng.integers(*self.vocabulary.ordinary, size=len(labels), dtype=labels.dtype)
        replaced[uniform < config.mask] = self._specials[2]
        unchanged = uniform >= config.mask + config.random
        replaced[unchanged] = labels[unchanged]
        return replaced

    def _boundaries(self, runs: Runs, chosen: Int[np.ndarray, " chosen"]) -> dict[str, np.ndarray]:
        """The features of `boundary`. Runs side by side are one span, because its boundaries must be visible."""
        borders = np.ones(len(runs.starts) + 1, bool)
        borders[1:-1] = runs.starts[1:] != runs.stops[:-1]
        starts, stops = runs.starts[borders[:-1]], runs.stops[borders[1:]]
        sizes = stops - starts
        distances = chosen - starts.repeat(sizes)
        near = distances < self.config.boundary
        distances[~near] = 0
        values = {"before": (starts - 1).repeat(sizes), "after": stops.repeat(sizes), "distances": distances}
        features = {name: padded(array, self.predictions) for name, array in values.items()}
        weights = counted(0, self.predictions)
        weights[: len(near)] = near
        return features | {"boundary_weights": weights}

    def _boundary_loss(self, model: Bound, hidden: jax.Array, batch: Batch) -> tuple[Any, Any]:
        """The span-boundary objective (Joshi et al. 2020, section 3.2)."""
        before, after = gather(hidden, batch["before"]), gather(hidden, batch["after"])
        states = model.boundary_states(before, after, batch["distances"])
        return token_loss(model, states, batch["labels"], batch["boundary_weights"], readout=model.table_logits)
