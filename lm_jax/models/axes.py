"""What the logical axes of a parameter mean. Optimizers, muP, costs and decoding decide by them and not by paths."""

from __future__ import annotations

import math

from lm_jax.core.trees import Params, named_leaves

Axes = tuple[str, ...]

# Axes in front of a matrix: there is one for each layer and each expert.
LEADING = ("layers", "experts")
# What stands before `kv`; together they are one side of a matrix.
HEADS = ("heads", "groups", "single")
# Rows that are looked up and not multiplied.
TABLES = ("vocab", "position", "types", "places", "buckets")
# Sides that stay as they are when a model grows: answers, and a factorised table's rows.
FIXED = ("vocab", "classes", "factor")


def by_path(axes: Params) -> dict[str, Axes]:
    """The axes of every parameter of a tree by its path."""
    return dict(named_leaves(axes, is_leaf=lambda node: isinstance(node, tuple)))


def sides(axes: Axes) -> tuple[Axes, Axes, Axes]:
    """The leading axes of a parameter, those of its input side and those of its output side.

    The input side of a convolution is its taps. Vectors and tables have no output side.
    """
    lead = next((place for place, name in enumerate(axes) if name not in LEADING), len(axes))
    rest = axes[lead:]
    if rest[:1] and rest[0] in TABLES:
        return axes[:lead], rest, ()
    split = lead + (2 if rest[:1] and rest[0] in HEADS else 1)
    return axes[:lead], axes[lead:split], axes[split:]


def is_matrix(axes: Axes) -> bool:
    """Whether activations are multiplied by the parameter: it has an input and an output side."""
    return bool(sides(axes)[2])


def is_hidden(axes: Axes) -> bool:
    """Whether it is a matrix whose sides both grow with the model."""
    return is_matrix(axes) and not set(FIXED) & set(axes)


def is_product(axes: Axes) -> bool:
    """Whether it is multiplied in the model's own dtype: matrices and token tables."""
    return is_matrix(axes) or axes[:1] == ("vocab",) and len(axes) == 2


def joined(axes: Axes) -> Axes:
    """The axes of a matrix [*leading, in, out]: each side by the name of its major axis; others as they are."""
    lead, inputs, outputs = sides(axes)
    return (*lead, inputs[0], outputs[0]) if outputs else axes


def joined_shape(axes: Axes, shape: tuple[int, ...]) -> tuple[int, ...]:
    """The shape that goes with `joined`."""
    lead, inputs, outputs = map(len, sides(axes))
    if not outputs:
        return shape
    return (*shape[:lead], math.prod(shape[lead : lead + inputs]), math.prod(shape[lead + inputs :]))
