"""`lm-jax doctor`: installed packages, the devices that jax sees, and how to fix what is missing."""

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

LITTLE_MEMORY = 2 << 30  # bytes; the tiny recipes need about 1 GiB


def run(request: Request) -> int:
    """Prints versions, devices and problems; returns 1 if there is a problem."""
    facts = examine(Machine(), _devices(), host.cache_root())
    if request.json:
        report.document(facts)
    else:
        report.say(describe(facts))
    return int(bool(facts["problems"]))


def examine(machine: Machine, devices: Sequence[str], cache: Path) -> dict[str, Any]:
    """Returns versions, devices, memory, directories and problems.

    Args:
      machine: the machine to examine, without jax.
      devices: the devices that jax sees, each as `platform:id kind`.
      cache: directory of prepared text and compiled programs.
    """
    gpu, tpu = machines.nvidia(machine), machines.has_tpu(machine)
    packages, plugins = machines.requirements(machine), machines.plugins(machine)
    superfluous, why = machines.superfluous_plugin(machine, gpu)
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
            *_package_problems(packages, [need for need in plugins if need.name != superfluous], tpu),
            *([_two_plugins(superfluous, why)] if superfluous else []),
            *_device_problems(machine, devices),
            *_storage_problems(machine, cache),
        ],
    }


def describe(facts: dict[str, Any]) -> str:
    """Formats the facts of `examine` as text."""
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
        f"problems to fix: {len(facts['problems'])}" if facts["problems"] else "no problems",
    ]
    return "\n".join(lines)


def summary() -> str:
    """Returns the devices that jax sees, and a line for each problem of this machine; notebooks start with it.

    Example:
      >>> summary().split()[:2]
      ['devices', 'cpu:0']
    """
    facts = examine(Machine(), _devices(), host.cache_root())
    lines = [f"devices    {', '.join(facts['devices'])}", *(f"problem    {problem}" for problem in facts["problems"])]
    return "\n".join(lines)


def _devices() -> list[str]:
    import jax

    try:
        return [f"{device.platform}:{device.id} {device.device_kind}" for device in jax.devices()]
    except RuntimeError as error:
        return [f"none: {str(error).splitlines()[0]}"]


def _package_problems(packages: Sequence[Any], plugins: Sequence[Any], tpu: bool) -> list[str]:
    """Returns a line for each package that is missing or not supported."""
    problems = [
        f"{need.name} is {need.version or 'missing'}, lm_jax needs {need.wanted or 'any version'}: "
        f"pip install '{need.name}{need.wanted}'"
        for need in packages
        if not need.supported
    ]
    for need in plugins:
        # Without a TPU, libtpu only compiles ahead of time, and any version can.
        if not need.supported and (tpu or need.name != "libtpu"):
            problems.append(
                f"{need.name} {need.version} does not fit the installed jax, which ignores it: "
                f"pip install '{need.name}{need.wanted}'"
            )
    return problems


def _two_plugins(superfluous: str, why: str) -> str:
    """Returns the line for an environment with both CUDA plugins: which to remove, with its library, and why."""
    both = " and ".join(machines.CUDA_PLUGINS.values())
    library = superfluous.replace("plugin", "pjrt")
    return f"{both} are both installed, but jax can use only one: pip uninstall {superfluous} {library} ({why})"


def _device_problems(machine: Machine, devices: Sequence[str]) -> list[str]:
    """Returns a line for each accelerator that jax does not see, with its fix."""
    if not all(device.startswith(("cpu", "none")) for device in devices):
        return []
    problems, gpu, platforms = [], machines.nvidia(machine), machine.environ.get("JAX_PLATFORMS", "")
    if gpu is not None:
        name = gpu.models[0] if gpu.models else "an NVIDIA GPU"
        extra, why = machines.cuda(gpu)
        package = machines.CUDA_PLUGINS.get(extra, "")
        if platforms == "cpu":
            problems.append(f"{name} is present, but JAX_PLATFORMS=cpu hides it: unset JAX_PLATFORMS")
        elif not extra:
            problems.append(f"{name} is present, but jax sees only the CPU: {why}")
        elif machine.installed(package):
            # Two plugins are a likelier cause, and have a line of their own.
            if not machines.superfluous_plugin(machine, gpu)[0]:
                problems.append(
                    f"{name} is present and {package} is installed, but jax sees only the CPU: check that nvidia-smi "
                    "lists it, and that LD_LIBRARY_PATH and CUDA_VISIBLE_DEVICES do not hide it"
                )
        else:
            problems.append(f"{name} is present, but jax sees only the CPU: pip install 'jax[{extra}]' ({why})")
    if machines.has_tpu(machine):
        if platforms == "cpu":
            problems.append("a TPU is present, but JAX_PLATFORMS=cpu hides it: unset JAX_PLATFORMS")
        elif machine.installed("libtpu"):
            problems.append("a TPU and libtpu are present, but jax sees only the CPU: stop other programs that use it")
        else:
            problems.append("a TPU is present, but jax sees only the CPU: pip install 'lm_jax[tpu]'")
    return problems


def _storage_problems(machine: Machine, cache: Path) -> list[str]:
    """Returns a line for a cache that cannot be written, a full disk and too little memory."""
    problems = []
    try:
        cache.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=cache).close()
        free = shutil.disk_usage(cache).free
        if free < 1 << 30:
            problems.append(
                f"{cache} has {free / 2**30:.1f} GiB of free space: free more, or set LM_JAX_CACHE to another directory"
            )
    except OSError as error:
        problems.append(f"{cache} cannot be written ({error.strerror}): set LM_JAX_CACHE to a writable directory")
    least = min(machines.memory(machine).values(), default=LITTLE_MEMORY)
    if least < LITTLE_MEMORY:
        problems.append(
            f"{least / 2**30:.1f} GiB of memory are available: stop other programs, or use a larger machine"
        )
    return problems
