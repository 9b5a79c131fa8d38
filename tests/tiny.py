"""Tiny models and batches that many tests share."""

import dataclasses
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from lm_jax.core.config import from_config_dict
from lm_jax.core.trees import map_named
from lm_jax.data.pipeline import KEYS
from lm_jax.models import transformer
from lm_jax.models.config import KINDS
from lm_jax.models.model import build_model
from lm_jax.models.presets import PRESETS
from lm_jax.objectives.answer import Answer, AnswerConfig
from lm_jax.objectives.base import Vocabulary
from lm_jax.objectives.causal import Causal, CausalConfig
from lm_jax.objectives.denoise import Denoise, DenoiseConfig
from lm_jax.objectives.masked import Masked, MaskedConfig
from lm_jax.objectives.mixture import Mixture
from lm_jax.objectives.permutation import Permutation, PermutationConfig
from lm_jax.objectives.prefix import Prefix, PrefixConfig
from lm_jax.objectives.replaced import Replaced, ReplacedConfig
from lm_jax.objectives.roles import Models, product
from lm_jax.objectives.seq2seq import Seq2Seq, Seq2SeqConfig
from lm_jax.objectives.span import Span, SpanConfig
from lm_jax.objectives.substituted import Substituted, SubstitutedConfig
from lm_jax.objectives.task import Task

VOCABULARY = Vocabulary(
    size=64, pad=0, bos=2, eos=3, cls=4, sep=5, mask=6, sentinels=tuple(range(56, 64)), ordinary=(7, 56)
)
# With markers for fill-in-the-middle.
MARKED = dataclasses.replace(
    VOCABULARY,
    ordinary=(7, 53),
    pieces=[*map(str, range(53)), "<fim_prefix>", "<fim_suffix>", "<fim_middle>", *map(str, range(56, 64))],
)


def config(preset, *, over=None, **options):
    """The `tiny` size of a preset with a vocabulary of 64; `over` maps dotted keys to values."""
    tree = PRESETS[preset][0]("tiny", **options)
    with tree.ignore_type():
        tree.update_from_flattened_dict({"embed.vocab": VOCABULARY.size, **(over or {})})
    return from_config_dict(KINDS[tree.kind], tree, "config.model")


def tasked(objective, config):
    """Model settings with the head that a task needs; those of other objectives stay the same."""
    if not isinstance(objective, Task):
        return config
    return dataclasses.replace(config, task=objective.head(config.task))


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
        if jnp.issubdtype(leaf.dtype, jnp.integer):
            bounds = jnp.iinfo(leaf.dtype)
            return jnp.asarray(rng.integers(bounds.min, bounds.max, leaf.shape, leaf.dtype, endpoint=True))
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
    """An objective, its models of one layer and a batch of 8 rows of different lengths, with a key per row."""

    objective: Any
    models: Models
    params: Any
    batch: Any

    @property
    def axes(self):
        """Logical axes of the parameters."""
        return self.models.axes


LENGTHS = (2, 9, 5, 9, 3, 9, 9, 4)
STILL = {
    **{"stack.depth": 1, "embed.dropout": 0.0, "stack.block.dropout": 0.0, "stack.block.attention.dropout": 0.0},
    "task.dropout": 0.0,
}


def setting(name, **over):
    """The setting of an objective; `over` changes the product's model.

    The models are gpt2 for causal, bert for tasks and for masked with pairs, xlnet for permutation, electra for two
    encoders, t5 for all others.
    """
    rng = np.random.default_rng(0)
    text = lambda count: rng.integers(*VOCABULARY.ordinary, count).astype(np.int32)
    models = {}
    if name == "answer":
        objective = Answer(AnswerConfig(overlap=1, question_length=4), VOCABULARY, 16)
        rows = [
            {
                "question": text(count // 3 + 1),
                "context": text(count),
                "answers": np.array([[index % count, count, 0]] * (index % 3)).reshape(-1, 3),
            }
            for index, count in enumerate(LENGTHS)
        ]
        preset, over = "bert", {**STILL, **over}
    elif name == "causal":
        objective = Causal(CausalConfig(), VOCABULARY, 8)
        rows, preset, over = [{"tokens": text(count)} for count in LENGTHS], "gpt2", {"stack.depth": 1, **over}
    elif name == "masked":
        objective = Masked(MaskedConfig(rate=0.3), VOCABULARY, 16)
        rows = [
            {"first": text(count // 2), "second": text(count), "is_next": np.int32(index % 2)}
            for index, count in enumerate(LENGTHS)
        ]
        preset, over = "bert", {**STILL, **over}
    elif name == "permutation":
        objective = Permutation(PermutationConfig(one_in=3), VOCABULARY, 17)
        rows = [{"first": text(count // 2), "second": text(count)} for count in LENGTHS]
        preset, over = "xlnet", {**STILL, "stack.block.feedforward.dropout": 0.0, **over}
    elif name == "span":
        objective = Span(SpanConfig(rate=0.3), VOCABULARY, 12)
        rows, preset, over = [{"tokens": text(count)} for count in LENGTHS], "t5", {**everywhere("t5", depth=1), **over}
    elif name in ("denoise", "mixture", "prefix"):
        # All have the same shapes, and so one compiled program.
        parts = {
            "denoise": Denoise(DenoiseConfig(), VOCABULARY, 12),
            "prefix": Prefix(PrefixConfig(), VOCABULARY, 12),
            "span": Span(SpanConfig(rate=0.3), VOCABULARY, 12),
        }
        objective = (
            Mixture(parts, {"denoise": 2.0, "prefix": 1.0, "span": 1.0}, 0) if name == "mixture" else parts[name]
        )
        rows = [
            {"tokens": text(count), "sentences": np.array([count // 3]), "part": [*parts][index % 3]}
            for index, count in enumerate(LENGTHS)
        ]
        preset, over = "t5", {**everywhere("t5", depth=1), **over}
    elif name in ("replaced", "substituted"):
        # The share of masked tokens is large, so that an untrained discriminator does not answer "original" throughout.
        config_class, cls = {
            "replaced": (ReplacedConfig, Replaced),
            "substituted": (SubstitutedConfig, Substituted),
        }[name]
        objective = cls(config_class(rate=0.3, weight=2.0), VOCABULARY, 12)
        rows, preset, over = [{"tokens": text(count)} for count in LENGTHS], "electra", {**STILL, **over}
        over |= {"detection": True, "readout.transform": "gelu", "readout.bias": True}
        # Two heads, which two devices of the axis `tensor` can share.
        models = {"generator": config("electra_generator", over={**STILL, "stack.block.attention.heads": 2})}
    elif name == "seq2seq":
        # The smoothed loss of a perfect model is not 0.
        objective = Seq2Seq(Seq2SeqConfig(target_length=8, smoothing=0.0), VOCABULARY, 10)
        rows = [{"source": text(count), "target": text(LENGTHS[-1 - row])} for row, count in enumerate(LENGTHS)]
        preset, over = "t5", {**everywhere("t5", depth=1), **over}
    else:
        raise ValueError(f"no setting for the objective {name!r}: add one here")
    batch = stacked([objective.features(row, rng) for row in rows])
    batch[KEYS] = jnp.asarray(np.random.default_rng(9).integers(0, 1 << 32, (len(rows), 2), np.uint32))
    models = {product(objective.roles): tasked(objective, config(preset, over=over)), **models}
    models = Models(objective.roles, {role: build_model(models[role], VOCABULARY.size) for role in objective.roles})
    models.check(name)
    return Setting(objective, models, random_params(models.shapes), batch)
