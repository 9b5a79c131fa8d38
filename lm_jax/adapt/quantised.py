"""Low-rank adaptation of a base in 8 or 4 bits (QLoRA, Dettmers et al. 2023, arXiv:2305.14314).

The frozen matrices of all layers and heads, and the token tables, are stored as codes (`models.quantised`). The kernels
of experts and convolutions, biases, norms and positions stay as they are.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import flax.linen as nn
import jax

from lm_jax.core.config import InputError
from lm_jax.core.trees import Params, flatten, unflatten
from lm_jax.models import quantised
from lm_jax.models.axes import Axes, by_path, is_matrix, sides
from lm_jax.models.model import Model
from lm_jax.models.transformer import TABLES

# As it is in the checkpoint that a run starts from.
UNCHANGED = "float32"
# Axes of small matrices, whose rounding would change the choice of experts or classes, and of those that are no
# projections.
KEPT = ("router", "classes", "experts", "taps")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Place:
    """Where a matrix is stored.

    Attributes:
      lead: the number of leading axes: one matrix for each layer.
      axis, block: the axis of a matrix along which blocks run, and their size.
    """

    lead: int
    axis: int
    block: int

    def each(self, function: Callable[[Any], Any]) -> Callable[[Any], Any]:
        """`function` for every matrix of an array."""
        for _ in range(self.lead):
            function = jax.vmap(function)
        return function


def quantise(plain: Model, tuned: Model, format: str) -> Model:
    """`tuned`, a model that extends `plain`, with its frozen matrices in a format of `quantised.FORMATS`.

    What `tuned` adds is drawn for the matrices as they are after rounding.

    Raises:
      InputError: a matrix has no axis that can be divided into blocks.
    """
    names = by_path(tuned.axes)
    places = _places(tuned, format)
    axes: dict[str, Axes] = {path: axes for path, axes in names.items() if path not in places}
    for path, place in places.items():
        axes |= {_at(path, name): each for name, each in _axes(names[path], place).items()}

    def stored(leaves: Mapping[str, jax.Array]) -> dict[str, jax.Array]:
        """Codes and scales by path, of the matrices among `leaves`."""
        parts = {}
        # Another role of the objective may own a token table.
        for path, place in ((path, place) for path, place in places.items() if path in leaves):
            one = lambda x, place=place: quantised.quantise(x, format, place.axis, place.block)
            parts |= {_at(path, name): leaf for name, leaf in place.each(one)(leaves[path]).items()}
        return parts

    def dense(params: Params) -> Params:
        leaves = flatten(params)
        for path, place in ((path, place) for path, place in places.items() if _at(path, "codes") in leaves):
            parts = {name: leaves.pop(_at(path, name)) for name in ("codes", "scales", "steps", "mean")}
            leaves[path] = place.each(quantised.dequantised)(parts)
        return unflatten(leaves)

    def extend(params: Params, key: jax.Array) -> Params:
        leaves = flatten(params)
        parts = stored(leaves)
        rounded = dense(unflatten({path: leaf for path, leaf in leaves.items() if path not in places} | parts))
        extended = flatten(rounded if tuned.extend is None else tuned.extend(rounded, key))
        return unflatten({path: leaf for path, leaf in extended.items() if path not in places} | parts)

    def init(key: jax.Array) -> Params:
        leaves = flatten(extend(plain.draw(key), key))
        return unflatten({path: nn.LogicallyPartitioned(leaf, axes[path]) for path, leaf in leaves.items()})

    fold = lambda params: tuned.merge(dense(params))
    return dataclasses.replace(tuned, init=init, extend=extend, fold=fold, dense=dense)


def _places(model: Model, format: str) -> dict[str, Place]:
    """The matrices to store as codes, by path."""
    shapes, trainable = flatten(model.shapes), model.trainable or (lambda path: True)
    places = {}
    for path, names in by_path(model.axes).items():
        is_kernel = path.endswith("/kernel") and is_matrix(names) and not {*KEPT} & {*names}
        is_table = path in {f"{table}/embedding" for table in TABLES}
        if trainable(path) or not (is_kernel or is_table):
            continue
        lead = len(sides(names)[0])
        shape = shapes[path].shape[lead:]
        # A lookup needs rows that are complete in themselves.
        first = len(shape) - 1 if is_table else 0
        found = quantised.block_axis(shape[first:], format)
        if found is None:
            raise InputError(
                f"config.adapt.base is {format!r}, but {path} is {list(shape)}, which cannot be divided into blocks of "
                f"{quantised.LEAST_BLOCK} to {quantised.BLOCK} values; set config.adapt.base={UNCHANGED}"
            )
        places[path] = Place(lead=lead, axis=first + found[0], block=found[1])
    return places


def _axes(names: Axes, place: Place) -> dict[str, Axes]:
    """The logical axes of the parts of a matrix."""
    lead, at = names[: place.lead], place.lead + place.axis
    scales = (*names[:at], "blocks", *names[at + 1 :])
    return {"codes": names, "scales": scales, "steps": (*lead, "blocks"), "mean": lead}


def _at(path: str, name: str) -> str:
    return f"{path.rpartition('/')[0]}/{quantised.NAME}/{name}"
