"""Spans and words of a raw text, converted to the tokens of the cleaned text.

Spans are found by the parts that both texts share (`originals.align`), words by the characters that are not white
space, which are the same if each word is cleaned alone, or else by the longest common runs of characters.
"""

from __future__ import annotations

import difflib
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple, cast

import numpy as np
from jaxtyping import Int

from lm_jax.data import originals, records, sources, templates, texts, tokenizers
from lm_jax.data.clean import chain, steps
from lm_jax.data.sources import SourceConfig

# Counts or rejects the bad entry of a record, given what is wrong with it, such as "is 'x'; expected a number".
Bad = Callable[[int, str], None]


class Document(NamedTuple):
    """A document of a text column.

    Attributes:
      raw: the text before cleaning.
      words: its words: those of a list, else those between white space.
      sides: what the template of the column puts before and after the text.
      text: the cleaned text, with both sides; "" if it was dropped.
      tokens: ids of the cleaned text.
      starts: byte offset of each token in it.
    """

    raw: str
    words: Sequence[str]
    sides: tuple[str, str]
    text: str
    tokens: Int[np.ndarray, " tokens"]
    starts: Int[np.ndarray, " tokens"]


class Text(NamedTuple):
    """A text column: its source, and how it is cleaned and tokenised; `root` is that of prepared corpora."""

    root: Path
    source: SourceConfig
    clean: chain.CleanConfig
    tokenizer: tokenizers.Tokenizer


def documents(column: Text) -> Iterator[Document]:
    """Yield the documents of a text column."""
    root, source, clean, _ = column
    sides = templates.split(source.template, "template")
    tokenizer = tokenizers.within(column.tokenizer, sides)
    cleaned, raw = texts.prepare(root, source, clean, aligned=True), sources.documents(source, aligned=True, words=True)
    for unit in range(cleaned.units):
        kept = cleaned.unit(unit)
        encoded, offset = tokenizer.encode_with_starts(kept), 0
        begins = cast(np.ndarray, encoded.starts)
        stops = np.cumsum(encoded.counts)
        for text, start, stop in zip(kept, stops - encoded.counts, stops, strict=True):
            value = next(raw) or ""
            whole = steps.decode(records.whole(value), clean.encoding)[0]
            words = [steps.decode(word, clean.encoding)[0] for word in value] if isinstance(value, list) else None
            tokens, offsets = encoded.tokens[start:stop], begins[start:stop] - offset
            yield Document(whole, whole.split() if words is None else words, sides, text, tokens, offsets)
            offset += len(text.encode()) + 1


def spans(column: Iterable[Any], of: Text, bad: Bad) -> Iterator[Any]:
    """Convert spans from characters of the raw text to the tokens that overlap them."""
    for record, (entry, document) in enumerate(zip(column, documents(of), strict=True)):
        raw, text, starts, shift = document.raw, document.text, document.starts, len(document.sides[0])
        if not entry or not len(starts):
            yield entry
            continue
        if outside := [span for span in entry if span[1] > len(raw)]:
            yield bad(record, f"has {[*outside[0]]!r:.60}; the text has the characters 0 to {len(raw)}")
            continue
        begins, ends = originals.align(raw.join(document.sides), text)
        # The characters of the cleaned text that come from those of a span.
        ranges = [
            (int(ends.searchsorted(first + shift, "right")), int(begins.searchsorted(last + shift)))
            for first, last in (_trimmed(raw, *span[:2]) for span in entry)
        ]
        if any(first >= last for first, last in ranges):
            yield bad(record, "has a span whose text cleaning drops (config.data.clean.steps)")
        else:
            borders = _byte_offsets(text)[np.array(ranges)]
            # The tokens of one character start at the same byte: take the first of them.
            holder = np.maximum(np.searchsorted(starts, borders[:, 0], "right") - 1, 0)
            opens = np.searchsorted(starts, starts[holder])
            closes = np.maximum(np.searchsorted(starts, borders[:, 1]), opens + 1)
            yield [(*each, span[2]) for *each, span in zip(opens.tolist(), closes.tolist(), entry, strict=True)]


def _trimmed(text: str, start: int, stop: int) -> tuple[int, int]:
    """Leave out white space at the ends of a span, which belongs to no token, or to those around the span."""
    part = text[start:stop]
    return (start + len(part) - len(part.lstrip()), start + len(part.rstrip())) if part.strip() else (start, stop)


def tags(column: Iterable[Any], of: Text, bad: Bad) -> Iterator[Any]:
    """Convert the tags of words to (first token, token after the last, tag), empty for a word without a token."""
    for record, (entry, document) in enumerate(zip(column, documents(of), strict=True)):
        if entry is None:
            yield None
        elif not document.text:
            # The record has no text, and so gives no row.
            yield [(0, 0, tag) for (tag,) in entry]
        elif len(entry) != len(document.words):
            have, expected = len(entry), len(document.words)
            of_words = f"{expected} word{'s' * (expected != 1)}"
            yield bad(record, f"has {have} tag{'s' * (have != 1)}, but the text has {of_words}; expected a tag a word")
        else:
            yield [(*each, tag) for each, (tag,) in zip(_words(document, of), entry, strict=True)]


def words(column: Iterable[Any], of: Text, bad: Bad) -> Iterator[Any]:
    """Replace entries by the words of the text, as `tags` without names: (first token, token after the last, 0)."""
    for _, document in zip(column, documents(of), strict=True):
        yield [(*each, 0) for each in _words(document, of)] if document.text else []


def _words(document: Document, of: Text) -> list[list[int]]:
    """Return the first token of each word and the one after its last."""
    before, after = document.sides
    borders = find_words([before, *document.words, after], document.text, of.clean)
    return _ranges(_byte_offsets(document.text)[borders], document, of.tokenizer)[1:-1].tolist()


def find_words(words: Sequence[str], text: str, clean: chain.CleanConfig) -> Int[np.ndarray, "words 2"]:
    r"""Find the words of a raw text in the cleaned text.

    Returns:
      The first character of each word and the one after its last. A word that cleaning removes is empty and lies at
      the end of the word before.

    Example:
      >>> find_words(["A", "\ufeff", "naï\x00ve", "cat"], "A naï ve cat", chain.CleanConfig()).tolist()
      [[0, 1], [1, 1], [2, 8], [9, 12]]
    """
    visible = "".join(text.split())
    parts = ["".join(word.split()) for word in words]
    if "".join(parts) != visible:
        parts = ["".join(chain.apply(word, clean).split()) for word in words]
    borders = np.cumsum([0, *map(len, parts)])
    starts, stops = borders[:-1], borders[1:]
    is_empty = starts == stops
    if (joined := "".join(parts)) != visible:
        opens, closes = _positions(joined, visible)
        starts, stops = opens[starts], closes[stops]
        is_empty |= starts >= stops
    # Back to characters of the text, of which white space is a part.
    at = np.array([place for place, character in enumerate(text) if not character.isspace()], np.int64)
    last = np.maximum.accumulate(np.where(is_empty, 0, np.append(0, at + 1)[stops]))
    return np.stack([np.where(is_empty, last, np.append(at, 0)[starts]), last], 1)


def _positions(before: str, after: str) -> Int[np.ndarray, "2 characters_and_one"]:
    """Return where each border between characters lies in a changed text: for a start, and for an end."""
    equal = len(os.path.commonprefix([before, after]))
    rest = len(os.path.commonprefix([before[equal:][::-1], after[equal:][::-1]]))
    middle = difflib.SequenceMatcher(
        None, before[equal : len(before) - rest], after[equal : len(after) - rest], autojunk=False
    )
    opens, closes = [*range(equal)], [*range(equal + 1)]
    for _, i, i_stop, j, j_stop in middle.get_opcodes():
        shares = [j + equal + (j_stop - j) * part // max(i_stop - i, 1) for part in range(i_stop - i + 1)]
        opens += shares[:-1]
        closes += shares[1:]
    opens += [*range(len(after) - rest, len(after) + 1)]
    closes += [*range(len(after) - rest + 1, len(after) + 1)]
    return np.array([opens, closes])


def _byte_offsets(text: str) -> Int[np.ndarray, " characters_and_one"]:
    codes = np.frombuffer(text.encode("utf-32-le"), "<u4")
    return np.cumsum([0, *(1 + (codes > 0x7F) + (codes > 0x7FF) + (codes > 0xFFFF))])


def _ranges(
    borders: Int[np.ndarray, "words 2"], document: Document, tokenizer: tokenizers.Tokenizer
) -> Int[np.ndarray, "words 2"]:
    """Return the first token of each word and the one after its last, given the borders of words in bytes."""
    starts, (begins, ends) = document.starts, borders.T
    last = np.searchsorted(starts, ends)
    if not len(starts):
        return np.stack([last, last], 1)
    # The token that holds the start of a word; the tokens of one character start at the same byte.
    holder = np.searchsorted(starts, starts[np.maximum(np.searchsorted(starts, begins, "right") - 1, 0)])
    if tokenizer.lossless:
        # Tokens hold every byte, perhaps those of several words.
        return np.stack([np.where(begins < ends, holder, last), last], 1)
    # The first token that does not start in the word before; a space belongs to the word after it.
    own = np.searchsorted(starts, np.append(0, ends[:-1]))
    shared = np.array([b" " in tokenizer.texts[token].strip() for token in document.tokens[holder].tolist()], bool)
    first = np.where(own < last, np.maximum(holder, own), np.where(shared, holder, last))
    return np.stack([np.where(begins < ends, first, last), last], 1)
