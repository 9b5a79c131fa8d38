"""Logical axis -> mesh axes. Parameters and activations name their axes; only this file knows the mesh."""

from __future__ import annotations

import dataclasses

MeshAxes = tuple[str, ...]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Rules:
    """Which mesh axes each logical axis is divided over; () is not divided.

    The defaults serve data, fully sharded and tensor parallelism at once: an axis of size 1 divides nothing.

    Attributes:
      length, stream: tokens of a batch and inside layers; of the residual stream between layers, where ("tensor",) is
        sequence parallelism (Korthikanti et al. 2022, arXiv:2205.05198).
      embed, memory: features of the residual stream; of the encoder's, which cross-attention reads.
      embed_out, factor: outputs of a matrix that reads the stream; features of a factorised token table.
      heads, groups, single: heads of queries; of keys and values; the one that all queries share.
      taps, blocks: neighbouring tokens, and groups of features, that a convolution mixes.
      vocab, position, types, places, buckets: rows of tables.
      rank: the inner axis of a low-rank product.
    """

    batch: MeshAxes = ("data", "fsdp")
    length: MeshAxes = ()
    stream: MeshAxes = ()
    embed: MeshAxes = ("fsdp",)
    memory: MeshAxes = ("fsdp",)
    embed_out: MeshAxes = ()
    factor: MeshAxes = ()
    heads: MeshAxes = ("tensor",)
    groups: MeshAxes = ("tensor",)
    single: MeshAxes = ()
    kv: MeshAxes = ()
    mlp: MeshAxes = ("tensor",)
    experts: MeshAxes = ()
    router: MeshAxes = ()
    taps: MeshAxes = ()
    blocks: MeshAxes = ()
    vocab: MeshAxes = ("tensor",)
    position: MeshAxes = ()
    types: MeshAxes = ()
    places: MeshAxes = ()
    buckets: MeshAxes = ()
    classes: MeshAxes = ()
    layers: MeshAxes = ()
    norm: MeshAxes = ()
    rank: MeshAxes = ()


# Activations that models and objectives constrain.
ACTIVATIONS = (
    ("batch", "stream"),
    ("batch", "length", "heads", "kv"),
    ("batch", "length", "groups", "kv"),
    ("batch", "length", "mlp"),
    ("batch", "vocab"),
)
