"""The steps of cleaning, each a function from text to text that leaves clean text as it is."""

from __future__ import annotations

import codecs
import re
import unicodedata
from collections.abc import Callable

_LINE_BREAKS = re.compile("\r\n?|[\x85\u2028\u2029]")
_TERMINAL = re.compile(r"\x1b\[[0-?]*[ -/]*[@-~]")
# What stands between words: NUL, a vertical tab, a form feed and the four separators; and the spaces after it.
_SEPARATORS = re.compile("[\x00\x0b\x0c\x1c-\x1f][ \x00\x0b\x0c\x1c-\x1f]*")
# The other C0 and C1 save tab and newline, the byte order mark, and what Unicode says is never a character.
_CONTROLS = re.compile("[\x01-\x08\x0d-\x1b\x7f-\x9f\ufeff\ufffe\uffff]")
_TRAILING = re.compile(r"[ \t]+$", re.MULTILINE)
_MANY_EMPTY = re.compile(r"\n{4,}")


def decode(data: bytes | str, fallback: str) -> tuple[str, str]:
    """Raw text as Unicode.

    UTF-8 is tried first. Bytes that are mostly UTF-8 keep what can be read, with U+FFFD where a byte is damaged;
    other bytes are read in the fallback encoding.

    Args:
      data: raw bytes, or text that may hold lone surrogates.
      fallback: an encoding such as "cp1252", or "" for none.

    Returns:
      The text, and what had to be done: "" (nothing), "damaged", "fallback", or "undecodable" (there is no text).
    """
    if isinstance(data, str):
        try:
            data.encode()
            return data, ""
        except UnicodeEncodeError:
            # JSON may escape one half of a surrogate pair: pairs are joined, halves replaced.
            return data.encode("utf-16", "surrogatepass").decode("utf-16", "replace"), "damaged"
    data = data.removeprefix(codecs.BOM_UTF8)
    try:
        return data.decode(), ""
    except UnicodeDecodeError:
        text = data.decode("utf-8", "replace")
    damaged = text.count("\ufffd")
    if damaged <= sum(character > "\x7f" for character in text) - damaged:
        return text, "damaged"
    if not fallback:
        return "", "undecodable"
    return data.decode(fallback, "replace"), "fallback"


def line_breaks(text: str) -> str:
    """Every line break as a newline."""
    return _LINE_BREAKS.sub("\n", text)


def repair(text: str) -> str:
    """Mojibake undone (ftfy), such as `Ã©` for `é`; quotes, widths and ligatures stay as they were typed."""
    if text.isascii():
        return text
    import ftfy

    # Line by line: ASCII lines, most of an English text, need no look.
    return "".join(line if line.isascii() else ftfy.fix_encoding(line) for line in text.splitlines(keepends=True))


def compose(text: str) -> str:
    """Unicode normal form C: a letter and its accents as one character where there is one."""
    return text if unicodedata.is_normalized("NFC", text) else unicodedata.normalize("NFC", text)


def controls(text: str) -> str:
    """Without control characters, terminal colours and byte order marks; tab and newline stay.

    A form feed or another separator between words becomes a space, where there is none beside it.
    """
    return _SEPARATORS.sub(_space, _CONTROLS.sub("", _TERMINAL.sub("", text)))


def _space(match: re.Match[str]) -> str:
    """What a run of separators and spaces becomes."""
    before, after = match.string[max(0, match.start() - 1) : match.start()], match.string[match.end() : match.end() + 1]
    if before == " " and after.strip():
        return ""
    if before.strip() and after.strip():
        return " "
    # At either end of a line or beside a tab there are no words to part; spaces may be indentation.
    return " " * match.group().count(" ")


def whitespace(text: str) -> str:
    """No spaces at line ends, at most two empty lines in a row, none at either end; indentation stays."""
    return _MANY_EMPTY.sub("\n\n\n", _TRAILING.sub("", text)).strip("\n")


def flow(text: str) -> str:
    """Running text: every run of spaces and line breaks is one space. For prose; it destroys code and tables."""
    return " ".join(text.split())


STEPS: dict[str, Callable[[str], str]] = {
    "line_breaks": line_breaks,
    "repair": repair,
    "compose": compose,
    "controls": controls,
    "whitespace": whitespace,
    "flow": flow,
}
