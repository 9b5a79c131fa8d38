"""From a configuration to typed pieces; the only place that wires the rooms together.

A recipe says what its paper says. `complete` adds every other field with its default, so that all of them can be
overridden; `parse` makes frozen dataclasses of the result; `Experiment` builds the pieces that a verb asks for.
"""

from __future__ import annotations

import dataclasses
import functools
import json
import os
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, cast

import flax.linen as nn
import jax
import ml_collections
import numpy as np
import optax

from lm_jax import objectives
from lm_jax.core.config import InputError, from_config_dict, lookup, merge, setting, to_config_dict
from lm_jax.data import corpora, pipeline, rows, store, tokenizers
from lm_jax.data.config import DataConfig
from lm_jax.data.conventions import ConventionsConfig
from lm_jax.data.mixture import Mixture
from lm_jax.data.sources import SourceConfig
from lm_jax.evaluate.base import EvaluateConfig
from lm_jax.models import mup
from lm_jax.models.config import KINDS, AttentionConfig, BlockConfig, EncoderDecoderConfig, ModelConfig, StackConfig
from lm_jax.models.model import Model, build_model, draw
from lm_jax.objectives import ObjectiveConfig
from lm_jax.objectives import vocabulary as vocabularies
from lm_jax.objectives.base import Apply, Objective, Vocabulary
from lm_jax.parallel import mesh
from lm_jax.parallel.layout import Layout
from lm_jax.parallel.mesh import MeshConfig
from lm_jax.parallel.rules import Rules
from lm_jax.train import averaging, gradients, optimizers, placing, state, step
from lm_jax.train.loop import CheckpointConfig, LogConfig, TrainConfig
from lm_jax.train.optimizers import OptimizerConfig

# The configuration in a work directory, and the key under which it keeps the changes that were made to it.
SAVED, HISTORY = "config.json", "history"


@dataclasses.dataclass(frozen=True, kw_only=True)
class ExperimentConfig:
    """Everything that decides a run. `model` is read by its `kind`."""

    model: Any
    seed: int = setting(0, at_least=0, below=2**32)
    objective: ObjectiveConfig = ObjectiveConfig()
    conventions: ConventionsConfig = ConventionsConfig()
    data: DataConfig = DataConfig()
    optimizer: OptimizerConfig = OptimizerConfig()
    train: TrainConfig = TrainConfig()
    mesh: MeshConfig = setting(MeshConfig(), free=True)
    rules: Rules = setting(Rules(), free=True)
    evaluate: EvaluateConfig = setting(EvaluateConfig(), free=True)
    checkpoint: CheckpointConfig = setting(CheckpointConfig(), free=True)
    log: LogConfig = setting(LogConfig(), free=True)


def complete(recipe: ml_collections.ConfigDict) -> ml_collections.ConfigDict:
    """A recipe with every field that it leaves out at its default.

    Raises:
      InputError: the recipe has a key that the library does not know, or no model.
    """
    if "model" not in recipe:
        raise InputError("the recipe sets no config.model; start from a preset, such as presets.gpt.gpt2('small')")
    kind = _kind(recipe.model)
    blank = kind(decoder=_with_cross()) if kind is EncoderDecoderConfig else kind(kind="decoder")
    config: Any = merge(to_config_dict(ExperimentConfig(model=blank)), recipe)
    sources = config.data.mixture.sources
    for name in sources:
        key = f"config.data.mixture.sources.{name}"
        sources[name] = merge(to_config_dict(SourceConfig()), sources[name], key)
    return config


def parse(config: Mapping[str, Any] | ml_collections.ConfigDict) -> ExperimentConfig:
    """A complete configuration, or one read back from JSON, as frozen dataclasses."""
    typed = from_config_dict(ExperimentConfig, config)
    return dataclasses.replace(typed, model=from_config_dict(_kind(typed.model), typed.model, "config.model"))


def as_json(config: ExperimentConfig) -> dict[str, Any]:
    """A configuration as JSON writes it: tuples are lists."""
    return json.loads(json.dumps(dataclasses.asdict(config)))


def _kind(model: Any) -> Any:
    """The dataclass that a tree of model settings fills in."""
    if not hasattr(model, "get"):
        raise InputError(f"config.model is {model!r}; expected a tree, such as presets.gpt.gpt2('small')")
    return lookup(KINDS, model.get("kind", "decoder"), "config.model.kind")


def _with_cross() -> Any:
    return StackConfig(block=BlockConfig(cross=AttentionConfig(mask="full")))


@dataclasses.dataclass(frozen=True)
class Experiment:
    """The pieces of a run, each built when it is first asked for.

    Attributes:
      config: what to build.
      tokenizer: decides the vocabulary.
      store: the tokens; None where only the model is wanted.
    """

    config: ExperimentConfig
    tokenizer: tokenizers.Tokenizer
    store: store.Store | corpora.Stores | None = None

    def check(self) -> None:
        """Builds whatever can be wrong with the configuration, so that it is found before the first file is written."""
        _ = self.layout, self.objective, self.model, self.state_like, self.rows("train"), self.rows("validation")

    @property
    def tokens(self) -> store.Store | corpora.Stores:
        """The tokens of an experiment that was made with them."""
        if self.store is None:
            raise ValueError("this experiment was made without its text; `experiment.prepare` makes one with it")
        return self.store

    @functools.cached_property
    def vocabulary(self) -> Vocabulary:
        """What objectives know of the tokenizer."""
        return vocabularies.of(self.tokenizer, self._rows_of_table, self.config.model.kind, self.config.conventions)

    @property
    def padding(self) -> int:
        """The id that stands where nothing is read."""
        config = self.config
        return vocabularies.padding(self.tokenizer, self._rows_of_table, config.model.kind, config.conventions)

    @property
    def _rows_of_table(self) -> int:
        size, rows = self.tokenizer.vocab_size, self.config.model.embed.vocab
        return max(size, rows or 0) if self.config.data.tokenizer.add else rows or size

    @property
    def byte_lengths(self) -> np.ndarray:
        """UTF-8 bytes of text that each id stands for, of the text at hand where the id alone does not tell."""
        around = 1 + len(document_prefix(self.config))
        return self.tokenizer.bytes_of_corpus(self.tokens.bytes, self.tokens.tokens - around * self.tokens.documents)

    @functools.cached_property
    def objective(self) -> Objective:
        """The objective, checked against the model that it is to train."""
        config = self.config
        objective = objectives.build(config.objective, self.vocabulary, config.data.length)
        if config.model.kind not in objective.kinds:
            raise InputError(
                f"config.objective.name {config.objective.name!r} trains {' or '.join(objective.kinds)} models, but "
                f"config.model.kind is {config.model.kind!r}"
            )
        return objective

    @functools.cached_property
    def layout(self) -> Layout:
        """The mesh of all devices, checked against the batch."""
        layout = Layout(mesh.make(self.config.mesh), self.config.rules)
        batch, parts = self.config.data.batch, self.config.train.accumulate
        divisor = layout.batch_divisor() * parts
        if batch < 1 or batch % divisor:
            low = batch // divisor * divisor
            use = f"{low} or {low + divisor}" if low > 0 else f"{divisor}"
            raise InputError(
                f"config.data.batch {batch} is not divisible by {layout.batch_divisor()} (mesh axes "
                f"{' x '.join(layout.rules.batch)}) x {parts} (config.train.accumulate); use {use}"
            )
        return layout

    @functools.cached_property
    def model(self) -> Model:
        """The model, with shapes and axes but no memory taken."""
        config: ModelConfig = self.config.model
        vocabularies.check(self.tokenizer, self._rows_of_table)
        embed = config.embed
        if embed.positions == "learned" and embed.max_length < self.config.data.length:
            raise InputError(
                f"config.data.length {self.config.data.length} is more than config.model.embed.max_length "
                f"{embed.max_length}; lower the first or raise the second"
            )
        return build_model(config, self._rows_of_table)

    @functools.cached_property
    def apply(self) -> dict[str, Apply]:
        """Apply functions by role."""
        return {role: self.model.apply for role in self.objective.roles}

    @functools.cached_property
    def optimizer(self) -> optax.GradientTransformation:
        """The optimizer with its schedule."""
        config = self.config
        factors = mup.multipliers(config.model, self._axes)
        return optimizers.build(config.optimizer, config.train.steps, self._axes, factors)

    @property
    def _axes(self) -> dict[str, Any]:
        """Logical axes of the parameters by role."""
        return {"model": self.model.axes}

    @property
    def average(self) -> averaging.Average | None:
        """How averages of the parameters are kept, where the recipe asks for them."""
        return averaging.build(self.config.optimizer, self.config.train.ema)

    @property
    def learning_rate(self) -> Callable[[int], Any]:
        """Learning rate by number of updates."""
        return optimizers.schedule(self.config.optimizer, self.config.train.steps)

    def init(self) -> state.TrainState:
        """The state before the first step (traced: call it under jit)."""
        params = nn.unbox(draw(self.model.module, self.config.seed))
        return state.create(
            {"model": params},
            self.optimizer,
            loss_scaled=self.config.model.dtype == "float16",
            averaged=self.average is not None,
        )

    @functools.cached_property
    def state_like(self) -> state.TrainState:
        """Shapes and shardings of the train state."""
        shapes = jax.eval_shape(self.init)
        shardings = self.layout.shardings(placing.state_axes(shapes, self._axes), shapes)
        return jax.tree.map(
            lambda leaf, where: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=where), shapes, shardings
        )

    def fresh_state(self) -> state.TrainState:
        """The state before the first step, drawn where it will live."""
        shardings = jax.tree.map(lambda leaf: leaf.sharding, self.state_like)
        return self.layout.jit(self.init, out_shardings=shardings)()

    def train_step(self) -> step.Step:
        """The jitted train step; it takes over the state's memory."""
        config = self.config
        function = step.make_train_step(
            self.objective,
            self.apply,
            self.optimizer,
            gradients=gradients.accumulate(config.train.accumulate),
            average=self.average,
            seed=config.seed,
        )
        return self.layout.jit(function, donate_argnums=0)

    def eval_step(self) -> Callable[..., Any]:
        """The jitted evaluation step."""
        return self.layout.jit(step.make_eval_step(self.objective, self.apply))

    def rows(self, split: str) -> rows.Rows:
        """The row plan of a part of the data, made once: every evaluation asks for it again."""
        if split not in self._rows:
            self._rows[split] = self._make_rows(split)
        return self._rows[split]

    @functools.cached_property
    def _rows(self) -> dict[str, rows.Rows]:
        return {}

    def _make_rows(self, split: str) -> rows.Rows:
        data, objective = self.config.data, self.objective
        corpora.refuse_beyond(self.tokens, self._rows_of_table)
        plan = dataclasses.replace(data.rows, plan=objective.plan) if data.rows.plan == "auto" else data.rows
        return corpora.make_rows(
            self.tokens,
            plan,
            split,
            length=objective.row_length(),
            validation=data.validation,
            overlap=objective.row_overlap(),
            seed=self.config.seed,
        )

    def batches(self, start: int) -> Iterator[dict[str, np.ndarray]]:
        """This host's part of the training batches from step `start` on."""
        data = self.config.data
        return pipeline.batches(
            self.rows("train"),
            self.objective.features,
            seed=self.config.seed,
            batch=data.batch,
            start=start,
            local=self.layout.local_rows(data.batch),
            threads=data.threads,
            prefetch=data.prefetch,
        )

    def ordered(self, split: str, limit: int = 0, source: str = "") -> Iterator[dict[str, np.ndarray]]:
        """This host's part of one pass over a part of the data, or over what one source of a mixture has in it."""
        batch, plan = self.config.data.batch, self.rows(split)
        if source:
            mixture = cast(Mixture, plan)
            whole, plan = len(mixture), mixture.parts[mixture.names.index(source)]
            # Every source has its share of the batches.
            limit = max(1, round(limit * len(plan) / whole)) if limit else 0
        return pipeline.ordered(
            plan,
            self.objective.features,
            batch=batch,
            local=self.layout.local_rows(batch),
            seed=self.config.seed,
            limit=limit,
        )

    @property
    def sources(self) -> tuple[str, ...]:
        """The names of a mixture's sources; none where the data is one source."""
        return tuple(self.config.data.mixture.named())


def document_prefix(config: ExperimentConfig) -> tuple[int, ...]:
    """The ids that every stored document begins with: a decoder's, since the rows of others get theirs one by one."""
    return config.conventions.prefix if config.model.kind == "decoder" else ()


def prepare(
    config: ExperimentConfig, progress: Any = None, tokenizer: tokenizers.Tokenizer | None = None
) -> Experiment:
    """An experiment with its text cleaned, its tokenizer trained and its tokens stored; what exists is used.

    Args:
      config: what to build.
      progress: as of `store.prepare`.
      tokenizer: the tokenizer to store tokens with, instead of that of the configuration.
    """
    tokens = corpora.prepare(config.data, progress, tokenizer, prefix=document_prefix(config))
    return Experiment(config, tokens.tokenizer, tokens)


def saved(workdir: str | os.PathLike[str]) -> dict[str, Any] | None:
    """The configuration that a work directory holds, or None where it holds no run.

    Raises:
      InputError: its file cannot be read.
    """
    path = Path(workdir) / SAVED
    try:
        config = json.loads(path.read_text())
        config.pop(HISTORY, None)
        return config
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (OSError, ValueError, AttributeError) as error:
        raise InputError(
            f"{path} is damaged or not readable ({error}); restore it, or use another --workdir"
        ) from error


def load(workdir: str | os.PathLike[str]) -> Experiment:
    """The experiment of a work directory, without its text.

    Raises:
      InputError: there is no such directory, or nothing was trained in it.
    """
    config = saved(workdir)
    if config is None:
        raise InputError(f"--workdir {workdir} holds no {SAVED}; give the directory of a run of `lm-jax train`")
    return Experiment(parse(config), tokenizers.load(Path(workdir) / "tokenizer"))
