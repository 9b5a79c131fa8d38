"""Inputs and outputs of a model: the only shapes that the rest of the library needs to know."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import flax.struct
import jax
from jaxtyping import Array, Bool, Float, Int

from lm_jax.core.trees import Params

# Maps the parameters of one layer to the parameters of its block.
Transform = Callable[[Params], Params]


@flax.struct.dataclass
class Inputs:
    """A batch of token rows.

    Attributes:
      tokens: token ids; of an encoder-decoder, the decoder's input.
      positions: position of each token in its text; None: 0, 1, 2, ...
      consecutive: the caller's word that `positions` increase by 1 from each token of a segment to its next, without
        which kernels of accelerators do not use that a mask over positions is then one over indices.
      segments: tokens attend only within their own segment; 0 is padding, which is never attended to. None: one segment
        without padding.
      visible: used instead of `segments`: 0 is padding, which is never attended to but itself attends to all other
        tokens (released encoders). Masks use the running maximum of `positions` as positions.
      types: token types (BERT's sentence A or B); None: 0.
      prefix: length of each row's prefix, to which all tokens of the row attend if the mask is `prefix`.
      unseen: True where a token must not attend to another; every token attends to itself.
      ranks: places in a factorisation order: a token attends to tokens of at most its rank, and a target to tokens of a
        rank below its token's. Tokens of one rank attend to each other (XLNet).
      targets: indices of the tokens that the query stream predicts from their positions, not their content (XLNet);
        -1 - i is an unused target at token i. The output's hidden states are then those of the targets.
      embedded: rows of the token table, looked up by the caller; None: look up `tokens`.
      read: indices of the tokens whose last hidden states are read; the output then has only these, in this order, and
        the last layer skips work for the others where it can. None: all.
      shared: number of first tokens that are in every segment, such as those of a soft prompt or a prefix.
      source: the encoder's input, of an encoder-decoder; None once the cache holds its keys and values.

    Example:
      >>> import jax.numpy as jnp
      >>> two_texts_and_padding = jnp.array([[1, 1, 1, 2, 2, 0]])
      >>> inputs = Inputs(tokens=jnp.array([[5, 6, 7, 8, 9, 0]]), segments=two_texts_and_padding)
      >>> (inputs.real > 0).sum().item()
      5
    """

    tokens: Int[Array, "batch length"] | Any
    positions: Int[Array, "#batch length"] | None | Any = None
    segments: Int[Array, "batch length"] | None | Any = None
    visible: Int[Array, "batch length"] | None | Any = None
    types: Int[Array, "batch length"] | None | Any = None
    prefix: Int[Array, " batch"] | None | Any = None
    unseen: Bool[Array, "batch length length"] | None | Any = None
    ranks: Int[Array, "batch length"] | None | Any = None
    targets: Int[Array, "batch targets"] | None | Any = None
    embedded: Float[Array, "batch length factor"] | None | Any = None
    read: Int[Array, "batch read"] | None | Any = None
    shared: int | Any = flax.struct.field(pytree_node=False, default=0)
    source: Inputs | None = None
    consecutive: bool | Any = flax.struct.field(pytree_node=False, default=False)

    @property
    def real(self) -> Int[Array, "batch length"] | None | Any:
        """0 at padding, positive elsewhere; None: no padding."""
        return self.segments if self.visible is None else self.visible


@flax.struct.dataclass
class Cache:
    """Keys and values of earlier tokens, in slots 0 to index - 1.

    Attributes:
      index: the next free slot.
      positions: position of each slot's token in its text.
      segments: segment of each slot's token; 0: the slot is empty or holds padding.
      layers: keys and values: a tuple over layers; of a scanned stack, over its segments, with a leading axis of
        repetitions.
      memory_segments: segments of the encoder's tokens; None: no padding.
    """

    index: Int[Array, ""] | Any
    positions: Int[Array, "batch slots"] | Any
    segments: Int[Array, "batch slots"] | Any
    layers: Any
    memory_segments: Int[Array, "batch source"] | None | Any = None


@flax.struct.dataclass
class Past:
    """Each layer's inputs for earlier tokens of the same texts: attended to, never updated (Transformer-XL).

    Attributes:
      layers: `{"past": [batch past embed]}` for every layer, arranged as in a cache.
    """

    layers: Any

    @property
    def length(self) -> int:
        """Number of earlier tokens."""
        return jax.tree.leaves(self.layers)[0].shape[-2]


@flax.struct.dataclass
class Shown:
    """Intermediate outputs of a stack, one per layer; empty unless requested by `show`.

    Attributes:
      hidden: the residual stream before the first layer and after each layer, before the final norm.
      attention: attention probabilities of each layer.
      cross: cross-attention probabilities of each layer that has cross-attention.
      router: float32 router logits of each layer that has experts.
      encoder: the encoder's intermediate outputs, of an encoder-decoder.
    """

    hidden: tuple[Float[Array, "batch length embed"], ...] | Any = ()
    attention: tuple[Float[Array, "batch heads query key"], ...] | Any = ()
    cross: tuple[Float[Array, "batch heads query source"], ...] | Any = ()
    router: tuple[Float[Array, "tokens experts"], ...] | Any = ()
    encoder: Shown | None = None


@flax.struct.dataclass
class Output:
    """The outputs of a model.

    Attributes:
      hidden: last hidden states: of all tokens, or of `Inputs.targets` or `Inputs.read`.
      cache: the given `Cache` or `Past`, extended by this call's tokens; None: the call had none.
      memory: the encoder's last hidden states, of an encoder-decoder.
      logits: logits over the vocabulary, if requested.
      shown: intermediate outputs of the layers, if requested.
      balance: load-balancing loss of the experts times its coefficient; 0.0 outside training or if not configured.
    """

    hidden: Float[Array, "batch length embed"] | Any
    cache: Cache | Past | None = None
    memory: Float[Array, "batch source embed"] | None | Any = None
    logits: Float[Array, "batch length vocab"] | None | Any = None
    shown: Shown | None = None
    balance: Float[Array, ""] | float | Any = 0.0
