"""Loss, perplexity, bits per byte and accuracy of any objective on held-out text."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterator
from typing import Any

import jax
import numpy as np

from lm_jax.core.sums import Sums, add, means
from lm_jax.objectives.base import Objective
from lm_jax.parallel.layout import Layout

NATS_PER_BIT = math.log(2.0)


@dataclasses.dataclass(frozen=True)
class LanguageModelling:
    """An objective's metrics over batches that are the same at every call.

    Attributes:
      objective: what is measured.
      step: (params, batch) -> sums, jitted.
      batches: gives one pass over this host's rows.
      layout: where batches go.
      rows: rows of a global batch.
      byte_lengths: UTF-8 bytes of each token of the vocabulary; for bits per byte.
    """

    objective: Objective
    step: Callable[[Any, Any], Sums]
    batches: Callable[[], Iterator[dict[str, np.ndarray]]]
    layout: Layout
    rows: int
    byte_lengths: np.ndarray

    def run(self, params: Any) -> Iterator[tuple[str, float]]:
        """`loss`, its terms, accuracies; `perplexity` and `bits_per_byte` where every token is predicted once."""
        total: Sums = {}
        seen_bytes = 0.0
        pending: Sums | None = None
        for batch in self.batches():
            if "targets" in batch:
                seen_bytes += float((self.byte_lengths[batch["targets"]] * batch["weights"]).sum())
            sums = self.step(params, self.layout.put(batch, self.rows))
            # One batch late, so that the host makes the next one while the device computes this one.
            total = total if pending is None else add(total, jax.device_get(pending))
            pending = sums
        total = total if pending is None else add(total, jax.device_get(pending))
        values = means(total)
        loss = sum(values[term] for term in self.objective.terms)
        yield "loss", loss
        for name, value in values.items():
            if name != "loss":
                yield name, value
        first = self.objective.terms[0]
        yield "perplexity", math.exp(min(values[first], 700.0))
        if seen_bytes and "decoder" in self.objective.kinds:
            seen_bytes = _over_hosts(seen_bytes)
            yield "bits_per_byte", float(total[first].total) / NATS_PER_BIT / seen_bytes


def _over_hosts(value: float) -> float:
    if jax.process_count() == 1:
        return value
    from jax.experimental import multihost_utils

    return float(np.sum(multihost_utils.process_allgather(np.float32(value))))
