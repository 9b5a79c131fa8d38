"""The pieces of a run, each built when it is first asked for."""

from __future__ import annotations

import dataclasses
import functools
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
import optax

from lm_jax import objectives
from lm_jax.core.config import InputError
from lm_jax.core.trees import Params
from lm_jax.data import corpora, pipeline, tokenizers
from lm_jax.evaluate.language_modelling import LanguageModelling
from lm_jax.experiment.config import SAVED, ExperimentConfig, parse, saved
from lm_jax.experiment.feed import Feed
from lm_jax.models import mup
from lm_jax.models.config import ModelConfig
from lm_jax.models.flops import training_flops
from lm_jax.models.model import Model, build_model
from lm_jax.models.transformer import STACKS
from lm_jax.objectives import vocabulary as vocabularies
from lm_jax.objectives.base import Field, Objective, Vocabulary
from lm_jax.objectives.roles import Models, Role, key
from lm_jax.parallel import mesh
from lm_jax.parallel.layout import Layout
from lm_jax.train import averaging, gradients, optimizers, placing, state, step


@dataclasses.dataclass(frozen=True)
class Experiment:
    """The pieces of a run.

    Attributes:
      config: what to build.
      tokenizer: decides the vocabulary.
      store: the tokens; None where only the models are wanted.
    """

    config: ExperimentConfig
    tokenizer: tokenizers.Tokenizer
    store: corpora.Corpus | None = None

    def check(self) -> None:
        """Builds whatever can be wrong with the configuration, so that it is found before the first file is written."""
        _ = self.layout, self.objective, self.models, self.state_like, self.batch_like
        for split in ("train", "validation"):
            self.feed.rows(split)

    @property
    def tokens(self) -> corpora.Corpus:
        """The tokens of an experiment that was made with them."""
        if self.store is None:
            raise ValueError("this experiment was made without its text; `experiment.prepare` makes one with it")
        return self.store

    @functools.cached_property
    def feed(self) -> Feed:
        """Batches of the tokens."""
        corpora.refuse_beyond(self.tokens, self._rows_of_table)
        return Feed(self.config.data, self.tokens, self.objective, self.layout, self.config.seed)

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
        """The objective, which can be trained as the configuration wants it."""
        config = self.config
        objective = objectives.build_objective(config.objective, self.vocabulary, config.data.length)
        self._check_parts(objective.coupled, f"config.objective.name {config.objective.name!r}")
        return objective

    def _check_parts(self, coupled: bool, name: str) -> None:
        parts = self.config.train.accumulate
        if coupled and parts > 1:
            raise InputError(
                f"config.train.accumulate is {parts}, but {name} couples the rows of a batch, which then cannot be "
                "computed in parts; use 1"
            )

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
    def models(self) -> Models:
        """The models of the objective's roles, with shapes and axes but no memory taken."""
        vocabularies.check(self.tokenizer, self._rows_of_table)
        roles, configs = objectives.roles(self.config.objective), self.config.models
        others = [role for role in roles if key(roles, role) != "config.model"]
        if set(others) != set(configs):
            raise InputError(
                f"config.models has {', '.join(configs) or 'no model'}, but beside config.model the objective "
                f"{self.config.objective.name!r} takes {', '.join(others) or 'none'}; give each a preset"
            )
        found = Models(roles, {role: self._model(role, roles[role], key(roles, role)) for role in roles})
        found.check(self.config.objective.name)
        return found

    def _model(self, role: str, wanted: Role, name: str) -> Model:
        config: ModelConfig = self.config.models.get(role, self.config.model)
        embed = config.embed
        if embed.positions == "learned" and embed.max_length < self.config.data.length:
            raise InputError(
                f"config.data.length {self.config.data.length} is more than {name}.embed.max_length "
                f"{embed.max_length}; lower the first or raise the second"
            )
        stacks = [getattr(config, part) for part in STACKS if hasattr(config, part)]
        balanced = wanted.trainable and any(stack.experts.balance for stack in stacks)
        self._check_parts(balanced, f"feedforward.experts.balance of {name}")
        own = role in self.config.models and embed.vocab
        return build_model(config, own or self._rows_of_table)

    @property
    def product(self) -> Model:
        """The model that is evaluated, generated from and exported."""
        return self.models.models[self.models.product]

    def params_like(self, *roles: str) -> Params:
        """Shapes and shardings of the parameters of these roles and of the owners of what they share."""
        models = self.models
        named = sorted({*roles, *(owner for role in roles for owner in models.roles[role].shares.values())})
        axes, shapes = ({role: tree[role] for role in named} for tree in (models.axes, models.shapes))
        return _placed(axes, shapes, self.layout)

    @functools.cached_property
    def optimizer(self) -> optax.GradientTransformation:
        """The optimizer with its schedule."""
        config, models = self.config, self.models
        factors = {
            f"{role}/{path}": factor
            for role, model in models.models.items()
            for path, factor in mup.multipliers(model.module.config, model.axes).items()
        }
        return optimizers.build_optimizer(config.optimizer, config.train.steps, models.axes, factors)

    @property
    def average(self) -> averaging.Average | None:
        """How averages of the parameters are kept, where the recipe asks for them."""
        return averaging.build_average(self.config.optimizer, self.config.train.ema)

    @property
    def learning_rate(self) -> Callable[[int], Any]:
        """Learning rate by number of updates."""
        return optimizers.schedule(self.config.optimizer, self.config.train.steps)

    def init(self) -> state.TrainState:
        """The state before the first step (traced: call it under jit)."""
        models = self.models
        params, frozen = models.split(models.draw(self.config.seed))
        halves = [role for role, one in models.models.items() if one.module.config.dtype == "float16"]
        return state.create(
            params,
            self.optimizer,
            loss_scaled=any(models.roles[role].trainable for role in halves),
            averaged=self.average is not None,
            frozen=frozen,
            carry=state.empty(self.objective.carry, self.config.data.batch),
        )

    @functools.cached_property
    def state_like(self) -> state.TrainState:
        """Shapes and shardings of the train state."""
        shapes = jax.eval_shape(self.init)
        axes = placing.state_axes(shapes, self.models.axes, self.objective.carry)
        return _placed(axes, shapes, self.layout)

    @functools.cached_property
    def batch_like(self) -> dict[str, jax.ShapeDtypeStruct]:
        """Shapes and shardings of a global batch, from the objective's spec."""
        fields = {**self.objective.spec, pipeline.KEYS: Field(shape=(2,), dtype="uint32")}
        rows = self.config.data.batch
        shapes = {name: jax.ShapeDtypeStruct((rows, *one.shape), one.dtype) for name, one in fields.items()}
        axes = {name: ("batch", *one.axis_names) for name, one in fields.items()}
        return _placed(axes, shapes, self.layout)

    def put(self, batch: Mapping[str, np.ndarray]) -> dict[str, jax.Array]:
        """This host's rows of a batch as the global batch."""
        return self.layout.put(batch, self.batch_like)

    def fresh_state(self) -> state.TrainState:
        """The state before the first step, drawn where it will live."""
        shardings = jax.tree.map(lambda leaf: leaf.sharding, self.state_like)
        return self.layout.jit(self.init, out_shardings=shardings)()

    def train_step(self) -> step.Step:
        """The jitted train step; it takes over the state's memory, and leaves every leaf where it was."""
        config, where = self.config, jax.tree.map(lambda leaf: leaf.sharding, self.state_like)
        function = step.make_train_step(
            self.objective,
            self.models,
            self.optimizer,
            gradients=gradients.accumulate(config.train.accumulate),
            average=self.average,
            seed=config.seed,
        )
        return self.layout.jit(function, donate_argnums=0, out_shardings=(where, None))

    def eval_step(self) -> Callable[..., Any]:
        """The jitted evaluation step."""
        return self.layout.jit(step.make_eval_step(self.objective, self.models))

    def validation(self) -> LanguageModelling:
        """The evaluator of the part of the text that is held out."""
        limit = self.config.evaluate.batches
        return LanguageModelling(
            objective=self.objective,
            step=self.eval_step(),
            batches={
                name: functools.partial(self.feed.ordered, "validation", limit, name) for name in self.feed.sources
            },
            put=self.put,
            byte_lengths=self.byte_lengths,
        )

    @property
    def row_tokens(self) -> int:
        """Tokens of a row for throughput: those that the product reads, or its encoder if it has one."""
        return next(one.source or one.length for one in self.objective.work if one.role == self.models.product)

    def flops(self) -> float:
        """Floating-point operations that a row of training needs, of all models (`models.flops`)."""
        total = 0.0
        for work in self.objective.work:
            model = self.models.models[work.role]
            row = training_flops(
                model.module.config,
                model.shapes,
                model.axes,
                length=work.length,
                read=work.scored,
                source=work.source,
            )
            # Two thirds are the backward pass, which a frozen model does not have.
            total += row if self.models.roles[work.role].trainable else row / 3
        return total


def _placed(axes: Any, shapes: Any, layout: Layout) -> Any:
    """Shapes with their shardings."""
    place = lambda leaf, where: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=where)
    return jax.tree.map(place, shapes, layout.shardings(axes, shapes))


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


def load(workdir: str | os.PathLike[str]) -> Experiment:
    """The experiment of a work directory, without its text.

    Raises:
      InputError: there is no such directory, or nothing was trained in it.
    """
    config = saved(workdir)
    if config is None:
        raise InputError(f"--workdir {workdir} holds no {SAVED}; give the directory of a run of `lm-jax train`")
    return Experiment(parse(config), tokenizers.load(Path(workdir) / "tokenizer"))
