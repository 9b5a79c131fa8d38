"""Sharding rules: logical axis -> mesh axes. Models name logical axes only; this file maps them to the mesh."""

from __future__ import annotations

import dataclasses

MeshAxes = tuple[str, ...]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Rules:
    """The mesh axes that each logical axis is sharded over; (): not sharded.

    The defaults serve any mix of data, fully sharded and tensor parallelism: mesh axes of size 1 shard nothing.

    Attributes:
      length, stream: tokens of a batch and inside layers; tokens of the residual stream between layers, where
        ("tensor",) is sequence parallelism (Korthikanti et al. 2022, arXiv:2205.05198).
      embed, memory: features of the residual stream; of the encoder's output, which cross-attention reads.
      embed_out, factor: outputs of a projection of the stream; features of a factorised embedding table.
      heads, groups, single: query heads; key-value heads; the one key-value head of multi-query attention.
      taps, blocks: kernel positions and feature groups of a convolution; values of a quantised matrix with one scale.
      vocab, position, types, places, buckets: rows of embedding tables.
      rank: the inner axis of a low-rank product.
      prompt: learned tokens.

    Example:
      >>> Rules(stream=("tensor",)).stream, Rules().batch, Rules().kv
      (('tensor',), ('data', 'fsdp'), ())
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
    prompt: MeshAxes = ()


# Logical axes of the activations whose sharding models and objectives constrain.
ACTIVATIONS = (
    ("batch", "stream"),
    ("batch", "length", "heads", "kv"),
    ("batch", "length", "groups", "kv"),
    ("batch", "length", "mlp"),
    ("batch", "vocab"),
)
