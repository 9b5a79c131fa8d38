"""Kinds of columns that are not text: how entries are parsed and stored."""

from __future__ import annotations

import json
import numbers
import re
from collections.abc import Callable, Collection, Iterable, Iterator
from typing import Any, NamedTuple

import numpy as np

from lm_jax.data import alignment

_INTEGER = re.compile("0|-?[1-9][0-9]*")


def _number(value: Any) -> list[tuple[float]]:
    # Rejects NaN, too, because every comparison with it is false.
    if isinstance(value, bool) or not abs(float(value)) <= np.finfo(np.float32).max:
        raise ValueError
    return [(float(value),)]


def _label(value: Any) -> list[tuple[str]]:
    return [(_name(value),)]


def _spans(value: Any) -> list[tuple[int, int, str]]:
    spans = [tuple(span) for span in (json.loads(value) if isinstance(value, str) else value)]
    for first, last, name in spans:
        if type(first) is not int or type(last) is not int or not 0 <= first < last or not isinstance(name, str):
            raise ValueError
    return spans


def _tags(value: Any) -> list[tuple[str]]:
    return [(name,) for name in _names(value, str.split)]


def _labels(value: Any) -> list[tuple[str]]:
    return [(name,) for name in dict.fromkeys(_names(value, _separated))]


def _separated(text: str) -> list[str]:
    """Split at | if there is one, else at commas; parts of only white space are left out."""
    return [part.strip() for part in text.split("|" if "|" in text else ",") if part.strip()]


def _id(value: Any) -> list[tuple[str]]:
    if isinstance(value, (bool, np.bool_)):
        raise ValueError
    return [(_name(value),)]


def _names(value: Any, split: Callable[[str], list[str]]) -> list[str]:
    """Return the names in a list, in its JSON (text that starts with [), or in a text."""
    if isinstance(value, str):
        value = json.loads(value) if value.startswith("[") else split(value)
    if not isinstance(value, list):
        raise ValueError
    return [_name(each) for each in value]


def _name(value: Any) -> str:
    if isinstance(value, bytes):
        value = value.decode()
    if isinstance(value, (bool, np.bool_, numbers.Integral)):
        value = json.dumps(bool(value) if isinstance(value, (bool, np.bool_)) else int(value))
    if not isinstance(value, str) or not value:
        raise ValueError
    return value


def ordered(names: Collection[str]) -> list[str]:
    """Sort names alphabetically, or numerically if all are integers.

    Example:
      >>> ordered({"10", "9"}), ordered({"10", "9", "b"})
      (['9', '10'], ['10', '9', 'b'])
    """
    return sorted(names, key=int if all(map(_INTEGER.fullmatch, names)) else None)


class Kind(NamedTuple):
    """A kind of column.

    Attributes:
      types: accepted types of a value.
      expected: what is accepted, for messages.
      parse: returns an entry as a list of tuples, whose last element is a name if the kind is `named`.
      dtype, width: of the array of all items.
      named: whether items have names, which are stored as ids.
      align: converts the entries of a column to tokens of the text column that they refer to; None: to none.
      empty: whether an empty cell is an entry.
      derived: whether entries are computed from the text alone, so that nothing is read for them.

    Example:
      >>> KINDS["spans"].parse('[[0, 3, "PER"]]'), KINDS["number"].parse("1.5"), KINDS["label"].parse(True)
      ([(0, 3, 'PER')], [(1.5,)], [('true',)])
      >>> KINDS["tags"].parse("B-PER O"), KINDS["labels"].parse("joy, fear"), KINDS["id"].parse(7)
      ([('B-PER',), ('O',)], [('joy',), ('fear',)], [('7',)])
    """

    types: tuple[type, ...]
    expected: str
    parse: Callable[[Any], list[Any]]
    dtype: type
    width: int
    named: bool = True
    align: Callable[[Iterable[Any], alignment.Text, alignment.Bad], Iterator[Any]] | None = None
    empty: bool = False
    derived: bool = False


_LISTS = (bytes, str, list)

# Every kind but text.
KINDS = {
    "number": Kind((bytes, str, numbers.Real), "a finite number", _number, np.float32, 1, named=False),
    "label": Kind((bytes, str, numbers.Integral, np.bool_), "text, an integer, true or false", _label, np.int32, 1),
    "labels": Kind(_LISTS, "a list of labels, or labels separated by commas or |", _labels, np.int32, 1, empty=True),
    "spans": Kind(_LISTS, "a list of [start, end, name], start < end", _spans, np.int32, 3, align=alignment.spans),
    "tags": Kind(_LISTS, "a list of tags, or tags separated by white space", _tags, np.int32, 3, align=alignment.tags),
    "words": Kind((), "nothing", _label, np.int32, 3, named=False, align=alignment.words, derived=True),
    "id": Kind((bytes, str, numbers.Integral), "text or an integer", _id, np.uint8, 1, named=False),
}
