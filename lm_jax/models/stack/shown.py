"""Intermediate outputs of layers, on request: `apply(..., show=("hidden", "attention", "router"))`.

Layers sow into collections named as in `SHOWN`. A collection that was not asked for is neither stored nor traced.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from typing import Any

import jax

from lm_jax.core.config import lookup
from lm_jax.models.interface import Shown

# Fields of `Shown` by what is asked for, with the module below the block and the name that it sows under.
SHOWN = {
    "hidden": {"hidden": ("stream",)},
    "attention": {"attention": ("attention", "weights"), "cross": ("cross", "weights")},
    "router": {"router": ("feedforward", "logits")},
}


def of_layer(show: tuple[str, ...], sown: Mapping[str, Any]) -> Shown:
    """The outputs of one layer, from the collections that it sowed."""
    below = lambda tree, part: tree.get(part, {})
    fields = {}
    for name in show:
        for field, path in lookup(SHOWN, name, "show").items():
            # What is sown is a tuple of one; a layer without such a module shows nothing.
            fields[field] = tuple(functools.reduce(below, path, sown.get(name, {})))
    return Shown(**fields)


def of_stack(show: tuple[str, ...], x: jax.Array, layers: Sequence[Shown]) -> Shown | None:
    """The outputs of all layers; `x` is the residual stream before the first. None if nothing was asked for."""
    if not show:
        return None
    fields = [field for name in show for field in SHOWN[name]]
    joined: dict[str, Any] = {field: sum((getattr(layer, field) for layer in layers), ()) for field in fields}
    shown = Shown(**joined)
    return shown.replace(hidden=(x, *shown.hidden)) if "hidden" in fields else shown  # type: ignore[attr-defined]
