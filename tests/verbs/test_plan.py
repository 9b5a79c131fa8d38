"""`lm-jax plan`: on fake devices of a CPU, and with the marker tpu_aot for real topologies of TPUs."""

import importlib.util
import json
import types

import jax
import pytest

from lm_jax import experiment, flags
from lm_jax.core.config import InputError
from lm_jax.data import tokenizers
from lm_jax.experiment import planning
from lm_jax.plan import compiling, topology
from lm_jax.plan.compiling import Compiled
from tests.commands import lm_jax

FLAGS = ("--topology=v5e:2x4", "--config.mesh.data=1", "--config.mesh.fsdp=-1")


def config(recipe, *overrides):
    return experiment.parse(flags.configure(flags.load_recipe(recipe), overrides)[0])


@pytest.fixture
def fake(monkeypatch, repository):
    """Topologies have the devices of this process, and every step compiles to the program with the returned fields."""
    names = ("argument", "output", "alias", "temp", "generated_code")
    sizes = {f"{place}{name}_size_in_bytes": 0 if place else 1000 for place in ("", "host_") for name in names}
    text = (repository / "tests" / "plan" / "scan_v5e_16x16.hlo").read_text()
    fields = {"text": text, "memory": types.SimpleNamespace(**sizes), "needed_bytes": 3000, "limit_bytes": None}
    monkeypatch.setattr(topology, "devices", lambda name, slices=1: jax.devices())
    monkeypatch.setattr(
        compiling, "compile_step", lambda *arguments, options: Compiled(**fields, tracing_s=1.0, compiling_s=2.0)
    )
    return fields


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--config=gpt:tiny"], "plan needs --topology=NAME"),
        (["--topology=v5e:4x4"], "plan needs --config=RECIPE"),
        (["--config=gpt:tiny", "--topology=v5e:4x4x4"], "expected v5e:AxB"),
        (["--config=gpt:tiny", "--topology=v5e:4x4", "--against=setup.cfg"], "is no plan"),
        (["--config=gpt:tiny", "--topology=v5e:4x4", "--slices=x"], "slices"),
        (["--config=classify:tiny", "--topology=v5e:4x4"], "names=good,bad"),
        (["--config=gpt:tiny", "--topology=v5e:4x4", "--config.data.batch=12"], "use 8 or 16"),
    ],
)
def test_bad_input_is_one_line_and_exit_code_2(words, message, fake, capsys):
    assert lm_jax("plan", *words) == 2
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1


def test_a_plan_prints_a_table_and_writes_its_files(fake, tmp_path, capsys):
    out = tmp_path / "out"
    assert lm_jax("plan", "--config=gpt:tiny", *FLAGS, f"--output={out}") == 0
    table = capsys.readouterr().out
    assert "fits: needs" in table and "ratio" in table and "all-gather" in table
    assert {path.name for path in out.iterdir()} == {"plan.json", "plan.txt", "memory.png"}
    assert (out / "plan.txt").read_text() in table

    assert lm_jax("plan", "--config=gpt:tiny", *FLAGS, "--config.data.batch=32", f"--against={out}") == 0
    table = capsys.readouterr().out
    assert "rows                              16 -> 32  (2.000 times)" in table


def test_json_is_one_flat_document_with_documented_keys(fake, repository, capsys):
    assert lm_jax("plan", "--config=bert:tiny", *FLAGS, "--json") == 0
    plan = json.loads(capsys.readouterr().out)
    assert not [key for key, value in plan.items() if isinstance(value, (dict, list))]
    page = (repository / "docs" / "plans.md").read_text()
    assert not [key for key in plan if f"`{key}`" not in page]
    assert plan["fits"] and plan["dot_flops"] == 8 * 8 * 128 * 8192**2
    assert plan["parameters_bytes"] < plan["optimizer_bytes"] < 2.1 * plan["parameters_bytes"]


def test_a_step_that_does_not_fit_has_estimates_of_changes(fake, capsys, tmp_path):
    fake |= {"text": "", "memory": None, "needed_bytes": 20 * 2**30, "limit_bytes": 16 * 2**30}
    words = ("--config=t5:tiny", *FLAGS, f"--output={tmp_path}", f"--dump={tmp_path}")
    assert lm_jax("plan", *words) == 0
    table = capsys.readouterr().out
    assert "does not fit: needs 20.00 GiB of 16.00 GiB" in table and table.count("less (") == 3
    assert not (tmp_path / "step.hlo").exists() and json.loads((tmp_path / "plan.json").read_text())["change_3"]


@pytest.mark.parametrize("recipe", ["gpt:tiny", "bert:tiny", "t5:tiny"])
def test_tracing_a_step_does_not_ask_jax_for_devices(recipe, monkeypatch):
    exp = planning.without_text(config(recipe), jax.devices()[:2])
    step, arguments = exp.train_step(), (exp.state_like, exp.batch_like)

    def refuse(*arguments, **options):
        raise AssertionError("the layout has the devices")

    for name in ("devices", "local_devices", "device_count", "local_device_count", "default_backend"):
        monkeypatch.setattr(jax, name, refuse)
    assert "num_partitions = 2" in step.lower(*arguments).as_text()


@pytest.mark.parametrize("kind", ["unigram", "bytes", "byte_bpe"])
def test_the_placeholder_of_a_tokenizer_has_its_size_and_special_ids(kind):
    settings = tokenizers.TokenizerConfig(kind=kind, vocab=300, sentinels=10)
    placeholder = tokenizers.placeholder(settings)
    assert placeholder.vocab_size == (273 if kind == "bytes" else 300) and len(placeholder.sentinels) == 10
    assert None not in (placeholder.mask, placeholder.cls, placeholder.sep, placeholder.bos, placeholder.unk)


def test_labels_come_from_the_configuration():
    names = "--config.data.columns.label.names=good,bad"
    exp = planning.without_text(config("classify:tiny", names), jax.devices()[:1])
    assert exp.labels["label"] == ("good", "bad")
    with pytest.raises(InputError, match="names is empty"):
        planning.without_text(config("classify:tiny"), jax.devices()[:1])


def test_auto_chooses_a_mesh_and_says_why(fake, capsys):
    assert lm_jax("plan", "--config=bert:tiny", "--topology=v5e:2x4", "--config.mesh=auto") == 0
    table = capsys.readouterr().out
    assert "mesh       auto: data 8 x fsdp 1 x tensor 1, remat none; 2 rows on a device" in table
    assert "8 devices, data 8 x fsdp 1 x tensor 1" in table and "  why      " in table


def test_a_search_compares_three_meshes_and_names_the_flags_of_the_winner(fake, capsys, tmp_path):
    words = ("--config=gpt:tiny", "--topology=v5e:2x4", "--search")
    assert lm_jax("plan", *words, f"--output={tmp_path}") == 0
    table = capsys.readouterr().out
    assert table.count(" yes ") == 3 and table.count("\n* ") == 1
    assert "winner     data 8 x fsdp 1 x tensor 1, remat none: add --config.mesh.data=8 --config.mesh.fsdp=1" in table
    assert json.loads((tmp_path / "plan.json").read_text())["mesh_data"] == 8

    assert lm_jax("plan", *words, "--config.mesh.tensor=2", "--config.model.stack.remat=full", "--json") == 0
    document = json.loads(capsys.readouterr().out)
    assert {plan["mesh_tensor"] for plan in document["plans"]} == {2} and "remat" not in document["flags"]
    assert document["plans"][document["winner"]]["estimated_bytes"] > 0


def planned(capfd, *words):
    """The plan of a command that succeeds without a word on the error stream."""
    assert lm_jax("plan", *words, "--json") == 0
    captured = capfd.readouterr()
    assert captured.err == ""
    return json.loads(captured.out)


compiler = pytest.mark.skipif(importlib.util.find_spec("libtpu") is None, reason="libtpu is not installed")


@compiler
@pytest.mark.tpu_aot
@pytest.mark.parametrize("recipe", ["gpt:tiny", "bert:tiny", "t5:tiny"])
def test_a_tiny_recipe_is_planned_for_16_chips(recipe, tmp_path, capfd):
    words = ("--topology=v5e:4x4", "--config.mesh.data=1", "--config.mesh.fsdp=-1", f"--dump={tmp_path}")
    plan = planned(capfd, f"--config={recipe}", *words)
    assert plan["fits"] and plan["devices"] == 16 and plan["device_kind"] == "TPU v5 lite"
    assert plan["unknown_loops"] == 0 and plan["kernels"] == 0
    # Each of 16 devices has one row; the model's own operations are all products of its matrices, counted exactly.
    assert plan["flops_ratio"] == pytest.approx(1, abs=0.1)
    assert plan["all_gather_count"] and plan["wire_bytes"] > 2 * 4 * 15 / 16 * plan["parameters_bytes"]
    # Two layers are a loop, as on every platform but a CPU.
    assert " while(" in (tmp_path / "step.hlo").read_text()
    coordinates = json.loads((tmp_path / "devices.json").read_text())
    assert coordinates[-1] == {"id": 15, "coordinates": [3, 3, 0], "core": 0, "slice": 0}


@compiler
@pytest.mark.tpu_aot
@pytest.mark.parametrize("axes", [(8, 1, 1), (4, 2, 1), (1, 1, 8), (1, 4, 2)])
def test_any_mesh_of_a_slice_is_planned(axes, capfd):
    mesh = [f"--config.mesh.{name}={size}" for name, size in zip(("data", "fsdp", "tensor"), axes, strict=True)]
    plan = planned(
        capfd, "--config=gpt:tiny", "--topology=v5e:2x4", *mesh, "--config.model.stack.block.attention.heads=8"
    )
    assert plan["fits"] and plan["wire_bytes"]


EXPERTS = ("--config.model.stack.block.feedforward.experts.count=4",)


@compiler
@pytest.mark.tpu_aot
@pytest.mark.parametrize("name", ["v4:2x2x1", "v5e:2x2", "v5p:2x2x1", "v6e:2x2", "tpu7x:2x2x1"])
def test_a_model_with_experts_is_planned_for_every_generation(name, capfd):
    words = ("--config.data.batch=64", "--config.mesh.data=1", "--config.mesh.fsdp=-1", *EXPERTS)
    plan = planned(capfd, "--config=llama:tiny", f"--topology={name}", *words)
    # Three grouped products a layer, and two for the gradients of each.
    assert plan["fits"] and plan["kernels"] == 2 * 9 and plan["flops_ratio"] < 1
    assert plan["devices"] == (8 if name.startswith("tpu7x") else 4)


@compiler
@pytest.mark.tpu_aot
def test_a_search_compiles_a_tiny_model_on_three_meshes(capfd):
    assert lm_jax("plan", "--config=gpt:tiny", "--topology=v5e:2x4", "--search", "--json") == 0
    document = json.loads(capfd.readouterr().out)
    assert len(document["plans"]) == 3 and all(plan["fits"] for plan in document["plans"])
    assert "--config.mesh.data=" in document["flags"] and "--config.model.stack.remat=none" in document["flags"]


@compiler
@pytest.mark.tpu_aot
def test_an_estimate_is_near_what_the_compiler_says(capfd):
    # A model of which the activations are the larger part: of a tiny one, XLA's code and padding are.
    sizes = ("--config.model.stack.depth=6", "--config.data.batch=64", "--config.data.length=512")
    mesh = ("--config.mesh.data=1", "--config.mesh.fsdp=8", "--config.mesh.tensor=1")
    # Nothing is left to search, so one step is compiled.
    given = (*sizes, *mesh, "--config.model.stack.remat=none", "--config.train.accumulate=1")
    assert lm_jax("plan", "--config=gpt:small", "--topology=v5e:2x4", *given, "--search", "--json") == 0
    (plan,) = json.loads(capfd.readouterr().out)["plans"]
    assert plan["estimated_bytes"] == pytest.approx(plan["needed_bytes"] - plan["code_bytes"], rel=0.15)


@compiler
@pytest.mark.tpu_aot
def test_a_step_that_does_not_fit_is_an_answer(capfd):
    plan = planned(capfd, "--config=bert:large", "--topology=v5e:4x4", "--config.data.batch=2048")
    assert not plan["fits"] and plan["needed_bytes"] > plan["limit_bytes"] == round(15.75 * 2**30)
    assert plan["change_1"] and plan["change_3"] and plan["dot_flops"] is None


@compiler
@pytest.mark.tpu_aot
def test_gradients_cross_slices_once(capfd):
    words = ("--topology=v5e:2x2", "--slices=2", "--config.mesh.data=2", "--config.mesh.fsdp=-1")
    plan = planned(capfd, "--config=gpt:tiny", *words)
    # Each device sends the shards of its gradients to the other slice; some parameters are not divided.
    assert plan["parameters_bytes"] <= plan["dcn_bytes"] < 2 * plan["parameters_bytes"]
    assert plan["dcn_s"] and plan["devices"] == 8


@compiler
@pytest.mark.tpu_aot
def test_slices_that_do_not_divide_the_data_axis_are_refused(capfd):
    words = ("--topology=v5e:2x2", "--slices=3", "--config.mesh.data=2", "--config.mesh.fsdp=-1")
    assert lm_jax("plan", "--config=gpt:tiny", *words) == 2
    assert "3 TPU slices" in capfd.readouterr().err


@compiler
@pytest.mark.tpu_aot
@pytest.mark.parametrize("name", ["v5e:3x3", "v5p:3x3x3"])
def test_a_topology_that_the_compiler_refuses_is_one_line(name):
    with pytest.raises(InputError, match="is not one that libtpu knows"):
        topology.devices(name)


@compiler
@pytest.mark.tpu_aot
def test_every_collective_of_llama_2_7b_on_256_chips_is_counted(capfd):
    plan = planned(capfd, "--config=llama:7b", "--topology=v5e:16x16", "--config.data.batch=1024")
    layers, tables = 32 * (4 * 4096**2 + 3 * 4096 * 11008), 2 * 4096 * 32000
    # Matrices are gathered in bfloat16, those of layers for the forward pass and again for the backward pass.
    assert plan["all_gather_payload_bytes"] == pytest.approx(2 * (2 * layers + tables), rel=0.01)
    # Gradients leave once, in rings of neighbours; only vectors are summed whole.
    assert plan["collective_permute_payload_bytes"] == pytest.approx(2 * (layers + tables) * 255 / 256, rel=0.01)
    assert plan["all_reduce_payload_bytes"] < 1e7
    assert plan["dot_flops"] == pytest.approx(407.2e12, rel=0.01)
    assert plan["argument_bytes"] == pytest.approx(0.30 * 2**30, rel=0.02)
    assert plan["wire_bytes"] == pytest.approx(39.8e9, rel=0.05) and plan["unknown_loops"] == 0
