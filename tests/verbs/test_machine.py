"""`doctor` on simulated machines: GPUs, TPUs, packages and memory."""

import pytest

from lm_jax.verbs import doctor
from lm_jax.verbs.machine import Machine, cuda, has_tpu, memory, nvidia, plugins, requirements

VERSION = "NVRM version: NVIDIA UNIX {} Kernel Module  {}  Wed Jan  1 00:00:00 UTC 2025\nGCC version:  gcc 12\n"
CPU = ["cpu:0 cpu"]


def machine(root, *, files=None, packages=None, environ=None, smi="", wants=()):
    for name, text in (files or {}).items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return Machine(
        root=root,
        environ=environ or {},
        which=lambda name: "/usr/bin/nvidia-smi" if smi else None,
        run=lambda command: smi,
        installed=(packages or {}).get,
        requires=lambda name: list(wants) if name == "jax" else [],
    )


def problems(machine, tmp_path, devices=CPU):
    return doctor.examine(machine, devices, tmp_path / "cache")["problems"]


@pytest.mark.parametrize(
    ("driver", "model", "command"),
    [
        ("580.65.06", "NVIDIA H100 80GB HBM3", "pip install 'jax[cuda13]'"),
        ("535.104.05", "NVIDIA A100-SXM4-80GB", "pip install 'jax[cuda12]' (driver 535.104.5 is older than 580"),
        # CUDA 13 does not support this GPU, even with a new driver.
        ("580.65.06", "Tesla V100-SXM2-16GB", "pip install 'jax[cuda12]' (CUDA 13 does not support a Tesla V100"),
        ("470.82.01", "Tesla T4", "install a newer driver"),
    ],
)
def test_a_gpu_that_jax_does_not_see_gets_its_exact_command(driver, model, command, tmp_path):
    simulated = machine(
        tmp_path,
        files={
            "proc/driver/nvidia/version": VERSION.format("x86_64", driver),
            "proc/driver/nvidia/gpus/0000:00:04.0/information": f"Model: \t\t {model}\nIRQ:   11\n",
        },
    )
    (problem,) = problems(simulated, tmp_path)
    assert problem.startswith(f"{model} is present, but jax sees only the CPU") and command in problem
    assert problems(simulated, tmp_path, ["cuda:0 H100"]) == []


def test_the_driver_is_read_from_open_kernel_modules_and_from_nvidia_smi(tmp_path):
    from_kernel = machine(
        tmp_path / "open",
        files={"proc/driver/nvidia/version": VERSION.format("Open Kernel Module for x86_64", "575.57")},
    )
    from_smi = machine(tmp_path / "smi", smi="580.82, NVIDIA L4\n580.82, NVIDIA L4\n")
    assert nvidia(from_kernel).driver == (575, 57)
    assert nvidia(from_smi).driver == (580, 82) and nvidia(from_smi).models == ("NVIDIA L4", "NVIDIA L4")
    assert nvidia(machine(tmp_path / "none")) is None


def test_a_gpu_with_an_unknown_driver_gets_the_build_that_runs_on_most(tmp_path):
    simulated = machine(tmp_path, files={"dev/nvidia0": ""})
    assert cuda(nvidia(simulated))[0] == "cuda12"


def test_a_hidden_gpu_and_an_installed_plugin_are_no_reason_to_install(tmp_path):
    files = {"proc/driver/nvidia/version": VERSION.format("x86_64", "580.65.06")}
    hidden = machine(tmp_path / "a", files=files, environ={"JAX_PLATFORMS": "cpu"})
    broken = machine(tmp_path / "b", files=files, packages={"jax-cuda13-plugin": "0.10.2"})
    assert "unset JAX_PLATFORMS" in problems(hidden, tmp_path)[0]
    assert "LD_LIBRARY_PATH" in problems(broken, tmp_path)[0]


@pytest.mark.parametrize(
    ("files", "environ", "expected"),
    [
        ({"dev/accel0": ""}, {}, True),
        ({"dev/vfio/0": "", "sys/bus/pci/devices/0000:00:05.0/vendor": "0x1ae0\n"}, {}, True),
        ({"dev/vfio/0": "", "sys/bus/pci/devices/0000:00:05.0/vendor": "0x10de\n"}, {}, False),
        ({}, {"TPU_WORKER_ID": "0"}, True),
        ({}, {}, False),
    ],
)
def test_a_tpu_machine_is_recognised_by_its_devices_or_its_environment(files, environ, expected, tmp_path):
    simulated = machine(tmp_path, files=files, environ=environ)
    assert has_tpu(simulated) == expected
    assert any("lm_jax[tpu]" in problem for problem in problems(simulated, tmp_path)) == expected


def test_plugins_that_do_not_fit_jax_are_named(tmp_path):
    wants = [
        "jaxlib<=0.10.2,>=0.10.1",
        'jax-cuda12-plugin[with-cuda]<=0.10.2,>=0.10.2; extra == "cuda12"',
        'jax-cuda13-plugin[with-cuda]<=0.10.2,>=0.10.2; extra == "cuda13"',
        'libtpu==0.0.42.*; extra == "tpu"',
    ]
    packages = {"jax-cuda12-plugin": "0.9.0", "libtpu": "0.0.52", "jaxlib": "0.9.0"}
    simulated = machine(tmp_path, packages=packages, wants=wants)
    assert [(need.name, need.supported) for need in plugins(simulated)] == [
        ("jax-cuda12-plugin", False),
        ("libtpu", False),
    ]
    lines = problems(simulated, tmp_path)
    assert any(problem.startswith("jaxlib is 0.9.0") for problem in lines)
    assert any("pip install 'jax-cuda12-plugin<=0.10.2,>=0.10.2'" in problem for problem in lines)
    assert not any("both installed" in problem for problem in lines)
    # Without a TPU, libtpu only compiles ahead of time, and any version will do.
    assert not any("libtpu" in problem for problem in lines)


@pytest.mark.parametrize(
    ("driver", "model", "remove", "why"),
    [
        ("580.65.06", "NVIDIA H100 80GB HBM3", "12", "driver 580.65.6 runs CUDA 13"),
        ("535.104.05", "NVIDIA A100-SXM4-80GB", "13", "driver 535.104.5 is older than 580, which CUDA 13 needs"),
        ("580.65.06", "Tesla V100-SXM2-16GB", "13", "CUDA 13 does not support a Tesla V100-SXM2-16GB"),
        (None, None, "12", "CUDA 13 is newer"),
    ],
)
def test_with_both_cuda_plugins_one_line_says_which_to_remove(driver, model, remove, why, tmp_path):
    wants = [f'jax-cuda{number}-plugin<=0.10.2,>=0.10.2; extra == "cuda{number}"' for number in (12, 13)]
    files = {
        "proc/driver/nvidia/version": VERSION.format("x86_64", driver),
        "proc/driver/nvidia/gpus/0000:00:04.0/information": f"Model: \t\t {model}\n",
    }
    kept = {"12": "13", "13": "12"}[remove]
    # The one to remove need not fit jax.
    packages = {f"jax-cuda{remove}-plugin": "0.9.0", f"jax-cuda{kept}-plugin": "0.10.2"}
    simulated = machine(tmp_path, files=files if driver else {}, packages=packages, wants=wants)
    expected = (
        "jax-cuda12-plugin and jax-cuda13-plugin are both installed, but jax can use only one: "
        f"pip uninstall jax-cuda{remove}-plugin jax-cuda{remove}-pjrt ({why})"
    )
    assert problems(simulated, tmp_path) == [expected]
    assert problems(simulated, tmp_path, ["cuda:0 H100"]) == [expected]


def test_the_supported_range_comes_from_the_package_itself():
    needs = {need.name: need for need in requirements(Machine())}
    assert needs["jax"].supported and needs["jaxlib"].supported and "<0.13" in needs["jax"].wanted
    assert "beartype" not in needs


def test_little_memory_and_an_unwritable_cache_are_problems(tmp_path):
    simulated = machine(
        tmp_path,
        files={
            "proc/meminfo": "MemTotal:       16000000 kB\nMemAvailable:    8000000 kB\n",
            "sys/fs/cgroup/memory.max": f"{1 << 30}\n",
        },
    )
    (tmp_path / "file").write_text("")
    lines = doctor.examine(simulated, CPU, tmp_path / "file" / "cache")["problems"]
    assert memory(simulated)["limit"] == 1 << 30
    assert any("1.0 GiB of memory" in problem for problem in lines)
    assert any("LM_JAX_CACHE" in problem for problem in lines)
