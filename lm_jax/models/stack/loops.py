"""Loops over the layers of a stack: unrolled, or scanned with one compiled body per segment.

Both apply the same function of one layer to the same slices of the parameters.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from lm_jax.core.config import lookup
from lm_jax.core.trees import Params
from lm_jax.models.config import StackConfig
from lm_jax.models.interface import Shown
from lm_jax.models.stack import segments
from lm_jax.models.stack.segments import Segment
from lm_jax.parallel.layout import platform

# Deeper stacks take too long to compile unrolled; shallower ones run faster unrolled on CPUs and GPUs, where a scan
# copies each layer's slices of the parameters and of what the backward pass keeps (docs/claims.md).
MAX_UNROLLED_DEPTH = 12

# Applies a layer to the residual stream, the layer's parameters, its cache and its random key; returns the residual
# stream after the layer, the new cache, and the intermediate outputs.
Apply = Callable[[jax.Array, Any, Any, Any], tuple[jax.Array, Any, Shown]]

SCANS: dict[str, Callable[[StackConfig], bool]] = {
    "auto": lambda config: config.depth > MAX_UNROLLED_DEPTH or platform() == "tpu",
    "always": lambda config: True,
    "never": lambda config: False,
}


def scanned(config: StackConfig) -> bool:
    """Whether the stack is scanned, not unrolled."""
    return lookup(SCANS, config.scan, "stack.scan")(config)


def unstack(tree: Any, depth: int) -> tuple[Any, ...]:
    """Splits a tree with a leading `layers` axis into one tree per layer."""
    # The gradient of split is one concatenation; that of indexing is `depth` sums over the whole tree.
    slices = jax.tree.map(lambda leaf: [rows[0] for rows in jnp.split(leaf, depth, axis=0)], tree)
    is_list = lambda node: isinstance(node, list)
    pick = lambda layer: jax.tree.map(lambda rows: rows[layer], slices, is_leaf=is_list)
    return tuple(map(pick, range(depth)))


def split_layers(config: StackConfig, groups: Params) -> tuple[Any, ...]:
    """The parameters of each layer, from the stacked parameters by group."""
    trees: dict[str, dict[int, Any]] = {}
    for group, owners in segments.parameter_groups(config, tuple(filter(None, groups))).items():
        trees[group] = dict(zip(owners, unstack(groups[group], len(owners)), strict=True))
    group_of = lambda layer: layer.kind if layer.kind in groups else ""
    return tuple(trees[group_of(layer)][layer.owner] for layer in segments.layers(config))


def _unrolled(
    config: StackConfig,
    functions: dict[str, Apply],
    groups: Params,
    x: jax.Array,
    cache: Any,
    keys: Any,
    last: Apply | None = None,
) -> tuple[jax.Array, Any, list[Shown]]:
    """The unrolled loop, with `last` for the last layer; group "" may be a tuple of layers, already unstacked."""
    params = groups[""] if isinstance(groups.get(""), tuple) else split_layers(config, groups)
    caches, shown = [], []
    for index, (layer, layer_params) in enumerate(zip(segments.layers(config), params, strict=True)):
        layer_cache, key = (None if tree is None else tree[index] for tree in (cache, keys))
        apply = last if last is not None and index == config.depth - 1 else functions[layer.kind]
        x, layer_cache, layer_shown = apply(x, layer_params, layer_cache, key)
        caches.append(layer_cache)
        shown.append(layer_shown)
    return x, None if cache is None else tuple(caches), shown


def _scanned(
    config: StackConfig, functions: dict[str, Apply], groups: Params, x: jax.Array, cache: Any, keys: Any
) -> tuple[jax.Array, Any, list[Shown]]:
    """One scan per segment, whose body functions the layers of its pattern once."""
    owners, caches, shown = segments.parameter_groups(config, tuple(filter(None, groups))), [], []
    for number, segment in enumerate(segments.segments(config)):
        # The group of each layer of the pattern, and the segment's slice of each group.
        pattern = [kind if kind in groups else "" for kind in segment.kinds]
        first = {group: segment.owners[pattern.index(group)] for group in pattern}
        params = {
            group: _slice(segment, groups[group], pattern.count(group), owners[group].index(owner))
            for group, owner in first.items()
        }
        step = _step(segment, functions, pattern)
        rngs = None if keys is None else keys[segment.start : segment.start + segment.repeat * len(pattern)]
        rngs = None if rngs is None else rngs.reshape(segment.repeat, len(pattern))
        segment_cache = None if cache is None else cache[number]
        if segment.shared:
            body = lambda x, slices, step=step, params=params: step(x, params, *slices)
            x, (after, show) = jax.lax.scan(body, x, (segment_cache, rngs), length=segment.repeat)
        else:
            body = lambda x, slices, step=step: step(x, *slices)
            x, (after, show) = jax.lax.scan(body, x, (params, segment_cache, rngs))
        caches.append(after)
        shown += [layer for layers in unstack(show, segment.repeat) for layer in layers]
    return x, None if cache is None else tuple(caches), shown


LOOPS = {"unrolled": _unrolled, "scanned": _scanned}


def _step(segment: Segment, functions: dict[str, Apply], pattern: list[str]) -> Callable[..., tuple[jax.Array, Any]]:
    """One repetition of a segment, as a function of the residual stream, parameters by group, caches and keys."""

    def step(x, params, caches, keys):
        new_caches, shown = [], []
        for index, (kind, group) in enumerate(zip(segment.kinds, pattern, strict=True)):
            rank, layer_params = pattern[:index].count(group), params[group]
            if pattern.count(group) > 1:
                layer_params = jax.tree.map(lambda leaf, rank=rank: leaf[rank], layer_params)
            cache, key = (None if tree is None else tree[index] for tree in (caches, keys))
            x, cache, layer_shown = functions[kind](x, layer_params, cache, key)
            new_caches.append(cache)
            shown.append(layer_shown)
        return x, (None if caches is None else tuple(new_caches), tuple(shown))

    return step


def _slice(segment: Segment, tree: Any, count: int, start: int) -> Any:
    """The parameters of a segment in a group: `count` layers per repetition, from the group's layer `start` on.

    They have a leading axis of repetitions unless shared, and an axis of layers if `count` is above 1.
    """
    repeat = 1 if segment.shared else segment.repeat
    lead = (*(() if segment.shared else (repeat,)), *(() if count == 1 else (count,)))

    def rows(leaf):
        stop = start + repeat * count
        used = leaf if (start, stop) == (0, leaf.shape[0]) else leaf[start:stop]
        return used.reshape(*lead, *leaf.shape[1:])

    return jax.tree.map(rows, tree)
