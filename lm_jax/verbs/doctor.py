"""`lm-jax doctor`: what is installed, which devices jax sees, and what to do when it does not see yours."""

from __future__ import annotations

import dataclasses
import os
import platform
import shutil
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lm_jax.core import host
from lm_jax.flags import Request, recipe_folder
from lm_jax.verbs import machine as machines
from lm_jax.verbs import report
from lm_jax.verbs.machine import Machine

LITTLE_MEMORY = 2 << 30  # bytes; the tiny recipes need about one


def run(request: Request) -> int:
    """Prints versions, devices and problems; exit code 1 when there is a problem."""
    facts = examine(Machine(), _devices(), host.cache_root())
    if request.json:
        report.document(facts)
    else:
        report.say(describe(facts))
    return int(bool(facts["problems"]))


def examine(machine: Machine, devices: Sequence[str], cache: Path) -> dict[str, Any]:
    """Everything that is worth knowing before a first run.

    Args:
      machine: where facts come from.
      devices: what jax sees, `platform:id kind` each.
      cache: where lm_jax keeps corpora and compiled programs.
    """
    gpu, tpu = machines.nvidia(machine), machines.has_tpu(machine)
    packages, plugins = machines.requirements(machine), machines.plugins(machine)
    return {
        "python": platform.python_version(),
        "interpreter": sys.executable,
        "platform": platform.platform(),
        "cores": os.cpu_count(),
        "memory": machines.memory(machine),
        "versions": {need.name: dataclasses.asdict(need) for need in packages},
        "plugins": {need.name: dataclasses.asdict(need) for need in plugins},
        "devices": list(devices),
        "nvidia": dataclasses.asdict(gpu) if gpu else None,
        "tpu": tpu,
        "recipes": str(recipe_folder()),
        "cache": str(cache),
        "problems": [
            *_package_problems(packages, plugins, tpu),
            *_device_problems(machine, devices),
            *_storage_problems(machine, cache),
        ],
    }


def describe(facts: dict[str, Any]) -> str:
    """The facts for a reader."""
    lines = [
        f"python     {facts['python']} ({facts['interpreter']})",
        f"platform   {facts['platform']}, {facts['cores']} cores, "
        + ", ".join(f"{size / 2**30:.1f} GiB {name}" for name, size in facts["memory"].items()),
    ]
    for need in [*facts["versions"].values(), *facts["plugins"].values()]:
        status = "ok" if need["supported"] else "MISSING" if need["version"] is None else "NOT SUPPORTED"
        lines.append(f"  {need['name']:<22}{need['version'] or '-':<12}{status:<14}({need['wanted'] or 'any'})")
    lines += [
        f"devices    {', '.join(facts['devices'])}",
        f"recipes    {facts['recipes']}",
        f"cache      {facts['cache']}",
        *(f"problem    {problem}" for problem in facts["problems"]),
        f"{len(facts['problems'])} to mend" if facts["problems"] else "nothing to mend",
    ]
    return "\n".join(lines)


def _devices() -> list[str]:
    import jax

    try:
        return [f"{device.platform}:{device.id} {device.device_kind}" for device in jax.devices()]
    except RuntimeError as error:
        return [f"none: {str(error).splitlines()[0]}"]


def _package_problems(packages: Sequence[Any], plugins: Sequence[Any], tpu: bool) -> list[str]:
    """One line for each package that is missing or outside the supported range."""
    problems = [
        f"{need.name} is {need.version or 'missing'}, lm_jax needs {need.wanted or 'any version'}: "
        f"pip install '{need.name}{need.wanted}'"
        for need in packages
        if not need.supported
    ]
    for need in plugins:
        # Without a TPU libtpu compiles ahead of time, and any version does.
        if not need.supported and (tpu or need.name != "libtpu"):
            problems.append(
                f"{need.name} {need.version} does not fit the installed jax, which leaves it out: "
                f"pip install '{need.name}{need.wanted}'"
            )
    cuda = [need.name for need in plugins if need.name.startswith("jax-cuda")]
    if len(cuda) > 1:
        problems.append(f"{' and '.join(cuda)} are both installed, and jax takes one: pip uninstall {cuda[0]}")
    return problems


def _device_problems(machine: Machine, devices: Sequence[str]) -> list[str]:
    """An accelerator that is there and that jax does not see, with the command that mends it."""
    if not all(device.startswith(("cpu", "none")) for device in devices):
        return []
    problems, gpu, forced = [], machines.nvidia(machine), machine.environ.get("JAX_PLATFORMS", "")
    if gpu is not None:
        name = gpu.models[0] if gpu.models else "an NVIDIA GPU"
        extra, why = machines.cuda(gpu)
        package = {"cuda12": "jax-cuda12-plugin", "cuda13": "jax-cuda13-plugin"}.get(extra, "")
        if forced == "cpu":
            problems.append(f"{name} is here, but JAX_PLATFORMS=cpu hides it: unset JAX_PLATFORMS")
        elif not extra:
            problems.append(f"{name} is here, but jax sees the CPU only, and {why}")
        elif machine.installed(package):
            problems.append(
                f"{name} is here and {package} is installed, but jax sees the CPU only: check that nvidia-smi lists "
                "it, and that LD_LIBRARY_PATH and CUDA_VISIBLE_DEVICES do not hide it"
            )
        else:
            problems.append(f"{name} is here, but jax sees the CPU only: pip install 'jax[{extra}]' ({why})")
    if machines.has_tpu(machine):
        if forced == "cpu":
            problems.append("a TPU is here, but JAX_PLATFORMS=cpu hides it: unset JAX_PLATFORMS")
        elif machine.installed("libtpu"):
            problems.append("a TPU is here and libtpu is installed, but jax sees the CPU only: end what else uses it")
        else:
            problems.append("a TPU is here, but jax sees the CPU only: pip install 'lm_jax[tpu]'")
    return problems


def _storage_problems(machine: Machine, cache: Path) -> list[str]:
    """A cache that cannot be written, little room on its disk, little memory."""
    problems = []
    try:
        cache.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=cache).close()
        free = shutil.disk_usage(cache).free
        if free < 1 << 30:
            problems.append(
                f"{cache} has {free / 2**30:.1f} GiB of room left: make room, or set LM_JAX_CACHE to another directory"
            )
    except OSError as error:
        problems.append(f"{cache} cannot be written ({error.strerror}): set LM_JAX_CACHE to a directory that can")
    least = min(machines.memory(machine).values(), default=LITTLE_MEMORY)
    if least < LITTLE_MEMORY:
        problems.append(f"{least / 2**30:.1f} GiB of memory are left: end what else runs, or take a larger machine")
    return problems
