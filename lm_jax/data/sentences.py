"""Sentence starts by punctuation, capitals and line breaks: good enough to choose segments, not linguistically exact.

The code applies array operations to UTF-8 bytes, because a regular expression would take longer than the tokenizer. In
Latin, Greek and Cyrillic, a stop, a space and a capital end a sentence; in Chinese and Japanese, the mark alone.
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Bool, Int, UInt8

_SPACE, _NEWLINE = b" "[0], b"\n"[0]
# Zeros around the text, so that indices a few bytes ahead or back stay inside the array.
_MARGIN = 16
# Lengths in bytes of the lines of wrapped text; a break after a shorter or longer line is intended.
_WRAPPED = (45, 120)


def starts(data: bytes) -> Int[np.ndarray, " sentences"]:
    """Return the byte offsets at which the sentences of UTF-8 text start, ascending from 0.

    A sentence starts

    - at the space after `.`, `!`, `?` or an ellipsis (and closing quotes or brackets) if a capital, or a letter of a
      script without capitals, follows: at the space, because the first token of the sentence begins with it. Not after
      an abbreviation, an initial or a number of one or two digits and a dot: `Mr. K.`, `z. B.`, `am 3. Mai`, `1. Item`;
    - directly after `。`, `！`, `？` and `……` (and closing quotes or brackets), unless a comma or the like follows;
    - after line breaks, except those after a comma and those in text that is wrapped at 45 to 120 bytes.
    """
    padded = bytes(_MARGIN) + data + bytes(_MARGIN)
    text = np.frombuffer(padded, np.uint8)
    # One pass over all bytes; later steps look at the marks alone.
    marks = np.flatnonzero(np.frombuffer(padded.translate(_MARKS), bool))
    byte = text[marks]
    dots, breaks = byte == 0xE2, byte == _NEWLINE
    latin = _STOPS[byte] | dots
    parts = [_lines(text, marks[breaks]), _latin(text, marks[latin]), _chinese(text, marks[~latin & ~breaks | dots])]
    offsets = np.sort(np.concatenate([np.full(1, _MARGIN, np.int64), *parts]), kind="stable") - _MARGIN
    distinct = np.diff(offsets, prepend=-1) > 0
    return offsets[distinct & (offsets < max(1, len(data)))]


def _lines(text: UInt8[np.ndarray, " bytes"], breaks: Int[np.ndarray, " n"]) -> Int[np.ndarray, " sentences"]:
    """Return starts after line breaks (after the last of several) that do not wrap a paragraph."""
    lengths = np.diff(breaks, prepend=_MARGIN - 1)
    after = text[breaks + 1]
    wrapped = (lengths > _WRAPPED[0]) & (lengths < _WRAPPED[1]) & _CONTINUES[after]
    wrapped |= text[breaks - 1] == ord(",")
    wide = np.flatnonzero(text[breaks - 1] >= 0x80)
    wrapped[wide] |= np.logical_or.reduce([_matches(text, breaks[wide] - 3, mark) for mark in _COMMAS])
    return breaks[~wrapped & (after != _NEWLINE)] + 1


def _latin(text: UInt8[np.ndarray, " bytes"], stops: Int[np.ndarray, " n"]) -> Int[np.ndarray, " sentences"]:
    """Return starts at the space, or after the line break, that follows a stop."""
    ellipsis = text[stops] == 0xE2
    # The next byte rules out most stops.
    candidates = np.where(ellipsis, _matches(text, stops, "…".encode()), _FOLLOWS[text[stops + 1]])
    stops, ellipsis = stops[candidates], ellipsis[candidates]
    after = _skip(text, stops + 1 + 2 * ellipsis, _CLOSING)
    following = text[after]
    spaced = (following == _SPACE) | (following == _NEWLINE)
    unspaced = np.flatnonzero(~spaced)
    # ASCII stops between Chinese characters need no space.
    chinese = (text[stops[unspaced] - 1] >= 0x80) & (text[stops[unspaced]] < 0x80) & _IDEOGRAPH[text[after[unspaced]]]
    direct = after[unspaced[chinese]]
    stops, ellipsis, after = stops[spaced], ellipsis[spaced], after[spaced]
    for _ in range(3):
        after = after + ((text[after] == _SPACE) & _BLANK[text[after + 1]])
    letter = _skip(text, after + 1, _OPENING, most=2)
    initial = _INITIALS[text[letter]]
    two_byte = np.flatnonzero(initial == 2)
    initial[two_byte[~_is_capital(text, letter[two_byte])]] = 0
    dotted = text[stops] == ord(".")
    begins = (initial == 1) | (initial == 2) | ((initial == 3) & ~dotted)
    stops, ellipsis, after, letter, dotted = (each[begins] for each in (stops, ellipsis, after, letter, dotted))
    ellipsis |= dotted & (text[stops - 1] == ord("."))
    # "... I" may continue a sentence, because the pronoun I is always a capital.
    ends = ~(ellipsis & (text[letter] == ord("I")) & ~_SMALL[text[letter + 1]])
    # A dot before a closing bracket or quote ends a sentence, even after an abbreviation.
    plain = np.flatnonzero(dotted & ~ellipsis & _BLANK[text[stops + 1]])
    ends[plain] &= ~_abbreviated(text, stops[plain])
    after = after[ends]
    return np.concatenate([after + (text[after] == _NEWLINE), direct])


def _abbreviated(text: UInt8[np.ndarray, " bytes"], stops: Int[np.ndarray, " n"]) -> Bool[np.ndarray, " n"]:
    """Whether the word before a dot is an abbreviation, an initial or a number of one or two digits."""
    # For each byte, the eight bytes from it on as a little-endian integer.
    windows = np.ndarray(len(text) - 7, "<u8", text, strides=(1,))
    tails = windows[stops - 8]
    result = np.zeros(len(stops), bool)
    # Indices of stops after words of more than `size` bytes.
    alive = np.arange(len(stops))
    for size in range(_LONGEST + 1):
        at = stops[alive] - 1 - size
        inside = _WORD[text[at]]
        odd = np.flatnonzero(_ODD[text[at]])
        inside[odd] = _joins(text, at[odd])
        ended = alive[~inside]
        if size:
            words = tails[ended] >> np.uint64(8 * (8 - size))
            result[ended] = np.isin(words, _ABBREVIATIONS[size])
        last = text[stops[ended] - 1]
        if size == 1:
            # In "said I." the I is a pronoun; in "Charles I." it counts as an initial.
            pronoun = (last == ord("I")) & (text[stops[ended] - 2] == _SPACE) & _SMALL[text[stops[ended] - 3]]
            result[ended] |= ~pronoun
        if size == 2:
            result[ended] |= _DIGIT[last] & _DIGIT[text[stops[ended] - 2]]
        alive = alive[inside]
    return result


def _joins(text: UInt8[np.ndarray, " bytes"], at: Int[np.ndarray, " n"]) -> Bool[np.ndarray, " n"]:
    """Whether a non-ASCII byte or an apostrophe belongs to a word, unlike quotation marks, dashes and hard spaces."""
    byte, before = text[at], text[at - 1]
    # Of E2 80 xx only the curly apostrophe (E2 80 99) belongs to a word, of C2 xx nothing.
    mark = (before == 0xC2) | ((before == 0x80) & (text[at - 2] == 0xE2) & (byte != 0x99))
    return np.where(byte == ord("'"), _WORD[before], (byte >= 0xC0) | ~mark)


def _chinese(text: UInt8[np.ndarray, " bytes"], lead: Int[np.ndarray, " n"]) -> Int[np.ndarray, " sentences"]:
    """Return starts after the marks that end Chinese and Japanese sentences."""
    lead = lead[_CHINESE_SECOND[text[lead + 1]]]
    ends = [lead[_matches(text, lead, mark)] + len(mark) for mark in _CHINESE_ENDS]
    dots = lead[_matches(text, lead, _DOTS)]
    # Dots that open a quotation do not end a sentence.
    opened = np.logical_or.reduce([_matches(text, dots - len(mark), mark) for mark in _CHINESE_OPENING])
    after = _skip(text, np.concatenate([*ends, dots[~opened] + len(_DOTS)]), _CLOSING)
    following = text[after]
    # Before a second mark, that mark gives the start; a comma continues the sentence; `_lines` handles line breaks.
    continued = np.zeros(len(after), bool)
    candidates = np.flatnonzero(_LEADS[following])
    continued[candidates] = np.logical_or.reduce([_matches(text, after[candidates], mark) for mark in _CONTINUATIONS])
    blank = (following == _NEWLINE) | ((following == _SPACE) & (text[after + 1] == _NEWLINE))
    return after[~continued & ~blank]


def _is_capital(text: UInt8[np.ndarray, " bytes"], at: Int[np.ndarray, " n"]) -> Bool[np.ndarray, " n"]:
    """Whether the two-byte character at a position is a Latin, Greek or Cyrillic capital."""
    lead, second = text[at], text[at + 1]
    return (
        ((lead == 0xC3) & (second <= 0x9E))
        | (((lead == 0xC4) | (lead == 0xC5)) & (second % 2 == 0))
        | ((lead == 0xCE) & (second <= 0xA9))
        | ((lead == 0xD0) & (second <= 0xAF))
    )


def _skip(
    text: UInt8[np.ndarray, " bytes"], position: Int[np.ndarray, " n"], marks: tuple[bytes, ...], most: int = 3
) -> Int[np.ndarray, " n"]:
    """Move positions past up to `most` of the marks."""
    position = position.copy()
    leads = _CLOSES if marks is _CLOSING else _OPENS
    moving = np.arange(len(position))
    for _ in range(most):
        # Compare only at positions with the first byte of a mark, which are few.
        moving = moving[leads[text[position[moving]]]]
        before = after = position[moving]
        for mark in marks:
            after = np.where((after == before) & _matches(text, before, mark), before + len(mark), after)
        position[moving] = after
        moving = moving[after > before]
    return position


def _matches(text: UInt8[np.ndarray, " bytes"], position: Int[np.ndarray, " n"], mark: bytes) -> np.ndarray:
    matches = text[position] == mark[0]
    for index in range(1, len(mark)):
        matches &= text[position + index] == mark[index]
    return matches


def _table(values: bytes | range) -> Bool[np.ndarray, " 256"]:
    table = np.zeros(256, bool)
    table[list(values)] = True
    return table


def _encoded(marks: str) -> tuple[bytes, ...]:
    return tuple(mark.encode() for mark in marks)


# Guillemets are in both lists, because those that open in French close in German.
_CLOSING = _encoded("\"')]”’»›«‹」』）】》")
_OPENING = _encoded("\"'([“‘«‹»›„‚¿¡")
_CHINESE_OPENING = _encoded("“‘「『（《【")
_CHINESE_ENDS = _encoded("。！？｡")
_DOTS = "……".encode()
_COMMAS = _encoded("，、")
_CONTINUATIONS = (*_CHINESE_ENDS, *_encoded("，、；：…"))
_LEADS = _table(bytes({mark[0] for mark in _CONTINUATIONS}))
_CHINESE_SECOND = _table(bytes({mark[1] for mark in (*_CHINESE_ENDS, _DOTS)}))
_CLOSES = _table(bytes({mark[0] for mark in _CLOSING}))
_OPENS = _table(bytes({mark[0] for mark in _OPENING}))
_FOLLOWS = _CLOSES | _table(b" \n") | _table(range(0xE4, 0xEA))
_IDEOGRAPH = _table(range(0xE4, 0xEA))
_DIGIT = _table(b"0123456789")
_SMALL = _table(range(ord("a"), ord("z") + 1))
_CAPITAL = _table(range(ord("A"), ord("Z") + 1))
_BLANK = _table(b" \n")
_WORD = _SMALL | _CAPITAL | _DIGIT
# Bytes that depend on their neighbours: of non-ASCII letters, quotation marks, apostrophes.
_ODD = _table(b"'") | _table(range(0x80, 0x100))
# First bytes of the next line of a wrapped paragraph: letters of an alphabet, quotes, digits, brackets.
_CONTINUES = _WORD | _table(b"\"'(_") | _table(range(0xC3, 0xD4))
_STOPS = _table(b".!?")
# E2 is the first byte of the ellipsis, which occurs in Latin and in Chinese text.
_MARKS = (_STOPS | _table(b"\n\xe2") | _table(bytes({mark[0] for mark in _CHINESE_ENDS}))).tobytes()
# First bytes of sentences. 1: a capital or a letter of a caseless script; 2: the second byte decides; 3: a digit.
_INITIALS = np.zeros(256, np.uint8)
_INITIALS[_CAPITAL] = 1
_INITIALS[[*range(0xD7, 0xE2), *range(0xE3, 0xF5)]] = 1
_INITIALS[[0xC3, 0xC4, 0xC5, 0xCE, 0xD0]] = 2
_INITIALS[_DIGIT] = 3
# Abbreviations before a capital within a sentence; not "etc.", "usw." and the like, which often end a sentence.
_LISTED = (
    "Mr Mrs Ms Messrs Mme Mlle MM Mons Mgr Dr Drs Prof Rev Revd Hon Gen Col Capt Lieut Lt Sgt Sergt Maj Cmdr Adm Gov "
    "Sen Rep Pres Sr Jr St Ste Sta Mt Esq Bros Wm Geo Chas Thos Jas Jos Robt Edw Nos vol Vol vols pp pg fig Fig Figs "
    "figs Eq eq Eqs ch cf al ed eds trans viz vs Ave Blvd Jan Feb Apr Aug Sept Oct Nov Dec ca approx Hr Hrn Fr Frl "
    "Frhr Nr Bd Bde Hrsg hrsg bzw vgl Vgl sog geb gest Abb Anm Aufl Kap Jh Jhs evtl ggf inkl Str Tel zB Sra Dra Uds"
).split()
_LONGEST = max(map(len, _LISTED))
_ABBREVIATIONS = [
    np.array([int.from_bytes(word.encode(), "little") for word in _LISTED if len(word) == size], np.uint64)
    for size in range(_LONGEST + 1)
]
