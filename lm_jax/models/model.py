"""A model without parameters (`Model`), and bound to parameters (`Bound`)."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from lm_jax.core.trees import Params, flat, partition
from lm_jax.models import transformer
from lm_jax.models.config import ModelConfig
from lm_jax.models.interface import Cache, Inputs, Output, Transform
from lm_jax.models.transformer import READOUT, STACKS, EncoderDecoder, Transformer


@dataclasses.dataclass(frozen=True)
class Bound:
    """A model with its parameters: what an objective calls.

    Attributes:
      module: the Linen module.
      params: its parameters; those outside the stacks are already transformed.
      transform: applied to one layer's parameters inside the loop over layers.
    """

    module: Transformer | EncoderDecoder
    params: Params
    transform: Transform | None = None

    def __call__(self, inputs: Inputs, *, dropout: jax.Array | None = None, **options: Any) -> Output:
        """Runs the model on a batch.

        Args:
          inputs: the batch.
          dropout: random key of dropout; None: no dropout.
          **options: `cache`, `show` and `logits`, as of `Transformer`.
        """
        if dropout is not None:
            options |= {"train": True, "rngs": {"dropout": dropout}}
        return self._apply(self.params, inputs, transform=self.transform, **options)

    @property
    def readout_params(self) -> Params:
        """The parameters that `readout` reads."""
        return {name: self.params[name] for name in READOUT if name in self.params}

    def readout(self, hidden: jax.Array, writer: Params | None = None) -> jax.Array:
        """Logits over the vocabulary of (gathered) hidden states [..., embed]; `writer` in place of its own."""
        return self._apply(self.params if writer is None else writer, hidden, method="readout")

    def head(self, name: str, hidden: jax.Array) -> jax.Array:
        """Logits [..., classes] of a head, such as `pair`, of (gathered) hidden states [..., embed]."""
        return self._apply(self.params, hidden, method=f"{name}_logits")

    def empty_cache(self, rows: int, slots: int, source: int = 0) -> Cache:
        """Room for `slots` tokens of `rows` rows that attend to `source` tokens of an encoder."""
        return self._apply(self.params, rows, slots, source, method="empty_cache")

    def _apply(self, params: Params, *args: Any, **options: Any) -> Any:
        return self.module.apply({"params": params}, *args, **options)


@dataclasses.dataclass(frozen=True)
class Model:
    """A module and the initialisation of its parameters; no array is allocated.

    Attributes:
      module: the Linen module.
      init: maps a random key to parameters, each boxed with the names of its axes. It may add parameters that only
        `transform` reads.
      transform: applied to the parameters before the module computes with them.
      trainable: whether the parameter of a path is trained; None: all are.
    """

    module: Transformer | EncoderDecoder
    init: Callable[[jax.Array], Params]
    transform: Transform | None = None
    trainable: Callable[[str], bool] | None = None

    @functools.cached_property
    def boxed(self) -> Params:
        """The shapes of the parameters, boxed."""
        return jax.eval_shape(self.init, jax.random.key(0))

    @property
    def shapes(self) -> Params:
        """The parameters as shapes."""
        return nn.unbox(self.boxed)

    @property
    def axes(self) -> Params:
        """The logical axis names of every parameter."""
        return jax.tree.map(lambda box: box.names, self.boxed, is_leaf=lambda leaf: isinstance(leaf, nn.Partitioned))

    def draw(self, key: jax.Array) -> Params:
        """Freshly drawn parameters, as a plain tree."""
        return nn.unbox(self.init(key))

    def bind(self, params: Params) -> Bound:
        """The model with a plain tree of parameters."""
        if self.transform is not None:
            outside = {name: tree for name, tree in params.items() if name not in STACKS}
            params = {**params, **self.transform(outside)}
        return Bound(self.module, params, self.transform)

    def merge(self, params: Params) -> Params:
        """The module's own parameters after the transform, for decoding and export."""
        if (transform := self.transform) is None:
            return params
        every = lambda name, tree: jax.vmap(transform)(tree) if name == "layers" else _below(every, tree)
        stacks = {name: _below(every, tree) for name, tree in params.items() if name in STACKS}
        known = flat(of_module(self.module).shapes)
        return partition({**self.bind(params).params, **stacks}, lambda path: path in known)[0]


def build_model(config: ModelConfig, vocab: int) -> Model:
    """The model of a configuration with `vocab` tokens."""
    return of_module(
        transformer.build_transformer(dataclasses.replace(config, embed=dataclasses.replace(config.embed, vocab=vocab)))
    )


def of_module(module: Transformer | EncoderDecoder) -> Model:
    """The model of a module, all of it trained as it is."""
    return Model(module, functools.partial(_init, module))


def _below(function: Callable[[str, Any], Any], tree: Any) -> Any:
    return {name: function(name, part) for name, part in tree.items()} if isinstance(tree, Mapping) else tree


def _init(module: Transformer | EncoderDecoder, key: jax.Array) -> Params:
    tokens = jnp.zeros((1, 2), jnp.int32)
    source = Inputs(tokens=tokens) if module.config.kind == "encoder_decoder" else None
    return module.init(key, Inputs(tokens=tokens, source=source), method="everything")["params"]
