"""Sequence to sequence: predict a target from a source (Sutskever et al. 2014, arXiv:1409.3215), as in translation.

The loss is that of Vaswani et al. 2017 (arXiv:1706.03762), section 5.4. Source and target are two columns of the corpus
(`config.data.columns`), and a row is one record.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np
from jaxtyping import Int

from lm_jax.core.config import InputError, setting
from lm_jax.data.rows import Reads, Sizes
from lm_jax.objectives.base import Vocabulary
from lm_jax.objectives.roles import Role
from lm_jax.objectives.teacher_forcing import SourceTarget


@dataclasses.dataclass(frozen=True, kw_only=True)
class Seq2SeqConfig:
    """Settings of the rows and of the loss.

    Attributes:
      source, target: the columns of the sources and of the targets.
      target_length: tokens of the longest target, with EOS; None: `config.data.length` for an encoder-decoder, half of
        it for a decoder, whose row holds the source too.
      closed: whether the source of a decoder ends with EOS, as that of an encoder-decoder does; False: its text already
        ends with what opens the answer, such as the marker of a chat.
      smoothing: share of each label's probability that is spread over the vocabulary in training. Evaluation reports
        the loss without it.
    """

    source: str = "source"
    target: str = "target"
    target_length: int | None = setting(None, at_least=1)
    closed: bool = True
    smoothing: float = setting(0.1, at_least=0, below=1)


@dataclasses.dataclass(frozen=True)
class Seq2Seq(SourceTarget):
    """Source: a text between the special tokens of sources. Target: a text and EOS.

    Texts that are too long are cut at the end. A cut source keeps its special tokens; a cut target has no EOS, so that
    the model does not learn to stop early.

    Example:
      >>> vocabulary = Vocabulary(size=100, pad=0, eos=1, ordinary=(2, 100))
      >>> seq2seq = Seq2Seq(Seq2SeqConfig(target_length=4), vocabulary, length=5)
      >>> row = {"source": np.array([11, 12, 13]), "target": np.array([21, 22])}
      >>> row = seq2seq.features(row, np.random.default_rng(0))
      >>> print(row["source"], row["tokens"], row["targets"])
      [11 12 13  1  0] [ 0 21 22  0] [21 22  1  0]
    """

    config: Seq2SeqConfig
    vocabulary: Vocabulary
    length: int
    kind: str = "encoder_decoder"

    roles = {"model": Role(kinds=("encoder_decoder", "decoder"))}

    def __post_init__(self):
        if self.config.source == self.config.target:
            raise InputError(
                f"config.objective.seq2seq.source and .target are both {self.config.source!r}; name two columns"
            )
        if self._source_tokens < 1:
            raise InputError(
                f"config.data.length {self.length} leaves no token for the text of a source, beside its special tokens"
                + (f" and a target of {self.target_length} tokens" if self.kind == "decoder" else "")
                + "; increase it, or lower config.objective.seq2seq.target_length"
            )

    @property
    def smoothing(self) -> float:
        """Label smoothing of the training loss."""
        return self.config.smoothing

    @property
    def target_length(self) -> int:
        """Tokens of the longest target, with EOS."""
        if self.config.target_length is not None:
            return self.config.target_length
        return self.length if self.kind == "encoder_decoder" else max(self.length // 2, 1)

    @property
    def reads(self) -> Reads:
        """Records with both columns; a target that fills `target_length` has no room for EOS."""
        columns = {self.config.source: self._source_tokens, self.config.target: self.target_length}
        return Reads(plan="columns", length=sum(columns.values()), columns=columns, lengths=self.lengths)

    def lengths(self, sizes: Sizes) -> Int[np.ndarray, " rows"]:
        """The tokens of a decoder's rows; of an encoder-decoder's, those of the longer of source and target.

        Rows without targets have one token for them.
        """
        source = sizes[self.config.source] + len(self.vocabulary.before) + len(self.vocabulary.closing)
        target = np.minimum(sizes.get(self.config.target, 0) + 1, self.target_length)
        return np.maximum(source, target) if self.kind == "encoder_decoder" else source + target - 1

    @property
    def _source_tokens(self) -> int:
        """Tokens of the longest source, without special tokens."""
        # A decoder does not read the last token of the target.
        longest = self.length if self.kind == "encoder_decoder" else self.length + 1 - self.target_length
        return longest - len(self.vocabulary.before) - len(self.closing)

    @property
    def answer_columns(self) -> tuple[str, ...]:
        """The column of the targets, which new rows lack."""
        return (self.config.target,)

    @property
    def closing(self) -> tuple[int, ...]:
        """The ids that end every source."""
        return self.vocabulary.closing if self.config.closed or self.kind == "encoder_decoder" else ()

    def source(self, text: Int[np.ndarray, " text"]) -> Int[np.ndarray, " source"]:
        """The ids of a source, from those of its text."""
        return np.concatenate([self.vocabulary.before, text, self.closing]).astype(np.int32)

    def features(self, row: Mapping[str, Any], rng: np.random.Generator) -> dict[str, np.ndarray]:
        """The features of `SourceTarget.arrange`."""
        target = np.concatenate([row[self.config.target], [self.vocabulary.eos]])[: self.target_length]
        return self.arrange(self.source(row[self.config.source]), target.astype(np.int32))
