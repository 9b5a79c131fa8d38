"""A plan as a table, as a picture of a chip's memory, as a file, and as its differences from another plan."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lm_jax.core.config import InputError
from lm_jax.plan.costs import PLAN_VERSION, Plan
from lm_jax.plan.program import KINDS

# Parts of a chip's memory: key, label. The first rows are known without a compilation.
STATE = (
    ("parameters_bytes", "parameters"),
    ("optimizer_bytes", "optimizer state"),
    ("other_state_bytes", "other state"),
    ("batch_bytes", "batch"),
)
COMPILED = (("temporary_bytes", "temporaries"), ("code_bytes", "code"), ("host_bytes", "in the host's memory"))
SECONDS = {"compute": "products", "hbm": "HBM, at least", "ici": "ICI", "dcn": "DCN"}


def table(plan: Plan) -> str:
    """Formats a plan for a terminal."""
    chips = f"{plan['slices']} x {plan['topology']}" if plan["slices"] > 1 else plan["topology"]
    mesh = " x ".join(f"{name} {plan[f'mesh_{name}']}" for name in ("data", "fsdp", "tensor"))
    lines = [
        f"plan       {plan['recipe']} on {chips}: {plan['devices']} devices, {mesh}",
        f"batch      {plan['rows']} rows x {plan['length']} tokens, accumulate {plan['accumulate']}, {plan['dtype']}, "
        f"vocabulary {plan['vocabulary']:,}",
        f"compiler   {plan['compiler']} {plan['compiler_version']}, jax {plan['jax']}: traced in "
        f"{plan['tracing_s']:.1f} s, compiled in {plan['compiling_s']:.1f} s",
        f"memory     {verdict(plan)}",
        *(f"  {label:<24}{_gib(plan[key]):>12}" for key, label in (*STATE, *COMPILED) if plan[key] is not None),
    ]
    if plan["fits"]:
        results = f"{_gib(plan['output_bytes'])} of results, {_gib(plan['alias_bytes'])} of them in place"
        lines += [f"  {'compiled arguments':<24}{_gib(plan['argument_bytes']):>12}, {results}", *_executed(plan)]
    else:
        lines += ["changes    estimates, the cheapest first; plan again to see what each really saves"]
        for number in range(1, 4):
            if plan[f"change_{number}"]:
                saves = _gib(plan[f"change_{number}_saves_bytes"]).strip()
                lines.append(f"  {plan[f'change_{number}']}: about {saves} less ({plan[f'change_{number}_price']})")
        lines.append("Operations and collectives are unknown, because a program that does not fit is not compiled.")
    return "\n".join(lines)


def verdict(plan: Plan) -> str:
    """Says in a sentence whether a plan fits."""
    needed, limit = _gib(plan["needed_bytes"]).strip(), _gib(plan["limit_bytes"]).strip()
    if not plan["fits"]:
        return f"does not fit: needs {needed} of {limit} a device, {_gib(-plan['headroom_bytes']).strip()} too much"
    return f"fits: needs {needed} of {limit} a device, {_gib(plan['headroom_bytes']).strip()} to spare"


def _executed(plan: Plan) -> list[str]:
    """Lines about what a device executes in one step."""
    ratio = f"{plan['flops_ratio']:.3f}" if plan["flops_ratio"] else "unknown"
    lines = [
        f"products   {plan['dot_flops'] / 1e12:,.4g} TFLOP a device and step; the model requires "
        f"{plan['model_flops'] / 1e12:,.4g} TFLOP: ratio {ratio}",
        f"{'collectives':<20}{'executed':>10}{'payload GB':>13}{'wire GB':>13}{'synchronous GB':>16}",
    ]
    for kind in KINDS:
        name = kind.replace("-", "_")
        if plan[f"{name}_count"]:
            sizes = [plan[f"{name}_{part}_bytes"] / 1e9 for part in ("payload", "wire", "synchronous")]
            lines.append(f"  {kind:<18}{plan[f'{name}_count']:>10,.0f}" + "".join(_columns(sizes)))
    sizes = [plan["wire_bytes"] / 1e9, plan["synchronous_bytes"] / 1e9]
    lines.append(f"  {'together':<18}{'':>10}{'':>13}" + f"{sizes[0]:>13,.4g}{sizes[1]:>16,.4g}")
    if plan["slices"] > 1:
        lines.append(f"  {'between slices':<18}{'':>10}{'':>13}{plan['dcn_bytes'] / 1e9:>13,.4g}")
    parts = [
        f"{label} {plan[f'{name}_s']:.4g} s" if plan[f"{name}_s"] is not None else f"{label} unknown"
        for name, label in SECONDS.items()
        if name != "dcn" or plan["slices"] > 1
    ]
    lines.append(
        f"roofline   a step takes at least {plan['lower_bound_s']:.4g} s, for {SECONDS[plan['bound_by']]} "
        f"({', '.join(parts)}); this is a lower bound, not a forecast"
    )
    if plan["unknown_loops"]:
        lines.append(f"warning    {plan['unknown_loops']} loops of unknown length count as one iteration")
    if plan["kernels"]:
        lines.append(f"warning    the operations of {plan['kernels']:,.0f} handwritten kernels are not counted")
    return lines


def _columns(sizes: list[float]) -> list[str]:
    return [f"{size:>{width},.4g}" for size, width in zip(sizes, (13, 13, 16), strict=True)]


def _gib(size: float) -> str:
    """Formats bytes as GiB, and small ones as MiB."""
    return f"{size / 2**30:,.2f} GiB" if abs(size) >= 2**27 else f"{size / 2**20:,.2f} MiB"


def chart(plan: Plan, path: Path) -> None:
    """Draws a chip's memory as one bar beside its limit, a PNG."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 2.6), layout="constrained")
    FigureCanvasAgg(figure)
    axes, left = figure.add_subplot(), 0.0
    parts = [(label, plan[key]) for key, label in (*STATE, *COMPILED[:2]) if plan[key]]
    rest = plan["needed_bytes"] - sum(size for _, size in parts)
    parts.append(("temporaries and padding" if not plan["fits"] else "padding and new results", max(rest, 0)))
    for label, size in parts:
        axes.barh([""], [size / 2**30], left=left, label=f"{label}, {_gib(size)}")
        left += size / 2**30
    limit = plan["limit_bytes"] / 2**30
    axes.axvline(limit, color="black", linestyle="--")
    axes.set_xlim(0, max(left, limit) * 1.05)
    axes.set_xlabel("GiB of a device; the dashed line is what a program can use")
    axes.set_title(f"{plan['recipe']} on {plan['topology']}: {'fits' if plan['fits'] else 'does not fit'}")
    figure.legend(loc="outside lower center", ncols=3, fontsize="small")
    figure.savefig(path, dpi=120, format="png")


def load(path: str) -> Plan:
    """Reads a plan.json; raises InputError if the file is none."""
    file = Path(path) / "plan.json" if Path(path).is_dir() else Path(path)
    try:
        plan = json.loads(file.read_text())
        version = plan["plan_version"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(
            f"--against={path} is no plan; give the plan.json that lm-jax plan --output=DIR has written"
        ) from error
    if version != PLAN_VERSION:
        raise InputError(f"--against={path} is a plan of version {version}; expected {PLAN_VERSION}: plan it again")
    return plan


def differences(before: Mapping[str, Any], after: Mapping[str, Any]) -> list[str]:
    """Returns a line for each figure that differs, with the ratio of numbers; times of the compiler do not count."""
    lines = []
    for key in dict.fromkeys([*before, *after]):
        old, new = before.get(key), after.get(key)
        if old == new or key in ("tracing_s", "compiling_s"):
            continue
        number = all(isinstance(value, (int, float)) and not isinstance(value, bool) for value in (old, new))
        ratio = f"  ({new / old:.3f} times)" if number and old and new is not None else ""
        lines.append(f"  {key:<34}{_value(key, old)} -> {_value(key, new)}{ratio}")
    return lines


def _value(key: str, value: Any) -> str:
    if value is None:
        return "unknown"
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        return _gib(value) if key.endswith("_bytes") else f"{value:,.6g}"
    return str(value)
