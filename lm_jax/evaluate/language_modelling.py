"""Loss, perplexity, bits per byte and accuracy of any objective on held-out text."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import jax
import numpy as np

from lm_jax.core.sums import Sums, add, means
from lm_jax.objectives.base import Objective

NATS_PER_BIT = math.log(2.0)


@dataclasses.dataclass(frozen=True)
class LanguageModelling:
    """An objective's metrics over batches that are the same at every call.

    Attributes:
      objective: what is measured.
      step: (weights of a state, batch) -> sums, jitted.
      batches: each gives one pass over this host's rows; by source where there are several, else one named "".
      put: from this host's rows to a global batch on its devices.
      byte_lengths: UTF-8 bytes of each token of the vocabulary; for bits per byte.
    """

    objective: Objective
    step: Callable[[Any, Any], Sums]
    batches: Mapping[str, Callable[[], Iterator[dict[str, np.ndarray]]]]
    put: Callable[[Mapping[str, np.ndarray]], Any]
    byte_lengths: np.ndarray

    def run(self, params: Any) -> Iterator[tuple[str, float]]:
        """`loss`, its terms, accuracies; `perplexity` and `bits_per_byte` where every token is predicted once.

        Of several sources the first are those of all rows together, and `NAME/loss` is that of one.
        """
        total: Sums = {}
        bytes_seen, losses = 0.0, {}
        for name, batches in self.batches.items():
            sums, size = self._pass(params, batches())
            # A small source may have no row to validate on.
            if sums:
                losses[name] = self._loss(sums)
            total, bytes_seen = add(total, sums), bytes_seen + size
        yield "loss", self._loss(total)
        for name, value in means(total).items():
            if name != "loss":
                yield name, value
        first = self.objective.terms[0]
        yield "perplexity", math.exp(min(means(total)[first], 700.0))
        if bytes_seen:
            yield "bits_per_byte", float(total[first].total) / NATS_PER_BIT / _over_hosts(bytes_seen)
        for name, loss in losses.items():
            if name:
                yield f"{name}/loss", loss

    def _pass(self, params: Any, batches: Iterator[dict[str, np.ndarray]]) -> tuple[Sums, float]:
        """The sums of all batches, and the bytes of text that this host's targets stand for."""
        total: Sums = {}
        bytes_seen = 0.0
        pending: Sums | None = None
        for batch in batches:
            if self.objective.text is not None:
                ids, weights = (batch[name] for name in self.objective.text)
                bytes_seen += float((self.byte_lengths[ids] * weights).sum())
            sums = self.step(params, self.put(batch))
            # One batch late, so that the host makes the next one while the device computes this one.
            total = total if pending is None else add(total, jax.device_get(pending))
            pending = sums
        return total if pending is None else add(total, jax.device_get(pending)), bytes_seen

    def _loss(self, sums: Sums) -> float:
        values = means(sums)
        return sum(values[term] for term in self.objective.terms)


def _over_hosts(value: float) -> float:
    if jax.process_count() == 1:
        return value
    from jax.experimental import multihost_utils

    return float(np.sum(multihost_utils.process_allgather(np.float32(value))))
