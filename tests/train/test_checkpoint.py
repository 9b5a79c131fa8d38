"""Checkpoints are restored bit for bit or not at all."""

import json
import logging
import os
import random
import signal
import subprocess
import sys
import textwrap
import time

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from lm_jax.core.config import InputError
from lm_jax.train import manifest
from lm_jax.train.checkpoint import Checkpointer, NoIntactCheckpoint


def sharded(devices=8, seed=0):
    """A sharded state with several dtypes and shapes, determined by the seed."""
    mesh = jax.make_mesh((devices,), ("data",), devices=jax.devices()[:devices], axis_types=(AxisType.Auto,))
    rows, replicated = (NamedSharding(mesh, PartitionSpec(*spec)) for spec in [("data",), ()])
    rng = np.random.default_rng(seed)
    kernel = rng.standard_normal((16, 24), np.float32)
    return {
        "step": jax.device_put(jnp.int32(seed), replicated),
        "params": {
            "embed": {"table": jax.device_put(kernel, rows)},
            "head": {"kernel": jax.device_put(kernel.T.astype(jnp.bfloat16), rows)},
        },
        "opt_state": (
            jax.device_put(kernel**2, replicated),
            [jax.device_put(np.full((8,), seed % 7, np.uint32), rows)],
        ),
    }


def like(state):
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), state)


def assert_same_bits(left, right):
    assert jax.tree.structure(left) == jax.tree.structure(right)
    for a, b in zip(jax.tree.leaves(left), jax.tree.leaves(right), strict=True):
        assert (a.dtype, a.shape) == (b.dtype, b.shape)
        assert np.asarray(a).tobytes() == np.asarray(b).tobytes()


def save_steps(directory, *steps, **kwargs):
    checkpointer = Checkpointer(directory, **{"keep": 9, "asynchronous": False, **kwargs})
    for step in steps:
        checkpointer.save(step, sharded(seed=step), {"seed": step})
    return Checkpointer(directory)


def largest_file(step_directory):
    """The largest file with array data."""
    return max((path for path in step_directory.rglob("d/*") if path.is_file()), key=lambda path: path.stat().st_size)


@pytest.mark.parametrize(("before", "after"), [(8, 8), (8, 1), (1, 8)])
def test_a_state_is_restored_bit_for_bit_on_another_mesh(tmp_path, before, after):
    state = sharded(before, seed=3)
    with Checkpointer(tmp_path) as checkpointer:
        checkpointer.save(3, state, {"config": {"depth": 2}})
    restored, extra = Checkpointer(tmp_path).restore(like(sharded(after)))
    assert_same_bits(restored, state)
    assert extra == {"config": {"depth": 2}}
    assert restored["params"]["embed"]["table"].sharding.device_set == set(jax.devices()[:after])


def test_arrays_may_be_donated_as_soon_as_save_returns(tmp_path):
    state = {"weight": jnp.zeros((1 << 22,)) + jnp.arange(4.0).repeat(1 << 20)}
    expected = {"weight": jnp.array(state["weight"], copy=True)}
    overwrite = jax.jit(lambda tree: jax.tree.map(lambda x: x * 0 - 1, tree), donate_argnums=0)
    with Checkpointer(tmp_path) as checkpointer:
        checkpointer.save(1, state, {})
        for _ in range(5):
            state = overwrite(state)
    assert_same_bits(Checkpointer(tmp_path).restore(expected)[0], expected)


def test_leaves_of_size_zero_are_restored(tmp_path):
    state = {"memory": jnp.zeros((0, 4)), "weight": jnp.ones(3)}
    with Checkpointer(tmp_path) as checkpointer:
        checkpointer.save(1, state, {})
    assert_same_bits(Checkpointer(tmp_path).restore(state)[0], state)


def test_a_flipped_bit_is_reported_and_the_previous_step_is_used(tmp_path, caplog):
    checkpointer = save_steps(tmp_path, 1, 2)
    assert checkpointer.latest() == 2
    file = largest_file(tmp_path / "2")
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 16
    file.write_bytes(content)

    checkpointer = Checkpointer(tmp_path)
    problems = checkpointer.verify(2)
    assert len(problems) == 1 and file.name in problems[0] and "changed" in problems[0]
    with caplog.at_level(logging.WARNING):
        restored, extra = checkpointer.restore(like(sharded()))
    assert extra == {"seed": 1}
    assert_same_bits(restored, sharded(seed=1))
    assert file.name in caplog.text and str(tmp_path / "2") in caplog.text
    with pytest.raises(NoIntactCheckpoint, match=file.name):
        checkpointer.restore(like(sharded()), step=2)


@pytest.mark.parametrize("damage", ["truncated", "missing file", "missing manifest", "changed manifest"])
def test_every_kind_of_damage_is_reported(tmp_path, damage):
    checkpointer = save_steps(tmp_path, 1, 2)
    data, hashes = largest_file(tmp_path / "2"), tmp_path / "2" / manifest.NAME
    if damage == "truncated":
        data.write_bytes(data.read_bytes()[:-1])
    elif damage == "missing file":
        data.unlink()
    elif damage == "missing manifest":
        hashes.unlink()
    else:
        hashes.write_text(hashes.read_text().replace('"step": 2', '"step": 3'))
    checkpointer = Checkpointer(tmp_path)
    (problem,) = checkpointer.verify(2)
    assert (data if damage in ("truncated", "missing file") else hashes).name in problem
    assert checkpointer.latest() == 1


def test_a_directory_whose_steps_are_all_damaged_is_refused(tmp_path):
    save_steps(tmp_path, 1, 2)
    for step in ("1", "2"):
        largest_file(tmp_path / step).unlink()
    with pytest.raises(NoIntactCheckpoint) as error:
        Checkpointer(tmp_path).latest()
    assert "1, 2" in str(error.value) and "\n" not in str(error.value)


def test_an_empty_directory_has_no_steps(tmp_path):
    checkpointer = Checkpointer(tmp_path / "new")
    assert checkpointer.latest() is None and checkpointer.steps() == [] and checkpointer.best() is None
    with pytest.raises(InputError, match="no checkpoint in"):
        checkpointer.restore(like(sharded()))
    assert not (tmp_path / "new").exists()


def test_the_newest_steps_and_the_best_are_kept(tmp_path):
    with Checkpointer(tmp_path, keep=2) as checkpointer:
        for step in range(1, 7):
            checkpointer.save(step, sharded(seed=step), {})
            if step == 2:
                checkpointer.mark_best(2, 0.25, "accuracy")
    assert checkpointer.steps() == [2, 5, 6]
    assert (checkpointer.best(), checkpointer.best_mark()) == (2, {"step": 2, "value": 0.25, "metric": "accuracy"})
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["2", "5", "6", "best.json"]


def test_older_steps_stay_until_the_new_one_is_complete(tmp_path, monkeypatch):
    checkpointer = save_steps(tmp_path, 1)
    checkpointer.keep = 1
    monkeypatch.setattr(manifest, "write", lambda *_: (_ for _ in ()).throw(OSError("disk full")))
    checkpointer.save(2, sharded(seed=2), {})
    with pytest.raises(OSError, match="disk full"):
        checkpointer.wait()
    assert Checkpointer(tmp_path).latest() == 1


def test_going_back_deletes_later_steps(tmp_path):
    checkpointer = save_steps(tmp_path, 10, 20, 30)
    checkpointer.restore(like(sharded()), step=10)
    checkpointer.save(15, sharded(seed=15), {})
    checkpointer.wait()
    assert Checkpointer(tmp_path).steps() == [10, 15]


def test_a_damaged_step_can_be_saved_again(tmp_path):
    save_steps(tmp_path, 1, 2)
    largest_file(tmp_path / "2").unlink()
    checkpointer = Checkpointer(tmp_path)
    assert checkpointer.latest() == 1
    assert checkpointer.save(2, sharded(seed=5), {})
    assert_same_bits(checkpointer.restore(like(sharded()))[0], sharded(seed=5))


def test_the_step_last_saved_or_restored_is_not_saved_again(tmp_path):
    checkpointer = save_steps(tmp_path, 1)
    checkpointer.restore(like(sharded()))
    assert not checkpointer.save(1, sharded(seed=1), {})
    assert checkpointer.save(2, sharded(seed=2), {})
    assert not checkpointer.save(2, sharded(seed=2), {})


def test_leaves_that_do_not_match_are_refused_in_one_line(tmp_path):
    checkpointer = save_steps(tmp_path, 1)
    matching = like(sharded())
    table = matching["params"]["embed"]["table"]

    def refused(**params):
        with pytest.raises(InputError) as error:
            checkpointer.restore({**matching, "params": {**matching["params"], **params}})
        assert "\n" not in str(error.value)
        return str(error.value)

    embed = lambda *shape, dtype: {"table": jax.ShapeDtypeStruct(shape, dtype, sharding=table.sharding)}
    message = refused(embed=embed(16, 24, dtype=jnp.bfloat16))
    assert "params/embed/table as float32[16, 24], expected bfloat16[16, 24]" in message
    assert "expected float32[32, 24]" in refused(embed=embed(32, 24, dtype=jnp.float32))
    assert "has no params/adapter/kernel" in refused(adapter={"kernel": table})
    assert "has params/embed/table, which the state lacks" in refused(embed={})


def test_a_part_of_the_state_can_be_read_alone(tmp_path):
    checkpointer = save_steps(tmp_path, 4)
    state = sharded(seed=4)
    part, _ = checkpointer.restore({"params": like(state)["params"]}, where="params/.*")
    assert_same_bits(part, {"params": state["params"]})
    rest, _ = checkpointer.restore(like(state), where="params/embed/.*")
    assert rest["step"] is None and rest["params"]["head"] == {"kernel": None}
    assert_same_bits(rest["params"]["embed"], state["params"]["embed"])
    assert checkpointer.describe(4)["params/head/kernel"].dtype == jnp.bfloat16


def test_only_arrays_are_saved(tmp_path):
    with pytest.raises(TypeError, match="opt_state/rate is float"):
        Checkpointer(tmp_path).save(1, {"opt_state": {"rate": 0.1}}, {})
    with pytest.raises(TypeError, match="key is a random key"):
        Checkpointer(tmp_path).save(1, {"key": jax.random.key(0)}, {})


SAVER = """
    import sys
    import jax.numpy as jnp
    from lm_jax.train.checkpoint import Checkpointer
    checkpointer = Checkpointer(sys.argv[1], keep=2)
    start = checkpointer.latest() or 0
    print("from", start, flush=True)
    for step in range(start + 1, start + 400):
        checkpointer.save(step, {"x": jnp.full((1000, 50), step), "y": jnp.arange(64) + step}, {"step": step})
        print("saving", step, flush=True)
        if step > start + 1:
            print("safe", step - 1, flush=True)
"""


def kill_while_saving(directory, rng):
    """Kills a process at a random moment while it saves; returns the last step that it reported as saved."""
    process = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(SAVER), str(directory)], stdout=subprocess.PIPE, text=True
    )
    lines = [process.stdout.readline()]  # "from N", after the imports
    for _ in range(rng.randrange(1, 12)):
        lines.append(process.stdout.readline())
    time.sleep(rng.uniform(0, 0.06))
    os.kill(process.pid, signal.SIGKILL)
    lines += process.communicate()[0].splitlines()
    words = [line.split() for line in lines]
    return max([int(word[1]) for word in words if len(word) == 2 and word[0] in ("safe", "from")], default=0)


def check_kills(directory, kills):
    rng = random.Random(7)
    for _ in range(kills):
        safe = kill_while_saving(directory, rng)
        checkpointer = Checkpointer(directory)
        steps = checkpointer.steps()
        assert all(checkpointer.verify(step) == [] for step in steps), "a kill must leave no damaged step"
        latest = checkpointer.latest() or 0
        assert latest >= safe, "a safe step must never be lost"
        if latest:
            target = {"x": jnp.zeros((1000, 50), int), "y": jnp.zeros((64,), int)}
            restored, extra = checkpointer.restore(target)
            assert extra == {"step": latest} and int(restored["x"][3, 3]) == latest == int(restored["y"][0])
    with Checkpointer(directory) as checkpointer:
        checkpointer.save(latest + 1, {"x": jnp.zeros(3)}, {})
    names = {entry.name for entry in directory.iterdir()}
    assert names <= {str(step) for step in checkpointer.steps()}, "the next save must delete leftovers"


def test_kills_never_lose_an_intact_step(tmp_path):
    check_kills(tmp_path, 5)


@pytest.mark.slow
def test_many_kills_never_lose_an_intact_step(tmp_path):
    check_kills(tmp_path, 60)


WORKER = """
    import sys
    import jax, jax.numpy as jnp, numpy as np
    rank, port, directory = int(sys.argv[1]), sys.argv[2], sys.argv[3]
    jax.distributed.initialize(f"localhost:{port}", 2, rank)
    from jax.sharding import AxisType, NamedSharding, PartitionSpec
    from lm_jax.train.checkpoint import Checkpointer, NoIntactCheckpoint
    mesh = jax.make_mesh((8,), ("data",), axis_types=(AxisType.Auto,))
    rows = NamedSharding(mesh, PartitionSpec("data"))
    make = jax.jit(lambda n: jnp.arange(64.0).reshape(8, 8) + n, out_shardings=rows)
    with Checkpointer(directory, keep=2) as checkpointer:
        for step in (1, 2, 3):
            checkpointer.save(step, {"x": make(float(step))}, {"step": step})
    like = {"x": jax.ShapeDtypeStruct((8, 8), jnp.float32, sharding=rows)}
    restored, extra = Checkpointer(directory).restore(like)
    assert extra == {"step": 3}, extra
    for shard in restored["x"].addressable_shards:
        np.testing.assert_array_equal(shard.data, (np.arange(64.0).reshape(8, 8) + 3)[shard.index])
    print("agreed on", Checkpointer(directory).latest(), flush=True)
"""


def test_two_processes_save_and_agree(tmp_path, free_port):
    environment = {**os.environ, "XLA_FLAGS": "--xla_force_host_platform_device_count=4"}
    workers = [
        subprocess.Popen(
            [sys.executable, "-c", textwrap.dedent(WORKER), str(rank), str(free_port), str(tmp_path)],
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(2)
    ]
    outputs = [worker.communicate(timeout=120) for worker in workers]
    assert [worker.returncode for worker in workers] == [0, 0], outputs[0][1][-2000:] + outputs[1][1][-2000:]
    assert all("agreed on 3" in out for out, _ in outputs)
    entries = json.loads((tmp_path / "3" / manifest.NAME).read_text())["content"]["files"]
    assert {path.split("/")[1] for path in entries if "ocdbt." in path} >= {"ocdbt.process_0", "ocdbt.process_1"}
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["2", "3"]
    checkpointer = Checkpointer(tmp_path)  # One process reads what two have written.
    assert checkpointer.verify(3) == []
    restored, _ = checkpointer.restore({"x": jax.ShapeDtypeStruct((8, 8), jnp.float32)})
    np.testing.assert_array_equal(restored["x"], np.arange(64.0).reshape(8, 8) + 3)
