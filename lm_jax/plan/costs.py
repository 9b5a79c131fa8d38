"""The figures of a plan: bytes of a chip's memory, operations, collectives, and a lower bound of the step's time."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

import jax

from lm_jax.core.chips import Chip
from lm_jax.plan.compiling import Compiled
from lm_jax.plan.program import KINDS, Collective, Program, read

PLAN_VERSION = 2
Plan = dict[str, Any]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Work:
    """What the caller knows of a step.

    Attributes:
      parameters, optimizer, batch, other: trees of `jax.ShapeDtypeStruct` with shardings: trained and frozen
        parameters, the state of the optimizer, a batch, and the rest of the train state.
      model_flops: operations that the model requires for the whole batch (`Experiment.flops` times rows).
      devices: number of devices.
      slices: number of slices.
    """

    parameters: Any
    optimizer: Any
    batch: Any
    other: Any
    model_flops: float
    devices: int
    slices: int


def shard_bytes(tree: Any) -> int:
    """Returns the bytes that a device stores of a tree of sharded arrays, without the padding of tiles."""
    sizes = (math.prod(leaf.sharding.shard_shape(leaf.shape)) * leaf.dtype.itemsize for leaf in jax.tree.leaves(tree))
    return int(sum(sizes))


def figures(work: Work, compiled: Compiled, chip: Chip) -> Plan:
    """Returns the figures of a compiled step, flat, under the keys that docs/plans.md lists.

    Those that need the compiled text are None if the step does not fit.
    """
    limit = compiled.limit_bytes or chip.usable_bytes
    plan: Plan = {
        # The compiler of GPUs does not refuse what is too large.
        "fits": compiled.memory is not None and compiled.needed_bytes <= limit,
        "needed_bytes": compiled.needed_bytes,
        "limit_bytes": limit,
        "headroom_bytes": limit - compiled.needed_bytes,
        "parameters_bytes": shard_bytes(work.parameters),
        "optimizer_bytes": shard_bytes(work.optimizer),
        "batch_bytes": shard_bytes(work.batch),
        "other_state_bytes": shard_bytes(work.other),
        **_memory(compiled.memory),
        "model_flops": work.model_flops / work.devices,
    }
    program = read(compiled.text, work.devices // work.slices) if compiled.text else None
    plan["dot_flops"] = program.flops if program else None
    plan["flops_ratio"] = program.flops / plan["model_flops"] if program and plan["model_flops"] else None
    plan["kernels"] = program.kernels if program else None
    plan["unknown_loops"] = len(program.unknown_loops) if program else None
    return {**plan, **_collectives(program), **_bounds(plan, program, chip)}


def _memory(stats: Any) -> Plan:
    """Returns the compiler's own count of a device's memory."""
    names = {
        "argument_bytes": "argument_size_in_bytes",
        "output_bytes": "output_size_in_bytes",
        "alias_bytes": "alias_size_in_bytes",
        "temporary_bytes": "temp_size_in_bytes",
        "code_bytes": "generated_code_size_in_bytes",
    }
    plan: Plan = {key: None if stats is None else int(getattr(stats, name)) for key, name in names.items()}
    host = ("argument", "output", "temp", "generated_code")
    plan["host_bytes"] = None
    if stats is not None:
        total = sum(getattr(stats, f"host_{name}_size_in_bytes") for name in host)
        plan["host_bytes"] = int(total - stats.host_alias_size_in_bytes)
    return plan


def _collectives(program: Program | None) -> Plan:
    plan: Plan = {}
    for kind in KINDS:
        name = kind.replace("-", "_")
        these = [each for each in program.collectives if each.kind == kind] if program else None
        plan[f"{name}_count"] = None if these is None else sum(each.count for each in these)
        plan[f"{name}_payload_bytes"] = (
            None if these is None else sum(each.count * each.payload_bytes for each in these)
        )
        plan[f"{name}_wire_bytes"] = None if these is None else _sent(these)
        plan[f"{name}_synchronous_bytes"] = None if these is None else _sent(_synchronous(these))
    every = program.collectives if program else None
    plan["wire_bytes"] = None if every is None else _sent(every)
    plan["synchronous_bytes"] = None if every is None else _sent(_synchronous(every))
    plan["dcn_bytes"] = None if every is None else _sent([each for each in every if each.dcn])
    return plan


def _sent(collectives: Any) -> float:
    return sum(each.count * each.wire_bytes for each in collectives)


def _synchronous(collectives: Any) -> list[Collective]:
    return [each for each in collectives if not each.asynchronous]


def _bounds(plan: Mapping[str, Any], program: Program | None, chip: Chip) -> Plan:
    """Returns the seconds that each part of a chip needs at its peak; the step takes at least the longest of them."""
    if program is None:
        return {"compute_s": None, "hbm_s": None, "ici_s": None, "dcn_s": None, "lower_bound_s": None, "bound_by": None}
    # Every argument is read and every result written at least once; what passes between them is not counted.
    touched = plan["argument_bytes"] + plan["output_bytes"]
    inside, across = (_sent([each for each in program.collectives if each.dcn == dcn]) for dcn in (False, True))
    seconds = {
        "compute": program.flops / chip.flops,
        "hbm": touched / chip.hbm,
        "ici": inside / chip.ici,
        "dcn": across / chip.dcn if chip.dcn else 0.0 if not across else None,
    }
    longest = max((name for name in seconds if seconds[name] is not None), key=lambda name: seconds[name] or 0.0)
    bounds = {f"{name}_s": value for name, value in seconds.items()}
    return {**bounds, "lower_bound_s": seconds[longest], "bound_by": longest}
