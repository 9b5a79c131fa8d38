"""The run-time type checker of the tests: beartype, with an int where a float is asked for, as PEP 484 has it."""

import contextlib
import typing
from collections.abc import Iterator
from typing import Any

import beartype
from beartype.roar import BeartypeDecorHintPep3119Exception

_beartype = beartype.beartype(conf=beartype.BeartypeConf(is_pep484_tower=True))


def check(function: Any) -> Any:
    """A function that checks its arguments and result; protocols among them are made checkable first."""
    try:
        return _beartype(function)
    except BeartypeDecorHintPep3119Exception:
        for hint in typing.get_type_hints(function).values():
            for part in _parts(hint):
                with contextlib.suppress(TypeError):  # no protocol
                    typing.runtime_checkable(part)
        return _beartype(function)


def _parts(hint: Any) -> Iterator[Any]:
    yield hint
    arguments = typing.get_args(hint)
    for argument in arguments:
        yield from _parts(argument)
