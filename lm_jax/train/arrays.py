"""The arrays of a checkpoint as Orbax writes and reads them: one for each leaf, under its slash-joined path."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from etils import epath

from lm_jax.core.config import InputError
from lm_jax.core.trees import named_leaves

Shapes = Mapping[str, jax.ShapeDtypeStruct]


def handler() -> Any:
    """Orbax's writer of arrays.

    By default, Orbax divides a replicated array among its devices, which compiles a program for every slice of every
    shape. Several processes write in parallel that way, but a single one would only lose the time.
    """
    import orbax.checkpoint as ocp

    if jax.process_count() > 1:
        return ocp.PyTreeCheckpointHandler()
    arrays = ocp.type_handlers.ArrayHandler(use_replica_parallel=False)
    registry = ocp.type_handlers.create_type_handler_registry((jax.Array, arrays))
    return ocp.PyTreeCheckpointHandler(type_handler_registry=registry)


def writer(path: str) -> int:
    """Returns the rank of the process that wrote a file: Orbax has a directory per process."""
    match = re.match(r"state/ocdbt\.process_(\d+)/", path)
    return int(match[1]) if match else 0


def read(folder: epath.Path, targets: Shapes) -> dict[str, Any]:
    """Reads leaves by path into shapes, dtypes and shardings that they were compared with."""
    import orbax.checkpoint as ocp

    nonempty = {path: leaf for path, leaf in targets.items() if leaf.size}
    zeros = lambda leaf: jax.device_put(np.zeros(leaf.shape, leaf.dtype), leaf.sharding)
    leaves: dict[str, Any] = {path: zeros(leaf) for path, leaf in targets.items() if not leaf.size}
    if nonempty:
        arguments = ocp.checkpoint_utils.construct_restore_args(nonempty)
        with ocp.PyTreeCheckpointer() as reader:
            arguments = ocp.args.PyTreeRestore(item=nonempty, restore_args=arguments, partial_restore=True)
            leaves |= reader.restore(folder, args=arguments)
    return leaves


def validated(state: Any) -> dict[str, jax.Array]:
    """Returns the leaves of a state by path; refuses those that a checkpoint cannot hold."""
    leaves = named_leaves(state)
    for path, leaf in leaves:
        if not isinstance(leaf, jax.Array):
            raise TypeError(f"state leaf {path} is {type(leaf).__name__}; a checkpoint takes jax arrays only")
        if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
            raise TypeError(f"state leaf {path} is a random key; save its jax.random.key_data")
    if len(dict(leaves)) < len(leaves):
        raise ValueError("two leaves of the state have the same slash-joined path")
    return dict(leaves)


def target(leaf: Any) -> jax.ShapeDtypeStruct:
    """Returns shape, dtype and sharding of an array or of its description; without a sharding, one device has it."""
    sharding = getattr(leaf, "sharding", None)
    if sharding is None and jax.process_count() > 1:
        raise ValueError("with several processes, every leaf of `state_like` needs a sharding")
    sharding = sharding or jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
    return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding)


def compare(name: str, saved: Shapes, expected: Mapping[str, Any]) -> None:
    """Raises InputError if saved and expected leaves differ in path, shape or dtype."""
    problems = [f"has no {path}" for path in expected if path not in saved]
    problems += [f"has {path}, which the state lacks" for path in saved if path not in expected]
    for path, leaf in expected.items():
        stored = saved.get(path)
        if stored is not None and (stored.shape, stored.dtype) != (tuple(leaf.shape), leaf.dtype):
            shapes = [f"{each.dtype}{list(each.shape)}" for each in (stored, leaf)]
            problems.append(f"has {path} as {shapes[0]}, expected {shapes[1]}")
    if problems:
        raise InputError(f"{name} {shortened(problems)}; use the config of the run that saved it")


def shortened(problems: list[str]) -> str:
    """Joins the first three of several problems."""
    return "; ".join(problems[:3]) + (f" (and {len(problems) - 3} more)" if len(problems) > 3 else "")
