"""The `Vocabulary` of a tokenizer, which may have more ids than a model's embedding table has rows.

Released tokenizers often add a padding token without a row in the table. That is accepted, because padding is never
attended to; any other id that a model reads must have a row.
"""

from __future__ import annotations

from collections.abc import Mapping

from lm_jax.core.config import InputError, Tree
from lm_jax.data.conventions import ConventionsConfig
from lm_jax.data.tokenizers import Tokenizer
from lm_jax.objectives.base import Vocabulary


def check(tokenizer: Tokenizer, rows: int) -> None:
    """Raises InputError if a table of `rows` lacks a row for a piece of ordinary text."""
    if not tokenizer.special[rows:].all():
        raise InputError(
            f"config.model.embed.vocab {rows} is less than the tokenizer's {tokenizer.vocab_size}; leave it unset, or "
            "name the tokenizer that the model was trained with"
        )


def of(
    tokenizer: Tokenizer,
    rows: int,
    kind: str,
    conventions: ConventionsConfig,
    labels: Mapping[str, tuple[str, ...]] = Tree(),
) -> Vocabulary:
    """The vocabulary of a tokenizer for a model's embedding table of `rows`; special tokens without a row become None.

    `labels` are the names of the labels of each column of the corpus, by id.

    Raises:
      InputError: the table has no row for EOS, or for the decoder's first token.
    """
    if tokenizer.eos >= rows:
        raise InputError(_missing(tokenizer, tokenizer.eos, rows, "every text ends with"))
    in_table = lambda token: token if token is not None and token < rows else None
    return Vocabulary(
        size=min(tokenizer.vocab_size, rows),
        pad=padding(tokenizer, rows, kind, conventions),
        bos=in_table(tokenizer.bos),
        eos=tokenizer.eos,
        cls=in_table(tokenizer.cls),
        sep=in_table(tokenizer.sep),
        mask=in_table(tokenizer.mask),
        sentinels=tuple(int(token) for token in tokenizer.sentinels if token < rows),
        ordinary=tokenizer.ordinary,
        start=conventions.start,
        before=conventions.prefix,
        after=conventions.suffix,
        between=conventions.between,
        labels=labels,
        pieces=tokenizer.pieces[:rows],
        starts_word=tokenizer.starts_word[:rows],
        texts=tokenizer.texts[:rows],
        tokenizer=tokenizer,
    )


def padding(tokenizer: Tokenizer, rows: int, kind: str, conventions: ConventionsConfig) -> int:
    """The id to pad with: the tokenizer's padding if a table of `rows` has a row for it, else EOS, else 0.

    Raises:
      InputError: the decoder of an encoder-decoder starts with padding, which has no row.
    """
    if tokenizer.pad < rows:
        return tokenizer.pad
    if kind == "encoder_decoder" and conventions.start is None:
        raise InputError(_missing(tokenizer, tokenizer.pad, rows, "the decoder starts with"))
    return tokenizer.eos if tokenizer.eos < rows else 0


def _missing(tokenizer: Tokenizer, token: int, rows: int, use: str) -> str:
    return (
        f"{use} {tokenizer.piece(token)}, id {token} of the tokenizer, but the model's embedding table has ids "
        f"0..{rows - 1}; name the tokenizer that the model was trained with"
    )
