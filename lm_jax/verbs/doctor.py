"""`lm-jax doctor`: what is installed, which devices jax sees, and what to do when it does not see yours."""

from __future__ import annotations

import glob
import importlib.metadata
import json
import os
import platform
import re
import shutil
import sys
from typing import Any

from lm_jax.flags import Request, recipe_folder
from lm_jax.verbs import report


def run(request: Request) -> int:
    """Prints versions, devices and problems; exit code 1 when there is a problem."""
    facts = {
        "python": platform.python_version(),
        "platform": platform.platform(),
        "versions": _versions(),
        "devices": _devices(),
        "recipes": str(recipe_folder()),
    }
    problems = _problems(facts)
    if request.json:
        report.say(json.dumps({**facts, "problems": problems}))
        return int(bool(problems))
    report.say(f"python     {facts['python']} ({sys.executable})")
    report.say(f"platform   {facts['platform']}, {os.cpu_count()} cores")
    for name, (version, wanted, fine) in facts["versions"].items():
        report.say(f"  {name:<22}{version:<12}{'ok' if fine else 'NOT SUPPORTED'}   ({wanted})")
    report.say(f"devices    {', '.join(facts['devices'])}")
    report.say(f"recipes    {facts['recipes']}")
    for problem in problems:
        report.say(f"problem    {problem}")
    report.say("nothing to mend" if not problems else f"{len(problems)} to mend")
    return int(bool(problems))


def _versions() -> dict[str, tuple[str, str, bool]]:
    """Every requirement of lm_jax: what is installed, what is wanted, whether they agree."""
    from packaging.requirements import Requirement

    found = {}
    try:
        wanted = importlib.metadata.requires("lm_jax") or []
    except importlib.metadata.PackageNotFoundError:
        return {"lm_jax": ("missing", "any", False)}
    for line in wanted:
        need = Requirement(line)
        if need.marker is not None and "extra" in str(need.marker):
            continue
        try:
            version = importlib.metadata.version(need.name)
            found[need.name] = (
                version,
                str(need.specifier) or "any",
                need.specifier.contains(version, prereleases=True),
            )
        except importlib.metadata.PackageNotFoundError:
            found[need.name] = ("missing", str(need.specifier) or "any", False)
    return found


def _devices() -> list[str]:
    import jax

    try:
        return [f"{device.platform}:{device.id} {device.device_kind}" for device in jax.devices()]
    except RuntimeError as error:
        return [f"none: {str(error).splitlines()[0]}"]


def _problems(facts: dict[str, Any]) -> list[str]:
    """One line for each thing that is wrong, with the command that mends it."""
    problems = []
    for name, (version, wanted, fine) in facts["versions"].items():
        if not fine:
            problems.append(
                f"{name} is {version}, lm_jax needs {wanted}: pip install '{name}{wanted.replace('any', '')}'"
            )
    on_cpu = all(device.startswith(("cpu", "none")) for device in facts["devices"])
    forced = os.environ.get("JAX_PLATFORMS", "")
    if on_cpu and _has_nvidia():
        if re.fullmatch("cpu", forced):
            problems.append("an NVIDIA GPU is here, but JAX_PLATFORMS=cpu hides it: unset JAX_PLATFORMS")
        else:
            problems.append("an NVIDIA GPU is here, but jax sees the CPU only: pip install 'lm_jax[cuda]'")
    if on_cpu and (glob.glob("/dev/accel*") or os.environ.get("TPU_NAME")) and forced != "cpu":
        problems.append("a TPU is here, but jax sees the CPU only: pip install 'lm_jax[tpu]'")
    return problems


def _has_nvidia() -> bool:
    return bool(glob.glob("/dev/nvidia[0-9]*")) or shutil.which("nvidia-smi") is not None
