"""Next-token prediction with teacher forcing: `targets` are predicted from the true tokens before them.

`TeacherForced` is the device half of causal, prefix and sequence-to-sequence objectives. `SourceTarget` is the host
half of those with a source and a target, for an encoder-decoder or for a decoder that reads both in one row.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

import numpy as np
from jaxtyping import Array, Float, Int

from lm_jax.core.config import InputError
from lm_jax.models.config import ModelConfig
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
    balanced,
    counted,
    padded,
    per_weight,
)
from lm_jax.objectives.cross_entropy import smoothed_token_loss, token_loss


def opening_ids(vocabulary: Vocabulary, mode: str, key: str) -> tuple[int, ...]:
    """The ids before the text of a source: those of the vocabulary, then the piece `mode` of the setting `key`."""
    return (*vocabulary.before, vocabulary.find(mode, key)) if mode else vocabulary.before


class TeacherForced(Objective):
    """Mean negative log-likelihood of `targets`, weighted by `weights`; both are [batch length].

    Attributes:
      smoothing: share of each label's probability that is spread evenly over the vocabulary (Szegedy et al. 2016,
        arXiv:1512.00567, section 7). Like dropout, it regularises training only: in evaluation, `loss` is the negative
        log-likelihood, as in a training step's `likelihood_loss`.
    """

    terms = ("loss",)
    smoothing: float = 0.0

    @property
    def device(self) -> float:
        """The label smoothing; all other settings are those of the host."""
        return self.smoothing

    def inputs(self, batch: Batch) -> Inputs:
        """The model's inputs: `tokens`, and `positions`, `segments`, `prefix` and `source` where a batch has them."""
        source = None
        if "source" in batch:
            source = Inputs(tokens=batch["source"], segments=batch["source_segments"])
        options = {name: batch[name] for name in ("positions", "segments", "prefix") if name in batch}
        # Rows are packed with positions that count from 0 in each segment.
        return Inputs(tokens=batch["tokens"], source=source, consecutive=True, **options)

    def weights(self, batch: Batch) -> dict[str, Float[Array, ""]]:
        """The number of targets."""
        return {"tokens": batch["weights"].sum()}

    def loss(self, models: Mapping[str, Bound], part: Part) -> Loss:
        """This part's share of the mean over the whole batch."""
        model, batch = models["model"], part.batch
        output = model(self.inputs(batch), dropout=part.key)
        if self.smoothing and part.key is not None:
            loss, _, exact = smoothed_token_loss(
                model, output.hidden, batch["targets"], batch["weights"], self.smoothing
            )
            metrics = {"loss": loss, "likelihood_loss": exact}
        else:
            loss, _ = token_loss(model, output.hidden, batch["targets"], batch["weights"])
            metrics = {"loss": loss}
        return balanced(per_weight(loss.total, part.weights["tokens"]), metrics, output)


class SourceTarget(TeacherForced):
    """A target predicted from a source, in the layout of the model's kind.

    An encoder-decoder encodes `length` tokens of source and decodes `target_length` tokens. A decoder reads the source
    and then the target in one row of `length` tokens, and only the target has weight; `prefix` is the source's length,
    for models with a prefix mask (Raffel et al. 2020, arXiv:1910.10683, section 3.2.1).

    Attributes:
      kind: "encoder_decoder" or "decoder".
      target_length: tokens of the longest target of an encoder-decoder.
    """

    vocabulary: Vocabulary
    length: int
    kind: str

    @property
    def target_length(self) -> int:
        """Tokens of the longest target, with EOS."""
        ...

    @property
    def spec(self) -> Mapping[str, Field]:
        """Fields of the features."""
        size = self.target_length if self.kind == "encoder_decoder" else self.length
        source, target = (
            Field(shape=(each,), axes=("length",), ids=True, used=used)
            for each, used in ((self.length, "source_segments"), (size, "weights"))
        )
        weights = dataclasses.replace(target, dtype="float32", ids=False, used="")
        spec = {"tokens": target, "targets": target, "weights": weights}
        if self.kind == "encoder_decoder":
            return {"source": source, "source_segments": dataclasses.replace(source, ids=False, used=""), **spec}
        return {**spec, "prefix": Field()}

    @property
    def work(self) -> tuple[Work, ...]:
        """An encoder reads the source, a decoder the target, or both; the decoder scores all that it reads."""
        if self.kind == "encoder_decoder":
            size = self.target_length
            return (Work(role="model", length=size, scored=size, source=self.length),)
        return (Work(role="model", length=self.length, scored=self.length),)

    def check(self, configs: Mapping[str, ModelConfig]) -> None:
        """Raises InputError if a target is longer than the learned positions of a decoder."""
        for model in configs.values():
            most, longest = model.embed.max_length, self.spec["tokens"].shape[0]
            if model.embed.positions == "learned" and longest > most:
                raise InputError(
                    f"targets have up to {longest} tokens, but config.model.embed.max_length is {most}; shorten the "
                    "targets, such as by config.data.length, or raise it"
                )

    def fits(self, source: int, target: int) -> bool:
        """Whether a source and a target of these lengths, special tokens included, fit a row."""
        if self.kind == "encoder_decoder":
            return source <= self.length
        return source + target - 1 <= self.length

    def arrange(self, source: Int[np.ndarray, " source"], target: Int[np.ndarray, " target"]) -> dict[str, np.ndarray]:
        """The features of a source and a target, both with their special tokens."""
        pad = self.vocabulary.pad
        if self.kind == "encoder_decoder":
            size = self.target_length
            # T5's decoder starts with the padding token, BART's with EOS.
            tokens = padded(np.array([self.vocabulary.decoder_start]), size, pad)
            tokens[1 : len(target)] = target[:-1]
            return {
                "source": padded(source, self.length, pad),
                "source_segments": counted(len(source), self.length, np.int32),
                "tokens": tokens,
                "targets": padded(target, size, pad),
                "weights": counted(len(target), size),
            }
        joined = np.concatenate([source, target])
        weights = counted(len(joined) - 1, self.length)
        weights[: len(source) - 1] = 0
        return {
            "tokens": padded(joined[:-1], self.length, pad),
            "targets": padded(joined[1:], self.length, pad),
            "weights": weights,
            "prefix": np.array(len(source), np.int32),
        }
