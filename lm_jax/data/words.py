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
_WIDE = np.isin(np.arange(256), [*range(0xE3, 0xEA), 0xEF, 0xF0])
# Stands for a special token in the text to segment: a wide character that is a word by itself.
_BREAK = "。".encode()


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
    return build(starts_word, texts, key)


def _by_pieces(starts_word: Table, texts: Sequence[bytes], key: str) -> Borders:
    special = np.array([not text for text in texts]) if texts else np.zeros(len(starts_word), bool)

    def begin(tokens: Int[np.ndarray, " tokens"]) -> Bool[np.ndarray, " tokens"]:
        begins = starts_word[tokens]
        begins[1:] |= special[tokens[:-1]]
        begins[:1] = True
        return begins

    return begin


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
    spelled = [text.replace(b"\0", b"\n") or _BREAK for text in texts]
    pieces, sizes = np.array(spelled, object), np.array([*map(len, spelled)])
    by_tokenizer = starts_word & ~_WIDE[[text[0] for text in spelled]]
    # The first bytes of the characters of each piece; none in a piece that only continues a character.
    leads = [[byte for byte in text if byte & 0xC0 != 0x80] for text in spelled]
    has_lead, has_wide = np.array([*map(bool, leads)]), np.array([bool(_WIDE[lead].any()) for lead in leads])
    ends_wide = np.array([bool(lead and _WIDE[lead[-1]]) for lead in leads])

    def begin(tokens: Int[np.ndarray, " tokens"]) -> Bool[np.ndarray, " tokens"]:
        words = segment(_decode(b"".join(pieces[tokens])))
        borders = (np.frombuffer("\0".join(words).encode(), np.uint8) == 0).nonzero()[0]
        borders -= np.arange(len(borders))
        # A token begins a word if there are more borders before its end than before its start.
        passed = borders.searchsorted(sizes[tokens].cumsum())
        lead, ends = has_lead[tokens], tokens
        if not lead.all():
            ends = tokens[np.maximum.accumulate(np.arange(len(tokens)) * lead)]
        begins = by_tokenizer[tokens]
        begins[1:] |= (passed[1:] > passed[:-1]) & (has_wide[tokens[1:]] | ends_wide[ends[:-1]])
        begins[:1] = True
        return begins

    return begin


BORDERS: dict[str, Callable[[Table, Sequence[bytes], str], Borders]] = {"pieces": _by_pieces, "rjieba": _by_rjieba}


def _decode(data: bytes) -> str:
    """Return the text of UTF-8; each byte that is no part of a whole character becomes a question mark."""
    try:
        return data.decode()
    except UnicodeDecodeError:
        # One byte for one, so that the positions of tokens stay.
        return data.decode(errors="surrogateescape").encode(errors="replace").decode()
