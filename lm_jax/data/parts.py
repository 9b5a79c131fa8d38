"""Splits long texts into parts to encode, samples lines to train on, and replaces lone surrogates."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator

from lm_jax.data.order import mix

# Longer texts are encoded in parts, because sentencepiece's BPE slows down with the length of a text, and because its
# unigram model sums scores in float32, so that ties segment a whole novel. Much shorter parts cost more calls.
PART = 2_000
_BORDER = re.compile(r"(?<=\S) (?=\S)")


def split(text: str, size: int = PART) -> list[str]:
    """Split a text into parts of at most `size` characters, after a newline, else before a space, else anywhere.

    No piece crosses the first two kinds of border, so the parts have the same pieces as the text.
    """
    if len(text) <= size:
        return [text] if text else []
    result, start = [], 0
    while len(text) - start > size:
        stop = text.rfind("\n", start, start + size) + 1
        if stop <= start:
            stop = text.rfind(" ", start + 1, start + size)
            while stop > start and text[stop - 1] == " ":
                stop -= 1
        if stop <= start:
            stop = start + size
        result.append(text[start:stop])
        start = stop
    return [*result, text[start:]]


def split_at_words(text: str, size: int = PART) -> list[str]:
    """Split a text before single spaces between words, into parts of at most `size` characters where possible.

    Only this border is safe for every tokenizer: most put a prefix before a text, which replaces the space that a part
    begins with.
    """
    result, start = [], 0
    while len(text) - start > size:
        stop = text.rfind(" ", start + 1, start + size)
        while stop > start and (text[stop - 1].isspace() or text[stop + 1].isspace()):
            stop = text.rfind(" ", start + 1, stop)
        if stop <= start:
            border = _BORDER.search(text, start + size)
            if border is None:
                break
            stop = border.start()
        result.append(text[start:stop])
        start = stop
    return [*result, text[start:]]


def sample_lines(texts: Iterable[str], sample_bytes: int, total_bytes: int | None) -> Iterator[str]:
    """Yield the non-empty lines, or an even sample of about `sample_bytes` if `total_bytes` is known and larger."""
    threshold = min(1.0, sample_bytes / total_bytes) * 2.0**64 if total_bytes else 2.0**64
    number = 0
    for text in texts:
        for line in text.split("\n"):
            number += 1
            if line and mix(number) < threshold:
                yield line


def replace_surrogates(text: str) -> str:
    """Replace lone surrogates by U+FFFD, because UTF-8 cannot encode them."""
    if text.isascii():
        return text
    try:
        text.encode()
    except UnicodeEncodeError:
        return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    return text
