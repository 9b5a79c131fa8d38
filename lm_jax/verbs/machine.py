"""Packages, GPUs, TPUs and memory of a machine, detected without jax, and the versions that are supported."""

from __future__ import annotations

import configparser
import dataclasses
import importlib.metadata
import os
import re
import shutil
import subprocess
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

# CUDA 13 needs driver 580, CUDA 12 driver 525.60 (NVIDIA, "CUDA compatibility", table of minimum driver versions).
CUDA13_DRIVER, CUDA12_DRIVER = (580,), (525, 60)
# CUDA 13 supports no architecture before Turing: not Maxwell, Pascal or Volta (its release notes).
BEFORE_TURING = re.compile(r"\b(V100|P100|P40|P4|M60|M40|TITAN (X|Xp|V)|GTX (9|10)\d\d|Quadro (P|M|GP|GV)\d+)\b")
# The plugins of jax's extras for NVIDIA GPUs; both register the platform `cuda`.
CUDA_PLUGINS = {"cuda12": "jax-cuda12-plugin", "cuda13": "jax-cuda13-plugin"}
GOOGLE = "0x1ae0"  # PCI vendor id.


def run(command: Sequence[str]) -> str:
    """Returns the output of a command; empty if it fails or takes over 10 seconds."""
    try:
        return subprocess.run(command, capture_output=True, text=True, timeout=10, check=True).stdout
    except (OSError, subprocess.SubprocessError):
        return ""


def installed(package: str) -> str | None:
    """Returns the version of a package, or None if it is not installed."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def requires(package: str) -> list[str]:
    """Returns a package's requirements, extras included; those of lm_jax in a clone come from its setup.cfg."""
    try:
        return importlib.metadata.requires(package) or []
    except importlib.metadata.PackageNotFoundError:
        setup = configparser.ConfigParser()
        if package == "lm_jax" and setup.read(Path(__file__).parents[2] / "setup.cfg"):
            return setup["options"]["install_requires"].strip().splitlines()
        return []


@dataclasses.dataclass(frozen=True, kw_only=True)
class Machine:
    """A machine as its file system, environment, commands and packages, each of which a test can replace."""

    root: Path = Path("/")
    environ: Mapping[str, str] = dataclasses.field(default_factory=lambda: os.environ)
    which: Callable[[str], str | None] = shutil.which
    run: Callable[[Sequence[str]], str] = run
    installed: Callable[[str], str | None] = installed
    requires: Callable[[str], list[str]] = requires


@dataclasses.dataclass(frozen=True, kw_only=True)
class Nvidia:
    """The NVIDIA GPUs of a machine.

    Attributes:
      driver: version of the kernel driver, such as (580, 65, 6); empty if unknown.
      models: names of the GPUs, as far as the system reports them.
    """

    driver: tuple[int, ...] = ()
    models: tuple[str, ...] = ()


def nvidia(machine: Machine) -> Nvidia | None:
    """Returns the NVIDIA GPUs that the kernel, or else nvidia-smi, reports; None without a GPU."""
    kernel = machine.root / "proc/driver/nvidia"
    models = tuple(
        line.partition(":")[2].strip()
        for file in sorted(kernel.glob("gpus/*/information"))
        for line in file.read_text().splitlines()
        if line.startswith("Model:")
    )
    version = kernel / "version"
    text = version.read_text() if version.is_file() else ""
    # `NVRM version: NVIDIA UNIX x86_64 Kernel Module  535.104.05  Sat Aug 19 ...`, or `... for x86_64  580.65.06 ...`
    match = re.search(r"\s(\d{3,}(?:\.\d+)+)\s", text)
    if not match and machine.which("nvidia-smi"):
        rows = machine.run(["nvidia-smi", "--query-gpu=driver_version,name", "--format=csv,noheader"]).splitlines()
        models = models or tuple(line.partition(",")[2].strip() for line in rows)
        match = re.match(r"\s*(\d{3,}(?:\.\d+)+)", rows[0]) if rows else None
    if match:
        return Nvidia(driver=tuple(map(int, match[1].split("."))), models=models)
    present = models or list((machine.root / "dev").glob("nvidia[0-9]*"))
    return Nvidia(models=models) if present else None


def cuda(gpu: Nvidia) -> tuple[str, str]:
    """Returns the extra of jax for a GPU (cuda12 or cuda13), and the reason; no extra if the driver is too old."""
    driver = ".".join(map(str, gpu.driver))
    if gpu.driver and gpu.driver < CUDA12_DRIVER:
        return "", f"driver {driver} is older than 525.60, the oldest for CUDA 12: install a newer driver"
    old = [model for model in gpu.models if BEFORE_TURING.search(model)]
    if old:
        return "cuda12", f"CUDA 13 does not support a {old[0]}"
    if not gpu.driver:
        return "cuda12", "the version of the driver is unknown, and CUDA 12 also runs on older drivers"
    if gpu.driver < CUDA13_DRIVER:
        return "cuda12", f"driver {driver} is older than 580, which CUDA 13 needs"
    return "cuda13", f"driver {driver} runs CUDA 13"


def superfluous_plugin(machine: Machine, gpu: Nvidia | None) -> tuple[str, str]:
    """Returns which of two installed CUDA plugins to remove, and the reason; empty without two of them.

    The GPU and its driver decide which one stays; where they do not, the newer one does.
    """
    if not all(machine.installed(package) for package in CUDA_PLUGINS.values()):
        return "", ""
    extra, why = cuda(gpu) if gpu else ("", "")
    if extra:
        return next(package for name, package in CUDA_PLUGINS.items() if name != extra), why
    return CUDA_PLUGINS["cuda12"], "CUDA 13 is newer"


def has_tpu(machine: Machine) -> bool:
    """Returns whether this is a TPU machine, by its devices or by the environment of a TPU VM or Kubernetes node."""
    declared = any(machine.environ.get(name) for name in ("TPU_NAME", "TPU_WORKER_ID", "TPU_ACCELERATOR_TYPE"))
    if declared or list((machine.root / "dev").glob("accel[0-9]*")):
        return True
    # Any device that is passed through to a virtual machine is a vfio device, so the vendor is checked too.
    vendors = (machine.root / "sys/bus/pci/devices").glob("*/vendor")
    passed = list((machine.root / "dev/vfio").glob("[0-9]*"))
    return bool(passed) and any(vendor.read_text().strip() == GOOGLE for vendor in vendors)


def memory(machine: Machine) -> dict[str, int]:
    """Returns bytes of memory: `total`, `available` now, and the `limit` of a container that has one."""
    facts: dict[str, int] = {}
    file = machine.root / "proc/meminfo"
    for line in file.read_text().splitlines() if file.is_file() else ():
        name, _, amount = line.partition(":")
        if name in ("MemTotal", "MemAvailable"):
            facts[name.removeprefix("Mem").lower()] = int(amount.split()[0]) * 1024
    limit = machine.root / "sys/fs/cgroup/memory.max"
    if limit.is_file() and limit.read_text().strip().isdigit():
        facts["limit"] = int(limit.read_text())
    return facts


@dataclasses.dataclass(frozen=True, kw_only=True)
class Requirement:
    """A package that lm_jax or jax requires.

    Attributes:
      version: installed version, or None.
      wanted: required range, such as `<0.13,>=0.10.2`; empty for any version.
      supported: whether the installed version is in the range.
    """

    name: str
    version: str | None
    wanted: str
    supported: bool


def requirements(machine: Machine) -> list[Requirement]:
    """Returns the packages that lm_jax requires, and jaxlib in the versions that jax requires."""
    lines = [*machine.requires("lm_jax"), *(line for line in machine.requires("jax") if line.startswith("jaxlib"))]
    return [_checked(machine, line) for line in lines if "extra ==" not in line]


def plugins(machine: Machine) -> list[Requirement]:
    """Returns the installed accelerator plugins, with the versions that the installed jax requires."""
    lines = [line for line in machine.requires("jax") if re.match(r"jax-\w+-plugin|libtpu", line)]
    checked = {plugin.name: plugin for plugin in (_checked(machine, line) for line in lines)}
    return [plugin for plugin in checked.values() if plugin.version is not None]


def _checked(machine: Machine, line: str) -> Requirement:
    from packaging import requirements

    need = requirements.Requirement(line)
    version = machine.installed(need.name)
    supported = version is not None and need.specifier.contains(version, prereleases=True)
    return Requirement(name=need.name, version=version, wanted=str(need.specifier), supported=supported)
