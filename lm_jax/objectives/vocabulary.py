"""A tokenizer as far as a model's table has rows for its ids.

Trainers add a padding token behind a vocabulary and leave the table as it was: what only padding would read needs no
row, so such a tokenizer fits; an id that is read and has no row is refused.
"""

from __future__ import annotations

from lm_jax.core.config import InputError
from lm_jax.data.conventions import ConventionsConfig
from lm_jax.data.tokenizers import Tokenizer
from lm_jax.objectives.base import Vocabulary


def check(tokenizer: Tokenizer, rows: int) -> None:
    """Refuses a tokenizer with pieces of text that a table of `rows` has no row for."""
    if not tokenizer.special[rows:].all():
        raise InputError(
            f"config.model.embed.vocab {rows} is less than the tokenizer's {tokenizer.vocab_size}; leave it unset, or "
            "name the tokenizer that the model was trained with"
        )


def of(tokenizer: Tokenizer, rows: int, kind: str, conventions: ConventionsConfig) -> Vocabulary:
    """What objectives know of a tokenizer; roles without a row are roles that it has not.

    Args:
      tokenizer: whose ids they are.
      rows: of the model's table.
      kind: of the model.
      conventions: what the model expects around its text.

    Raises:
      InputError: there is no row for what ends a text, or for what a decoder starts with.
    """
    if tokenizer.eos >= rows:
        raise InputError(_missing(tokenizer, tokenizer.eos, rows, "every text ends with"))
    row = lambda token: token if token is not None and token < rows else None
    return Vocabulary(
        size=min(tokenizer.vocab_size, rows),
        pad=padding(tokenizer, rows, kind, conventions),
        bos=row(tokenizer.bos),
        eos=tokenizer.eos,
        cls=row(tokenizer.cls),
        sep=row(tokenizer.sep),
        mask=row(tokenizer.mask),
        sentinels=tuple(int(token) for token in tokenizer.sentinels if token < rows),
        ordinary=tokenizer.ordinary,
        start=conventions.start,
        before=conventions.prefix,
        after=conventions.suffix,
    )


def padding(tokenizer: Tokenizer, rows: int, kind: str, conventions: ConventionsConfig) -> int:
    """The id that stands where nothing is read: padding, or one that a table of `rows` has.

    Raises:
      InputError: the model is an encoder-decoder whose decoder starts with padding, and there is no row for it.
    """
    if tokenizer.pad < rows:
        return tokenizer.pad
    if kind == "encoder_decoder" and conventions.start is None:
        raise InputError(_missing(tokenizer, tokenizer.pad, rows, "the decoder starts with"))
    return tokenizer.eos if tokenizer.eos < rows else 0


def _missing(tokenizer: Tokenizer, token: int, rows: int, use: str) -> str:
    return (
        f"{use} {tokenizer.piece(token)}, id {token} of the tokenizer, and the model's table has the ids "
        f"0..{rows - 1}; name the tokenizer that the model was trained with"
    )
