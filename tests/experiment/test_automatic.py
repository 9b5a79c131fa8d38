"""`config.mesh=auto` on the devices of this process."""

import dataclasses
import types

import jax
import pytest

from lm_jax import experiment, flags
from lm_jax.core.chips import TPUS
from lm_jax.core.config import InputError
from lm_jax.experiment import automatic, planning
from lm_jax.parallel import mesh
from lm_jax.parallel.mesh import MeshConfig
from lm_jax.plan.costs import shard_bytes
from lm_jax.plan.estimate import splits
from lm_jax.plan.ranking import Device

AUTO = "--config.mesh=auto"


def config(recipe, *overrides):
    return experiment.parse(flags.configure(flags.load_recipe(recipe), overrides)[0])


def planned(recipe, *overrides, devices=8):
    return planning.without_text(config(recipe, *overrides), jax.devices()[:devices])


def test_the_word_opens_all_axes_and_other_arguments_fix_single_ones():
    assert config("bert:base", AUTO).mesh == MeshConfig(auto=True, data=-1, fsdp=-1, tensor=-1)
    fixed = MeshConfig(auto=True, data=-1, fsdp=-1, tensor=2)
    assert config("bert:base", AUTO, "--config.mesh.tensor=2").mesh == fixed
    assert config("bert:base", "--config.mesh.tensor=2", AUTO).mesh == fixed


def test_a_recipe_may_say_auto():
    recipe = flags.load_recipe("gpt:tiny")
    recipe.mesh = "auto"
    assert experiment.parse(experiment.complete(recipe)).mesh.auto


def test_another_word_is_refused():
    with pytest.raises(InputError, match=r"config\.mesh is a tree; .* or write --config\.mesh=auto"):
        config("gpt:tiny", "--config.mesh=fast")


def test_without_training_the_first_open_axis_gets_all_devices():
    assert mesh.sizes(MeshConfig(auto=True, data=-1, fsdp=-1, tensor=2), 8) == {"data": 4, "fsdp": 1, "tensor": 2}


def test_without_auto_nothing_changes():
    exp = planned("gpt:tiny")
    assert automatic.chosen(exp) == (exp, "")


@pytest.mark.parametrize("recipe", ["bert:tiny", "t5:tiny"])
def test_small_models_are_replicated(recipe):
    exp, why = automatic.chosen(planned(recipe, AUTO))
    assert dict(exp.layout.mesh.shape) == {"data": 8, "fsdp": 1, "tensor": 1}
    assert why.startswith("mesh       auto: data 8 x fsdp 1 x tensor 1") and "parameters 0.00" in why
    # The configuration that a run saves still says auto.
    assert exp.config.mesh.auto


def test_fixed_axes_stay():
    exp, _ = automatic.chosen(planned("gpt:tiny", AUTO, "--config.mesh.tensor=2"))
    assert exp.layout.mesh.shape["tensor"] == 2


def test_little_memory_shards_and_computes_again():
    limit = Device(limit_bytes=2 * 2**20)
    exp, why = automatic.chosen(planned("t5:tiny", AUTO), limit)
    assert exp.layout.mesh.shape["fsdp"] * exp.layout.mesh.shape["tensor"] > 1
    model = exp.config.model
    assert model.encoder.remat == model.decoder.remat != "none" and "memory" in why


def test_the_users_remat_stays():
    given = ("--config.model.stack.remat=dots", "--config.train.accumulate=2")
    exp, _ = automatic.chosen(planned("gpt:tiny", AUTO, *given), Device(limit_bytes=2**20))
    assert exp.config.model.stack.remat == "dots" and exp.config.train.accumulate == 2


def test_an_estimate_of_the_state_equals_its_shards():
    exp = planned("bert:tiny", AUTO)
    ranked = automatic.rank(exp, jax.devices(), Device(limit_bytes=2**34))
    each = next(each for each in ranked.estimates if each.split.axes == {"data": 2, "fsdp": 4, "tensor": 1})
    state = automatic.divided(exp, jax.devices(), each.split, ranked.open_stacks).state_like
    assert each.parameters_bytes == shard_bytes(state.params)
    assert each.optimizer_bytes == shard_bytes(state.opt_state)


def test_a_batch_that_no_mesh_divides_is_one_line_with_the_nearest_that_do():
    exp = planned("gpt:tiny", AUTO, "--config.data.batch=9", "--config.mesh.tensor=1")
    with pytest.raises(InputError, match=r"no mesh of 8 devices with tensor=1 .* use config\.data\.batch=8 or 16"):
        automatic.chosen(exp)


def test_what_is_known_of_a_device_is_its_memory_and_its_chip():
    fields = {"process_index": 0, "device_kind": "TPU v5 lite"}
    tpu = types.SimpleNamespace(platform="tpu", memory_stats=lambda: {"bytes_limit": 15 * 2**30}, **fields)
    assert automatic.known([tpu]) == Device(limit_bytes=15 * 2**30, chip=TPUS["v5e"])
    silent = types.SimpleNamespace(platform="tpu", memory_stats=lambda: None, **fields)
    assert automatic.known([silent]).limit_bytes == TPUS["v5e"].usable_bytes
    assert automatic.known(jax.devices()[:1]) == Device()


def test_slices_of_tpus_are_spanned_by_the_data_axis():
    exp = planned("gpt:tiny", AUTO)
    step = automatic.describe(dataclasses.replace(exp, devices=mesh.make(MeshConfig(), jax.devices()[:1])))
    found = splits(step, 8, {"data": -1, "fsdp": -1, "tensor": -1}, (None,), (1,), slices=2)
    assert {each.data for each in found} == {2, 4, 8}


def test_layers_follow_the_settings_of_a_stack():
    exp = planned("t5:tiny", devices=1)
    encoder, decoder = automatic.describe(exp).layers
    assert encoder.source == 0 and decoder.source == encoder.queries == 64 and decoder.queries < 64
    # A bias on the scores keeps self-attention from a fused kernel; rows of 64 tokens are too short for one.
    assert not (encoder.fused or decoder.fused or decoder.cross_fused)
    (layer,) = automatic.describe(planned("llama:tiny", "--config.data.length=256", devices=1)).layers
    assert layer.fused and layer.gated and layer.key <= layer.query
