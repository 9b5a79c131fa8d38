"""Tiny models and batches that many tests share."""

import dataclasses
import functools
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from lm_jax.core.config import from_config_dict
from lm_jax.core.trees import map_named
from lm_jax.models import transformer
from lm_jax.models.config import KINDS
from lm_jax.models.model import from_module
from lm_jax.models.presets import PRESETS
from lm_jax.objectives.base import Vocabulary
from lm_jax.objectives.causal import Causal, CausalConfig
from lm_jax.objectives.masked import Masked, MaskedConfig
from lm_jax.objectives.roles import Models
from lm_jax.objectives.seq2seq import Seq2Seq, Seq2SeqConfig
from lm_jax.objectives.span import Span, SpanConfig

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
    """The keys of a preset's stacks."""
    return ("encoder", "decoder") if PRESETS[preset].build("tiny").kind == "encoder_decoder" else ("stack",)


def everywhere(preset, **settings):
    """`settings` of every stack of a preset as dotted keys; `block__attention__heads` is `block.attention.heads`."""
    return {f"{stack}.{key.replace('__', '.')}": value for stack in stacks(preset) for key, value in settings.items()}


def build(config, inputs, *, seed=0):
    """A model and random parameters, drawn by numpy because compiling the model's initialisation takes seconds.

    Matrices have variance 1 / fan-in. Biases are not 0 and scales not 1, so that a test fails if one is not applied.
    """
    model = transformer.build_transformer(config)
    return model, random_params(shapes(model, inputs), seed=seed)


def random_params(shapes, *, seed=0):
    """Random parameters of `shapes`, distributed as in `build`."""
    rng = np.random.default_rng(seed)

    def draw(path, leaf):
        noise = rng.standard_normal(leaf.shape, np.float32)
        kind = path.rpartition("/")[2]
        if kind == "scale":
            return jnp.asarray(1 + 0.1 * noise)
        if kind == "bias":
            return jnp.asarray(0.1 * noise)
        if kind != "kernel":
            return jnp.asarray(0.5 * noise)
        stacked = "layers/" in path
        fan_in = np.prod(leaf.shape[stacked : -1 if path.endswith("out/kernel") else stacked + 1])
        return jnp.asarray(noise * np.float32(fan_in**-0.5))

    return map_named(draw, shapes)


def boxed(model, inputs):
    """Shapes of a model's parameters, boxed with their logical axes; nothing is allocated."""
    return jax.eval_shape(lambda: model.init(jax.random.key(0), inputs, method="everything"))["params"]


def shapes(model, inputs):
    """Shapes of a model's parameters."""
    return nn.meta.unbox(boxed(model, inputs))


def run_once(function, *args):
    """Runs a function once, compiled without optimisation."""
    quick = {"xla_backend_optimization_level": 0, "xla_llvm_disable_expensive_passes": True}
    return jax.jit(function).lower(*args).compile(quick)(*args)


def put(layout, batch, **axes):
    """A batch on the devices of a layout; `axes` maps features to the logical axes of their rows."""
    sharding = lambda name, value: layout.sharding(("batch", *axes.get(name, (None,) * (np.ndim(value) - 1))))
    like = {
        name: jax.ShapeDtypeStruct(value.shape, value.dtype, sharding=sharding(name, value))
        for name, value in batch.items()
    }
    return layout.put({name: np.asarray(value) for name, value in batch.items()}, like)


def stacked(rows):
    """Stacks rows of features to a batch."""
    return {name: jnp.asarray(np.stack([row[name] for row in rows])) for name in rows[0]}


def largest_difference(left, right):
    """The largest absolute difference between the leaves of two trees."""
    difference = lambda a, b: float(jnp.max(jnp.abs(a.astype(jnp.float32) - b.astype(jnp.float32)))) if a.size else 0.0
    return max(jax.tree.leaves(jax.tree.map(difference, left, right)))


@dataclasses.dataclass(frozen=True)
class Setting:
    """A model of one layer, an objective and a batch of 8 rows of different lengths."""

    objective: Any
    model: Any
    params: Any
    batch: Any

    @functools.cached_property
    def models(self):
        """The models by role."""
        return Models(self.objective.roles, {"model": from_module(self.model)})

    @property
    def axes(self):
        """Logical axes of the parameters."""
        return self.models.axes


LENGTHS = (2, 9, 5, 9, 3, 9, 9, 4)
STILL = {"stack.depth": 1, "embed.dropout": 0.0, "stack.block.dropout": 0.0, "stack.block.attention.dropout": 0.0}


def setting(name, **over):
    """The setting of an objective: gpt2 for causal, bert for masked with sentence pairs, t5 for span and seq2seq."""
    rng = np.random.default_rng(0)
    text = lambda count: rng.integers(*VOCABULARY.ordinary, count).astype(np.int32)
    if name == "causal":
        objective = Causal(CausalConfig(), VOCABULARY, 8)
        rows, preset, over = [{"tokens": text(count)} for count in LENGTHS], "gpt2", {"stack.depth": 1, **over}
    elif name == "masked":
        objective = Masked(MaskedConfig(rate=0.3), VOCABULARY, 16)
        rows = [
            {"first": text(count // 2), "second": text(count), "is_next": np.int32(index % 2)}
            for index, count in enumerate(LENGTHS)
        ]
        preset, over = "bert", {**STILL, **over}
    elif name == "span":
        objective = Span(SpanConfig(rate=0.3), VOCABULARY, 12)
        rows, preset, over = [{"tokens": text(count)} for count in LENGTHS], "t5", {**everywhere("t5", depth=1), **over}
    elif name == "seq2seq":
        # The smoothed loss of a perfect model is not 0.
        objective = Seq2Seq(Seq2SeqConfig(target_length=8, smoothing=0.0), VOCABULARY, 10)
        rows = [{"source": text(count), "target": text(LENGTHS[-1 - row])} for row, count in enumerate(LENGTHS)]
        preset, over = "t5", {**everywhere("t5", depth=1), **over}
    else:
        raise ValueError(f"no setting for the objective {name!r}: add one here")
    batch = stacked([objective.features(row, rng) for row in rows])
    model, params = build(config(preset, over=over), objective.inputs(batch))
    return Setting(objective, model, {"model": params}, batch)
