"""Streaming JSON: values in sequence or in an array, read one at a time, because a file may exceed memory."""

from __future__ import annotations

import codecs
import io
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from lm_jax.core.config import InputError

_BLOCK = 1 << 18
_DECODER = json.JSONDecoder()
_SPACE = re.compile(r"[ \t\r\n]*")
# If a block ends within -Infinity, a number or a pair of escaped surrogates, the error is this close to its end.
_LONGEST_TOKEN = 16


def values(stream: io.BufferedReader, path: Path) -> Iterator[tuple[int, int, Any]]:
    """Yield the line on which each value of a UTF-8 file starts, its size in bytes, and the value.

    Raises:
      InputError: the file is not JSON.
    """
    buffer = _Buffer(stream, path)
    if buffer.next() != "[":
        while buffer.next():
            yield buffer.take()
        return
    buffer.skip(1)
    character = buffer.next()
    while character != "]":
        yield buffer.take()
        character = buffer.next()
        if character not in (",", "]"):
            problem = f"{character!r} instead of , or ] in the array"
            raise buffer.error(problem if character else "the file ends within its array")
        if character == ",":
            buffer.skip(1)
            buffer.next()
    buffer.skip(1)
    if buffer.next():
        raise buffer.error("text after the end of the array")


class _Buffer:
    """A buffer of text that doubles while the value at its start is incomplete, so that parsing takes linear time."""

    def __init__(self, stream: io.BufferedReader, path: Path):
        self._stream, self._path = stream, path
        self._decoder = codecs.getincrementaldecoder("utf-8-sig")()
        self._text, self._at, self._line, self._ended = "", 0, 1, False

    def next(self) -> str:
        """Skip white space and return the next character, or "" at the end."""
        while True:
            match = _SPACE.match(self._text, self._at)
            self.skip((match.end() if match else self._at) - self._at)
            if self._at < len(self._text) or self._ended:
                return self._text[self._at : self._at + 1]
            self._read_on()

    def skip(self, count: int) -> None:
        """Skip `count` characters."""
        self._line += self._text.count("\n", self._at, self._at + count)
        self._at += count

    def take(self) -> tuple[int, int, Any]:
        """Return the line, size and content of the value at the current position, and skip it."""
        while True:
            try:
                value, stop = _DECODER.raw_decode(self._text, self._at)
            except (ValueError, RecursionError) as error:
                if self._ended or not _is_cut(error, len(self._text)):
                    if isinstance(error, json.JSONDecodeError):
                        self.skip(error.pos - self._at)
                    raise self.error(getattr(error, "msg", str(error))) from error
            else:
                # A number may continue: it is complete only if other characters follow.
                complete = isinstance(value, (dict, list, str)) or stop + _LONGEST_TOKEN < len(self._text)
                if complete or self._ended:
                    line, size = self._line, len(self._text[self._at : stop].encode())
                    self.skip(stop - self._at)
                    return line, size, value
            self._read_on()

    def error(self, reason: str) -> InputError:
        """Return the error for the current position."""
        return InputError(
            f"config.data.path: {self._path} line {self._line} is not JSON ({reason}); expected objects, one after "
            "another or in an array; config.data.format=text reads the file as plain text"
        )

    def _read_on(self) -> None:
        rest = self._text[self._at :]
        block = self._stream.read(max(_BLOCK, len(rest)))
        self._ended = not block
        try:
            self._text, self._at = rest + self._decoder.decode(block, final=self._ended), 0
        except UnicodeDecodeError as error:
            raise self.error(f"it is not UTF-8: {error.reason}") from error


def _is_cut(error: Exception, length: int) -> bool:
    """Whether an error may be due to an incomplete value."""
    if not isinstance(error, json.JSONDecodeError):
        return False
    return error.msg.startswith("Unterminated string") or error.pos >= length - _LONGEST_TOKEN
