"""Parses the text of a compiled XLA module into computations and instructions."""

from __future__ import annotations

import dataclasses
import functools
import math
import re
from collections.abc import Mapping

# Metadata of handwritten kernels continue an instruction on lines of their own.
CONTINUED = re.compile(r'\n(?="|\}\})')
COMMENT = re.compile(r"/\*.*?\*/")
HEAD = re.compile(r"^(ENTRY )?%?([\w.\-]+) .*\{$")
LINE = re.compile(r"^\s+(ROOT )?%?([\w.\-]+) = ")
ARRAY = re.compile(r"\b(pred|token|[a-z]+\d+\w*)\[([\d,<=]*)\]")
CALLED = re.compile(r"\b(?:calls|to_apply|body|condition|true_computation|false_computation)=%?([\w.\-]+)")
LISTED = re.compile(r"\b(?:branch_computations|called_computations)=\{([^}]*)\}")
# Bytes of types whose names do not end in their number of bits.
BYTES = {"pred": 1.0, "token": 0.0, "c64": 8.0, "c128": 16.0}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Instruction:
    """An instruction of a computation.

    Attributes:
      shape: text of its type, such as `f32[2,3]{1,0}` or a tuple of such types.
      operands: names of the instructions that it reads; of a constant or parameter, the text in parentheses.
      rest: text of its attributes.
    """

    name: str
    opcode: str
    shape: str
    operands: tuple[str, ...]
    rest: str
    root: bool

    def attribute(self, name: str) -> str:
        """Returns the value of an attribute up to the next comma or space; empty if it has none."""
        match = re.search(rf"\b{name}=([^,\s]*)", self.rest)
        return match[1] if match else ""

    def braces(self, name: str) -> str:
        """Returns the text in braces of an attribute, such as the windows of a convolution; empty if it has none."""
        match = re.search(rf"\b{name}=\{{([^}}]*)\}}", self.rest)
        return match[1] if match else ""

    @functools.cached_property
    def called(self) -> tuple[str, ...]:
        """The computations that it calls, those of `while` and `conditional` included."""
        names = CALLED.findall(self.rest)
        if match := LISTED.search(self.rest):
            names += [name.strip().lstrip("%") for name in match[1].split(",")]
        return tuple(names)

    @property
    def size_bytes(self) -> float:
        """Bytes of its result, without the padding of tiles."""
        return sum(bytes_of(kind) * math.prod(dims) for kind, dims in arrays(self.shape))


@dataclasses.dataclass(frozen=True, kw_only=True)
class Module:
    """A module: its computations by name, each with its instructions by name, and the name of the first computation."""

    computations: Mapping[str, Mapping[str, Instruction]]
    entry: str


def arrays(shape: str) -> list[tuple[str, tuple[int, ...]]]:
    """Returns the element type and dimensions of each array of a type.

    Example:
      >>> arrays("(f32[2,3]{1,0}, s32[])")
      [('f32', (2, 3)), ('s32', ())]
    """
    sizes = lambda text: tuple(int(size.lstrip("<=")) for size in text.split(",") if size)
    return [(kind, sizes(dims)) for kind, dims in ARRAY.findall(shape)]


def bytes_of(kind: str) -> float:
    """Returns the bytes of an element: 2 of bf16, 0.5 of s4."""
    match = re.match(r"[a-z]+(\d+)", kind)
    return BYTES[kind] if kind in BYTES else int(match[1]) / 8 if match else 0.0


def parse(text: str) -> Module:
    """Parses a module; raises ValueError if the text has no entry computation."""
    computations: dict[str, dict[str, Instruction]] = {}
    entry, current = "", None
    for line in COMMENT.sub("", CONTINUED.sub("", text)).splitlines():
        if current is None:
            head = HEAD.match(line)
            if head and not line.startswith("HloModule"):
                current = computations[head[2]] = {}
                entry = head[2] if head[1] else entry
        elif line.startswith("}"):
            current = None
        elif match := LINE.match(line):
            instruction = _instruction(line[match.end() :], match[2], root=bool(match[1]))
            current[instruction.name] = instruction
    if not entry:
        raise ValueError("this is no text of a compiled module: it has no ENTRY computation")
    return Module(computations=computations, entry=entry)


def _instruction(text: str, name: str, *, root: bool) -> Instruction:
    """Parses what follows `name = `."""
    stop = _close(text, 0) if text.startswith("(") else text.index(" ")
    shape, text = text[:stop], text[stop:].lstrip()
    opening = text.index("(")
    closing = _close(text, opening)
    inner = text[opening + 1 : closing - 1]
    opcode = text[:opening]
    literal = opcode in ("constant", "parameter", "iota")
    operands = (inner,) if literal else tuple(re.findall(r"%([\w.\-]+)", inner))
    return Instruction(
        name=name, opcode=opcode, shape=shape, operands=operands, rest=text[closing:].lstrip(", "), root=root
    )


def _close(text: str, start: int) -> int:
    """Returns the position after the parenthesis that closes the one at `start`."""
    depth = 0
    for index in range(start, len(text)):
        depth += (text[index] == "(") - (text[index] == ")")
        if not depth:
            return index + 1
    raise ValueError(f"a parenthesis is never closed: {text[start : start + 80]}")
