"""Phrases of a text as a column of spans, for masking whole phrases (Sun et al. 2019, arXiv:1904.09223, section 3.2.2).

A phrase is a run of words that follow each other much more often than by chance (Mikolov et al. 2013, arXiv:1310.4546,
section 4). Any program that writes spans can take the place of this one: a chunker, or a tagger of named entities.

    python -m lm_jax.data.phrases corpus.txt phrases.jsonl

writes a record {"text": ..., "spans": [[start, end, "phrase"], ...]} for each paragraph; `stdlib` in place of a file
is the documentation of the installed Python.
"""

from __future__ import annotations

import collections
import itertools
import json
import re
import sys
import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from lm_jax.core.config import InputError
from lm_jax.data import atomic, sources
from lm_jax.data.clean import steps
from lm_jax.data.sources import SourceConfig

WORD = re.compile(r"\w+")
# Punctuation and line breaks separate phrases.
JOINED = re.compile(r"[ \-]")

Pair = tuple[str, str]
Span = tuple[int, int, str]


def learn(texts: Iterable[str], *, least: int = 5, threshold: float = 30.0) -> set[Pair]:
    """Finds pairs of words that belong to a phrase.

    Args:
      texts: the corpus.
      least: discount of a pair's count, so that pairs of rare words are no phrases.
      threshold: the score (count(a b) - least) / (count(a) count(b)) that a pair exceeds, times the number of words.

    Returns:
      Pairs of words in lower case.

    Example:
      >>> learn(["New York is far", "in New York", "New York is big"], least=1, threshold=2.0)
      {('new', 'york')}
    """
    words: collections.Counter[str] = collections.Counter()
    pairs: collections.Counter[Pair] = collections.Counter()
    for text in texts:
        matches = list(WORD.finditer(text))
        words.update(match[0].lower() for match in matches)
        pairs.update(_pair(a, b) for a, b in itertools.pairwise(matches) if _adjacent(text, a, b))
    total = words.total()
    score = lambda a, b: (pairs[a, b] - least) * total / (words[a] * words[b])
    return {(a, b) for a, b in pairs if score(a, b) > threshold}


def find(text: str, pairs: set[Pair], *, longest: int = 4) -> list[Span]:
    """The phrases of a text: [start, end, "phrase"] in characters, of at most `longest` words.

    Example:
      >>> find("He left New York City.", {("new", "york"), ("york", "city")})
      [(8, 21, 'phrase')]
    """
    spans: list[Span] = []
    run: list[re.Match[str]] = []
    for match in WORD.finditer(text):
        joins = run and _adjacent(text, run[-1], match) and _pair(run[-1], match) in pairs
        if joins and len(run) < longest:
            run.append(match)
            continue
        spans += _span(run)
        run = [match]
    return spans + _span(run)


def _pair(left: re.Match[str], right: re.Match[str]) -> Pair:
    return left[0].lower(), right[0].lower()


def _adjacent(text: str, left: re.Match[str], right: re.Match[str]) -> bool:
    return JOINED.fullmatch(text, left.end(), right.start()) is not None


def _span(run: Sequence[re.Match[str]]) -> list[Span]:
    return [(run[0].start(), run[-1].end(), "phrase")] if len(run) > 1 else []


def paragraphs(path: str) -> Iterator[str]:
    """The paragraphs of a corpus in one line each, so that cleaning leaves them as they are."""
    for document in sources.documents(SourceConfig(path=path)):
        text = steps.decode(document, "cp1252")[0] if isinstance(document, bytes) else document
        for paragraph in re.split(r"\n\s*\n", text or ""):
            line = " ".join(unicodedata.normalize("NFC", paragraph).split())
            if line:
                yield line


def main(arguments: Sequence[str]) -> int:
    """Writes the phrases of a corpus; see the module."""
    if len(arguments) != 2:
        print("usage: python -m lm_jax.data.phrases CORPUS OUTPUT.jsonl", file=sys.stderr)
        return 2
    path, output = arguments
    try:
        pairs, records = learn(paragraphs(path)), []
        for text in paragraphs(path):
            records.append(json.dumps({"text": text, "spans": find(text, pairs)}, ensure_ascii=False))
    except InputError as error:
        print(error, file=sys.stderr)
        return 2
    atomic.write_bytes(Path(output), "".join(f"{record}\n" for record in records).encode())
    print(f"{len(pairs):,} pairs of words, {len(records):,} records in {output}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
