"""Intermediate outputs of layers, requested by `apply(..., show=("hidden", "attention", "router"))`.

Layers sow into collections named as in `SHOWN`. A collection that is not requested is neither stored nor traced.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from typing import Any

import jax

from lm_jax.core.config import lookup
from lm_jax.models.interface import Shown

# Fields of `Shown` by requested name, with the path of the sown value below the block.
SHOWN = {
    "hidden": {"hidden": ("stream",)},
    "attention": {"attention": ("attention", "weights"), "cross": ("cross", "weights")},
    "router": {"router": ("feedforward", "logits")},
}


def of_layer(show: tuple[str, ...], sown: Mapping[str, Any]) -> Shown:
    """The intermediate outputs of one layer, from its sown collections."""
    child = lambda tree, name: tree.get(name, {})
    fields = {}
    for name in show:
        for field, path in lookup(SHOWN, name, "show").items():
            # A sown value is a tuple of length 1; a layer without the module has sown nothing.
            fields[field] = tuple(functools.reduce(child, path, sown.get(name, {})))
    return Shown(**fields)


def of_stack(show: tuple[str, ...], x: jax.Array, layers: Sequence[Shown]) -> Shown | None:
    """The intermediate outputs of all layers; `x` is the residual stream before them. None if `show` is empty."""
    if not show:
        return None
    fields = [field for name in show for field in SHOWN[name]]
    joined: dict[str, Any] = {field: sum((getattr(layer, field) for layer in layers), ()) for field in fields}
    shown = Shown(**joined)
    return shown.replace(hidden=(x, *shown.hidden)) if "hidden" in fields else shown  # type: ignore[attr-defined]
