"""Logical axes of a train state, so that optimizer state is sharded like the parameters."""

from __future__ import annotations

from typing import Any

import jax
import numpy as np

from lm_jax.core.trees import Params, named_leaves
from lm_jax.models.axes import Axes, by_path, join_sides, joined_shape, sides
from lm_jax.objectives.base import Carry
from lm_jax.train.moments import SCALES

NO_CARRY = Carry()
# Last words of paths to scalars and settings, which belong to no parameter and are replicated.
REPLICATED = ("step", "updates", "count", "step_count", "good", "scale", "b1", "weight_sum", "max_lr", "ns_coeffs")
# Adafactor's second moments: `v_row` is the mean over the longest axis of a matrix, `v_col` over the second longest,
# `v` is not factored. Those that a parameter does not use have size 1.
FACTORED = {"v": None, "v_row": -1, "v_col": -2}


def state_axes(state: Any, params: Params, carry: Carry = NO_CARRY) -> Any:
    """Returns a tuple of logical axes for every leaf of a train state; an axis that is None is not sharded.

    Args:
      state: the state, or its shapes.
      params: logical axes of the parameters by role.
      carry: the fields of the objective's carry.

    Raises:
      ValueError: a leaf matches no parameter and is not in `REPLICATED`.
    """
    shapes, axes = dict([*named_leaves(state.params), *named_leaves(state.frozen)]), by_path(params)
    carry_axes = {f"carry/rows/{name}": ("batch", *field.axis_names) for name, field in carry.rows.items()}
    carry_axes |= {f"carry/shared/{name}": field.axis_names for name, field in carry.shared.items()}

    def axes_of(path: str, leaf: Any) -> tuple[str | None, ...]:
        if path in carry_axes:
            return carry_axes[path]
        words = path.split("/")
        # The longest suffix of the path that is the path of a parameter.
        start = next((start for start in range(len(words)) if "/".join(words[start:]) in axes), len(words))
        if start == len(words):
            if words[-1] not in REPLICATED:
                raise ValueError(f"{path} matches no parameter and is not in placing.REPLICATED; give its axes")
            return (None,) * leaf.ndim
        name = "/".join(words[start:])
        own, shape = axes[name], shapes[name].shape
        if SCALES not in words[:start]:
            return _moment(words[start - 1], leaf.shape, own, shape, path)
        # A scale for each row of the moment's last axis, which is that of the parameter or of its matrix.
        row = shape[-1] if leaf.ndim == len(shape) else joined_shape(own, shape)[-1]
        return (*_moment(words[start - 1], (*leaf.shape[:-1], row), own, shape, path)[:-1], None)

    return jax.tree.unflatten(jax.tree.structure(state), [axes_of(path, leaf) for path, leaf in named_leaves(state)])


def _moment(
    field: str, shape: tuple[int, ...], axes: Axes, param_shape: tuple[int, ...], path: str
) -> tuple[str | None, ...]:
    """Returns the axes of a moment of a parameter, of the parameter as a matrix, or of the matrix's rows or columns.

    It may be of some of the layers only.
    """
    if axes[:1] == ("layers",) and shape and shape[0] < param_shape[0]:
        param_shape = (shape[0], *param_shape[1:])
    lead = len(sides(axes)[0])
    if field in FACTORED and shape == (*param_shape[:lead], 1):
        return (*axes[:lead], None)
    matrix, names, rank = joined_shape(axes, param_shape), join_sides(axes), FACTORED.get(field)
    if rank is not None:
        averaged = lead + int(np.argsort(matrix[lead:])[rank])
        matrix, names = (*matrix[:averaged], *matrix[averaged + 1 :]), (*names[:averaged], *names[averaged + 1 :])
    if shape in (param_shape, matrix):
        return axes if shape == param_shape else names
    raise ValueError(f"{path} has the shape {shape}; expected its parameter's {param_shape}, or {matrix}")
