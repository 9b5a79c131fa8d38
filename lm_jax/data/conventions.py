"""What a model expects around its text: the ids before and after it, those that start an answer and those that end it.

A run that was trained here needs none of it: its conventions follow from its tokenizer. A checkpoint from elsewhere
brings its own, which `lm-jax import` writes into the configuration of the run; every verb reads them from there.
"""

from __future__ import annotations

import dataclasses

import numpy as np
from jaxtyping import Int

from lm_jax.core.config import setting


@dataclasses.dataclass(frozen=True, kw_only=True)
class ConventionsConfig:
    """Ids of a model's tokenizer.

    Attributes:
      prefix: come before every text: a prompt, a source, a document to train or to evaluate on (LLaMA's `<s>`).
      suffix: come after every source of an encoder-decoder (BART's and T5's `</s>`); empty for what EOS does.
      start: what the decoder of an encoder-decoder reads first; None is padding, as T5 has it.
      empty: what a decoder reads where the prompt is empty and has no prefix; None is EOS, which the document before
        has ended with.
      ends: each of them ends an answer; empty for what EOS does.
      first: the first id of every answer (mBART's language); None leaves it to the model.
      last: the id of an answer's last place where it has not ended before (BART's `</s>`); None leaves it to the model.
      suppressed: never written.
      suppressed_first: not written first.
      foreign: the model may write every id that is not suppressed. One that was trained here has never seen most of the
        special ones, and writes pieces of text and EOS only.
    """

    prefix: tuple[int, ...] = setting((), at_least=0)
    suffix: tuple[int, ...] = setting((), at_least=0)
    start: int | None = setting(None, at_least=0)
    empty: int | None = setting(None, at_least=0)
    ends: tuple[int, ...] = setting((), at_least=0)
    first: int | None = setting(None, at_least=0)
    last: int | None = setting(None, at_least=0)
    suppressed: tuple[int, ...] = setting((), at_least=0)
    suppressed_first: tuple[int, ...] = setting((), at_least=0)
    foreign: bool = False

    def text(self, ids: Int[np.ndarray, " tokens"]) -> Int[np.ndarray, " prefixed"]:
        """The ids of a text with what comes before it."""
        return np.concatenate([self.prefix, ids]).astype(np.int32)

    def source(self, ids: Int[np.ndarray, " tokens"], eos: int) -> Int[np.ndarray, " source"]:
        """The ids of a source with what comes before and after it."""
        return np.concatenate([self.prefix, ids, self.suffix or (eos,)]).astype(np.int32)
