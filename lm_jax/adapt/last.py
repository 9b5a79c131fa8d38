"""The last layers alone: they are stored apart from the frozen ones, so that these have no optimizer state."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from lm_jax.adapt import targets
from lm_jax.adapt.config import AdaptConfig
from lm_jax.adapt.partition import TASK
from lm_jax.core.config import InputError
from lm_jax.core.trees import Params, flatten, unflatten
from lm_jax.models.config import StackConfig
from lm_jax.models.model import Model
from lm_jax.models.stack import segments
from lm_jax.models.stack.layers import APART

# Norms behind the layers, which are trained with them.
NORMS = ("final_norm/", "encoder_norm/", "decoder_norm/")


def last(config: AdaptConfig, model: Model) -> Model:
    """Trains the last `config.layers` layers of every stack, and the norm behind them.

    Raises:
      InputError: a stack has no more layers, or its layers share parameters.
    """
    stacks = targets.stacks(model)
    for name, stack in stacks.items():
        if config.layers >= stack.depth:
            raise InputError(
                f"config.adapt.layers is {config.layers}, but {name} has {stack.depth} layers; give fewer, or set "
                "config.adapt.method=full"
            )
        if stack.share.groups:
            raise InputError(
                f"config.adapt.method is 'last', but layers of {name} share parameters; choose another one"
            )
    counts = {name: _counts(stack, config.layers, model.shapes[name]) for name, stack in stacks.items()}

    def divided(params: Params) -> Params:
        return unflatten(dict(_divided(flatten(params), counts)))

    def init(key: jax.Array) -> Any:
        boxes = flatten(model.init(key))
        values = dict(_divided({path: nn.unbox(box) for path, box in boxes.items()}, counts))
        box_of = lambda path: boxes[path.replace(f"/{APART}/", "/", 1)]
        return unflatten({path: box_of(path).replace_boxed(leaf) for path, leaf in values.items()})

    apart = tuple(f"{name}/{APART}/" for name in stacks)
    trainable = lambda path: path.startswith((TASK, *NORMS, *apart))
    extend = lambda params, key: divided(params)
    return dataclasses.replace(model, init=init, extend=extend, fold=_joined, trainable=trainable)


def _counts(stack: StackConfig, count: int, shapes: Params) -> dict[str, int]:
    """The number of the last layers in each group of parameters: "" for `layers`, or the kind of `KIND/layers`."""
    separate = tuple(kind for kind in segments.kinds(stack) if kind in shapes)
    groups = segments.parameter_groups(stack, separate)
    return {group: sum(owner >= stack.depth - count for owner in owners) for group, owners in groups.items()}


def _divided(leaves: Mapping[str, jax.Array], counts: Mapping[str, Mapping[str, int]]) -> Any:
    """Yields the parameters, those of layers in two parts; a part without layers is left out."""
    for path, leaf in leaves.items():
        name, _, rest = path.partition("/")
        group = next((kind for kind in counts.get(name, {}) if rest.startswith(f"{kind}/layers/".lstrip("/"))), None)
        if group is None:
            yield path, leaf
            continue
        first = len(leaf) - counts[name][group]
        if first:
            yield path, leaf[:first]
        if first < len(leaf):
            yield f"{name}/{APART}/{rest}", leaf[first:]


def _joined(params: Params) -> Params:
    """The parameters with all layers in one part."""
    leaves = flatten(params)
    joined = {path: leaf for path, leaf in leaves.items() if f"/{APART}/" not in path}
    for path, leaf in leaves.items():
        if path not in joined:
            whole = path.replace(f"/{APART}/", "/", 1)
            joined[whole] = jnp.concatenate([joined[whole], leaf]) if whole in joined else leaf
    return unflatten(joined)
