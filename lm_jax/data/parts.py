"""Texts in parts: short enough to encode well, a share of them to train on, none that cannot be encoded."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator

from lm_jax.data.order import mix

# Longer texts are encoded in parts: sentencepiece's BPE is slower the longer a text is, and its unigram lattice over
# a whole novel sums scores in float32 until ties decide the cuts. Much shorter parts cost more in calls.
PART = 2_000
_BORDER = re.compile(r"(?<=\S) (?=\S)")


def parts(text: str, size: int = PART) -> list[str]:
    """A text cut into parts of at most `size` characters, after a newline, else before a space, else anywhere.

    No piece crosses the first two kinds of cut, so the parts' pieces are those of the text.
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


def before_words(text: str, size: int = PART) -> list[str]:
    """A text cut before single spaces between words, into parts of at most `size` characters where there are such.

    Nothing else is a border for every tokenizer: most put something before a text that a part must not get, and the
    space that a part begins with stands for that.
    """
    result, start = [], 0
    while len(text) - start > size:
        stop = text.rfind(" ", start + 1, start + size)
        while stop > start and (text[stop - 1].isspace() or text[stop + 1].isspace()):
            stop = text.rfind(" ", start + 1, stop)
        if stop <= start:
            found = _BORDER.search(text, start + size)
            if found is None:
                break
            stop = found.start()
        result.append(text[start:stop])
        start = stop
    return [*result, text[start:]]


def sampled(texts: Iterable[str], sample_bytes: int, total_bytes: int) -> Iterator[str]:
    """Lines of the texts; an even share of them where there is more than `sample_bytes`."""
    threshold = min(1.0, sample_bytes / total_bytes) * 2.0**64 if total_bytes else 2.0**64
    number = 0
    for text in texts:
        for line in text.split("\n"):
            number += 1
            if line and mix(number) < threshold:
                yield line


def encodable(text: str) -> str:
    """Text without lone surrogates, which no encoding can write."""
    if text.isascii():
        return text
    try:
        text.encode()
    except UnicodeEncodeError:
        return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    return text
