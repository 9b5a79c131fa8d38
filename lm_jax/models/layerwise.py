"""Layer-wise decay of the learning rate for fine-tuning (Clark et al. 2020, arXiv:2003.10555, appendix B).

Counted from the output, each layer learns more slowly than the one above it. What reads the last hidden states (the
final norm and the heads) has the factor 1, layer i of `depth` layers (from 0) decay^(depth - i), and what comes before
the layers (the embeddings) decay^(depth + 1). ELECTRA's released code has one factor of `decay` more below the heads.
The stacks of an encoder-decoder are counted apart; an embedding that both read belongs to the deeper one.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from lm_jax.core.trees import Params
from lm_jax.models.axes import by_path
from lm_jax.models.config import ModelConfig, StackConfig
from lm_jax.models.stack import segments
from lm_jax.models.stack.layers import APART
from lm_jax.models.transformer import STACKS

# Parameters before the layers, by the first word of their paths, and the stacks that read them.
BEFORE = {
    "token": STACKS,
    "embed": STACKS,
    "query_stream": STACKS,
    "encoder_embed": ("encoder",),
    "decoder_token": ("decoder",),
    "decoder_embed": ("decoder",),
}


def multipliers(config: ModelConfig, axes: Params, decay: float) -> dict[str, float | np.ndarray]:
    """Returns factors on the learning rate by path; those of stacked layers are arrays that broadcast over them.

    Args:
      config: the model's configuration.
      axes: logical axes of its parameters.
      decay: the factor from layer to layer; 1: no factors.

    Example:
      >>> from lm_jax.models.config import StackConfig, TransformerConfig
      >>> layers = {"norm": {"scale": ("layers", "embed")}}
      >>> axes = {"token": {"embedding": ("vocab", "embed")}, "stack": {"layers": layers}}
      >>> factors = multipliers(TransformerConfig(stack=StackConfig(depth=2)), axes, 0.5)
      >>> factors["token/embedding"], factors["stack/layers/norm/scale"].tolist()
      (0.125, [[0.25], [0.5]])
    """
    if decay == 1:
        return {}
    names, factors = by_path(axes), dict[str, float | np.ndarray]()
    for path, distance in distances(config, axes).items():
        factors[path] = decay**distance
        if isinstance(distance, np.ndarray):
            rates = decay ** distance.astype(np.float64)
            factors[path] = rates.astype(np.float32).reshape(-1, *[1] * (len(names[path]) - 1))
    return factors


def distances(config: ModelConfig, axes: Params) -> dict[str, int | np.ndarray]:
    """Returns how many layers from the output each parameter is, by path; 0 for paths that are missing.

    Of stacked layers an array, with the distance of each layer. The last layer has the distance 1.
    """
    stacks = {name: getattr(config, name) for name in STACKS if hasattr(config, name)}
    result: dict[str, int | np.ndarray] = {}
    for path, names in by_path(axes).items():
        first, *rest = path.split("/")
        if first in stacks and names[0] == "layers":
            # Of layers that are stored apart, which are the last ones, the distances of all layers are returned.
            rest = rest[rest[0] == APART :]
            stored = {**axes[first].get(APART, {}), **axes[first]}
            groups = tuple(kind for kind in segments.kinds(stacks[first]) if kind in stored)
            result[path] = _layers(stacks[first], rest, groups)
        elif first in stacks:
            # Positions that all layers share: the first layer reads them.
            result[path] = stacks[first].depth
        elif first in BEFORE:
            result[path] = 1 + max(stacks[name].depth for name in BEFORE[first] if name in stacks)
    return result


def _layers(config: StackConfig, path: list[str], groups: tuple[str, ...]) -> np.ndarray:
    """Returns the distance of each set of parameters on the axis `layers` of a path below its stack.

    Layers that share a set: the last of them counts.
    """
    last: Mapping[int, int] = {layer.owner: index for index, layer in enumerate(segments.layers(config))}
    group = path[0] if path[0] in groups else ""
    owners = segments.parameter_groups(config, groups).get(group, ())
    return np.array([config.depth - last[owner] for owner in owners], np.int64)
