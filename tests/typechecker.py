"""The run-time type checker of the tests: beartype, accepting an int as a float (PEP 484)."""

import contextlib
import typing
from collections.abc import Iterator
from typing import Any

import beartype
import jaxtyping
from beartype.roar import BeartypeDecorHintPep3119Exception

_beartype = beartype.beartype(conf=beartype.BeartypeConf(is_pep484_tower=True))


def check(function: Any) -> Any:
    """Wraps a function to check its arguments and result, for which it makes protocols checkable at run time."""
    try:
        return _beartype(function)
    except BeartypeDecorHintPep3119Exception:
        for hint in typing.get_type_hints(function).values():
            for part in _parts(hint):
                with contextlib.suppress(TypeError):  # not a protocol
                    typing.runtime_checkable(part)
        return _beartype(function)


@contextlib.contextmanager
def off() -> Iterator[None]:
    """Checks nothing, for tests of thousands of rows, in which checks would take most of the time."""
    jaxtyping.config.update("jaxtyping_disable", True)
    try:
        yield
    finally:
        jaxtyping.config.update("jaxtyping_disable", False)


def _parts(hint: Any) -> Iterator[Any]:
    yield hint
    for argument in typing.get_args(hint):
        yield from _parts(argument)
