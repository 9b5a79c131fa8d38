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
    """Evaluates an objective's metrics on the same batches at every call.

    Attributes:
      step: jitted function (parameters, batch) -> sums.
      batches: by source, a function that iterates once over this host's rows; a single source is named "".
      put: moves this host's rows to the devices, as a global batch.
      byte_lengths: UTF-8 bytes of each token of the vocabulary, for bits per byte.
    """

    objective: Objective
    step: Callable[[Any, Any], Sums]
    batches: Mapping[str, Callable[[], Iterator[dict[str, np.ndarray]]]]
    put: Callable[[Mapping[str, np.ndarray]], Any]
    byte_lengths: np.ndarray

    def run(self, params: Any) -> Iterator[tuple[str, float]]:
        """Yields `loss`, its terms, accuracies and `perplexity` over all sources together.

        Then yields `bits_per_byte` if every token is predicted once, and `NAME/loss` of each of several sources.
        """
        total: Sums = {}
        text_bytes, losses = 0.0, {}
        for name, batches in self.batches.items():
            sums, target_bytes = self._pass(params, batches())
            # A small source may have no validation rows.
            if sums:
                losses[name] = self._loss(sums)
            total, text_bytes = add(total, sums), text_bytes + target_bytes
        yield "loss", self._loss(total)
        for name, value in means(total).items():
            if name != "loss":
                yield name, value
        first = self.objective.terms[0]
        yield "perplexity", math.exp(min(means(total)[first], 700.0))
        if text_bytes:
            yield "bits_per_byte", float(total[first].total) / NATS_PER_BIT / _sum_over_hosts(text_bytes)
        for name, loss in losses.items():
            if name:
                yield f"{name}/loss", loss

    def values(self, params: Any, batch: Any) -> tuple[str, ...]:
        """The names of what `run` yields, from the shapes of the parameters and of a batch."""
        metrics = [name for name in jax.eval_shape(self.step, params, batch) if name != "loss"]
        losses = [f"{name}/loss" for name in self.batches if name]
        return ("loss", *metrics, "perplexity", *(["bits_per_byte"] if self.objective.text else []), *losses)

    def _pass(self, params: Any, batches: Iterator[dict[str, np.ndarray]]) -> tuple[Sums, float]:
        """The sums of all batches, and the UTF-8 bytes of this host's targets."""
        total: Sums = {}
        pending: Sums = {}
        text_bytes = 0.0
        for batch in batches:
            if self.objective.text is not None:
                ids, weights = (batch[name] for name in self.objective.text)
                text_bytes += float((self.byte_lengths[ids] * weights).sum())
            sums = self.step(params, self.put(batch))
            # Fetched one batch late, so that the host prepares a batch while the device computes.
            total, pending = add(total, jax.device_get(pending)), sums
        return add(total, jax.device_get(pending)), text_bytes

    def _loss(self, sums: Sums) -> float:
        values = means(sums)
        return sum(values[term] for term in self.objective.terms)


def _sum_over_hosts(value: float) -> float:
    if jax.process_count() == 1:
        return value
    from jax.experimental import multihost_utils

    return float(np.sum(multihost_utils.process_allgather(np.float32(value))))
