"""Tokenizers without a model: bytes, the characters of a corpus, and none, whose models take ids."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Int

from lm_jax.core.config import InputError
from lm_jax.data.tokenizers.base import (
    ROLES,
    SPECIALS,
    UNK,
    UNKNOWN,
    Backend,
    Encoded,
    Tokenizer,
    by_length,
    vocabulary,
)

IDS = "ids"
NO_TEXT = (
    "this model takes ids, for its checkpoint came without a tokenizer; give --prompt_ids=1,2,3, or for text import it "
    "again with --tokenizer=PATH (to train: --config.data.tokenizer.path=PATH)"
)
_FIRST = len(SPECIALS)  # The first id that stands for text.


def sentinel_names(count: int) -> list[str]:
    """<extra_id_0>, <extra_id_1>, ..."""
    return [f"<extra_id_{index}>" for index in range(count)]


def bytes_tokenizer(sentinels: int) -> Tokenizer:
    """UTF-8 bytes as tokens (Xue et al. 2022, arXiv:2105.13626)."""
    pieces = [f"<0x{byte:02X}>" for byte in range(256)]
    texts = [b""] * len(SPECIALS) + [bytes([byte]) for byte in range(256)]
    return trained("bytes", b"", [*SPECIALS, *pieces], texts, sentinels, _Bytes())


def characters_tokenizer(content: bytes, sentinels: int) -> Tokenizer:
    """The characters of a corpus as tokens; others are unknown. `content` is the alphabet in UTF-8."""
    alphabet = content.decode()
    texts = [b""] * len(SPECIALS) + [character.encode() for character in alphabet]
    texts[UNK] = UNKNOWN.encode()
    return trained("characters", content, [*SPECIALS, *alphabet], texts, sentinels, _Characters(alphabet))


def ids_tokenizer(options: Mapping[str, Any]) -> Tokenizer:
    """No tokenizer: ids are all there is of a checkpoint that came without one.

    Args:
      options: `rows`, how many ids there are, and `roles`, which of them have one.
    """
    rows, roles = options["rows"], dict(options["roles"])
    return Tokenizer(
        IDS,
        b"",
        options,
        file="",
        roles=roles,
        sentinels=(),
        vocabulary=vocabulary([str(token) for token in range(rows)], [b""] * rows),
        backend=_Ids(),
        trusted=True,
        endless=True,
    )


def trained(
    kind: str,
    content: bytes,
    pieces: Sequence[str],
    texts: Sequence[bytes],
    sentinels: int,
    backend: Backend,
    file: str = "alphabet.txt",
) -> Tokenizer:
    """A tokenizer that was trained here: `pieces` and their `texts` begin with the specials, sentinels follow."""
    return Tokenizer(
        kind,
        content,
        {"sentinels": sentinels},
        file=file,
        roles=dict(zip(ROLES, range(len(ROLES)), strict=True)),
        sentinels=range(len(pieces), len(pieces) + sentinels),
        vocabulary=vocabulary([*pieces, *sentinel_names(sentinels)], [*texts, *[b""] * sentinels]),
        backend=backend,
        trusted=True,
    )


class _Ids:
    """Knows no text."""

    lossless = False

    def encode(self, texts: Sequence[str]) -> Encoded:
        raise InputError(NO_TEXT)

    locate = encode

    def decode(self, ids: Int[np.ndarray, " tokens"]) -> str:
        """The ids themselves, as `--prompt_ids` takes them."""
        return ",".join(map(str, ids.tolist()))


class _Bytes:
    """A byte is a token."""

    lossless = True

    def encode(self, texts: Sequence[str]) -> Encoded:
        arrays = [np.frombuffer(text.encode(), np.uint8) for text in texts]
        tokens = np.concatenate([*arrays, np.zeros(0, np.uint8)]).astype(np.int32) + np.int32(_FIRST)
        return Encoded(tokens, np.array([*map(len, arrays)], np.int64))

    def locate(self, texts: Sequence[str]) -> Encoded:
        made = self.encode(texts)
        return by_length(*made[:2], np.ones(_FIRST + 256, np.int32))

    def decode(self, ids: Int[np.ndarray, " tokens"]) -> str:
        known = b"".join(UNKNOWN.encode() if token == UNK else bytes([token - _FIRST]) for token in ids.tolist())
        return known.decode("utf-8", "replace")


class _Characters:
    """A character of the alphabet is a token."""

    lossless = False

    def __init__(self, alphabet: str):
        self._codes = np.array([0, ord(UNKNOWN), *[0] * (_FIRST - 2), *map(ord, alphabet)], "<u4")
        self._ids = np.full(0x110000, UNK, np.int32)
        self._ids[self._codes[_FIRST:]] = np.arange(_FIRST, len(self._codes))

    def encode(self, texts: Sequence[str]) -> Encoded:
        counts = np.array([*map(len, texts)], np.int64)
        return Encoded(self._ids[np.frombuffer("".join(texts).encode("utf-32-le"), "<u4")], counts)

    def locate(self, texts: Sequence[str]) -> Encoded:
        made = self.encode(texts)
        # One token a character, known or not: every byte that continues none begins one.
        data = np.frombuffer("\n".join(texts).encode(), np.uint8)
        starts = np.flatnonzero((data & 0xC0) != 0x80)
        breaks = np.cumsum(made.counts + 1)[:-1] - 1
        return Encoded(made.tokens, made.counts, np.delete(starts, breaks))

    def decode(self, ids: Int[np.ndarray, " tokens"]) -> str:
        return self._codes[ids].tobytes().decode("utf-32-le")
