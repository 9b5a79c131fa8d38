"""Logical axis -> mesh axes. Parameters and activations name their axes; only this file knows the mesh."""

from __future__ import annotations

import dataclasses

MeshAxes = tuple[str, ...]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Rules:
    """Which mesh axes each logical axis is divided over; () is not divided.

    The defaults serve data, fully sharded and tensor parallelism at once: an axis of size 1 divides nothing.

    Attributes:
      batch: rows of a batch.
      length: tokens of a row, of a batch and inside attention and feed-forward layers.
      stream: tokens of the residual stream between layers; ("tensor",) is sequence parallelism (Korthikanti et al.
        2022, arXiv:2205.05198).
      embed, memory: the stream of the model's own tokens and of its encoder's, as what a matrix reads or writes.
      embed_out: outputs as wide as the stream, of a matrix that reads the stream.
      factor: rows of a factorised token table.
      heads, groups, single: heads of queries, of keys and values, and a head that all queries share.
      kv: features of a head.
      mlp: hidden features of a feed-forward layer.
      experts, router: matrices of experts; the router's output.
      taps, blocks: earlier tokens, and groups of features, that a convolution mixes.
      vocab, position, types, places, buckets: rows of tables.
      classes: answers of a classifier.
      layers, norm, rank: layers of a stack; vectors of norms; the inner axis of a low-rank product.
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
