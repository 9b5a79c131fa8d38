"""Logical axes of every leaf of a train state, so that moments are sharded like their parameters."""

from __future__ import annotations

from typing import Any

import jax
import numpy as np

from lm_jax.core.trees import Params, named_leaves
from lm_jax.models.axes import Axes, by_path, joined, joined_shape, sides
from lm_jax.objectives.base import Carry

NOTHING = Carry()
# Scalars and settings that belong to no parameter: replicated.
REPLICATED = ("step", "updates", "count", "step_count", "good", "scale", "b1", "weight_sum", "max_lr", "ns_coeffs")
# Adafactor's second moments: `v_row` is the mean over the longest axis of a matrix, `v_col` over the second longest,
# `v` is not factored. Those that a parameter does not use have size 1.
FACTORED = {"v": None, "v_row": -1, "v_col": -2}


def state_axes(state: Any, params: Params, carry: Carry = NOTHING) -> Any:
    """A tuple of axes for every leaf of a train state; None is an axis that is not divided.

    Args:
      state: the state, or its shapes.
      params: the axes of the parameters by role.
      carry: the fields of the objective's carry.

    Raises:
      ValueError: a leaf that belongs to no parameter and is not in `REPLICATED`.
    """
    shapes, axes = dict([*named_leaves(state.params), *named_leaves(state.frozen)]), by_path(params)
    kept = {f"carry/rows/{name}": ("batch", *field.axis_names) for name, field in carry.rows.items()}
    kept |= {f"carry/shared/{name}": field.axis_names for name, field in carry.shared.items()}

    def one(path: str, leaf: Any) -> tuple[str | None, ...]:
        if path in kept:
            return kept[path]
        words = path.split("/")
        # The longest end of the path that is a parameter's.
        at = next((at for at in range(len(words)) if "/".join(words[at:]) in axes), len(words))
        if at == len(words):
            if words[-1] not in REPLICATED:
                raise ValueError(f"{path} is no parameter's and not in placing.REPLICATED; name its axes")
            return (None,) * leaf.ndim
        name = "/".join(words[at:])
        return _moment(words[at - 1], leaf.shape, axes[name], shapes[name].shape, path)

    return jax.tree.unflatten(jax.tree.structure(state), [one(path, leaf) for path, leaf in named_leaves(state)])


def _moment(
    field: str, shape: tuple[int, ...], axes: Axes, param_shape: tuple[int, ...], path: str
) -> tuple[str | None, ...]:
    """The axes of a parameter's moment: the parameter's own, its matrix's, or those of the matrix's rows or columns."""
    lead = len(sides(axes)[0])
    if field in FACTORED and shape == (*param_shape[:lead], 1):
        return (*axes[:lead], None)
    matrix, names, rank = joined_shape(axes, param_shape), joined(axes), FACTORED.get(field)
    if rank is not None:
        gone = lead + int(np.argsort(matrix[lead:])[rank])
        matrix, names = (*matrix[:gone], *matrix[gone + 1 :]), (*names[:gone], *names[gone + 1 :])
    if shape in (param_shape, matrix):
        return axes if shape == param_shape else names
    raise ValueError(f"{path} has the shape {shape}, which is neither its parameter's {param_shape} nor {matrix}")
