"""How a stack is cut into segments: runs of a few layers that repeat, each of which compiles to one loop.

ModernBERT's 22 layers of one global and two local ones are a segment of (global, local, local) seven times and a
segment of one global layer; GPT-3's are one segment, Qwen-2's switch is two.
"""

from __future__ import annotations

import dataclasses
import functools

from lm_jax.models.config import BlockConfig, StackConfig

# Longer patterns compile to longer programs; Gemma 3 repeats six layers, Jamba eight.
LONGEST_PATTERN = 12


@dataclasses.dataclass(frozen=True, kw_only=True)
class Layer:
    """One application of a block.

    Attributes:
      kind: name in `stack.kinds`, or `block`.
      owner: which set of parameters it uses, counted over the whole stack.
    """

    kind: str
    owner: int


@dataclasses.dataclass(frozen=True, kw_only=True)
class Segment:
    """`repeat` times the same few layers.

    Attributes:
      start: the first layer's number in the stack.
      repeat: turns.
      kinds: the layers of one turn.
      owners: the sets of parameters that the first turn uses.
      shared: whether every turn uses those, or each its own, which follow them.
    """

    start: int
    repeat: int
    kinds: tuple[str, ...]
    owners: tuple[int, ...]
    shared: bool


def layers(config: StackConfig) -> tuple[Layer, ...]:
    """Every layer of a stack, first to last."""
    pattern = config.pattern or ("block",)
    return tuple(
        Layer(kind=pattern[index % len(pattern)], owner=_owner(config, index)) for index in range(config.depth)
    )


def _owner(config: StackConfig, index: int) -> int:
    share = config.share
    if not share.groups:
        return index
    turn, turns = index // share.layers, config.depth // share.layers
    # As ALBERT's released code divides layers that the groups do not divide.
    return turn * share.groups // turns * share.layers + index % share.layers


@functools.cache
def segments(config: StackConfig) -> tuple[Segment, ...]:
    """The layers of a stack as segments, in order, each as long as it can be."""
    stack, found, start = layers(config), [], 0
    shared = config.share.groups > 0
    while start < len(stack):
        period, repeat = _longest(stack, start, config.share.layers if shared else 0)
        turn = stack[start : start + period]
        kinds, owners = tuple(layer.kind for layer in turn), tuple(layer.owner for layer in turn)
        found.append(Segment(start=start, repeat=repeat, kinds=kinds, owners=owners, shared=shared))
        start += period * repeat
    return tuple(found)


def _longest(stack: tuple[Layer, ...], start: int, shared: int) -> tuple[int, int]:
    """Period and turns of the longest repetition from `start` on; the shortest period of equals."""
    periods = [shared] if shared else range(1, LONGEST_PATTERN + 1)
    best = (1, 1)
    for period in periods:
        turn, repeat = stack[start : start + period], 1
        while _same(turn, stack[start + repeat * period : start + (repeat + 1) * period], bool(shared)):
            repeat += 1
        if shared or (repeat > 1 and period * repeat > best[0] * best[1]):
            best = (period, repeat)
    return best


def _same(turn: tuple[Layer, ...], other: tuple[Layer, ...], shared: bool) -> bool:
    return [one.kind for one in turn] == [one.kind for one in other] and (
        not shared or [one.owner for one in turn] == [one.owner for one in other]
    )


def kinds(config: StackConfig) -> dict[str, BlockConfig]:
    """The blocks of every kind that has a layer."""
    return {kind: config.kind(kind) for kind in dict.fromkeys(layer.kind for layer in layers(config))}


def owned(config: StackConfig, apart: tuple[str, ...]) -> dict[str, tuple[int, ...]]:
    """Which sets of parameters are stored together, in order: those of each kind in `apart`, and under "" the rest."""
    groups: dict[str, dict[int, None]] = {}
    for layer in layers(config):
        groups.setdefault(layer.kind if layer.kind in apart else "", {})[layer.owner] = None
    return {group: tuple(sorted(owners)) for group, owners in groups.items()}
