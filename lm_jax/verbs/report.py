"""What the verbs say: progress of slow preparations, tables of parameters and devices."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import jax

from lm_jax.core.trees import count, named_leaves, size_bytes
from lm_jax.parallel.layout import Layout


def say(text: str) -> None:
    """A line on standard output, of process 0 only."""
    if jax.process_index() == 0:
        print(text, flush=True)


class Progress:
    """Shows how far cleaning, tokenizer training and tokenising are: a bar on a terminal, else a line a stage."""

    def __init__(self):
        self._stage: str | None = None
        self._bar: Any = None

    def __enter__(self) -> Progress:
        return self

    def __exit__(self, *error: Any) -> None:
        self._close()

    def __call__(self, stage: str, done: int, whole: int) -> None:
        """`done` of `whole` (0: unknown) units of a stage."""
        if stage != self._stage:
            self._close()
            self._stage = stage
            if sys.stderr.isatty():
                from tqdm import tqdm

                self._bar = tqdm(total=whole or None, desc=stage, dynamic_ncols=True, leave=False)
            else:
                print(f"{stage} ...", file=sys.stderr, flush=True)
        if self._bar is not None:
            self._bar.total = whole or None
            self._bar.update(done - self._bar.n)

    def _close(self) -> None:
        if self._bar is not None:
            self._bar.close()
        self._bar = None


def parameters(model: Any, layout: Layout) -> str:
    """Every parameter: shape, logical axes, sharding; and the totals."""
    shardings = jax.tree.leaves(layout.shardings(model.axes, model.shapes))
    axes = jax.tree.leaves(model.axes, is_leaf=lambda node: isinstance(node, tuple))
    lines = [f"{'parameter':<52}{'shape':<26}{'axes':<36}sharding"]
    for (path, leaf), names, sharding in zip(named_leaves(model.shapes), axes, shardings, strict=True):
        lines.append(f"{path:<52}{leaf.shape!s:<26}{', '.join(map(str, names)):<36}{sharding.spec}")
    total, size = count(model.shapes), size_bytes(model.shapes)
    return "\n".join([*lines, f"{total:,} parameters, {size / 1e6:,.1f} MB in float32"]) + "\n"


def setup(exp: Any, workdir: Path) -> str:
    """What a run is made of, in a few lines."""
    config, store, mesh = exp.config, exp.store, exp.layout.mesh
    device = jax.devices()[0]
    axes = " x ".join(f"{name} {size}" for name, size in mesh.shape.items())
    groups: dict[str, int] = {}
    for path, leaf in named_leaves(exp.model.shapes):
        top = path.partition("/")[0]
        groups[top] = groups.get(top, 0) + leaf.size
    lines = [
        f"run        {config.objective.name} objective, {config.model.kind} in {config.model.dtype}, "
        f"{config.train.steps:,} steps of {config.data.batch} rows x {config.data.length} tokens",
        f"devices    {jax.device_count()} x {device.platform} {device.device_kind}, {jax.process_count()} process(es); "
        f"mesh {axes}",
        f"parameters {count(exp.model.shapes):,} ({', '.join(f'{name} {size:,}' for name, size in groups.items())})",
        f"data       {config.data.path}: {store.tokens:,} tokens in {store.documents:,} documents, "
        f"{store.bytes / store.tokens:.2f} bytes a token, vocabulary {exp.tokenizer.vocab_size:,}",
        f"rows       {len(exp.rows('train')):,} to train on, {len(exp.rows('validation')):,} to validate on",
        f"workdir    {workdir}",
    ]
    return "\n".join(lines)
