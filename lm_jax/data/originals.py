"""Entries as their files have them, and where the tokens of a text lie in it.

A token store has tokens alone, and cleaning and tokenizers change text, but an answer is a part of the original text.
"""

from __future__ import annotations

import dataclasses
import difflib
import functools
import hashlib
import json
import re
import unicodedata
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, cast

import numpy as np
from jaxtyping import Int

from lm_jax.data import atomic, sources, tokenizers
from lm_jax.data.clean import chain, steps
from lm_jax.data.clean import report as reports
from lm_jax.data.sources import SourceConfig
from lm_jax.data.tokenizers import Tokenizer

# Increment it when the same entries would be stored differently.
VERSION = 1
# Stretches of text whose lengths multiply to more are not compared character by character, which would take seconds.
_LARGE = 1 << 26


@dataclasses.dataclass(frozen=True)
class Originals:
    """The entries of a column by record, before cleaning: texts, or lists such as the spans of a text.

    The files can only be read from their start, so the entries are copied to `root` when the first one is asked for.

    Attributes:
      root: the root of prepared corpora.
      source: the files.
      read: reads the entries from the files, in order; None for an empty one.
      described: how `read` reads them, for the hash of the copy.
    """

    root: Path
    source: SourceConfig
    read: Callable[[], Iterator[Any]]
    described: str

    def __getitem__(self, record: int) -> Any:
        """Return the entry of a record."""
        entries, bounds = self._stored
        return json.loads(entries[slice(*bounds[record : record + 2].tolist())].tobytes())

    @functools.cached_property
    def _stored(self) -> tuple[np.ndarray, np.ndarray]:
        """The JSON of all entries, in bytes, and where each one starts."""
        described = ["originals", VERSION, self.described, sources.fingerprint(self.source)]
        directory = self.root / "originals" / hashlib.sha256(json.dumps(described).encode()).hexdigest()[:32]
        with atomic.lock_unfinished(directory, "bounds.npy", lambda: None) as unfinished:
            if unfinished:
                sizes = [0]
                with atomic.replace_atomically(directory / "entries.json") as partial, open(partial, "wb") as file:
                    sizes.extend(file.write(json.dumps(entry).encode()) for entry in self.read())
                atomic.write_array(directory / "bounds.npy", np.cumsum(sizes))
        return np.memmap(directory / "entries.json", np.uint8, "r"), np.load(directory / "bounds.npy", mmap_mode="r")


def texts(root: Path, source: SourceConfig, encoding: str) -> Originals:
    """The decoded texts of a column; `encoding` is that of documents that are not UTF-8."""

    def read() -> Iterator[str]:
        for document in sources.documents(source, aligned=True):
            yield steps.decode(document or "", encoding)[0]

    return Originals(root, source, read, f"text {encoding}")


@dataclasses.dataclass(frozen=True)
class Located:
    """A text and its tokens: token i holds the characters starts[i]..stops[i] - 1, perhaps with white space around."""

    text: str
    starts: Int[np.ndarray, " tokens"]
    stops: Int[np.ndarray, " tokens"]

    def span(self, first: int, stop: int) -> tuple[int, int]:
        """Return the characters of the tokens first..stop-1, as start and stop, without white space around them."""
        start, end = int(self.starts[first]), int(self.stops[stop - 1])
        part = self.text[start:end]
        start += len(part) - len(part.lstrip())
        return start, start + len(part.strip())


# The records of one text are neighbours.
@functools.lru_cache(maxsize=4)
def locate(text: str, clean: chain.CleanConfig, tokenizer: Tokenizer, sides: tuple[str, str] = ("", "")) -> Located:
    r"""Find the tokens of a text that is cleaned and tokenised in the text itself.

    `sides` are those of the template around the text; the tokens of the template are empty places of the text.

    Example:
      >>> from lm_jax.data import tokenizers
      >>> tokenizer = tokenizers.train(tokenizers.TokenizerConfig(kind="bytes"), [])
      >>> located = locate("\n so\r\nit is", chain.CleanConfig(), tokenizer)
      >>> located.span(1, 6), located.span(4, 6)
      ((2, 8), (6, 8))
    """
    cleaned = chain.clean(text, clean, reports.empty(), sides) or ""
    encoded = tokenizers.within(tokenizer, sides).encode_with_starts([cleaned])
    starts = cast(np.ndarray, encoded.starts)
    # A token ends where the next one starts; the tokens of one character may all have the start of the character.
    ends = np.append(starts, len(cleaned.encode()))[np.searchsorted(starts, starts, "right")]
    leads = np.flatnonzero((np.frombuffer(cleaned.encode(), np.uint8) & 0xC0) != 0x80)
    # The character of a byte, and for the end of a token the character after it.
    first, last = np.searchsorted(leads, starts, "right") - 1, np.searchsorted(leads, ends, "left")
    borders = (each - len(sides[0]) for each in align(text.join(sides), cleaned))
    begins, closes = (np.clip(each, 0, len(text)) for each in borders)
    return Located(text, begins[np.minimum(first, len(begins) - 1)], closes[np.maximum(last - 1, 0)])


def align(raw: str, text: str) -> tuple[Int[np.ndarray, " characters"], Int[np.ndarray, " characters"]]:
    r"""Find the part of a raw text that each character of the cleaned text comes from.

    Returns:
      The first character of each part, and the one after its last; both never decrease.

    Example:
      >>> starts, stops = align("a\r\nb", "a\nb")
      >>> starts.tolist(), stops.tolist()
      ([0, 2, 3], [1, 3, 4])
    """
    shift = raw.find(text)
    if shift >= 0:
        starts = np.arange(shift, shift + len(text))
        return starts, starts + 1
    starts, stops = np.zeros(len(text), np.int64), np.zeros(len(text), np.int64)
    for a, b, c, d in _stretches(raw, text):
        for first, last, begin, end in _parts(raw[a:b], text[c:d]):
            exact = raw[a + first : a + last] == text[c + begin : c + end]
            offsets = np.arange(last - first) if exact else 0
            starts[c + begin : c + end] = a + first + offsets
            stops[c + begin : c + end] = a + first + offsets + 1 if exact else a + last
    return starts, stops


def _stretches(raw: str, text: str) -> Iterator[tuple[int, int, int, int]]:
    """Yield the words of two texts, runs of words that differ, and what is between them: their places in both texts."""
    here = there = 0
    for a, b, c, d in _words(raw, text):
        yield here, a, there, c
        yield a, b, c, d
        here, there = b, d
    yield here, len(raw), there, len(text)


def _words(raw: str, text: str) -> Iterator[tuple[int, int, int, int]]:
    here, there = (list(re.finditer(r"\S+", each)) for each in (raw, text))
    # Accents may be characters of their own in the raw text alone.
    left, right = [unicodedata.normalize("NFC", word[0]) for word in here], [word[0] for word in there]
    blocks = [("equal", 0, len(left), 0, len(right))]
    if left != right:
        blocks = difflib.SequenceMatcher(None, left, right).get_opcodes()
    for kind, a, b, c, d in blocks:
        if kind == "equal":
            yield from ((*mine.span(), *other.span()) for mine, other in zip(here[a:b], there[c:d], strict=True))
        elif c < d:
            start = here[a].start() if a < len(here) else len(raw)
            yield start, here[b - 1].end() if a < b else start, there[c].start(), there[d - 1].end()


def _parts(raw: str, text: str) -> Iterator[tuple[int, int, int, int]]:
    """Yield equal and different parts of two stretches: start and stop in the first and in the second one."""
    if raw == text or len(raw) * len(text) > _LARGE:
        yield 0, len(raw), 0, len(text)
    else:
        for _, a, b, c, d in difflib.SequenceMatcher(None, raw, text, autojunk=False).get_opcodes():
            yield a, b, c, d
