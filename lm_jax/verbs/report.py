"""Output of the verbs: messages, JSON documents, progress, and the setup of a run."""

from __future__ import annotations

import json
import math
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax

from lm_jax.core.trees import Params, count, flatten, named_leaves, size_bytes
from lm_jax.data.clean import report as reports
from lm_jax.data.corpora import Stores
from lm_jax.experiment import Experiment, ExperimentConfig
from lm_jax.models.model import Model
from lm_jax.objectives.roles import Models
from lm_jax.parallel.layout import Layout
from lm_jax.train.base import Base


def say(text: str) -> None:
    """Prints a line to standard output, on process 0 only."""
    if jax.process_index() == 0:
        print(text, flush=True)


def warn(text: str) -> None:
    """Prints a warning to standard error, on process 0 only, about input that is valid but probably not intended."""
    if jax.process_index() == 0:
        print(f"warning: {text}", file=sys.stderr, flush=True)


def document(tree: Any) -> None:
    """Prints the JSON document of `--json`; NaN and infinities are strings, as in `metrics.jsonl`."""
    unicode = (getattr(sys.stdout, "encoding", None) or "").lower().replace("-", "").startswith("utf")
    say(json.dumps(strict(tree), ensure_ascii=not unicode, allow_nan=False))


def strict(tree: Any) -> Any:
    """Returns a tree as strict JSON: NaN and infinities become strings, keys too."""
    if isinstance(tree, Mapping):
        return {str(name): strict(value) for name, value in tree.items()}
    if isinstance(tree, (list, tuple)):
        return [strict(value) for value in tree]
    return str(tree) if isinstance(tree, float) and not math.isfinite(tree) else tree


class Progress:
    """Shows the progress of cleaning, tokenizer training and tokenising.

    A terminal shows a bar; otherwise each stage prints a line when it starts, and then one every half minute.
    """

    _EVERY_S = 30.0

    def __init__(self):
        self._stage: str | None = None
        self._bar: Any = None
        self._start = self._printed = 0.0

    def __enter__(self) -> Progress:
        return self

    def __exit__(self, *error: Any) -> None:
        self._close()

    def __call__(self, stage: str, done: int, total: int) -> None:
        """Reports that `done` of `total` units of a stage are done; `total` is 0 if it is unknown."""
        if stage != self._stage:
            self._close()
            self._stage = stage
            self._start = self._printed = time.monotonic()
            if sys.stderr.isatty():
                from tqdm import tqdm

                # smoothing=0 averages over the stage, whose speed varies; miniters=0 refreshes without progress too.
                self._bar = tqdm(desc=stage, dynamic_ncols=True, leave=False, smoothing=0, miniters=0)
            else:
                print(f"{stage} ...", file=sys.stderr, flush=True)
        if self._bar is not None:
            self._bar.total = total or None
            self._bar.bar_format = "{desc}: {percentage:3.0f}%|{bar}| {elapsed}<{remaining}" if total else None
            self._bar.update(done - self._bar.n)
        elif time.monotonic() - self._printed >= self._EVERY_S:
            self._printed = time.monotonic()
            print(f"{stage}: {self._status(done, total)}", file=sys.stderr, flush=True)

    def _status(self, done: int, total: int) -> str:
        elapsed = time.monotonic() - self._start
        if not total or not done:
            return f"{done:,} done after {elapsed:,.0f} s" if done else f"working for {elapsed:,.0f} s"
        return f"{done / total:.0%} done, about {elapsed * (total - done) / done:,.0f} s left"

    def _close(self) -> None:
        if self._bar is not None:
            self._bar.close()
        self._bar = None


def parameters(model: Model | Models, layout: Layout) -> str:
    """Formats the shape, logical axes and sharding of every parameter, and the totals."""
    shardings = jax.tree.leaves(layout.shardings(model.axes, model.shapes))
    axes = jax.tree.leaves(model.axes, is_leaf=lambda node: isinstance(node, tuple))
    lines = [f"{'parameter':<52}{'shape':<26}{'axes':<36}sharding"]
    for (path, leaf), names, sharding in zip(named_leaves(model.shapes), axes, shardings, strict=True):
        lines.append(f"{path:<52}{leaf.shape!s:<26}{', '.join(map(str, names)):<36}{sharding.spec}")
    return "\n".join([*lines, _total(model)]) + "\n"


def _total(model: Model | Models) -> str:
    """Formats the number of parameters and their memory, also as codes if some are stored so."""
    total, size, stored = count(model.dense_shapes), size_bytes(model.dense_shapes), size_bytes(model.shapes)
    as_codes = "" if stored == size else f", {stored / 1e6:,.1f} MB with matrices as codes"
    return f"{total:,} parameters, {size / 1e6:,.1f} MB in float32{as_codes}"


def models_of(exp: Experiment) -> Model | Models:
    """Returns all models of an experiment (parameters by role), or its model if there is only one."""
    return exp.models if len(exp.models.roles) > 1 else exp.product


def setup(exp: Experiment, workdir: Path) -> str:
    """Formats a summary of a run: optimizer, devices, parameters and data."""
    config, store, mesh = exp.config, exp.tokens, exp.layout.mesh
    models = models_of(exp)
    total = count(models.dense_shapes)
    device = jax.devices()[0]
    axes = " x ".join(f"{name} {size}" for name, size in mesh.shape.items())
    rows = config.data.batch // exp.layout.divisor("batch")
    optimizer, (warmup, scheduled) = config.optimizer, config.optimizer.schedule.resolved(config.train.steps)
    lines = [
        f"run        {config.objective.name} objective, {config.model.kind} in {config.model.dtype}, "
        f"{_length(config)} of {config.data.batch} rows x {config.data.length} tokens",
        f"optimizer  {optimizer.name}, learning rate {optimizer.learning_rate:g}, {optimizer.schedule.name} over "
        f"{scheduled:,} steps with a warmup of {warmup:,}",
        f"devices    {jax.device_count()} x {device.platform} {device.device_kind}, {jax.process_count()} process(es)",
        f"mesh       {axes}: {rows} rows of the batch and {_megabytes_per_device(exp):.1f} MB of parameters per device",
        f"parameters {_total(models).replace(' parameters', '', 1)}, listed in model_info.txt",
        *(f"  {name:<24}{number:>16,}{number / total:>8.1%}" for name, number in _groups(models.dense_shapes)),
        *trained(exp),
        f"data       {config.data.name}: {store.tokens:,} tokens in {store.documents:,} "
        f"document{'s' * (store.documents != 1)}, {store.bytes / store.tokens:.2f} bytes per token, {_vocabulary(exp)}",
        *([store.table(config.data.validation)] if isinstance(store, Stores) else []),
        *(f"  {line}" for line in reports.summary(store.report)),
        *(f"  config.data.dev: {line}" for line in (reports.summary(exp.dev.report) if exp.dev else ())),
        f"rows       {len(exp.feed.rows('train')):,} for training, {_held_out(exp)}",
        f"workdir    {workdir}",
    ]
    return "\n".join(lines)


def trained(exp: Experiment) -> list[str]:
    """Formats how many parameters are trained, their share, and the memory of optimizer and base; none if all are.

    Of a run that trains more and more of them, the steps after which it does.
    """
    if exp.phases:
        _, *starts = exp.phases.starts
        return [f"phases     the head first, and one layer more after steps {', '.join(map(str, starts))}"]
    tuned, frozen = exp.models.split(exp.models.shapes)
    if not frozen:
        return []
    number, share = count(tuned), count(tuned) / count(exp.models.dense_shapes)
    only, method = exp.config.train.only, exp.config.adapt.method
    how = f", those that match {', '.join(only)}" if only else "" if method == "full" else f", by {method}"
    state, base = (size_bytes(tree) / 1e6 for tree in (exp.state_like.opt_state, frozen))
    return [
        f"trained    {number:,} parameters, {share:.2%}{how}",
        f"memory     {state:,.1f} MB of optimizer state, {base:,.1f} MB of frozen parameters",
    ]


def base(base: Base, fork: str | None, frozen: Params) -> str:
    """Formats what a run does not store, because the run that it started from has it."""
    leaves = {f"frozen/{path}": leaf for path, leaf in flatten(frozen).items()}
    size = sum(leaves[path].nbytes for path in base.places) / 1e6
    return (
        f"base       {size:,.1f} MB of frozen parameters stay in {fork}, step {base.step}, which this run needs "
        "(config.checkpoint.store=all stores them here)"
    )


def _length(config: ExperimentConfig) -> str:
    """Formats the steps of a run, and the epochs that set them."""
    epochs, steps = config.train.epochs, f"{config.train.steps:,} steps"
    return f"{epochs:g} epoch{'s' * (epochs != 1)}: {steps}" if epochs else steps


def _vocabulary(exp: Experiment) -> str:
    """Formats the size of the vocabulary, with its upper bound if the text was too small to reach it."""
    config, size = exp.config.data.tokenizer, exp.tokenizer.vocab_size
    smaller = not config.path and config.vocab is None and size < config.vocab_at_most
    bound = f" (of at most {config.vocab_at_most:,}: the text yields no more)" if smaller else ""
    return f"vocabulary {size:,}{bound}"


def _held_out(exp: Experiment) -> str:
    count, data = len(exp.feed.rows("validation")), exp.config.data
    setting = f"config.data.validation is {data.validation:g}" if exp.dev is None else "config.data.dev is too short"
    where = "" if exp.dev is None else f", all of {data.dev_name}"
    empty = f"none for validation ({setting}): there will be no evaluation"
    return f"{count:,} for validation{where}" if count else empty


def _megabytes_per_device(exp: Experiment) -> float:
    models = models_of(exp)
    shardings = jax.tree.leaves(exp.layout.shardings(models.axes, models.shapes))
    leaves = zip(jax.tree.leaves(models.shapes), shardings, strict=True)
    sizes = (math.prod(sharding.shard_shape(leaf.shape)) * leaf.dtype.itemsize for leaf, sharding in leaves)
    return sum(sizes) / 1e6


def _groups(shapes: Params) -> list[tuple[str, int]]:
    """Counts parameters by part of the model: `embed`, `stack/attention`, ..."""
    groups: dict[str, int] = {}
    for path, leaf in named_leaves(shapes):
        parts = [part for part in path.split("/") if part != "layers"]
        name = "/".join(parts[:-1][:2]) or parts[0]
        groups[name] = groups.get(name, 0) + leaf.size
    return list(groups.items())
