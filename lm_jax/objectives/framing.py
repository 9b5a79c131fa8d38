"""One or two texts in a row, between the special tokens of the model: [CLS] A [SEP] B [SEP] for BERT."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np
from jaxtyping import Int

from lm_jax.core.config import InputError
from lm_jax.objectives.base import Field, Vocabulary, counted, padded

# Of any length.
Tokens = Int[np.ndarray, "_"]


@dataclasses.dataclass(frozen=True)
class Framing:
    """The special ids of a row of at most `length` tokens.

    Attributes:
      before, after: ids around all texts of a row.
      between: ids between two texts.
      length: tokens of the longest row.

    Example:
      >>> framing = Framing((2,), (3,), (3,), 7)
      >>> print(*framing.arrange([np.array([11, 12, 13, 14]), np.array([21])]))
      [ 2 11 12 13  3 21  3] [0 0 0 0 0 1 1]
    """

    before: tuple[int, ...]
    between: tuple[int, ...]
    after: tuple[int, ...]
    length: int

    def room(self, texts: int) -> int:
        """Tokens that are left for the texts of a row."""
        return self.length - len(self.before) - len(self.after) - (texts - 1) * len(self.between)

    def cut(self, sizes: Sequence[int]) -> list[int]:
        """The tokens that each text keeps: the longest text loses its last token until all fit."""
        kept, over = list(sizes), sum(sizes) - self.room(len(sizes))
        while over > 0:
            longest = max(range(len(kept)), key=lambda text: kept[text])
            others = [size for text, size in enumerate(kept) if text != longest]
            step = min(over, max(1, kept[longest] - max(others, default=0)))
            kept[longest], over = kept[longest] - step, over - step
        return kept

    def total(self, sizes: Sequence[Int[np.ndarray, " rows"]]) -> Int[np.ndarray, " rows"]:
        """The tokens of rows whose texts have these numbers of tokens."""
        return np.minimum(np.sum(sizes, axis=0) + self.length - self.room(len(sizes)), self.length)

    def arrange(self, texts: Sequence[Tokens]) -> tuple[Tokens, Tokens]:
        """The tokens of a row, and their types: 1 for the last of several texts, 0 before it."""
        parts, types = [np.array(self.before, np.int32)], [np.zeros(len(self.before), np.int32)]
        for number, (text, size) in enumerate(zip(texts, self.cut([len(text) for text in texts]), strict=True)):
            last = number == len(texts) - 1
            parts += [text[:size], np.array(self.after if last else self.between, np.int32)]
            types += [np.full(size + len(parts[-1]), int(last and number > 0), np.int32)]
        return np.concatenate(parts).astype(np.int32), np.concatenate(types)


def framed(framing: Framing, texts: Sequence[Tokens], pad: int) -> dict[str, Int[np.ndarray, " length"]]:
    """The features of a row, padded to the length: `tokens`, `types`, and `segments`, which are 0 at padding."""
    tokens, types = framing.arrange(texts)
    return {
        "tokens": padded(tokens, framing.length, pad),
        "types": padded(types, framing.length),
        "segments": counted(len(tokens), framing.length, np.int32),
    }


def fields(*shape: int) -> dict[str, Field]:
    """The fields of `framed` for rows of `shape`, of which the last is the length."""
    row = Field(shape=shape, axes=(*[None] * (len(shape) - 1), "length"))
    return {"tokens": dataclasses.replace(row, ids=True, used="segments"), "types": row, "segments": row}


def frame(vocabulary: Vocabulary, kind: str, length: int, texts: int, name: str) -> Framing:
    """The framing of a model: its conventions, else [CLS] and [SEP] for an encoder, and EOS between a decoder's texts.

    Args:
      vocabulary: special ids.
      kind: kind of the model.
      length: tokens of the longest row.
      texts: the largest number of texts of a row.
      name: the objective, for messages.

    Raises:
      InputError: the tokenizer has no [CLS] or [SEP], or the rows are too short for a text.
    """
    before, after = vocabulary.before, vocabulary.after
    if kind == "encoder" and not (before or after):
        cls, sep = vocabulary.require(name, "cls", "sep")
        before, after = (cls,), (sep,)
    result = Framing(before, vocabulary.between or after or (vocabulary.eos,), after, length)
    if (room := result.room(texts)) < texts:
        raise InputError(
            f"config.data.length {length} leaves {room} tokens for {texts} text{'s' * (texts > 1)} beside the special "
            "tokens; increase it"
        )
    return result
