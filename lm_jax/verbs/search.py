"""`lm-jax plan --search`: compiles the meshes that are best by estimate, and compares what the compiler says."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

from lm_jax.core.chips import Chip
from lm_jax.experiment import Experiment, automatic
from lm_jax.parallel.mesh import AUTO, MeshConfig
from lm_jax.plan import ranking
from lm_jax.plan.compiling import Compiled
from lm_jax.plan.costs import Plan
from lm_jax.plan.estimate import Estimate
from lm_jax.plan.ranking import Device

# How many are compiled.
COUNT = 3


@dataclasses.dataclass(frozen=True, kw_only=True)
class Found:
    """The result of a search.

    Attributes:
      plan, compiled: of the winner.
      document: for `--json`: the `plans` of all candidates, the index of the `winner`, and the `flags` that choose it.
    """

    plan: Plan
    compiled: Compiled
    document: Plan


def run(
    exp: Experiment,
    devices: Sequence[Any],
    device: Device,
    overrides: Sequence[str],
    planned: Callable[[Experiment], tuple[Plan, Compiled]],
    say: Callable[[str], None],
) -> Found:
    """Compiles the best candidates and names the winner.

    Axes of the mesh, `stack.remat` and `train.accumulate` are open unless they are among `overrides`.

    Args:
      exp: an experiment, whose own mesh is not built.
      devices: the devices to plan for.
      device: what is known of each.
      overrides: the arguments `--config.KEY=VALUE` of the command line.
      planned: compiles the step of an experiment; returns its plan.
      say: prints text.
    """
    given = {word.partition("=")[0].removeprefix("--config.") for word in overrides}
    axes = {
        name: getattr(exp.config.mesh, name) if f"mesh.{name}" in given else -1 for name in ("data", "fsdp", "tensor")
    }
    opened = dataclasses.replace(exp, config=dataclasses.replace(exp.config, mesh=MeshConfig(**{**AUTO, **axes})))
    stacks = [key for key, _ in automatic.stacks(exp.config) if f"{key}.remat".removeprefix("config.") not in given]
    accumulates = (1,) if "train.accumulate" in given else automatic.ACCUMULATE
    ranked = automatic.rank(opened, devices, device, stacks, accumulates)
    leaders = ranking.leaders(ranked.estimates, COUNT)
    say(f"search     {len(ranked.estimates)} ways to divide the step; the best by estimate are compiled:")
    results = []
    for each in leaders:
        say(f"  {ranking.named(each.split)}")
        candidate = automatic.divided(opened, devices, each.split, ranked.open_stacks)
        plan, compiled = planned(candidate)
        plan |= {
            "remat": each.split.remat,
            "estimated_bytes": each.needed_bytes,
            "estimated_wire_bytes": each.sent_bytes,
        }
        results.append((each, plan, compiled))
    winner = min(range(len(results)), key=lambda index: _order(results[index][1], device.chip))
    best, plan, compiled = results[winner]
    words = " ".join(ranking.flags(best.split, ranked.open_stacks))
    say(table([(each, plan) for each, plan, _ in results], winner, device.chip))
    verdict = "winner    " if plan["fits"] else "none fits; the smallest is"
    say(f"{verdict} {ranking.named(best.split)}: add {words}")
    document = {"plans": [plan for _, plan, _ in results], "winner": winner, "flags": words}
    return Found(plan=plan, compiled=compiled, document=document)


def table(results: Sequence[tuple[Estimate, Plan]], winner: int, chip: Chip | None) -> str:
    """Formats the candidates, one a line; the winner has a star.

    `at least` is the longest of the times of a plan's roofline, where synchronous collectives, during which nothing is
    computed, are added to the products.
    """
    lines = [
        f"  {'candidate':<52}{'fits':>6}{'needs GiB':>11}{'estimate':>10}{'sent GB':>10}{'sync GB':>10}{'at least':>13}"
    ]
    for index, (each, plan) in enumerate(results):
        split = each.split
        name = ranking.named(split) + (f", accumulate {split.accumulate}" if split.accumulate > 1 else "")
        columns = [f"{plan['needed_bytes'] / 2**30:>11.2f}", f"{each.needed_bytes / 2**30:>10.2f}"]
        for key, width in (("wire_bytes", 10), ("synchronous_bytes", 10)):
            columns.append(f"{'unknown':>{width}}" if plan[key] is None else f"{plan[key] / 1e9:>{width}.3g}")
        bound = at_least(plan, chip)
        columns.append(f"{'unknown':>13}" if bound is None else f"{bound:>11.4g} s")
        mark = "*" if index == winner else " "
        lines.append(f"{mark} {name:<52}{'yes' if plan['fits'] else 'no':>6}{''.join(columns)}")
    return "\n".join(lines)


def at_least(plan: Plan, chip: Chip | None) -> float | None:
    """Returns the seconds that a step takes at least; None: unknown, because it does not fit."""
    if plan["compute_s"] is None or chip is None:
        return None
    parts = [
        plan["compute_s"] + plan["synchronous_bytes"] / chip.ici,
        plan["hbm_s"],
        plan["ici_s"],
        plan["dcn_s"] or 0.0,
    ]
    return max(parts)


def _order(plan: Plan, chip: Chip | None) -> tuple[float, ...]:
    """What fits comes first, by time; then what needs the least."""
    return (0.0, at_least(plan, chip) or 0.0) if plan["fits"] else (1.0, float(plan["needed_bytes"]))
