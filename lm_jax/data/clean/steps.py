"""Steps of cleaning: functions from text to text, each idempotent."""

from __future__ import annotations

import codecs
import re
import unicodedata
from collections.abc import Callable

_LINE_BREAKS = re.compile("\r\n?|[\x85\u2028\u2029]")
_TERMINAL = re.compile(r"\x1b\[[0-?]*[ -/]*[@-~]")
# Controls that separate words (NUL, vertical tab, form feed, the four separators), and the spaces after them.
_SEPARATORS = re.compile("[\x00\x0b\x0c\x1c-\x1f][ \x00\x0b\x0c\x1c-\x1f]*")
# The other C0 and C1 controls except tab and newline, the byte order mark, and two Unicode noncharacters.
_CONTROLS = re.compile("[\x01-\x08\x0d-\x1b\x7f-\x9f\ufeff\ufffe\uffff]")
_TRAILING = re.compile(r"[ \t]+$", re.MULTILINE)
_MANY_EMPTY = re.compile(r"\n{4,}")


def decode(data: bytes | str, fallback: str) -> tuple[str, str]:
    """Decode raw text to Unicode.

    UTF-8 is tried first. In bytes that are mostly UTF-8, U+FFFD replaces each damaged byte; other bytes are decoded in
    the fallback encoding.

    Args:
      data: raw bytes, or text that may hold lone surrogates.
      fallback: an encoding such as "cp1252", or "" for none.

    Returns:
      The text, and the problem: "" (none), "damaged", "fallback", or "undecodable" (the text is empty).
    """
    if isinstance(data, str):
        try:
            data.encode()
            return data, ""
        except UnicodeEncodeError:
            # JSON may escape surrogates: a pair is joined to its character, a lone one is replaced by U+FFFD.
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
    """Replace every line break by a newline."""
    return _LINE_BREAKS.sub("\n", text)


def repair(text: str) -> str:
    """Undo mojibake with ftfy, such as `Ã©` for `é`; leave quotes, character widths and ligatures."""
    if text.isascii():
        return text
    import ftfy

    # Line by line, because most lines of an English text are ASCII and can be skipped.
    return "".join(line if line.isascii() else ftfy.fix_encoding(line) for line in text.splitlines(keepends=True))


def compose(text: str) -> str:
    """Normalise to Unicode form C: a letter and its accents become one character where Unicode has one."""
    return text if unicodedata.is_normalized("NFC", text) else unicodedata.normalize("NFC", text)


def controls(text: str) -> str:
    """Remove control characters, terminal colours and byte order marks; keep tab and newline.

    A form feed or another separator between words becomes a space, unless a space is beside it.
    """
    return _SEPARATORS.sub(_space, _CONTROLS.sub("", _TERMINAL.sub("", text)))


def _space(match: re.Match[str]) -> str:
    before, after = match.string[max(0, match.start() - 1) : match.start()], match.string[match.end() : match.end() + 1]
    if before == " " and after.strip():
        return ""
    if before.strip() and after.strip():
        return " "
    # At the end of a line or beside a tab there are no words to separate; spaces may be indentation.
    return " " * match.group().count(" ")


def whitespace(text: str) -> str:
    """Strip spaces at line ends and empty lines at both ends; limit empty lines to two in a row; keep indentation."""
    return _MANY_EMPTY.sub("\n\n\n", _TRAILING.sub("", text)).strip("\n")


def flow(text: str) -> str:
    """Replace every run of white space by one space: for prose, because it destroys the layout of code and tables."""
    return " ".join(text.split())


STEPS: dict[str, Callable[[str], str]] = {
    "line_breaks": line_breaks,
    "repair": repair,
    "compose": compose,
    "controls": controls,
    "whitespace": whitespace,
    "flow": flow,
}
