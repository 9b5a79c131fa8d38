"""A run that leaves its frozen parameters to its base is restored bit for bit, or told what is wrong with the base."""

import json
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from lm_jax.core.config import InputError
from lm_jax.core.trees import named_leaves
from lm_jax.train import manifest
from lm_jax.train.checkpoint import Checkpointer
from lm_jax.train.linking import link
from lm_jax.train.state import TrainState

ROWS, WIDTH = 6, 256


def sharding(devices=8):
    mesh = jax.make_mesh((devices,), ("data",), devices=jax.devices()[:devices], axis_types=(AxisType.Auto,))
    return NamedSharding(mesh, PartitionSpec(None, "data"))


def put(array, devices=8):
    return jax.device_put(array, sharding(devices))


@pytest.fixture
def base(tmp_path):
    """A run with parameters of several dtypes."""
    rng = np.random.default_rng(0)
    kernel = rng.standard_normal((ROWS, WIDTH), np.float32)
    model = {"kernel": put(kernel), "table": put(kernel.astype(jnp.bfloat16)), "codes": put(kernel.astype(np.int8))}
    with Checkpointer(tmp_path / "base" / "checkpoints") as checkpointer:
        checkpointer.save(3, {"params": {"model": {**model, "layers": put(kernel * 2), "other": put(kernel)}}}, {})
    return model | {"layers": put(kernel * 2)[: ROWS - 2]}


def frozen_of(base):
    """Frozen parameters: those of the base, the first of its layers, one that has changed and one that it lacks."""
    return {"model": {**base, "other": base["kernel"] + 1, "scale": put(np.ones((1, WIDTH), np.float32))}}


def tuned(tmp_path, base, devices=8, store="trained", name="tuned", of="base", frozen=None):
    """Saves a run that begins from `base`, and returns its state."""
    frozen = frozen or frozen_of(base)
    trained = {"model": {"down": put(np.full((2, WIDTH), 0.5, np.float32))}}
    state = TrainState(step=jnp.int32(7), updates=jnp.int32(7), params=trained, opt_state=(), frozen=frozen)
    leaves = {path: leaf for path, leaf in named_leaves(state) if path.startswith("frozen/")}
    saved = Checkpointer(tmp_path / of / "checkpoints").describe(3 if of == "base" else 7)
    names = {path: path.replace("frozen", "params") for path in leaves}
    names = {path: name if name in saved else path for path, name in names.items()}
    with Checkpointer(tmp_path / name / "checkpoints", store=store) as checkpointer:
        checkpointer.rest_on(link(checkpointer, tmp_path / of, names, leaves))
        checkpointer.save(7, state, {"note": 1})
    return state


def restored(tmp_path, state, devices=8, name="tuned"):
    like = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype), state)
    place = lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding(devices))
    like = like.replace(frozen=jax.tree.map(place, like.frozen))
    return Checkpointer(tmp_path / name / "checkpoints").restore(like)[0]


def assert_same_bits(left, right):
    for (path, a), (_, b) in zip(named_leaves(left), named_leaves(right), strict=True):
        assert (a.dtype, a.shape, np.asarray(a).tobytes()) == (b.dtype, b.shape, np.asarray(b).tobytes()), path


def omitted(tmp_path, name="tuned"):
    leaves = manifest.read(tmp_path / name / "checkpoints" / "7")["about"]["leaves"]
    return {path.rpartition("/")[2] for path, leaf in leaves.items() if leaf.get("omitted")}


@pytest.mark.parametrize("devices", [1, 8])
def test_only_what_the_base_lacks_is_stored_and_all_of_it_is_restored(tmp_path, base, devices):
    state = tuned(tmp_path, base)
    assert omitted(tmp_path) == {"kernel", "table", "codes", "layers"}
    assert_same_bits(restored(tmp_path, state, devices), state)
    # A branch is read without the others.
    checkpointer = Checkpointer(tmp_path / "tuned" / "checkpoints")
    assert checkpointer.restore({"step": state.step}, where="step")[0]["step"] == 7
    assert {*checkpointer.describe(7)} == {path for path, _ in named_leaves(state)}


def test_everything_is_stored_on_request(tmp_path, base):
    state = tuned(tmp_path, base, store="all")
    assert omitted(tmp_path) == set()
    shutil.rmtree(tmp_path / "base")
    assert_same_bits(restored(tmp_path, state), state)


@pytest.mark.slow
def test_a_base_may_have_a_base(tmp_path, base):
    first = tuned(tmp_path, base)
    second = tuned(tmp_path, base, name="second", of="tuned")
    assert omitted(tmp_path, "second") == {"kernel", "table", "codes", "layers", "other", "scale"}
    assert_same_bits(restored(tmp_path, second, name="second"), first)
    shutil.rmtree(tmp_path / "base")
    with pytest.raises(InputError, match=f"the base of {tmp_path / 'tuned'} is missing"):
        restored(tmp_path, second, name="second")


@pytest.mark.slow
def test_a_run_moves_with_its_base_or_alone(tmp_path, base):
    state = tuned(tmp_path, base)
    shutil.move(tmp_path / "tuned", tmp_path / "elsewhere" / "tuned")
    assert_same_bits(restored(tmp_path / "elsewhere", state), state)
    shutil.move(tmp_path / "base", tmp_path / "elsewhere" / "base")
    assert_same_bits(restored(tmp_path / "elsewhere", state), state)


def test_a_missing_base_is_one_line_and_its_new_place_can_be_written(tmp_path, base):
    state, record = tuned(tmp_path, base), tmp_path / "tuned" / "checkpoints" / "base.json"
    shutil.move(tmp_path / "base", tmp_path / "moved")
    with pytest.raises(InputError) as error:
        restored(tmp_path, state)
    assert str(error.value) == (
        f"the base of {tmp_path / 'tuned'} is missing: there is no run in {tmp_path / 'base'}; expected the 4 frozen "
        f'parameters of its step 3: put it back, or write its directory into "directories" of {record}'
    )
    record.write_text(json.dumps(json.loads(record.read_text()) | {"directories": "../moved"}))
    assert_same_bits(restored(tmp_path, state), state)
    shutil.rmtree(tmp_path / "moved" / "checkpoints" / "3")
    with pytest.raises(InputError, match=f"is missing: {tmp_path / 'moved'}/checkpoints has no checkpoint; expected"):
        restored(tmp_path, state)
    record.write_text("{")
    with pytest.raises(InputError, match=r"base.json is damaged \(.*\); restore it"):
        restored(tmp_path, state)
    record.unlink()
    with pytest.raises(InputError, match=r"7 omits frozen/model/codes, and .*base.json does not say where it is"):
        restored(tmp_path, state)


def trained_further(tmp_path, base, change):
    """Saves a later step of the base, and deletes the one that the run started from."""
    values = {**base, "layers": put(np.asarray(base["kernel"]) * 2), **change}
    with Checkpointer(tmp_path / "base" / "checkpoints", keep=1) as checkpointer:
        checkpointer.save(5, {"params": {"model": values}}, {})


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        (lambda base: {"kernel": base["kernel"] + 1}, "params/model/kernel has another value"),
        (
            lambda base: {"table": base["table"][:3]},
            r"params/model/table is bfloat16\[3, 256\], not bfloat16\[6, 256\]",
        ),
    ],
)
def test_a_base_that_has_changed_is_one_line(tmp_path, base, change, problem):
    state = tuned(tmp_path, base)
    trained_further(tmp_path, base, change(base))
    message = (
        f"^the base of {tmp_path / 'tuned'} has changed: in .*/base/checkpoints/5, {problem}; expected the 4 frozen"
    )
    with pytest.raises(InputError, match=message):
        restored(tmp_path, state)


@pytest.mark.slow
def test_a_base_that_was_trained_further_is_read_if_its_frozen_values_are_the_same(tmp_path, base):
    state = tuned(tmp_path, base)
    trained_further(tmp_path, base, {"added": base["kernel"] + 1})
    assert_same_bits(restored(tmp_path, state), state)


def test_a_damaged_base_is_one_line(tmp_path, base):
    state = tuned(tmp_path, base)
    for file in (tmp_path / "base" / "checkpoints" / "3" / "state").rglob("d/*"):
        file.write_bytes(b"\0" + file.read_bytes()[1:])
    with pytest.raises(InputError, match="the base of .* has changed: checkpoint .* is damaged: .*; expected the 4"):
        restored(tmp_path, state)


def test_a_run_without_anything_of_its_base_has_none(tmp_path, base):
    tuned(tmp_path, base, frozen={"model": {"kernel": base["kernel"] + 1}})
    assert omitted(tmp_path) == set() and not (tmp_path / "tuned" / "checkpoints" / "base.json").exists()
