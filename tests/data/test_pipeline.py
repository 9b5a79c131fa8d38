import itertools

import numpy as np
import pytest

from lm_jax.core.config import InputError, from_config_dict, to_config_dict
from lm_jax.data import order, pipeline, plans, rows
from lm_jax.data.config import DataConfig
from lm_jax.data.rows import Reads, Request, RowsConfig


class Numbers:
    """Rows that hold their index and epoch."""

    def __init__(self, count):
        self.count = count

    def __len__(self):
        return self.count

    def row(self, index, epoch, rng):
        return {"number": np.int32(index), "epoch": np.int64(epoch)}

    filling = rows.permuted


def features(row, rng):
    return {**row, "noise": rng.random(3), "weights": np.ones(2, np.float32)}


def assert_equal(first, second):
    assert first.keys() == second.keys()
    for name in first:
        assert np.array_equal(first[name], second[name]), name
        assert first[name].dtype == second[name].dtype


def take(count, plan, **settings):
    return list(itertools.islice(pipeline.batches(plan, features, **settings), count))


@pytest.mark.parametrize("threads", [0, 1, 3])
def test_batch_at_equals_the_batch_of_the_stream(threads):
    stream = take(12, Numbers(37), seed=5, batch=8, threads=threads)

    for step, batch in enumerate(stream):
        assert_equal(batch, pipeline.batch_at(Numbers(37), features, step, seed=5, batch=8))


def test_a_stream_that_starts_later_continues_the_run():
    full = take(9, Numbers(20), seed=1, batch=6)

    for batch, resumed in zip(full[4:], take(5, Numbers(20), seed=1, batch=6, start=4), strict=True):
        assert_equal(batch, resumed)


@pytest.mark.parametrize("hosts", [2, 4])
def test_hosts_read_parts_of_the_same_global_batch(hosts):
    full = take(5, Numbers(13), seed=2, batch=8)
    local = np.split(np.arange(8), hosts)

    by_host = [take(5, Numbers(13), seed=2, batch=8, local=places) for places in local]

    for step, batch in enumerate(full):
        assert_equal(batch, {name: np.concatenate([part[step][name] for part in by_host]) for name in batch})


def test_every_epoch_has_every_row_once_in_another_order():
    numbers = np.concatenate([batch["number"] for batch in take(30, Numbers(50), seed=0, batch=10)])
    epochs = np.concatenate([batch["epoch"] for batch in take(30, Numbers(50), seed=0, batch=10)])

    for epoch in range(6):
        assert sorted(numbers[epochs == epoch]) == list(range(50))
    assert not np.array_equal(numbers[:50], numbers[50:100])
    assert np.array_equal(epochs, np.repeat(np.arange(6), 50))


def test_a_batch_larger_than_the_corpus_holds_several_epochs():
    batch = pipeline.batch_at(Numbers(3), features, 1, seed=0, batch=8)

    assert batch["epoch"].tolist() == [2, 3, 3, 3, 4, 4, 4, 5]
    assert sorted(batch["number"][1:4]) == [0, 1, 2]


def test_the_batch_size_does_not_change_the_order_of_rows():
    small = np.concatenate([batch["number"] for batch in take(12, Numbers(31), seed=4, batch=4)])
    large = np.concatenate([batch["number"] for batch in take(3, Numbers(31), seed=4, batch=16)])

    assert np.array_equal(small, large)


def test_noise_depends_on_seed_epoch_and_row():
    first, second = (take(2, Numbers(8), seed=seed, batch=8) for seed in (0, 1))
    by_row = [dict(zip(batch["number"].tolist(), batch["noise"][:, 0].tolist(), strict=True)) for batch in first]

    assert all(by_row[0][row] != by_row[1][row] for row in range(8))
    assert len(np.unique([batch["noise"] for batch in first + second])) == 4 * 8 * 3


def test_steps_late_in_a_long_run_are_exact():
    step = 2**40 + 1
    batch = take(1, Numbers(7), seed=0, batch=4096, start=step)[0]

    assert batch["epoch"].tolist() == [(step * 4096 + place) // 7 for place in range(4096)]
    # The batch begins inside an epoch; the first complete epoch starts at place 4.
    assert step * 4096 % 7 == 3
    assert all(sorted(batch["number"][place : place + 7]) == list(range(7)) for place in range(4, 4000, 7))


def test_an_ordered_pass_is_padded_with_rows_of_zeros():
    batches = list(pipeline.ordered(Numbers(10), features, batch=4))

    assert [batch["number"].tolist() for batch in batches] == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9, 0, 0]]
    assert batches[-1]["weights"].tolist() == [[1, 1], [1, 1], [0, 0], [0, 0]]
    assert not batches[-1]["noise"][2:].any()
    assert_equal(batches[1], list(pipeline.ordered(Numbers(10), features, batch=4, limit=2))[1])


def test_every_host_reads_the_same_number_of_batches():
    full = list(pipeline.ordered(Numbers(9), features, batch=8))

    by_host = [list(pipeline.ordered(Numbers(9), features, batch=8, local=np.arange(i, i + 4))) for i in (0, 4)]

    assert len(by_host[0]) == len(by_host[1]) == 2
    for step, batch in enumerate(full):
        assert_equal(batch, {name: np.concatenate([part[step][name] for part in by_host]) for name in batch})
    assert not by_host[1][1]["weights"].any()


def test_no_rows_give_no_ordered_batch_and_no_training():
    assert list(pipeline.ordered(Numbers(0), features, batch=4)) == []
    with pytest.raises(InputError, match="no row to train on"):
        pipeline.batches(Numbers(0), features, seed=0, batch=4)


def test_an_error_in_features_reaches_the_reader():
    def broken(row, rng):
        raise InputError("config.objective is broken")

    with pytest.raises(InputError, match="config.objective is broken"):
        next(pipeline.batches(Numbers(9), broken, seed=0, batch=4))


def test_real_rows_are_the_same_on_any_number_of_threads(golden_store):
    reads = Reads(plan="packed", length=33, overlap=1)
    plan = plans.make(Request(tokens=golden_store, config=RowsConfig(), split="train", reads=reads, validation=0.1))

    def read(threads):
        stream = pipeline.batches(plan, lambda row, rng: row, seed=0, batch=8, threads=threads)
        return [batch["tokens"] for batch in itertools.islice(stream, 100)]

    assert np.array_equal(read(1), read(4))


def test_a_batch_holds_the_keys_of_its_rows():
    batch = pipeline.batch_at(Numbers(5), features, 3, seed=2, batch=4)

    for place in range(4):
        key = order.key(2, int(batch["epoch"][place]), int(batch["number"][place]))
        assert batch[pipeline.KEYS][place].tolist() == [key >> 32, key % 2**32]
    assert batch[pipeline.KEYS].dtype == np.uint32
    last = list(pipeline.ordered(Numbers(5), features, batch=4))[-1]
    assert last[pipeline.KEYS].any(axis=1).tolist() == [True, False, False, False]
    with pytest.raises(ValueError, match="features hold 'row_keys'"):
        pipeline.batch_at(Numbers(5), lambda row, rng: {pipeline.KEYS: row["number"]}, 0, seed=0, batch=1)


def test_settings_survive_conversion_to_a_config_dict():
    config = DataConfig(path="a.txt", length=7)

    assert from_config_dict(DataConfig, to_config_dict(config)) == config
    assert config.source().path == "a.txt"
