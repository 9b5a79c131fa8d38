"""Names of topologies, such as v5e:16x16 or h100:8, and their devices, which need a compiler but no accelerator."""

from __future__ import annotations

import contextlib
import importlib.util
import os
import re
import tempfile
from collections.abc import Iterator
from typing import Any

import jax

from lm_jax.core.chips import CHIPS, Chip
from lm_jax.core.config import InputError, nearest

# What libtpu reads when it is loaded: no metadata server, and several processes may load it.
ENVIRONMENT = {"TPU_SKIP_MDS_QUERY": "1", "ALLOW_MULTIPLE_LIBTPU_LOAD": "1"}
# What jax's plugins for CUDA read when they are loaded: this machine needs no driver.
CUDA_ENVIRONMENT = {"JAX_SKIP_CUDA_CONSTRAINTS_CHECK": "1"}
CUDA_PLUGINS = {
    "jax-cuda13-plugin": "jax_plugins.xla_cuda13",
    "jax-cuda12-plugin": "jax_plugins.xla_cuda12",
}
SHAPES = {
    1: ("1", "2", "4", "8", "16", "32", "64", "128", "256"),
    2: ("1x1", "2x2", "2x4", "4x4", "4x8", "8x8", "8x16", "16x16"),
    3: ("2x2x1", "2x2x2", "2x2x4", "2x4x4", "4x4x4", "4x4x8", "4x8x8", "8x8x8", "8x8x16", "8x16x16", "16x16x16"),
}
NAMES = tuple(f"{family}:{shape}" for family, chip in CHIPS.items() for shape in SHAPES[chip.dimensions])


def split(name: str) -> tuple[str, tuple[int, ...]]:
    """Returns the family and the sizes of the axes of a topology.

    Raises:
      InputError: the name is not of the form v5e:AxB, v5p:AxBxC or h100:A.

    Example:
      >>> split("v5e:16x16")
      ('v5e', (16, 16))
    """
    family, _, shape = name.lower().partition(":")
    chip = CHIPS.get(family)
    sizes = tuple(map(int, shape.split("x"))) if re.fullmatch(r"\d+(x\d+)*", shape) else ()
    if chip is None or len(sizes) != chip.dimensions or not all(sizes):
        axes = f"{family}:{'x'.join('ABC'[: chip.dimensions])}" if chip else f"a family of {', '.join(CHIPS)}"
        near = nearest(name.lower(), NAMES) or "; such as v5e:16x16, v5p:4x4x4 or h100:8"
        raise InputError(f"--topology is {name!r}; expected {axes}{near}")
    return family, sizes


def chip(name: str) -> Chip:
    """Returns the figures of a device of a topology."""
    return CHIPS[split(name)[0]]


def compiler(name: str) -> str:
    """Returns the Python package of the compiler for a topology."""
    return (
        next((package for package, plugin in CUDA_PLUGINS.items() if _installed(plugin)), "")
        if chip(name).target
        else "libtpu"
    )


def wrap(name: str) -> tuple[bool, bool, bool]:
    """Returns which axes of a topology close to a ring, without which the compiler would assume a mesh.

    A 2D axis closes if it spans the pod; the axes of a 3D slice close if it consists of whole cubes of 4 x 4 x 4.

    Example:
      >>> wrap("v5e:16x16"), wrap("v5e:8x16"), wrap("v5p:4x4x8"), wrap("v5p:2x2x4")
      ((True, True, False), (False, True, False), (True, True, True), (False, False, False))
    """
    family, sizes = split(name)
    full = CHIPS[family].full
    if len(sizes) == 2:
        return sizes[0] == full, sizes[1] == full, False
    cubes = all(size % full == 0 for size in sizes)
    return cubes, cubes, cubes


def devices(name: str, slices: int = 1) -> list[Any]:
    """Returns the devices of `slices` slices of a topology; they exist for the compiler only.

    Raises:
      InputError: unknown topology, fewer than one slice, or its compiler is not installed.
    """
    family, sizes = split(name)
    if slices < 1:
        raise InputError(f"--slices is {slices}; expected at least 1")
    if CHIPS[family].target:
        return _gpus(name, slices)
    if importlib.util.find_spec("libtpu") is None:
        raise InputError("plan needs the compiler of TPUs, which is not installed; run pip install 'lm_jax[aot]'")
    from jax.experimental import topologies

    for key, value in ENVIRONMENT.items():
        os.environ.setdefault(key, value)
    options: dict[str, Any] = {"wrap": wrap(name)} | ({"num_slices": slices} if slices > 1 else {})
    if family == "v4":
        # Both cores of a chip are one device, as on a real one.
        options["chip_config_name"] = "megacore"
    full_name = f"{family}:{'x'.join(map(str, sizes))}"
    try:
        with quiet():
            found = topologies.get_topology_desc(platform="tpu", topology_name=full_name, **options).devices
    except (jax.errors.JaxRuntimeError, RuntimeError, ValueError) as error:
        near = nearest(full_name, [each for each in NAMES if each != full_name])
        reason = " ".join(str(error).split())[:200]
        raise InputError(f"--topology={name} is not one that libtpu knows ({reason}){near}") from error
    return list(found)


def _gpus(name: str, slices: int) -> list[Any]:
    """The GPUs of a topology, on hosts of `Chip.full` devices."""
    family, (count,) = split(name)
    chip = CHIPS[family]
    if slices != 1:
        raise InputError(
            f"--slices is {slices}, but GPUs have no slices; name all of them, such as {family}:{count * slices}"
        )
    if count > chip.full and count % chip.full:
        near = count - count % chip.full
        raise InputError(
            f"--topology={name} is not a number of whole hosts of {chip.full} devices; use {family}:{near} or "
            f"{family}:{near + chip.full}"
        )
    if not compiler(name):
        raise InputError(
            "a plan of GPUs needs jax's plugin for CUDA, which is not installed; run pip install 'lm_jax[cuda]'"
        )
    from jax.experimental import topologies

    for key, value in CUDA_ENVIRONMENT.items():
        os.environ.setdefault(key, value)
    shape = f"1x{max(1, count // chip.full)}x{min(count, chip.full)}"
    try:
        with quiet():
            return list(topologies.get_topology_desc("", "cuda", topology=shape, target_config=chip.target).devices)
    except (jax.errors.JaxRuntimeError, RuntimeError, ValueError, NotImplementedError) as error:
        reason = " ".join(str(error).split())[:200]
        raise InputError(
            f"--topology={name} is not one that jax's plugin for CUDA can compile for ({reason})"
        ) from error


def _installed(module: str) -> bool:
    try:
        return importlib.util.find_spec(module) is not None
    except ModuleNotFoundError:
        return False


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """A context in which what libtpu writes to standard error, which is not for the user, goes to a temporary file."""
    saved = os.dup(2)
    try:
        with tempfile.TemporaryFile() as file:
            os.dup2(file.fileno(), 2)
            yield
    finally:
        os.dup2(saved, 2)
        os.close(saved)
