"""The components of a run, each built on first use."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any, cast

import jax
import numpy as np
import optax

from lm_jax import objectives
from lm_jax.adapt import adapt
from lm_jax.core.config import InputError, Tree
from lm_jax.core.trees import Params, selects
from lm_jax.data import corpora, pipeline, tokenizers
from lm_jax.data.columns import Columns
from lm_jax.data.lengths import Buckets
from lm_jax.data.tables import Records
from lm_jax.evaluate.language_modelling import LanguageModelling
from lm_jax.evaluate.tasks import Answering, TaskScores
from lm_jax.evaluate.written import TextScores
from lm_jax.experiment import checks, evaluators, rates
from lm_jax.experiment.config import ExperimentConfig
from lm_jax.experiment.feed import Feed
from lm_jax.models.config import ModelConfig
from lm_jax.models.flops import training_flops
from lm_jax.models.model import Model, build_model, from_module
from lm_jax.models.transformer import STACKS
from lm_jax.objectives import vocabulary as vocabularies
from lm_jax.objectives.base import Field, Objective, Vocabulary
from lm_jax.objectives.roles import Models, Role, key
from lm_jax.objectives.task import Task
from lm_jax.parallel import mesh
from lm_jax.parallel.layout import Layout
from lm_jax.train import averaging, gradients, optimizers, placing, state
from lm_jax.train import phases as phasing
from lm_jax.train import step as step_module


@dataclasses.dataclass(frozen=True)
class Experiment:
    """The components of a run.

    Attributes:
      store: the tokenized text, or None if only the models are needed.
      devices: the devices of the mesh, or a mesh in place of `config.mesh`; None: all.
      saved_labels: the names of the labels of a saved run, by column, for text without them.
      unread: the columns of the objective that the text lacks: those of the answers to new rows.
      dev: the tokenized files to validate on; None: a part of `store`.

    Example:
      >>> from ml_collections import ConfigDict
      >>> from lm_jax import experiment
      >>> from lm_jax.models.presets.gpt import gpt2
      >>> recipe = experiment.complete(ConfigDict({"model": gpt2("tiny"), "data": {"length": 64}}))
      >>> exp = Experiment(experiment.parse(recipe), tokenizers.load("tests/golden/tokenizer"))
      >>> exp.vocabulary.size, exp.batch_like["tokens"].shape
      (512, (16, 64))
    """

    config: ExperimentConfig
    tokenizer: tokenizers.Tokenizer
    store: corpora.Corpus | None = None
    devices: Sequence[Any] | jax.sharding.Mesh | None = None
    saved_labels: Mapping[str, tuple[str, ...]] = Tree()
    unread: tuple[str, ...] = ()
    dev: corpora.Corpus | None = None

    def check(self) -> None:
        """Builds everything that may reject the configuration, so that errors appear before any file is written."""
        _ = self.layout, self.objective, self.models, self.state_like, self.batch_like
        self.objective.check({role: model.module.config for role, model in self.models.models.items()})
        checks.check_trained(self)
        checks.check_metrics(self)
        for size in self.buckets.sizes if self.buckets else ():
            self.batch_of(size)
        for split in ("train", "validation"):
            self.feed.rows(split)
        checks.check_best(self)

    @property
    def tokens(self) -> corpora.Corpus:
        """The tokenized text; raises ValueError if the experiment has none."""
        if self.store is None:
            raise ValueError("this experiment has no text; create it with `experiment.prepare`")
        return self.store

    def warnings(self) -> list[str]:
        """A line for each text of few or mostly unknown tokens."""
        dev = [] if self.dev is None else [f"config.data.dev: {line}" for line in self.dev.warnings()]
        return [*self.tokens.warnings(), *dev]

    @functools.cached_property
    def feed(self) -> Feed:
        """Batches of the text."""
        for corpus in (self.tokens, *((self.dev,) if self.dev is not None else ())):
            corpora.check_unknown_id(corpus, self._rows_of_table)
        return Feed(
            *(self.config.data, self.tokens, self.objective, self.layout, self.config.seed),
            buckets=self.buckets,
            dev=self.dev,
            unread=self.unread,
        )

    @property
    def data_fingerprint(self) -> str:
        """Hash of the text, and of the files to validate on; empty without text."""
        store = self.store.fingerprint if self.store else ""
        if self.dev is None:
            return store
        return hashlib.sha256(json.dumps(["dev 1", store, self.dev.fingerprint]).encode()).hexdigest()[:32]

    @functools.cached_property
    def buckets(self) -> Buckets | None:
        """The lengths to which batches are cut: `config.data.buckets`, and that of the longest row; None: uncut."""
        if not self.config.data.buckets:
            return None
        spec = self.objective.spec
        axes = {name: field.axis_names for name, field in spec.items() if "length" in field.axis_names}
        # The targets of an encoder-decoder may be longer than `config.data.length`.
        longest = max(spec[name].shape[axis.index("length")] for name, axis in axes.items())
        sizes = {*(size for size in self.config.data.buckets if size < longest), longest}
        real = tuple(name for name in axes if name in {field.used for field in spec.values()})
        return Buckets(tuple(sorted(sizes)), axes, real)

    @functools.cached_property
    def labels(self) -> Mapping[str, tuple[str, ...]]:
        """The names of the labels of each column, by id."""
        if self.saved_labels or not isinstance(self.store, Columns):
            return self.saved_labels
        return Tree({name: tuple(names) for name, names in self.store.names.items() if names})

    @functools.cached_property
    def vocabulary(self) -> Vocabulary:
        """The token ids, and the names of labels, that objectives use."""
        config = self.config
        rows = self._rows_of_table
        return vocabularies.of(self.tokenizer, rows, config.model.kind, config.conventions, self.labels)

    @property
    def padding(self) -> int:
        """The id to pad with."""
        config = self.config
        return vocabularies.padding(self.tokenizer, self._rows_of_table, config.model.kind, config.conventions)

    @property
    def _rows_of_table(self) -> int:
        size, rows = self.tokenizer.vocab_size, self.config.model.embed.vocab
        return max(size, rows or 0) if self.config.data.tokenizer.added else rows or size

    @property
    def byte_lengths(self) -> np.ndarray:
        """UTF-8 bytes of each id; if the tokenizer changes text, the mean over this run's text, or its dev files."""
        special, corpus = 1 + len(document_prefix(self.config)), self.tokens if self.dev is None else self.dev
        return self.tokenizer.bytes_per_id(corpus.bytes, corpus.tokens - special * corpus.documents)

    @functools.cached_property
    def objective(self) -> Objective:
        """The objective; gradient accumulation is refused if the objective couples rows."""
        config = self.config
        objective = objectives.build_objective(config.objective, self.vocabulary, config.data.length, config.model.kind)
        self._check_accumulation(objective.coupled, f"config.objective.name {config.objective.name!r}")
        return objective

    @property
    def task(self) -> Task | None:
        """The objective if it is a task, else None.

        Other objectives are not built for it: models without their special tokens can still generate and be exported.
        """
        is_task = issubclass(objectives.OBJECTIVES[self.config.objective.name], Task)
        return cast(Task, self.objective) if is_task else None

    def _check_accumulation(self, coupled: bool, name: str) -> None:
        parts = self.config.train.accumulate
        if coupled and parts > 1:
            raise InputError(
                f"config.train.accumulate is {parts}, but {name} couples the rows of a batch, which cannot be split "
                "into micro-batches; use 1"
            )

    @functools.cached_property
    def layout(self) -> Layout:
        """The mesh of all devices and its sharding rules; the batch must be divisible over it."""
        layout = Layout(mesh.make(self.config.mesh, self.devices), self.config.rules)
        batch, parts = self.config.data.batch, self.config.train.accumulate
        divisor = layout.divisor("batch") * parts
        if batch < 1 or batch % divisor:
            low = batch // divisor * divisor
            use = f"{low} or {low + divisor}" if low > 0 else f"{divisor}"
            raise InputError(
                f"config.data.batch {batch} is not divisible by {layout.divisor('batch')} (mesh axes "
                f"{' x '.join(layout.rules.batch)}) x {parts} (config.train.accumulate); use {use}"
            )
        return layout

    @functools.cached_property
    def models(self) -> Models:
        """The models by role, as the objective needs them; no parameters are allocated."""
        vocabularies.check(self.tokenizer, self._rows_of_table)
        roles, configs = objectives.roles(self.config.objective), self.config.models
        others = [role for role in roles if key(roles, role) != "config.model"]
        if set(others) != set(configs):
            raise InputError(
                f"config.models has {', '.join(configs) or 'no model'}, but beside config.model the objective "
                f"{self.config.objective.name!r} needs {', '.join(others) or 'none'}; set a preset for each"
            )
        models = Models(roles, {role: self._model(role, roles[role], key(roles, role)) for role in roles})
        models.check(self.config.objective.name)
        return models

    def _model(self, name: str, role: Role, config_key: str) -> Model:
        config: ModelConfig = self.config.models.get(name, self.config.model)
        embed = config.embed
        if embed.positions == "learned" and embed.max_length < self.config.data.length:
            raise InputError(
                f"config.data.length {self.config.data.length} is more than {config_key}.embed.max_length "
                f"{embed.max_length}; lower the first or raise the second"
            )
        stacks = [getattr(config, field) for field in STACKS if hasattr(config, field)]
        balanced = role.trainable and any(stack.experts.balance for stack in stacks)
        self._check_accumulation(balanced, f"feedforward.experts.balance of {config_key}")
        vocab = name in self.config.models and embed.vocab
        if self.task is not None:
            config = dataclasses.replace(config, task=self.task.head(config.task))
        model = build_model(config, vocab or self._rows_of_table)
        if only := self.config.train.only:
            return dataclasses.replace(model, trainable=lambda path: selects(only, f"{name}/{path}"))
        return adapt(model, self.config.adapt) if role.trainable else model

    @property
    def product(self) -> Model:
        """The model to evaluate, generate from and export."""
        return self.models.models[self.models.product]

    def params_like(self, *roles: str) -> Params:
        """Shapes and shardings of the parameters of `roles`, and of the roles that own their shared parameters."""
        models = self.models
        needed = sorted({*roles, *(owner for role in roles for owner in models.roles[role].shares.values())})
        axes, shapes = ({role: tree[role] for role in needed} for tree in (models.axes, models.shapes))
        return _sharded(axes, shapes, self.layout)

    @functools.cached_property
    def optimizer(self) -> optax.GradientTransformation:
        """The optimizer with its schedule."""
        return self._optimizer(len(self.phases.starts) - 1 if self.phases else 0)

    def _optimizer(self, phase: int) -> optax.GradientTransformation:
        """The optimizer of the parameters that are trained in a phase."""
        config, models = self.config, self.models
        factors = rates.factors(models, config.optimizer.layer_decay)
        arguments = config.optimizer, config.train.steps, models.axes, factors
        if self.phases is None:
            return optimizers.build_optimizer(*arguments)
        return phasing.build_optimizer(self.phases, phase, *arguments)

    @functools.cached_property
    def phases(self) -> phasing.Phases | None:
        """When which parameters are trained, if that changes during the run; None: it does not."""
        adapt, steps = self.config.adapt, self.config.train.steps
        return phasing.phases(self.models, adapt, steps) if adapt.method == "gradual" else None

    @property
    def average(self) -> averaging.Average | None:
        """The averaging of parameters, or None if it is off."""
        return averaging.build_average(self.config.optimizer, self.config.train.ema)

    @property
    def learning_rate(self) -> Callable[[int], Any]:
        """Learning rate as a function of the update count."""
        return optimizers.schedule(self.config.optimizer, self.config.train.steps)

    def init(self) -> state.TrainState:
        """The train state before the first step; call it under jit."""
        return self._state(*self.models.split(self.models.draw(self.config.seed)))

    def _state(self, params: Params, frozen: Params) -> state.TrainState:
        models = self.models
        half_roles = [role for role, model in models.models.items() if model.module.config.dtype == "float16"]
        return state.create(
            params,
            self.optimizer,
            loss_scaled=any(models.roles[role].trainable for role in half_roles),
            averaged=self.average is not None,
            frozen=frozen,
            carry=state.empty_carry(self.objective.carry, self.config.data.batch),
        )

    @functools.cached_property
    def state_like(self) -> state.TrainState:
        """Shapes and shardings of the train state."""
        shapes = jax.eval_shape(self._state, *self.models.split(self.models.shapes))
        axes = placing.state_axes(shapes, self.models.axes, self.objective.carry)
        return _sharded(axes, shapes, self.layout)

    @functools.cached_property
    def batch_like(self) -> dict[str, jax.ShapeDtypeStruct]:
        """Shapes and shardings of a global batch, from the objective's spec."""
        return self.batch_of(None)

    def batch_of(self, size: int | None) -> dict[str, jax.ShapeDtypeStruct]:
        """Shapes and shardings of a global batch that is cut to `size` tokens; None: of an uncut one."""
        fields = {**self.objective.spec, pipeline.KEYS: Field(shape=(2,), dtype="uint32")}
        fields, rows = {name: field.cut(size) for name, field in fields.items()}, self.config.data.batch
        shapes = {name: jax.ShapeDtypeStruct((rows, *field.shape), field.dtype) for name, field in fields.items()}
        axes = {name: ("batch", *field.axis_names) for name, field in fields.items()}
        return _sharded(axes, shapes, self.layout)

    def put(self, batch: Mapping[str, np.ndarray]) -> dict[str, jax.Array]:
        """Moves this host's rows of a batch to its devices, as a part of the global batch."""
        return self.layout.put(batch, self.batch_like)

    def fresh_state(self) -> state.TrainState:
        """The train state before the first step, initialised as shards on the devices."""
        shardings = jax.tree.map(lambda leaf: leaf.sharding, self.state_like)
        return self.layout.jit(self.init, once=True, out_shardings=shardings)()

    def train_step(self, finished: int = 0) -> step_module.Step:
        """The jitted train step after `finished` steps; it donates the state and keeps its shardings."""
        return self._train_steps(self.phases.at(finished) if self.phases else 0)

    @functools.cached_property
    def _train_steps(self) -> Callable[[int], step_module.Step]:
        return functools.cache(self._train_step)

    def _train_step(self, phase: int) -> step_module.Step:
        config, shardings = self.config, jax.tree.map(lambda leaf: leaf.sharding, self.state_like)
        options: dict[str, Any] = {"seed": config.seed, "generator": config.train.generator, "average": self.average}
        options["gradients"] = gradients.accumulate(config.train.accumulate)
        optimizer = self._optimizer(phase) if self.phases else self.optimizer
        function = step_module.make_train_step(self.objective, self.models, optimizer, **options)
        if self.phases:
            function = phasing.in_phase(function, self.phases, phase, clipped=bool(config.optimizer.clip))
        return self.layout.jit(function, donate_argnums=0, out_shardings=(shardings, None))

    def eval_step(self) -> Callable[..., Any]:
        """The jitted evaluation step."""
        return self.layout.jit(step_module.make_eval_step(self.objective, self.models))

    def answering(self, split: str = "validation") -> Answering:
        """Answers to the rows of a split; the objective is a task."""
        objective, feed = cast(Task, self.objective), self.feed
        step = self.layout.jit(step_module.make_answer_step(objective, self.models))
        rows, similar = cast(Records, feed.rows(split)), self.buckets is not None and not objective.coupled
        return Answering(objective, step, batches=feed.in_order, put=self.put, rows=rows, similar=similar)

    def validation(self) -> LanguageModelling | TaskScores | TextScores:
        """The evaluator of the validation split."""
        return evaluators.validation(self)

    def row_tokens(self, size: int | None = None) -> int:
        """Tokens per row for throughput: the input tokens of the product, or of the product's encoder.

        `size` is the length to which the batch is cut; None: it is uncut.
        """
        works = (work.cut(size) for work in self.objective.work if work.role == self.models.product)
        return next(work.source or work.length for work in works)

    def flops(self, size: int | None = None) -> float:
        """Floating-point operations to train all models on one row of a batch cut to `size` (`models.flops`)."""
        total = 0.0
        for work in self.objective.work:
            work, model = work.cut(size), self.models.models[work.role]
            count, task = work.sequences, self.objective if isinstance(self.objective, Task) else None
            # What an adaptation adds is small, and does not count.
            plain = model if model.extend is None else from_module(model.module)
            total += count * training_flops(
                model.module.config,
                plain.shapes,
                plain.axes,
                length=work.length // count,
                read=work.scored // count,
                source=work.source,
                targets=work.targets,
                candidates=work.candidates,
                heads=Tree({name: heads // count for name, heads in work.heads.items()}),
                rows=self.config.data.batch * count,
                trained=self.models.trains_layers(work.role),
                weighted=self.models.weighted(work.role),
                last=task and task.read_tokens(model.module.config.task.pool),
            )
        return total


def _sharded(axes: Any, shapes: Any, layout: Layout) -> Any:
    """Adds shardings to a tree of shapes."""
    add = lambda leaf, sharding: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding)
    return jax.tree.map(add, shapes, layout.shardings(axes, shapes))


def document_prefix(config: ExperimentConfig) -> tuple[int, ...]:
    """The ids stored before every document, for decoders only: other kinds of model add special tokens per row."""
    return config.conventions.prefix if config.model.kind == "decoder" else ()
