"""Logical axis -> mesh axis. Parameters and activations name their axes; only this file knows the mesh."""

from __future__ import annotations

import dataclasses

MeshAxes = str | tuple[str, ...] | None


@dataclasses.dataclass(frozen=True, kw_only=True)
class Rules:
    """Which mesh axis each logical axis is divided over; None is not divided.

    The defaults serve data, fully sharded and tensor parallelism at once: an axis of size 1 divides nothing.
    """

    batch: MeshAxes = ("data", "fsdp")
    length: MeshAxes = None
    embed: MeshAxes = "fsdp"
    embed_out: MeshAxes = None
    heads: MeshAxes = "tensor"
    groups: MeshAxes = "tensor"
    kv: MeshAxes = None
    mlp: MeshAxes = "tensor"
    vocab: MeshAxes = "tensor"
    layers: MeshAxes = None
    position: MeshAxes = None
    types: MeshAxes = None
    classes: MeshAxes = None
    norm: MeshAxes = None
