"""Models without parameters (`Model`) and bound to parameters (`Bound`)."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from lm_jax.core.trees import Params, flatten, partition
from lm_jax.models import prompts, transformer
from lm_jax.models.config import ModelConfig
from lm_jax.models.interface import Cache, Inputs, Output, Transform
from lm_jax.models.transformer import READOUT, STACKS, EncoderDecoder, Transformer


@dataclasses.dataclass(frozen=True)
class Bound:
    """A model bound to its parameters; objectives call it.

    Attributes:
      params: parameters of the Linen `module`; those outside the stacks are already transformed.
      transform: applied to one layer's parameters inside the loop over layers.
      axes: logical axis names of every parameter; None: unknown, or others than those of `params`.

    Example:
      >>> from lm_jax.models.config import EmbedConfig, StackConfig, TransformerConfig
      >>> config = TransformerConfig(embed=EmbedConfig(width=16), stack=StackConfig(depth=1))
      >>> model, inputs = build_model(config, vocab=100), Inputs(tokens=jnp.ones((4, 12), jnp.int32))
      >>> logits = lambda params: model.bind(params)(inputs, logits=True).logits
      >>> jax.eval_shape(logits, model.shapes).shape
      (4, 12, 100)
    """

    module: Transformer | EncoderDecoder
    params: Params
    transform: Transform | None = None
    axes: Params | None = None

    def __call__(self, inputs: Inputs, *, dropout: jax.Array | None = None, **options: Any) -> Output:
        """Runs the model on a batch; `options`: `cache`, `show` and `logits`, as in `Transformer.__call__`.

        `dropout` is the random key of dropout; None: no dropout.
        """
        if dropout is not None:
            options |= {"train": True, "rngs": {"dropout": dropout}}
        run = lambda inputs: self._apply(self.params, inputs, transform=self.transform, **options)
        embed = self.module.config.embed
        return prompts.call(run, self._rows, self.params, inputs, options.get("cache"), embed)

    @property
    def readout_params(self) -> Params:
        """The parameters that `readout` reads: of an untied one not the token table, whose gradient would be zeros."""
        return {name: self.params[name] for name in self._readout if name in self.params}

    @property
    def readout_axes(self) -> Params | None:
        """Logical axis names of `readout_params`, where they are known."""
        return self.axes and {name: self.axes[name] for name in self._readout if name in self.params}

    @property
    def _readout(self) -> tuple[str, ...]:
        return READOUT if self.module.config.readout.tied else ("head",)

    def readout(self, hidden: jax.Array, params: Params | None = None) -> jax.Array:
        """Logits [..., vocab] of (gathered) hidden states [..., embed]; `params` replaces the model's parameters."""
        return self._apply(self.params if params is None else params, hidden, method="readout")

    def candidates(self, hidden: jax.Array, ids: jax.Array) -> jax.Array:
        """Logits [..., candidates] of each hidden state's own candidate `ids` [..., candidates]."""
        return self._apply(self.params, hidden, ids, method="candidate_logits")

    def head(self, name: str, hidden: jax.Array) -> jax.Array:
        """Logits [..., classes] of the head `name`, such as `pair`, for (gathered) hidden states [..., embed]."""
        return self._apply(self.params, hidden, method=f"{name}_logits")

    def task(self, hidden: jax.Array, *, dropout: jax.Array | None = None) -> jax.Array:
        """Logits [..., classes] of the task's head for pooled hidden states [..., embed]; `dropout` is its key."""
        options = {} if dropout is None else {"train": True, "rngs": {"dropout": dropout}}
        return self._apply(self.params, hidden, method="task_logits", **options)

    def boundary_states(self, before: jax.Array, after: jax.Array, distances: jax.Array) -> jax.Array:
        """Hidden states of the span-boundary head [..., width of the token table], for `table_logits`.

        Args:
          before: hidden states [..., embed] of the token before each span.
          after: of the token after it.
          distances: int32 [...], how far each token is from the first of its span.
        """
        return self._apply(self.params, before, after, distances, method="boundary_states")

    def table_logits(self, hidden: jax.Array, params: Params | None = None) -> jax.Array:
        """`readout` without its transform, of hidden states in the width of the token table."""
        return self._apply(self.params if params is None else params, hidden, method="table_logits")

    def empty_cache(self, rows: int, slots: int, source: int = 0) -> Cache:
        """A KV cache for `rows` rows of `slots` tokens, and for cross-attention to `source` encoder tokens."""
        own, read = prompts.slots(self.params)
        cache = self._apply(self.params, rows, slots + own, source + read, method="empty_cache")
        run = lambda inputs, **options: self._apply(self.params, inputs, transform=self.transform, **options)
        return prompts.begin(run, self.params, cache, rows, self.module.config.dtype)

    def _rows(self, tokens: jax.Array) -> jax.Array:
        """The rows of the token table, of the encoder in an encoder-decoder."""
        return self._apply(self.params, tokens, method=lambda module, tokens: module.token(tokens))

    def _apply(self, params: Params, *args: Any, **options: Any) -> Any:
        return self.module.apply({"params": params}, *args, **options)


@dataclasses.dataclass(frozen=True)
class Model:
    """A module and the initialisation of its parameters; allocates no arrays.

    Attributes:
      init: maps a random key to parameters, each boxed with its axis names. It may add parameters that only `transform`
        reads.
      transform: applied to the parameters before the module computes with them.
      trainable: maps a parameter's path to whether it is trained; None: all are.
      extend: maps the plain model's parameters and a random key to this model's; None: they are the same.
      fold: maps its parameters to parameters that give a plain module the same outputs; None: `transform` does.
      dense: maps its parameters to the same with all matrices in float32; None: no matrix is stored as codes.
    """

    module: Transformer | EncoderDecoder
    init: Callable[[jax.Array], Params]
    transform: Transform | None = None
    trainable: Callable[[str], bool] | None = None
    extend: Callable[[Params, jax.Array], Params] | None = None
    fold: Callable[[Params], Params] | None = None
    dense: Callable[[Params], Params] | None = None

    @functools.cached_property
    def boxed(self) -> Params:
        """The parameters' shapes, boxed with their axis names."""
        return jax.eval_shape(self.init, jax.random.key(0))

    @property
    def shapes(self) -> Params:
        """The parameters' shapes."""
        return nn.unbox(self.boxed)

    @property
    def dense_shapes(self) -> Params:
        """The parameters' shapes with all matrices in float32, to count parameters."""
        return self.shapes if self.dense is None else jax.eval_shape(self.dense, self.shapes)

    @property
    def axes(self) -> Params:
        """Logical axis names of every parameter."""
        return jax.tree.map(lambda box: box.names, self.boxed, is_leaf=lambda leaf: isinstance(leaf, nn.Partitioned))

    def draw(self, key: jax.Array) -> Params:
        """Randomly initialised parameters, as a tree of plain arrays."""
        return nn.unbox(self.init(key))

    def bind(self, params: Params) -> Bound:
        """Binds the model to a tree of plain arrays."""
        if self.transform is not None:
            outside = {name: tree for name, tree in params.items() if name not in STACKS}
            params = {**params, **self.transform(outside)}
            return Bound(self.module, params, self.transform)
        return Bound(self.module, params, axes=self.axes)

    def merge(self, params: Params) -> Params:
        """Applies `fold`, for decoding and export; or else `transform`, whose own parameters are dropped."""
        if self.fold is not None:
            return self.fold(params)
        if (transform := self.transform) is None:
            return params
        merged = lambda name, tree: jax.vmap(transform)(tree) if name == "layers" else _map_items(merged, tree)
        stacks = {name: _map_items(merged, tree) for name, tree in params.items() if name in STACKS}
        module_paths = flatten(from_module(self.module).shapes)
        return partition({**self.bind(params).params, **stacks}, lambda path: path in module_paths)[0]


def build_model(config: ModelConfig, vocab: int) -> Model:
    """Builds the model of a configuration; no array is allocated.

    Args:
      config: the configuration of an encoder, a decoder or an encoder-decoder.
      vocab: number of token ids, which replaces `config.embed.vocab`.

    Example:
      >>> from lm_jax.models.config import EmbedConfig, TransformerConfig
      >>> model = build_model(TransformerConfig(embed=EmbedConfig(width=16)), vocab=100)
      >>> model.shapes["token"]["embedding"].shape, model.axes["token"]["embedding"]
      ((100, 16), ('vocab', 'embed'))
    """
    embed = dataclasses.replace(config.embed, vocab=vocab)
    return from_module(transformer.build_transformer(dataclasses.replace(config, embed=embed)))


def from_module(module: Transformer | EncoderDecoder) -> Model:
    """Wraps a module: no transform, all parameters trained."""
    # Traced once, for the shapes and for the values.
    return Model(module, jax.jit(functools.partial(_init, module), inline=True))


def _map_items(function: Callable[[str, Any], Any], tree: Any) -> Any:
    return {name: function(name, branch) for name, branch in tree.items()} if isinstance(tree, Mapping) else tree


def _init(module: Transformer | EncoderDecoder, key: jax.Array) -> Params:
    tokens = jnp.zeros((1, 2), jnp.int32)
    source = Inputs(tokens=tokens) if module.config.kind == "encoder_decoder" else None
    return module.init(key, Inputs(tokens=tokens, source=source), method="everything")["params"]
