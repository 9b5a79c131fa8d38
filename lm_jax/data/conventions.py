"""Special ids that a model expects before and after its text, and at the start and end of an answer.

The conventions of a model trained here follow from its tokenizer, so these settings stay empty. For an imported
checkpoint, `lm-jax import` writes its conventions into the configuration of the run, where every verb reads them.
"""

from __future__ import annotations

import dataclasses

import numpy as np
from jaxtyping import Int

from lm_jax.core.config import setting


@dataclasses.dataclass(frozen=True, kw_only=True)
class ConventionsConfig:
    """Special ids of the model's tokenizer.

    Attributes:
      prefix: ids before every text: a prompt, a source, a document to train or to evaluate on (LLaMA's `<s>`).
      suffix: ids after every source of an encoder-decoder (BART's and T5's `</s>`); empty: EOS.
      between: ids between the two texts of a pair (BERT's `[SEP]`, RoBERTa's `</s></s>`); empty: as after a text.
      start: the first input of an encoder-decoder's decoder; None: padding, as in T5.
      empty: the input of a decoder whose prompt is empty and has no prefix; None: EOS, which ended the document before.
      ends: ids that each end an answer; empty: EOS.
      first: the forced first id of every answer (mBART's language); None: not forced.
      last: the forced last id of an answer that reaches its maximum length (BART's `</s>`); None: not forced.
      suppressed: ids that are never generated.
      suppressed_first: ids that are never the first of an answer.
      foreign: whether all ids that are not suppressed may be generated; if not, only pieces of text and EOS, because a
        model trained here has seen few of the special ids in training.
    """

    prefix: tuple[int, ...] = setting((), at_least=0)
    suffix: tuple[int, ...] = setting((), at_least=0)
    between: tuple[int, ...] = setting((), at_least=0)
    start: int | None = setting(None, at_least=0)
    empty: int | None = setting(None, at_least=0)
    ends: tuple[int, ...] = setting((), at_least=0)
    first: int | None = setting(None, at_least=0)
    last: int | None = setting(None, at_least=0)
    suppressed: tuple[int, ...] = setting((), at_least=0)
    suppressed_first: tuple[int, ...] = setting((), at_least=0)
    foreign: bool = False

    def text(self, ids: Int[np.ndarray, " tokens"]) -> Int[np.ndarray, " prefixed"]:
        """Return the ids of a text, after the prefix."""
        return np.concatenate([self.prefix, ids]).astype(np.int32)

    def source(self, ids: Int[np.ndarray, " tokens"], eos: int) -> Int[np.ndarray, " source"]:
        """Return the ids of a source, between prefix and suffix."""
        return np.concatenate([self.prefix, ids, self.suffix or (eos,)]).astype(np.int32)
