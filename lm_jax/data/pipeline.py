"""Batches as a pure function of (seed, step).

Slot g of the run is g = step x batch + place in the batch. The row plan says which row of which epoch fills it, and
what is random about a row is keyed by (seed, epoch, row), on the device too: a batch holds the keys of its rows.
Nothing else is state: any number of hosts, threads or restarts reads the same global batches. Grain builds them ahead
of the device.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Int, UInt32

from lm_jax.core.config import InputError
from lm_jax.data import order
from lm_jax.data.rows import Row, Rows

Batch = dict[str, np.ndarray]
Features = Callable[[Row, np.random.Generator], Mapping[str, Any]]

# The entry of every batch that keys what the device draws for a row: uint32 [rows, 2], zeros in rows that only fill up.
KEYS = "row_keys"

# More steps than a run can take; Grain wants a length.
_ENDLESS = 1 << 48


def batch_at(
    rows: Rows, features: Features, step: int, *, seed: int, batch: int, local: Int[np.ndarray, " local"] | None = None
) -> Batch:
    """One batch of a run.

    Args:
      rows: the training rows.
      features: what an objective makes of a row: arrays of fixed shape.
      step: counted from 0.
      seed: of the run.
      batch: rows of the global batch.
      local: the places of the global batch that this host reads; all of them where None.

    Returns:
      The features of each row, stacked: [local, ...]; and `KEYS`.
    """
    places = np.arange(batch) if local is None else np.asarray(local)
    # From Python integers: a long run's slots are exact whatever the platform's default integer.
    slots = np.array([step * batch + int(place) for place in places], np.int64)
    filled = rows.filling(slots, seed)
    keys = order.keys(*(np.array(numbers, np.uint64) for numbers in zip(*(each[1:] for each in filled), strict=True)))
    return _keyed([_row(features, *each) for each in filled], keys)


def batches(
    rows: Rows,
    features: Features,
    *,
    seed: int,
    batch: int,
    start: int = 0,
    local: Int[np.ndarray, " local"] | None = None,
    threads: int = 1,
    prefetch: int = 4,
) -> Iterator[Batch]:
    """The batches of steps start, start + 1, ... without end; see `batch_at`.

    So many `threads` build them (0: when they are asked for), and at most `prefetch` are ready ahead.

    Raises:
      InputError: there are no rows.
    """
    if not len(rows):
        raise InputError("there is no row to train on; check config.data.path and config.data.validation")
    import grain

    def at(step: int) -> Batch:
        return batch_at(rows, features, int(step), seed=seed, batch=batch, local=local)

    dataset = grain.MapDataset.range(start, _ENDLESS).map(at)
    return iter(dataset.to_iter_dataset(grain.ReadOptions(num_threads=threads, prefetch_buffer_size=max(1, prefetch))))


def ordered(
    rows: Rows,
    features: Features,
    *,
    batch: int,
    local: Int[np.ndarray, " local"] | None = None,
    seed: int = 0,
    limit: int = 0,
) -> Iterator[Batch]:
    """Every row once, in order, as for evaluation: each time the same, whatever the hosts.

    The last batch is filled with rows that are zero in every array, weights included. The arguments are
    those of `batch_at`; `limit` is the most batches, 0 for all.
    """
    count = -(-len(rows) // batch)
    places = np.arange(batch) if local is None else np.asarray(local)
    blank: Mapping[str, Any] | None = None
    for number in range(min(count, limit) if limit else count):
        indices = [number * batch + int(place) for place in places]
        made = [_row(features, rows, seed, 0, index) if index < len(rows) else None for index in indices]
        if None in made and blank is None:
            blank = {name: np.zeros_like(array) for name, array in _row(features, rows, seed, 0, 0).items()}
        keys = order.keys(np.array([seed]), np.array([0]), np.array(indices))
        keys[[row is None for row in made]] = 0
        yield _keyed([row if row is not None else blank for row in made], keys)  # type: ignore[misc]


def _row(features: Features, rows: Rows, seed: int, epoch: int, index: int) -> Mapping[str, Any]:
    rng = order.generator(seed, epoch, index)
    return features(rows.row(index, epoch, rng), rng)


def _keyed(made: Sequence[Mapping[str, Any]], keys: UInt32[np.ndarray, "rows 2"]) -> Batch:
    if KEYS in made[0]:
        raise ValueError(f"the objective's features hold {KEYS!r}, which is the name of the rows' keys")
    return {**{name: np.stack([row[name] for row in made]) for name in made[0]}, KEYS: keys}
