"""What a layer keeps for its backward pass, value by value, and what it computes again, in closed form.

After Korthikanti et al. 2022 (arXiv:2205.05198), section 4.1, with the values that this library keeps: 16-bit inputs of
norms and activations (`models.remat`), and scores of attention only without a fused kernel.
"""

from __future__ import annotations

import dataclasses

# Choices of `stack.remat` that are compared, and the values of a layer that each keeps; None: everything. In the order
# of the time that they take if they repeat equally many operations.
KEPT: dict[str, tuple[str, ...] | None] = {
    "none": None,
    "minimal": ("query", "key", "value", "attended", "attention_out", "gate", "in"),
    "dots": ("query", "key", "value", "attention_out", "gate", "in", "feedforward_out"),
    "save_attention": ("query", "key", "value", "attended", "attention_out"),
    "save_qkv": ("query", "key", "value"),
    "full": (),
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Layer:
    """Sizes of the layers of one kind, for one row.

    Attributes:
      count: layers of this kind.
      width: features of the residual stream.
      heads: query heads.
      query, key: features of all queries of a token, and of all keys.
      mlp: hidden features of the feed-forward layer that a token uses.
      gated: whether there are two hidden projections.
      stream: values as wide as the stream that are kept: inputs and outputs of norms, the layer's input among them.
      queries, keys: tokens of a row with queries, and those that each of them may see.
      source: tokens that cross-attention sees; 0: no cross-attention.
      fused, cross_fused: whether the scores of self-attention, and of cross-attention, stay on the chip.
      padded: how much larger heads are in a fused kernel, of TPUs, which pads them to 128 features.
      softcap: whether scores have a soft cap.
      dropped: whether there is dropout on branches, on hidden features, and on probabilities.
      remat: `stack.remat` of the configuration; None: open.

    Example:
      >>> sizes = dict(width=1024, heads=16, query=1024, key=1024, mlp=4096, gated=False, stream=4)
      >>> layer = Layer(count=24, queries=512, keys=512, fused=True, **sizes)
      >>> kept_bytes(layer, "full", 2), kept_bytes(layer, "none", 2)
      (2048.0, 34880.0)
    """

    count: int
    width: int
    heads: int
    query: int
    key: int
    mlp: int
    gated: bool
    stream: int
    queries: int
    keys: int
    source: int = 0
    fused: bool = False
    cross_fused: bool = False
    padded: float = 1.0
    softcap: bool = False
    dropped: tuple[bool, bool, bool] = (False, False, False)
    remat: str | None = None

    @property
    def branches(self) -> int:
        """Additions to the residual stream."""
        return 3 if self.source else 2


def kept_bytes(layer: Layer, remat: str, itemsize: int, tensor: int = 1) -> float:
    """Returns the bytes that a layer keeps of a token with a query, on one device.

    Args:
      layer: its sizes.
      remat: a choice, or names of values.
      itemsize: bytes of an activation.
      tensor: devices that share heads and hidden features.
    """
    names, named = _names(remat), _named(layer, itemsize, tensor)
    if names is not None:
        # Beside the layer's input, without which nothing can be computed again.
        return float(itemsize * layer.width + sum(size for name, size in named.items() if name in names))
    query, mlp, heads = (size / tensor for size in (layer.query, layer.mlp, layer.heads))
    total = sum(named[name] for name in ("query", "key", "value", "attended"))
    total += itemsize * layer.stream * layer.width
    pairs = ((layer.keys, layer.fused), (layer.source, layer.cross_fused))
    kernels = ((1.0, layer.fused), (layer.source / layer.queries, layer.cross_fused))
    total += sum(_scores(layer, query, heads, keys, itemsize) for keys, fused in pairs if keys and not fused)
    total += itemsize * sum(_of_kernel(layer, tensor, share) for share, fused in kernels if fused)
    total += layer.dropped[0] * layer.branches * layer.width + layer.dropped[1] * mlp
    if itemsize < 4:
        # Inputs of the activation, and its output, which a product reads.
        return total + named["in"] + named["gate"] + itemsize * mlp
    # In float32, a norm keeps its centred input and its result too, an activation three steps more, and products read
    # operands that are rounded to 16 bits.
    return total + layer.stream // 2 * (4 + 2) * layer.width + 4 * (named["in"] + named["gate"]) + 2 * mlp


def working_bytes(layer: Layer, remat: str, itemsize: int, tensor: int = 1) -> float:
    """Returns the bytes of a token that the backward pass of one layer needs beside what is kept, on one device.

    A layer that is computed again needs all its values while it is. On top come gradients of the hidden features, or of
    attention: of the scores in float32, with a copy of them, or of queries, keys and values.
    """
    repeated = 0.0 if _names(remat) is None else kept_bytes(layer, "none", itemsize, tensor)
    hidden = itemsize * (2 + layer.gated) * layer.mlp
    scores = 8 * layer.heads * max(layer.keys * (not layer.fused), layer.source * (not layer.cross_fused))
    attention = max(scores, 2 * itemsize * (layer.query + layer.key))
    return repeated + max(hidden, attention) / tensor + 2 * itemsize * layer.width


def repeated_flops(layer: Layer, remat: str) -> float:
    """Returns the operations of products that the backward pass of a layer repeats for a token with a query.

    The last product of a layer is not repeated, because nothing in the layer reads it. A fused kernel repeats the
    scores whatever is kept; that is not counted.
    """
    names = _names(remat)
    if names is None:
        return 0.0
    cross = 1 if layer.source else 0
    scores = 2.0 * layer.query * (layer.keys + layer.source)
    keys = 2.0 * layer.width * layer.key * (1 + layer.source / layer.queries)
    products = {
        "query": 2.0 * (1 + cross) * layer.width * layer.query,
        "key": keys,
        "value": keys,
        "attended": 2 * scores,
        "attention_out": 2.0 * (1 + cross) * layer.query * layer.width,
        "in": 2.0 * layer.width * layer.mlp,
        "gate": 2.0 * layer.width * layer.mlp * layer.gated,
    }
    # The probabilities, from which the kept output was computed.
    probabilities = scores if "attended" in names and not layer.fused else 0.0
    return sum(flops for name, flops in products.items() if name not in names) + probabilities


def summed_again(remat: str) -> bool:
    """Returns whether the outputs of branches are computed again, with their sums over the tensor axis."""
    names = _names(remat)
    return names is not None and "attention_out" not in names


def _names(remat: str) -> tuple[str, ...] | None:
    """The values that a choice of remat keeps on the device; None: all."""
    if remat == "offload":
        return ()
    return KEPT[remat] if remat in KEPT else tuple(remat.split(","))


def _named(layer: Layer, itemsize: int, tensor: int) -> dict[str, float]:
    """Bytes of a token with a query, of the values that `models.remat` names."""
    cross = 1 if layer.source else 0
    keys = itemsize * layer.key / tensor * (1 + layer.source / layer.queries)
    queries = itemsize * layer.query / tensor * (1 + cross)
    hidden, stream = itemsize * layer.mlp / tensor, itemsize * layer.width
    kernels = layer.fused + cross * layer.cross_fused
    return {
        "residual": stream * layer.branches,
        "query": queries,
        "key": keys,
        "value": keys,
        # A fused kernel pads heads, and also keeps the logarithm of the softmax's normaliser.
        "attended": queries + (queries * (layer.padded - 1) / (1 + cross) + 4 * layer.heads / tensor) * kernels,
        "attention_out": stream * (1 + cross),
        "in": hidden,
        "gate": hidden * layer.gated,
        "feedforward_out": stream,
    }


def _scores(layer: Layer, query: float, heads: float, keys: int, itemsize: int) -> float:
    """Bytes of a token that attention without a fused kernel keeps beside queries, keys, values and its output."""
    # Numerators in float32, rounded for the product with the values, a soft cap's argument, and which are dropped; the
    # output before its division, and the sum of the numerators.
    pair = 4 + (itemsize if itemsize < 4 else 0) + 4 * layer.softcap + layer.dropped[2]
    return pair * heads * keys + 4 * query + 4 * heads


def _of_kernel(layer: Layer, tensor: int, share: float) -> float:
    """Numbers of a token that a fused kernel keeps beside unpadded queries, keys and values, and its output.

    The output projection reads a copy of the output, whose heads are not padded. `share`: tokens with keys for one with
    a query.
    """
    return ((layer.padded - 1) * (layer.query + 2 * layer.key * share) + layer.query) / tensor
