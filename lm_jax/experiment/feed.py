"""Batches to train and to evaluate on."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Iterator
from typing import cast

from lm_jax.data import corpora, pipeline, rows
from lm_jax.data.config import DataConfig
from lm_jax.data.mixture import Mixture
from lm_jax.objectives.base import Objective
from lm_jax.parallel.layout import Layout


@dataclasses.dataclass(frozen=True)
class Feed:
    """Batches of one objective.

    Attributes:
      config: how the text is cut into rows.
      tokens: the text.
      objective: turns rows into features.
      layout: decides which rows this host reads.
      seed: of the run.
    """

    config: DataConfig
    tokens: corpora.Corpus
    objective: Objective
    layout: Layout
    seed: int

    @functools.cached_property
    def _rows(self) -> dict[str, rows.Rows]:
        return {}

    def rows(self, split: str) -> rows.Rows:
        """The row plan of a part of the data, made once: every evaluation asks for it again."""
        if split not in self._rows:
            self._rows[split] = self._make_rows(split)
        return self._rows[split]

    def _make_rows(self, split: str) -> rows.Rows:
        data = self.config
        return corpora.make_rows(
            self.tokens,
            config=data.rows,
            split=split,
            reads=self.objective.reads,
            validation=data.validation,
            seed=self.seed,
            lanes=data.batch,
        )

    def batches(self, start: int) -> Iterator[pipeline.Batch]:
        """This host's part of the training batches from step `start` on."""
        data = self.config
        return pipeline.batches(
            self.rows("train"),
            self.objective.features,
            seed=self.seed,
            batch=data.batch,
            start=start,
            local=self.layout.local_rows(data.batch),
            threads=data.threads,
            prefetch=data.prefetch,
        )

    def ordered(self, split: str, limit: int = 0, source: str = "") -> Iterator[pipeline.Batch]:
        """This host's part of one pass over a part of the data, or over what one source of a mixture has in it."""
        batch, plan = self.config.batch, self.rows(split)
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
            seed=self.seed,
            limit=limit,
        )

    @property
    def sources(self) -> tuple[str, ...]:
        """The names of a mixture's sources; one empty name where the data is one source."""
        return tuple(self.config.mixture.named()) or ("",)
