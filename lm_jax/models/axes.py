"""Roles of a parameter's logical axes. Optimizers, muP, FLOP counts and decoding use them instead of paths."""

from __future__ import annotations

import math

from lm_jax.core.trees import Params, named_leaves

Axes = tuple[str, ...]

# Leading axes: one matrix for each layer and expert.
LEADING = ("layers", "experts")
# Axes that form one side of a matrix together with the following `kv`.
HEADS = ("heads", "groups", "single")
# First axes of tables, whose rows are looked up, not multiplied.
TABLES = ("vocab", "position", "types", "places", "buckets")
# Axes that do not grow with the model: vocabulary, classes, and the width of a factorised table.
FIXED = ("vocab", "classes", "factor")


def by_path(axes: Params) -> dict[str, Axes]:
    """The axes of every parameter in a tree, by path."""
    return dict(named_leaves(axes, is_leaf=lambda node: isinstance(node, tuple)))


def sides(axes: Axes) -> tuple[Axes, Axes, Axes]:
    """Splits axes into leading axes, input side and output side, which vectors and tables lack.

    The input side of a convolution is its taps.
    """
    lead = next((index for index, name in enumerate(axes) if name not in LEADING), len(axes))
    rest = axes[lead:]
    if rest[:1] and rest[0] in TABLES:
        return axes[:lead], rest, ()
    split = lead + (2 if rest[:1] and rest[0] in HEADS else 1)
    return axes[:lead], axes[lead:split], axes[split:]


def is_matrix(axes: Axes) -> bool:
    """Whether the parameter is a matrix that multiplies activations: it has an input and an output side."""
    return bool(sides(axes)[2])


def is_hidden(axes: Axes) -> bool:
    """Whether the parameter is a matrix both of whose sides grow with the model."""
    return is_matrix(axes) and not set(FIXED) & set(axes)


def is_product(axes: Axes) -> bool:
    """Whether the model casts the parameter to its dtype to multiply it: matrices and token tables."""
    return is_matrix(axes) or axes[:1] == ("vocab",) and len(axes) == 2


def join_sides(axes: Axes) -> Axes:
    """The axes of a matrix with each side joined to one axis, named after its first; other parameters unchanged."""
    lead, inputs, outputs = sides(axes)
    return (*lead, inputs[0], outputs[0]) if outputs else axes


def split_shape(axes: Axes, shape: tuple[int, ...]) -> tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]]:
    """The sizes of the leading axes, of the input side and of the output side of a parameter."""
    lead, inputs, _ = map(len, sides(axes))
    return shape[:lead], shape[lead : lead + inputs], shape[lead + inputs :]


def joined_shape(axes: Axes, shape: tuple[int, ...]) -> tuple[int, ...]:
    """The shape of a parameter after `join_sides`."""
    lead, inputs, outputs = split_shape(axes, shape)
    return (*lead, math.prod(inputs), math.prod(outputs)) if outputs else shape
