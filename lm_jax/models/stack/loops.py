"""The loops over a stack's layers: written out, or compiled once for each segment and scanned.

Both apply the same function of one layer to the same slices of the parameters, whatever leaves these hold.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from lm_jax.core.config import lookup
from lm_jax.core.trees import Params
from lm_jax.models import cpu
from lm_jax.models.config import StackConfig
from lm_jax.models.interface import Shown
from lm_jax.models.stack import segments
from lm_jax.models.stack.segments import Segment

# Deeper stacks take too long to compile unrolled; shallower ones run faster so on a CPU.
DEEPEST_UNROLLED = 12

# A layer as a function of the residual stream, its parameters, its cache and its random key; it returns the residual
# stream after the layer, the cache, and what the layer shows.
Apply = Callable[[jax.Array, Any, Any, Any], tuple[jax.Array, Any, Shown]]

SCANS: dict[str, Callable[[StackConfig], bool]] = {
    "auto": lambda config: config.depth > DEEPEST_UNROLLED or not cpu.here(),
    "always": lambda config: True,
    "never": lambda config: False,
}


def scanned(config: StackConfig) -> bool:
    """Whether the stack loops over compiled layers."""
    return lookup(SCANS, config.scan, "stack.scan")(config)


def unstack(tree: Any, depth: int) -> tuple[Any, ...]:
    """A tree with a leading `layers` axis as one tree a layer."""
    # split's gradient is one concatenation; indexing's would be `depth` sums over the whole tree.
    parts = jax.tree.map(lambda leaf: [part[0] for part in jnp.split(leaf, depth, axis=0)], tree)
    is_parts = lambda node: isinstance(node, list)
    pick = lambda layer: jax.tree.map(lambda part: part[layer], parts, is_leaf=is_parts)
    return tuple(map(pick, range(depth)))


def one_a_layer(config: StackConfig, groups: Params) -> tuple[Any, ...]:
    """The parameters of every layer, a tree each, from those of the whole stack by group."""
    trees: dict[str, dict[int, Any]] = {}
    for group, owners in segments.owned(config, tuple(filter(None, groups))).items():
        trees[group] = dict(zip(owners, unstack(groups[group], len(owners)), strict=True))
    where = lambda layer: layer.kind if layer.kind in groups else ""
    return tuple(trees[where(layer)][layer.owner] for layer in segments.layers(config))


def _unrolled(
    config: StackConfig, applies: dict[str, Apply], groups: Params, x: jax.Array, cache: Any, keys: Any
) -> tuple[jax.Array, Any, list[Shown]]:
    """The layers written out; `groups` may hold a tuple of layers that were taken apart before."""
    params = groups[""] if isinstance(groups.get(""), tuple) else one_a_layer(config, groups)
    kept, shown = [], []
    for index, (layer, part) in enumerate(zip(segments.layers(config), params, strict=True)):
        one = None if cache is None else cache[index]
        x, one, show = applies[layer.kind](x, part, one, None if keys is None else keys[index])
        kept.append(one)
        shown.append(show)
    return x, None if cache is None else tuple(kept), shown


def _scanned(
    config: StackConfig, applies: dict[str, Apply], groups: Params, x: jax.Array, cache: Any, keys: Any
) -> tuple[jax.Array, Any, list[Shown]]:
    """One loop a segment, whose body applies one turn of its layers."""
    owners, kept, shown = segments.owned(config, tuple(filter(None, groups))), [], []
    for number, segment in enumerate(segments.segments(config)):
        # The group of every layer of a turn, and the part of each group that the segment uses.
        held = [kind if kind in groups else "" for kind in segment.kinds]
        first = {group: segment.owners[held.index(group)] for group in held}
        parts = {
            group: _part(segment, groups[group], held.count(group), owners[group].index(owner))
            for group, owner in first.items()
        }
        turn = _turn(segment, applies, held)
        own = None if keys is None else keys[segment.start : segment.start + segment.repeat * len(held)]
        own = None if own is None else own.reshape(segment.repeat, len(held))
        layer_cache = None if cache is None else cache[number]
        if segment.shared:
            body = lambda x, slices, turn=turn, parts=parts: turn(x, parts, *slices)
            x, (after, show) = jax.lax.scan(body, x, (layer_cache, own), length=segment.repeat)
        else:
            body = lambda x, slices, turn=turn: turn(x, *slices)
            x, (after, show) = jax.lax.scan(body, x, (parts, layer_cache, own))
        kept.append(after)
        shown += [layer for one in unstack(show, segment.repeat) for layer in one]
    return x, None if cache is None else tuple(kept), shown


LOOPS = {"unrolled": _unrolled, "scanned": _scanned}


def _turn(segment: Segment, applies: dict[str, Apply], held: list[str]) -> Callable[..., tuple[jax.Array, Any]]:
    """One turn of a segment, as a function of the residual stream, parameters by group, caches and keys."""

    def turn(x, params, caches, keys):
        kept, shown = [], []
        for index, (kind, group) in enumerate(zip(segment.kinds, held, strict=True)):
            rank, mine = held[:index].count(group), params[group]
            if held.count(group) > 1:
                mine = jax.tree.map(lambda leaf, rank=rank: leaf[rank], mine)
            cache = None if caches is None else caches[index]
            x, one, show = applies[kind](x, mine, cache, None if keys is None else keys[index])
            kept.append(one)
            shown.append(show)
        return x, (None if caches is None else tuple(kept), tuple(shown))

    return turn


def _part(segment: Segment, tree: Any, count: int, start: int) -> Any:
    """The parameters that a segment takes of a group, `count` layers a turn from the group's layer `start` on.

    With a leading axis of turns unless they are shared, and one of layers in a turn where there are several.
    """
    repeat = 1 if segment.shared else segment.repeat
    lead = (*(() if segment.shared else (repeat,)), *(() if count == 1 else (count,)))

    def cut(leaf):
        stop = start + repeat * count
        part = leaf if (start, stop) == (0, leaf.shape[0]) else leaf[start:stop]
        return part.reshape(*lead, *leaf.shape[1:])

    return jax.tree.map(cut, tree)
