"""Streaming JSON: one value at a time."""

import io
import itertools
import json
from pathlib import Path

import pytest

from lm_jax.core.config import InputError
from lm_jax.data import objects

PATH = Path("x.json")


def stream(data):
    return io.BufferedReader(io.BytesIO(data if isinstance(data, bytes) else data.encode()))


def values(data):
    return [value for _, _, value in objects.values(stream(data), PATH)]


class Endless(io.RawIOBase):
    """A stream of `start`, then `piece` for ever."""

    def __init__(self, start, piece):
        self.bytes = itertools.chain(start, itertools.cycle(piece))

    def readable(self):
        return True

    def readinto(self, buffer):
        buffer[:] = bytes(itertools.islice(self.bytes, len(buffer)))
        return len(buffer)


@pytest.mark.parametrize("indent", [None, 1])
@pytest.mark.parametrize("block", [1, 2, 3, 7, 1 << 18])
def test_values_do_not_depend_on_where_blocks_end(monkeypatch, indent, block):
    monkeypatch.setattr(objects, "_BLOCK", block)
    content = [{"text": 'a "quote" \\ 第二 😀'}, [[{"n": -1.5e-10}]], -3.25, 12, True, None, "x", {}, []]

    assert values(json.dumps(content, indent=indent)) == content
    assert values(json.dumps(content, indent=indent, ensure_ascii=False)) == content
    assert values("\n".join(json.dumps(value, indent=indent) for value in content)) == content


def test_values_come_with_their_line_and_size():
    text = '\ufeff[\r\n {"a": 1},\n\n  {"b":\n "ü"} , 3]\n\n'

    assert list(objects.values(stream(text), PATH)) == [(2, 8, {"a": 1}), (4, 12, {"b": "ü"}), (5, 1, 3)]


def test_an_array_is_streamed():
    endless = objects.values(io.BufferedReader(Endless(b"[", b'{"text": "again"}, ')), PATH)

    assert [value for _, _, value in itertools.islice(endless, 3)] == [{"text": "again"}] * 3


def test_parsing_a_long_value_takes_linear_time(monkeypatch):
    failed = []

    class Counting(json.JSONDecoder):
        def raw_decode(self, text, at):
            try:
                return super().raw_decode(text, at)
            except json.JSONDecodeError:
                failed.append(len(text) - at)
                raise

    monkeypatch.setattr(objects, "_BLOCK", 64)
    monkeypatch.setattr(objects, "_DECODER", Counting())
    content = [{"text": "long " * 100_000}, *({"text": str(number)} for number in range(1000))]
    data = json.dumps(content)

    assert values(data) == content
    # The buffer doubles before every new attempt, so the total is linear.
    assert sum(failed) < 3 * len(data)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ('[{"a": 1}\n {"b": 2}]', "line 2 is not JSON \\('{' instead of , or \\] in the array\\)"),
        ('[{"a": 1},\n', "line 2 is not JSON \\(Expecting value\\)"),
        ('[{"a": 1}\n', "line 2 is not JSON \\(the file ends within its array\\)"),
        ('[{"a": 1}]\n[{"b": 2}]', "line 2 is not JSON \\(text after the end of the array\\)"),
        ("[\nnot JSON]", "line 2 is not JSON"),
        ('{"a": 1}\n{"b": \n x}', "line 3 is not JSON"),
        ('{"a": "never closed', "line 1 is not JSON \\(Unterminated string"),
        (b'[{"a": "\xff"}]', "line 1 is not JSON \\(it is not UTF-8"),
        ("[" * 100_000, "line 1 is not JSON"),
    ],
)
def test_invalid_json_is_reported_in_one_line_with_its_place(data, message):
    with pytest.raises(InputError, match=f"config.data.path: x.json {message}") as error:
        values(data)

    assert "\n" not in str(error.value)
    assert "config.data.format=text" in str(error.value)


def test_an_error_is_raised_before_the_rest_is_read():
    for start in (b"not JSON", b"[1 2", b'[{"a": x'):
        with pytest.raises(InputError, match="line 1 is not JSON"):
            list(objects.values(io.BufferedReader(Endless(start, b" and so on")), PATH))
