"""What goes into a model and what comes out: the only shapes that other rooms need to know."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import flax.struct
import jax
from jaxtyping import Array, Bool, Float, Int

from lm_jax.core.trees import Params

# Maps the parameters of one layer to those that its block computes with.
Transform = Callable[[Params], Params]


@flax.struct.dataclass
class Inputs:
    """A batch of token rows.

    Attributes:
      tokens: ids; of an encoder-decoder, what the decoder reads.
      positions: place of each token in its text; None is 0, 1, 2, ...
      segments: tokens see only their own segment; 0 is padding, which nobody sees. None is one segment and no padding.
      visible: instead of segments: 0 is padding, which nobody sees, but which sees the tokens that are not padding (the
        released encoders). It stands, for masks, where the last token before it does, whatever its position.
      types: token types (BERT's sentence A or B); None is 0.
      prefix: how many of the first tokens of each row all of the row may see, where the mask is `prefix`.
      unseen: pairs of tokens of which the first must not see the second; every token sees itself.
      targets: tokens that the query stream predicts (XLNet), which sees where they stand and not what they are; -1 - i
        stands at token i and asks for none. The hidden states of the output are then the targets'.
      embedded: rows of the token table, looked up by the caller; None looks up `tokens`.
      source: what the encoder of an encoder-decoder reads; None once the cache holds it.
    """

    tokens: Int[Array, "batch length"] | Any
    positions: Int[Array, "#batch length"] | None | Any = None
    segments: Int[Array, "batch length"] | None | Any = None
    visible: Int[Array, "batch length"] | None | Any = None
    types: Int[Array, "batch length"] | None | Any = None
    prefix: Int[Array, " batch"] | None | Any = None
    unseen: Bool[Array, "batch length length"] | None | Any = None
    targets: Int[Array, "batch targets"] | None | Any = None
    embedded: Float[Array, "batch length factor"] | None | Any = None
    source: Inputs | None = None

    @property
    def real(self) -> Int[Array, "batch length"] | None | Any:
        """0 where a token is padding; None where none is."""
        return self.segments if self.visible is None else self.visible


@flax.struct.dataclass
class Cache:
    """Keys and values of the tokens read so far, in slots 0 .. index.

    Attributes:
      index: the next free slot.
      positions: place in its text of each slot's token.
      segments: 0 where a slot is empty or padding.
      layers: keys and values: a tuple of layers, or, where the stack is scanned, of segments of layers with a leading
        axis of turns.
      memory_segments: segments of the encoder's tokens, or None.
    """

    index: Int[Array, ""] | Any
    positions: Int[Array, "batch slots"] | Any
    segments: Int[Array, "batch slots"] | Any
    layers: Any
    memory_segments: Int[Array, "batch source"] | None | Any = None


@flax.struct.dataclass
class Past:
    """Hidden states of earlier tokens of the same texts, as every layer read them: keys without queries.

    Attributes:
      layers: `{"past": [batch past embed]}` of every layer, arranged as those of a cache.
    """

    layers: Any

    @property
    def length(self) -> int:
        """How many tokens."""
        return jax.tree.leaves(self.layers)[0].shape[-2]


@flax.struct.dataclass
class Shown:
    """Intermediate outputs of a stack, one per layer; empty if not asked for.

    Attributes:
      hidden: the residual stream before the first layer and after each layer, before the final norm.
      attention: attention probabilities of each layer.
      cross: probabilities of attention over the encoder's output, of each layer that has it.
      router: float32 router logits of each layer that has experts.
      encoder: the same of the encoder, of an encoder-decoder.
    """

    hidden: tuple[Float[Array, "batch length embed"], ...] | Any = ()
    attention: tuple[Float[Array, "batch heads query key"], ...] | Any = ()
    cross: tuple[Float[Array, "batch heads query source"], ...] | Any = ()
    router: tuple[Float[Array, "tokens experts"], ...] | Any = ()
    encoder: Shown | None = None


@flax.struct.dataclass
class Output:
    """What a model computed.

    Attributes:
      hidden: last hidden states.
      cache: the cache, or the past, with this call's tokens in it, when one was given.
      memory: the encoder's last hidden states, of an encoder-decoder.
      logits: over the vocabulary, when asked for.
      shown: what the layers computed, when asked for.
      balance: the loss of an uneven use of experts, times its coefficient; 0.0 outside training and without one.
    """

    hidden: Float[Array, "batch length embed"] | Any
    cache: Cache | Past | None = None
    memory: Float[Array, "batch source embed"] | None | Any = None
    logits: Float[Array, "batch length vocab"] | None | Any = None
    shown: Shown | None = None
    balance: Float[Array, ""] | float | Any = 0.0
