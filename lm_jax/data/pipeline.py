"""The input pipeline: batches as a pure function of (seed, step).

The row plan decides which row of which epoch fills slot g = step x batch + place in the batch. The randomness of a row,
on the device too, is keyed by (seed, epoch, row): a batch holds the keys of its rows. There is no other state, so the
global batches do not depend on the number of hosts, threads or restarts. Grain builds them ahead of the device.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Int, UInt32

from lm_jax.core.config import InputError
from lm_jax.data import lengths, order
from lm_jax.data.lengths import Buckets
from lm_jax.data.rows import Row, Rows

Batch = dict[str, np.ndarray]
Features = Callable[[Row, np.random.Generator], Mapping[str, Any]]

# Name in a batch of the keys of random numbers on the device: uint32 [rows, 2], zeros for padding rows.
KEYS = "row_keys"

# Grain needs a length; no run takes this many steps.
_ENDLESS = 1 << 48


def batch_at(
    rows: Rows,
    features: Features,
    step: int,
    *,
    seed: int,
    batch: int,
    local: Int[np.ndarray, " local"] | None = None,
    buckets: Buckets | None = None,
) -> Batch:
    """Build the batch of one step, a function of (seed, step).

    Args:
      rows: the training rows.
      features: the objective's function from a row and a generator to arrays of fixed shape.
      step: counted from 0.
      seed: of the run.
      batch: rows of the global batch.
      local: the places of the global batch that this host reads; None: all.
      buckets: the lengths to which batches are cut; None: batches are not cut.

    Returns:
      The features of each row, stacked: [local, ...], and a random key for each row under `KEYS`.

    Example:
      >>> from lm_jax.data.rows import permuted
      >>> class Toy:
      ...     __len__, filling = lambda self: 4, permuted
      ...     row = lambda self, index, epoch, rng: {"tokens": np.full(2, index)}
      >>> batch_at(Toy(), lambda row, rng: row, step=0, seed=0, batch=4)["tokens"].tolist()
      [[1, 1], [3, 3], [2, 2], [0, 0]]
    """
    places = np.arange(batch) if local is None else np.asarray(local)
    if buckets is None:
        filled, cut = rows.filling(_slots(step, batch, places), seed), _whole
    else:
        every = rows.filling(_slots(step, batch, np.arange(batch)), seed)
        filled, cut = [every[place] for place in places.tolist()], _cutting(buckets, lengths.of_filled(every))
    keys = order.keys(*(np.array(numbers, np.uint64) for numbers in zip(*(each[1:] for each in filled), strict=True)))
    return _keyed([cut(_row(features, *each)) for each in filled], keys)


def bucket_at(rows: Rows, step: int, *, seed: int, batch: int, buckets: Buckets) -> int:
    """Return the length of the batch of one step, without building it."""
    return buckets.fitting(lengths.of_filled(rows.filling(_slots(step, batch, np.arange(batch)), seed)))


def batches(
    rows: Rows,
    features: Features,
    *,
    seed: int,
    batch: int,
    start: int = 0,
    local: Int[np.ndarray, " local"] | None = None,
    buckets: Buckets | None = None,
    threads: int = 1,
    prefetch: int = 4,
) -> Iterator[Batch]:
    """Iterate without end over the batches of steps start, start + 1, ...; see `batch_at`.

    `threads` threads build at most `prefetch` batches ahead; with 0, each batch is built when it is requested.

    Raises:
      InputError: there are no rows.
    """
    if not len(rows):
        raise InputError("there is no row to train on; check config.data.path and config.data.validation")
    import grain

    def build(step: int) -> Batch:
        return batch_at(rows, features, int(step), seed=seed, batch=batch, local=local, buckets=buckets)

    dataset = grain.MapDataset.range(start, _ENDLESS).map(build)
    return iter(dataset.to_iter_dataset(grain.ReadOptions(num_threads=threads, prefetch_buffer_size=max(1, prefetch))))


def ordered(
    rows: Rows,
    features: Features,
    *,
    batch: int,
    local: Int[np.ndarray, " local"] | None = None,
    seed: int = 0,
    limit: int = 0,
    buckets: Buckets | None = None,
) -> Iterator[Batch]:
    """Iterate once over all rows in order, as for evaluation; every pass is equal, on any number of hosts.

    Rows of zeros, in weights too, pad the last batch. The arguments are those of `batch_at`; `limit` is the maximum
    number of batches, 0: no limit.
    """
    count = -(-len(rows) // batch)
    places = np.arange(batch) if local is None else np.asarray(local)
    padding: Mapping[str, Any] | None = None
    for number in range(min(count, limit) if limit else count):
        indices = [number * batch + int(place) for place in places]
        examples = [_row(features, rows, seed, 0, index) if index < len(rows) else None for index in indices]
        if None in examples and padding is None:
            padding = {name: np.zeros_like(array) for name, array in _row(features, rows, seed, 0, 0).items()}
        keys = order.keys(np.array([seed]), np.array([0]), np.array(indices))
        keys[[row is None for row in examples]] = 0
        cut = _whole
        if buckets is not None:
            cut = _cutting(buckets, lengths.of(rows)[number * batch : (number + 1) * batch])
        yield _keyed([cut(row if row is not None else padding) for row in examples], keys)  # type: ignore[arg-type]


def _slots(step: int, batch: int, places: Int[np.ndarray, " places"]) -> Int[np.ndarray, " places"]:
    # In Python integers, which cannot overflow in a long run.
    return np.array([step * batch + place for place in places.tolist()], np.int64)


def _whole(features: Mapping[str, Any]) -> Mapping[str, Any]:
    return features


def _cutting(buckets: Buckets, lengths: Int[np.ndarray, " rows"]) -> Callable[[Mapping[str, Any]], Mapping[str, Any]]:
    """Return a function that cuts the features of a row of a batch whose rows have these lengths."""
    size = buckets.fitting(lengths)
    return lambda features: buckets.cut(features, size)


def _row(features: Features, rows: Rows, seed: int, epoch: int, index: int) -> Mapping[str, Any]:
    rng = order.generator(seed, epoch, index)
    return features(rows.row(index, epoch, rng), rng)


def _keyed(examples: Sequence[Mapping[str, Any]], keys: UInt32[np.ndarray, "rows 2"]) -> Batch:
    if KEYS in examples[0]:
        raise ValueError(f"the objective's features hold {KEYS!r}, which is the name of the rows' keys")
    return {**{name: np.stack([row[name] for row in examples]) for name in examples[0]}, KEYS: keys}
