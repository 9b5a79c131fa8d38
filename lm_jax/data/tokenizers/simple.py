"""Tokenizers without a model: bytes, characters of a corpus, and "ids", the placeholder of a checkpoint without one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Int

from lm_jax.core.config import InputError
from lm_jax.data.tokenizers.base import (
    SPECIALS,
    TRAINED_ROLES,
    UNK,
    UNKNOWN,
    Backend,
    Encoded,
    Tokenizer,
    TokenizerConfig,
    vocabulary,
)

IDS = "ids"
NEEDS_IDS = (
    "this model takes ids, because its checkpoint came without a tokenizer; give --prompt_ids=1,2,3, or for text "
    "import it again with --tokenizer=PATH (to train: --config.data.tokenizer.path=PATH)"
)
_FIRST = len(SPECIALS)  # The first ordinary id.


def sentinel_names(count: int) -> list[str]:
    """Return <extra_id_0>, <extra_id_1>, ..."""
    return [f"<extra_id_{index}>" for index in range(count)]


def bytes_tokenizer(sentinels: int) -> Tokenizer:
    """Build a tokenizer of UTF-8 bytes (Xue et al. 2022, arXiv:2105.13626)."""
    pieces = [f"<0x{byte:02X}>" for byte in range(256)]
    texts = [b""] * len(SPECIALS) + [bytes([byte]) for byte in range(256)]
    return trained_tokenizer("bytes", b"", [*SPECIALS, *pieces], texts, sentinels, _Bytes())


def characters_tokenizer(content: bytes, sentinels: int) -> Tokenizer:
    """Build a tokenizer of the characters in `content`, UTF-8; all other characters are unknown."""
    alphabet = content.decode()
    texts = [b""] * len(SPECIALS) + [character.encode() for character in alphabet]
    texts[UNK] = UNKNOWN.encode()
    return trained_tokenizer("characters", content, [*SPECIALS, *alphabet], texts, sentinels, _Characters(alphabet))


def ids_tokenizer(options: Mapping[str, Any]) -> Tokenizer:
    """Build the placeholder for a checkpoint without a tokenizer; it cannot encode text.

    `options`: `rows`, the number of ids, and `roles`, the special ids by role.
    """
    rows, roles = options["rows"], dict(options["roles"])
    tables = vocabulary([str(token) for token in range(rows)], [b""] * rows)
    return Tokenizer(
        IDS, b"", options, roles=roles, sentinels=(), vocabulary=tables, backend=_Ids(), trusted=True, no_eos=True
    )


def placeholder(config: TokenizerConfig) -> Tokenizer:
    """Build a tokenizer with the special ids and the size of one that `config` would train; it cannot encode text."""
    if config.kind == "bytes":
        return bytes_tokenizer(config.sentinels)
    ordinary = max(config.target_size - len(SPECIALS) - config.sentinels, 1)
    pieces, texts = [*SPECIALS, *map(str, range(ordinary))], [b""] * len(SPECIALS) + [b" "] * ordinary
    return trained_tokenizer(config.kind, b"placeholder", pieces, texts, config.sentinels, _Ids())


def trained_tokenizer(
    kind: str,
    content: bytes,
    pieces: Sequence[str],
    texts: Sequence[bytes],
    sentinels: int,
    backend: Backend,
    file: str = "alphabet.txt",
) -> Tokenizer:
    """Build a tokenizer trained here from its pieces, special ones first, and their texts; appends the sentinels."""
    roles, ids = TRAINED_ROLES, range(len(pieces), len(pieces) + sentinels)
    options = {"sentinels": sentinels}
    tables = vocabulary([*pieces, *sentinel_names(sentinels)], [*texts, *[b""] * sentinels])
    return Tokenizer(
        kind, content, options, file=file, roles=roles, sentinels=ids, vocabulary=tables, backend=backend, trusted=True
    )


class _Ids:
    lossless = False

    def encode(self, texts: Sequence[str]) -> Encoded:
        raise InputError(NEEDS_IDS)

    locate = encode

    def decode(self, ids: Int[np.ndarray, " tokens"]) -> str:
        """Return the ids in the format of `--prompt_ids`."""
        return ",".join(map(str, ids.tolist()))


class _Bytes:
    lossless = True

    def encode(self, texts: Sequence[str]) -> Encoded:
        arrays = [np.frombuffer(text.encode(), np.uint8) for text in texts]
        tokens = np.concatenate([*arrays, np.zeros(0, np.uint8)]).astype(np.int32) + np.int32(_FIRST)
        return Encoded(tokens, np.array([*map(len, arrays)], np.int64))

    def locate(self, texts: Sequence[str]) -> Encoded:
        return self.encode(texts).with_starts(np.ones(_FIRST + 256, np.int32))

    def decode(self, ids: Int[np.ndarray, " tokens"]) -> str:
        text = b"".join(UNKNOWN.encode() if token == UNK else bytes([token - _FIRST]) for token in ids.tolist())
        return text.decode("utf-8", "replace")


class _Characters:
    lossless = False

    def __init__(self, alphabet: str):
        self._codes = np.array([0, ord(UNKNOWN), *[0] * (_FIRST - 2), *map(ord, alphabet)], "<u4")
        self._ids = np.full(0x110000, UNK, np.int32)
        self._ids[self._codes[_FIRST:]] = np.arange(_FIRST, len(self._codes))

    def encode(self, texts: Sequence[str]) -> Encoded:
        counts = np.array([*map(len, texts)], np.int64)
        return Encoded(self._ids[np.frombuffer("".join(texts).encode("utf-32-le"), "<u4")], counts)

    def locate(self, texts: Sequence[str]) -> Encoded:
        encoded = self.encode(texts)
        # A token is a character, which starts at every byte that is not a UTF-8 continuation byte.
        data = np.frombuffer("\n".join(texts).encode(), np.uint8)
        starts = np.flatnonzero((data & 0xC0) != 0x80)
        breaks = np.cumsum(encoded.counts + 1)[:-1] - 1
        return Encoded(encoded.tokens, encoded.counts, np.delete(starts, breaks))

    def decode(self, ids: Int[np.ndarray, " tokens"]) -> str:
        return self._codes[ids].tobytes().decode("utf-32-le")
