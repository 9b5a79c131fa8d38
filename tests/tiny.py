"""Tiny models and batches that the tests of several rooms share."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from lm_jax.core.config import from_config_dict
from lm_jax.models import transformer
from lm_jax.models.config import KINDS
from lm_jax.models.presets import PRESETS
from lm_jax.objectives.base import Vocabulary

VOCABULARY = Vocabulary(
    size=64, pad=0, bos=2, eos=3, cls=4, sep=5, mask=6, sentinels=tuple(range(56, 64)), ordinary=(7, 56)
)


def config(preset, *, over=None, **options):
    """The `tiny` size of a preset with a vocabulary of 64; `over` maps dotted keys to values."""
    tree = PRESETS[preset][0]("tiny", **options)
    with tree.ignore_type():
        tree.update_from_flattened_dict({"embed.vocab": VOCABULARY.size, **(over or {})})
    return from_config_dict(KINDS[tree.kind], tree, "config.model")


def stacks(preset):
    """Where the settings of a preset's stacks are."""
    return ("encoder", "decoder") if preset in ("t5", "transformer") else ("stack",)


def everywhere(preset, **settings):
    """`settings` of every stack of a preset as dotted keys; `block__attention__heads` is `block.attention.heads`."""
    return {f"{stack}.{key.replace('__', '.')}": value for stack in stacks(preset) for key, value in settings.items()}


def boxed(model, inputs, seed=0):
    """Freshly drawn parameters with the logical names of their axes."""
    draw = jax.jit(functools.partial(model.init, inputs=inputs, method="everything"))
    return draw(jax.random.key(seed))["params"]


def build(config, inputs, *, seed=0, shake=0.1):
    """A model and its parameters; `shake` adds noise, so that no bias is 0 and no scale is 1."""
    model = transformer.build(config)
    params = nn.meta.unbox(boxed(model, inputs, seed))
    rng = np.random.default_rng(seed)
    return model, jax.tree.map(lambda leaf: leaf + shake * rng.standard_normal(leaf.shape, np.float32), params)


def stacked(rows):
    """Rows of features as one batch."""
    return {name: jnp.asarray(np.stack([row[name] for row in rows])) for name in rows[0]}


def largest_difference(left, right):
    """The largest absolute difference between two trees of arrays."""
    apart = lambda a, b: float(jnp.max(jnp.abs(a.astype(jnp.float32) - b.astype(jnp.float32)))) if a.size else 0.0
    return max(jax.tree.leaves(jax.tree.map(apart, left, right)))
