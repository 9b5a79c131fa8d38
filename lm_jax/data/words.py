"""Where words begin in a row of tokens, for masks over whole words.

`pieces` asks the tokenizer, whose pieces show where a word begins; it takes every Chinese character for a word.
`rjieba` segments Chinese with the library of that name, which has jieba's dictionary and its hidden Markov model for
other words. Whole words of Chinese are masked by Cui et al. 2021 (arXiv:1906.08101), with another segmenter.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from jaxtyping import Bool, Int

from lm_jax.core.config import InputError, lookup

# Whether each token of a row begins a word.
Borders = Callable[[Int[np.ndarray, " tokens"]], Bool[np.ndarray, " tokens"]]
Table = Bool[np.ndarray, " vocab"]

# First UTF-8 bytes of characters of scripts without spaces, their punctuation and full-width forms: U+3000 to U+9FFF,
# U+F000 to U+FFFF and those above. Here the segmenter decides.
_WIDE = np.zeros(256, bool)
_WIDE[[*range(0xE3, 0xEA), 0xEF, 0xF0]] = True
# Stands for a special token in the text to segment.
_BREAK = b"\n"


def borders(name: str, *, starts_word: Table | None, texts: Sequence[bytes], key: str) -> Borders:
    """Return a function from the ids of a row to whether each begins a word, as the first and special ones always do.

    Args:
      name: "pieces" or "rjieba".
      starts_word: whether each id of the tokenizer begins a word, special ids included.
      texts: UTF-8 text of each id, perhaps a part of a character; b"" for special ids.
      key: the configuration key of `name`, for messages.

    Raises:
      InputError: unknown name, a library is missing, or the tokenizer does not know where its words begin.

    Example:
      >>> texts, table = [b"", b" the", b"se", b" end"], np.array([True, True, False, True])
      >>> borders("pieces", starts_word=table, texts=texts, key="words")(np.array([0, 1, 2, 3])).tolist()
      [True, True, False, True]
    """
    build = lookup(BORDERS, name, key)
    if starts_word is None or not starts_word.any():
        raise InputError(
            f"{key} is {name!r}, but it is unknown which pieces of the tokenizer begin a word; name another tokenizer "
            "in config.data.tokenizer.path, or predict single tokens"
        )
    find = build(starts_word, texts, key)
    special = np.array([not text for text in texts]) if texts else np.zeros(len(starts_word), bool)

    def begin(tokens: Int[np.ndarray, " tokens"]) -> Bool[np.ndarray, " tokens"]:
        begins = find(tokens)
        # No word continues across a special token.
        begins[1:] |= special[tokens[:-1]]
        begins[:1] = True
        return begins

    return begin


def _by_pieces(starts_word: Table, texts: Sequence[bytes], key: str) -> Borders:
    return lambda tokens: starts_word[tokens]


def _by_rjieba(starts_word: Table, texts: Sequence[bytes], key: str) -> Borders:
    """Segment the text of a row, and map the words back to tokens.

    A token begins a word if its first character does, or if a word begins within it. Between two characters of scripts
    with spaces the tokenizer decides, so that a Latin word keeps its pieces together.
    """
    if not any(texts):
        raise InputError(f"{key} is 'rjieba', but the tokenizer does not know the text of its pieces; use pieces")
    try:
        import rjieba  # pyright: ignore[reportMissingImports]
    except ImportError as error:
        raise InputError(f"{key} is 'rjieba', whose library is not installed: pip install 'lm_jax[chinese]'") from error
    segment = rjieba.cut
    # Without zeros, which separate the words below.
    spelled = [text.replace(b"\0", _BREAK) or _BREAK for text in texts]
    sizes = np.array([*map(len, spelled)], np.int32)
    by_tokenizer = starts_word & ~_WIDE[[text[0] for text in spelled]]

    def find(tokens: Int[np.ndarray, " tokens"]) -> Bool[np.ndarray, " tokens"]:
        text = _decode(b"".join([*map(spelled.__getitem__, tokens.tolist())]))
        joined = np.frombuffer("\0".join(segment(text)).encode(), np.uint8)
        borders = np.flatnonzero(joined == 0)
        # Next to a wide character: the last one before the border has three or four bytes.
        wide = _WIDE[joined]
        chosen = wide[borders + 1] | wide[borders - 3] | (joined[borders - 4] == 0xF0)
        positions = (borders - np.arange(len(borders)))[chosen]
        # A token begins a word if there are more borders before its end than before its start.
        passed = np.searchsorted(positions, np.cumsum(sizes[tokens]))
        begins = by_tokenizer[tokens]
        begins[1:] |= passed[1:] > passed[:-1]
        return begins

    return find


BORDERS: dict[str, Callable[[Table, Sequence[bytes], str], Borders]] = {"pieces": _by_pieces, "rjieba": _by_rjieba}


def _decode(data: bytes) -> str:
    """Return the text of UTF-8; each byte that is no part of a whole character becomes a question mark."""
    try:
        return data.decode()
    except UnicodeDecodeError:
        # One byte for one, so that the positions of tokens stay.
        return data.decode(errors="surrogateescape").encode(errors="replace").decode()
