"""Batches for training and evaluation."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Iterator
from typing import cast

from lm_jax.core.config import Tree
from lm_jax.data import corpora, lengths, pipeline, rows
from lm_jax.data.config import DataConfig
from lm_jax.data.lengths import Buckets
from lm_jax.data.mixture import Mixture
from lm_jax.data.several import naming
from lm_jax.objectives.base import Objective
from lm_jax.parallel.layout import Layout


@dataclasses.dataclass(frozen=True)
class Feed:
    """Batches of the tokenized text for one objective; `layout` assigns rows to hosts, `buckets` cut batches.

    With the corpus `dev`, all of it is the split "validation", and all of `tokens` the split "train".
    `unread` are columns of the objective that the text lacks: those of the answers to new rows.
    """

    config: DataConfig
    tokens: corpora.Corpus
    objective: Objective
    layout: Layout
    seed: int
    buckets: Buckets | None = None
    dev: corpora.Corpus | None = None
    unread: tuple[str, ...] = ()

    @functools.cached_property
    def _rows(self) -> dict[str, rows.Rows]:
        return {}

    def rows(self, split: str) -> rows.Rows:
        """The row plan of a split, cached for repeated evaluations."""
        if split not in self._rows:
            data, reads = self.config, self.objective.reads
            validation = data.validation if self.dev is None else {"train": 0.0, "validation": 1.0}[split]
            read = Tree({name: most for name, most in reads.columns.items() if name not in self.unread})
            self._rows[split] = corpora.make_rows(
                self.tokens if self.dev is None or split == "train" else self.dev,
                config=data.rows,
                split=split,
                reads=dataclasses.replace(reads, columns=read) if self.unread else reads,
                validation=validation,
                seed=self.seed,
                lanes=data.batch,
            )
            if self.buckets is not None:
                naming("config.data.buckets", lengths.of)(self._rows[split])
        return self._rows[split]

    def batches(self, start: int) -> Iterator[pipeline.Batch]:
        """This host's rows of the training batches from step `start` on."""
        data = self.config
        return pipeline.batches(
            self.rows("train"),
            self.objective.features,
            seed=self.seed,
            batch=data.batch,
            start=start,
            local=self.layout.local_rows(data.batch),
            buckets=self.buckets,
            threads=data.threads,
            prefetch=data.prefetch,
        )

    def ordered(self, split: str, limit: int = 0, source: str = "") -> Iterator[pipeline.Batch]:
        """This host's rows of one pass over a split, or one of `sources`; at most `limit` batches, 0: all."""
        batch, plan = self.config.batch, self.rows(split)
        if source:
            mixture = cast(Mixture, plan)
            plan = mixture.parts[mixture.names.index(source)]
            # It gets a share of the batches in proportion to its rows.
            limit = max(1, round(limit * len(plan) / len(mixture))) if limit else 0
        return pipeline.ordered(
            plan,
            self.objective.features,
            batch=batch,
            local=self.layout.local_rows(batch),
            seed=self.seed,
            limit=limit,
            buckets=self.buckets,
        )

    def in_order(self, plan: rows.Rows) -> Iterator[pipeline.Batch]:
        """This host's rows of one pass over a plan."""
        batch, local = self.config.batch, self.layout.local_rows(self.config.batch)
        features = self.objective.features
        return pipeline.ordered(plan, features, batch=batch, local=local, seed=self.seed, buckets=self.buckets)

    def bucket(self, step: int) -> int | None:
        """The length to which the training batch of a step is cut; None: batches are not cut."""
        if self.buckets is None:
            return None
        rows, batch = self.rows("train"), self.config.batch
        return pipeline.bucket_at(rows, step, seed=self.seed, batch=batch, buckets=self.buckets)

    @property
    def sources(self) -> tuple[str, ...]:
        """The names of a mixture's sources, else those of the parts of a mixture of objectives, else "" alone."""
        return tuple(self.config.mixture.by_name()) or tuple(self.objective.reads.parts) or ("",)
