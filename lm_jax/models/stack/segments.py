"""Segments of a stack: repeated patterns of a few layers, each of which compiles to one loop.

ModernBERT alternates one global and two local layers: its 22 layers are a segment (global, local, local) repeated seven
times, then a segment of one global layer. GPT-3 is one segment; Qwen-2, which switches once, is two.
"""

from __future__ import annotations

import dataclasses
import functools

from lm_jax.models.config import BlockConfig, StackConfig

# Longer patterns compile to longer programs. Gemma 3 repeats six layers, Jamba eight.
MAX_PATTERN = 12


@dataclasses.dataclass(frozen=True, kw_only=True)
class Layer:
    """One application of a block.

    Attributes:
      kind: name in `stack.kinds`, or `block`.
      owner: index of its parameter set in the stack, equal for layers that share parameters.
    """

    kind: str
    owner: int


@dataclasses.dataclass(frozen=True, kw_only=True)
class Segment:
    """A pattern of layers, repeated `repeat` times.

    Attributes:
      start: index of the first layer in the stack.
      kinds: kinds of the pattern's layers.
      owners: parameter sets of the first repetition.
      shared: whether all repetitions use these sets; otherwise each uses the next ones.
    """

    start: int
    repeat: int
    kinds: tuple[str, ...]
    owners: tuple[int, ...]
    shared: bool


def layers(config: StackConfig) -> tuple[Layer, ...]:
    """Every layer of a stack, first to last."""
    pattern, indices = config.pattern or ("block",), range(config.depth)
    return tuple(Layer(kind=pattern[index % len(pattern)], owner=_owner(config, index)) for index in indices)


def split(config: StackConfig, count: int) -> tuple[StackConfig, StackConfig]:
    """The stack without its last `count` layers, and these alone; no layers share parameters."""
    first, pattern = config.depth - count, config.pattern
    turn = first % len(pattern) if pattern else 0
    rest = dataclasses.replace(config, depth=count, pattern=(*pattern[turn:], *pattern[:turn]))
    return dataclasses.replace(config, depth=first), rest


def _owner(config: StackConfig, index: int) -> int:
    share = config.share
    if not share.groups:
        return index
    repetition, repetitions = index // share.layers, config.depth // share.layers
    # As in ALBERT's released code, also if the number of groups does not divide the layers.
    return repetition * share.groups // repetitions * share.layers + index % share.layers


@functools.cache
def segments(config: StackConfig) -> tuple[Segment, ...]:
    """Splits a stack greedily, from the first layer to the last, into the longest possible segments."""
    stack, runs, start = layers(config), [], 0
    shared = config.share.groups > 0
    while start < len(stack):
        period, repeat = _longest(stack, start, config.share.layers if shared else 0)
        pattern = stack[start : start + period]
        kinds, owners = tuple(layer.kind for layer in pattern), tuple(layer.owner for layer in pattern)
        runs.append(Segment(start=start, repeat=repeat, kinds=kinds, owners=owners, shared=shared))
        start += period * repeat
    return tuple(runs)


def _longest(stack: tuple[Layer, ...], start: int, shared: int) -> tuple[int, int]:
    """Period and count of the longest repetition that begins at `start`; in a tie, the shortest period."""
    periods = [shared] if shared else range(1, MAX_PATTERN + 1)
    best = (1, 1)
    for period in periods:
        pattern, repeat = stack[start : start + period], 1
        while _same(pattern, stack[start + repeat * period : start + (repeat + 1) * period], bool(shared)):
            repeat += 1
        if shared or (repeat > 1 and period * repeat > best[0] * best[1]):
            best = (period, repeat)
    return best


def _same(pattern: tuple[Layer, ...], other: tuple[Layer, ...], shared: bool) -> bool:
    identity = lambda layer: (layer.kind, shared and layer.owner)
    return list(map(identity, pattern)) == list(map(identity, other))


def kinds(config: StackConfig) -> dict[str, BlockConfig]:
    """The block of each kind that occurs in the stack."""
    return {kind: config.kind(kind) for kind in dict.fromkeys(layer.kind for layer in layers(config))}


def parameter_groups(config: StackConfig, separate: tuple[str, ...]) -> dict[str, tuple[int, ...]]:
    """Parameter sets that are stored together: by kind for kinds in `separate`, all others under ""."""
    groups: dict[str, dict[int, None]] = {}
    for layer in layers(config):
        groups.setdefault(layer.kind if layer.kind in separate else "", {})[layer.owner] = None
    return {group: tuple(sorted(owners)) for group, owners in groups.items()}
