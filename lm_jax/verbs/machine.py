"""What a machine has, found without jax: its packages, GPUs, TPUs and memory, and what each of them asks for."""

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
# CUDA 13 has left out the architectures before Turing: Maxwell, Pascal, Volta (its release notes).
BEFORE_TURING = re.compile(r"\b(V100|P100|P40|P4|M60|M40|TITAN (X|Xp|V)|GTX (9|10)\d\d|Quadro (P|M|GP|GV)\d+)\b")
GOOGLE = "0x1ae0"  # PCI vendor


def run(command: Sequence[str]) -> str:
    """What a command prints; nothing when it fails or takes long."""
    try:
        return subprocess.run(command, capture_output=True, text=True, timeout=10, check=True).stdout
    except (OSError, subprocess.SubprocessError):
        return ""


def installed(package: str) -> str | None:
    """The version of a package, or None."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def requires(package: str) -> list[str]:
    """What a package asks for, extras too. lm_jax from a clone that is not installed says so in its setup.cfg."""
    try:
        return importlib.metadata.requires(package) or []
    except importlib.metadata.PackageNotFoundError:
        setup = configparser.ConfigParser()
        if package == "lm_jax" and setup.read(Path(__file__).parents[2] / "setup.cfg"):
            return setup["options"]["install_requires"].strip().splitlines()
        return []


@dataclasses.dataclass(frozen=True, kw_only=True)
class Machine:
    """Where facts come from; tests put others in their place.

    Attributes:
      root: of the file system.
      environ: environment variables.
      which: the path of a command, or None.
      run: what a command prints.
      installed: the version of a package, or None.
      requires: the requirement lines of a package.
    """

    root: Path = Path("/")
    environ: Mapping[str, str] = dataclasses.field(default_factory=lambda: os.environ)
    which: Callable[[str], str | None] = shutil.which
    run: Callable[[Sequence[str]], str] = run
    installed: Callable[[str], str | None] = installed
    requires: Callable[[str], list[str]] = requires


@dataclasses.dataclass(frozen=True, kw_only=True)
class Nvidia:
    """An NVIDIA GPU as the system sees it.

    Attributes:
      driver: version of the kernel's driver, such as (580, 65, 6); empty where unknown.
      models: names of the GPUs, as far as the system tells.
    """

    driver: tuple[int, ...] = ()
    models: tuple[str, ...] = ()


def nvidia(machine: Machine) -> Nvidia | None:
    """The NVIDIA GPUs of the machine, asked of its kernel and then of nvidia-smi."""
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
    found = re.search(r"\s(\d{3,}(?:\.\d+)+)\s", text)
    if not found and machine.which("nvidia-smi"):
        told = machine.run(["nvidia-smi", "--query-gpu=driver_version,name", "--format=csv,noheader"]).splitlines()
        models = models or tuple(line.partition(",")[2].strip() for line in told)
        found = re.match(r"\s*(\d{3,}(?:\.\d+)+)", told[0]) if told else None
    if found:
        return Nvidia(driver=tuple(map(int, found[1].split("."))), models=models)
    seen = models or list((machine.root / "dev").glob("nvidia[0-9]*"))
    return Nvidia(models=models) if seen else None


def cuda(gpu: Nvidia) -> tuple[str, str]:
    """Which of jax's CUDA builds a GPU can run: its extra, and why; no extra where the driver is too old for all."""
    driver = ".".join(map(str, gpu.driver))
    if gpu.driver and gpu.driver < CUDA12_DRIVER:
        return "", f"driver {driver} is older than 525.60, the oldest for CUDA 12: install a newer driver"
    old = [model for model in gpu.models if BEFORE_TURING.search(model)]
    if old:
        return "cuda12", f"CUDA 13 does not know a {old[0]}"
    if not gpu.driver:
        return "cuda12", "its driver does not tell its version, and CUDA 12 runs on the older ones too"
    if gpu.driver < CUDA13_DRIVER:
        return "cuda12", f"driver {driver} is older than 580, which CUDA 13 needs"
    return "cuda13", f"driver {driver} runs CUDA 13"


def has_tpu(machine: Machine) -> bool:
    """Whether this is a TPU VM: by its devices or by the environment of a TPU VM or of a Kubernetes TPU node."""
    named = any(machine.environ.get(name) for name in ("TPU_NAME", "TPU_WORKER_ID", "TPU_ACCELERATOR_TYPE"))
    if named or list((machine.root / "dev").glob("accel[0-9]*")):
        return True
    # vfio alone may be any device that is handed through.
    vendors = (machine.root / "sys/bus/pci/devices").glob("*/vendor")
    passed = list((machine.root / "dev/vfio").glob("[0-9]*"))
    return bool(passed) and any(vendor.read_text().strip() == GOOGLE for vendor in vendors)


def memory(machine: Machine) -> dict[str, int]:
    """Bytes of memory: `total`, and `available` now; `limit` where the container has one."""
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
    """A package that lm_jax or jax asks for.

    Attributes:
      name: of the package.
      version: what is installed; None for nothing.
      wanted: the range, such as `<0.13,>=0.10.2`, or nothing.
      supported: whether they agree.
    """

    name: str
    version: str | None
    wanted: str
    supported: bool


def requirements(machine: Machine) -> list[Requirement]:
    """Everything that lm_jax needs, and jaxlib as jax needs it."""
    lines = [*machine.requires("lm_jax"), *(line for line in machine.requires("jax") if line.startswith("jaxlib"))]
    return [_checked(machine, line) for line in lines if "extra ==" not in line]


def plugins(machine: Machine) -> list[Requirement]:
    """The accelerator plugins that are installed, against what the installed jax wants of them."""
    lines = [line for line in machine.requires("jax") if re.match(r"jax-\w+-plugin|libtpu", line)]
    checked = {found.name: found for found in (_checked(machine, line) for line in lines)}
    return [found for found in checked.values() if found.version is not None]


def _checked(machine: Machine, line: str) -> Requirement:
    from packaging import requirements

    need = requirements.Requirement(line)
    version = machine.installed(need.name)
    supported = version is not None and need.specifier.contains(version, prereleases=True)
    return Requirement(name=need.name, version=version, wanted=str(need.specifier), supported=supported)
