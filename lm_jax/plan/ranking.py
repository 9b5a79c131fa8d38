"""Which split of a step over devices is best by estimate, and why: `config.mesh=auto` and `lm-jax plan --search`."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from lm_jax.core.chips import Chip
from lm_jax.plan.estimate import Estimate, Split, Step, estimate
from lm_jax.plan.layers import KEPT

# The share of a device's memory that an estimate may fill, because estimates are not exact.
FILLED = 0.9
# Traffic counts as equal if it differs by less than this share of the time of the products.
SLACK = 0.1
# Bytes that an unknown device sends in the time of an operation: those of a TPU v5e.
BYTES_PER_FLOP = 1e-3
# On devices of unknown memory, replicas hold parameters, optimizer state and gradients up to this size.
STATE_BYTES = 4 * 2**30


@dataclasses.dataclass(frozen=True, kw_only=True)
class Device:
    """What is known of a device.

    Attributes:
      limit_bytes: memory that a program can use; None: unknown.
      chip: figures of a TPU; None: another device, whose arrays have no tiles.
    """

    limit_bytes: int | None = None
    chip: Chip | None = None

    def fits(self, each: Estimate) -> bool:
        """Whether a step is estimated to fit, with room for the error of the estimate."""
        if self.limit_bytes is None:
            return each.parameters_bytes + each.optimizer_bytes + each.gradient_bytes <= STATE_BYTES
        return each.needed_bytes <= FILLED * self.limit_bytes


def rank(step: Step, splits: Sequence[Split], device: Device) -> list[Estimate]:
    """Returns the estimates of all splits, the best first.

    Those that fit come first. Of these, the ones with the smallest tensor axis come before the others, because products
    wait for its sums; of these, the ones that send the least, where traffic that differs by less than `SLACK` of the
    time of the products counts as equal; of these, the ones that repeat the fewest operations, and then those that send
    less. Those that do not fit follow, the smallest first.
    """
    every = [estimate(step, split, tiled=device.chip is not None) for split in splits]
    open_ones, result = [each for each in every if device.fits(each)], []
    ratio = BYTES_PER_FLOP if device.chip is None else device.chip.ici / device.chip.flops
    while open_ones:
        tensor = min(each.split.tensor for each in open_ones)
        these = [each for each in open_ones if each.split.tensor == tensor]
        most = min(each.sent_bytes for each in these) + SLACK * ratio * these[0].flops
        best = min((each for each in these if each.sent_bytes <= most), key=_cost)
        open_ones.remove(best)
        result.append(best)
    return result + sorted((each for each in every if not device.fits(each)), key=lambda each: each.needed_bytes)


def leaders(ranked: Sequence[Estimate], count: int = 3) -> list[Estimate]:
    """Returns the first estimates of different meshes, and if there are too few, the next ones of the same."""
    first = {tuple(each.split.axes.values()): each for each in reversed(ranked)}
    different = [each for each in ranked if first[tuple(each.split.axes.values())] is each]
    others = [each for each in ranked if not any(each is leader for leader in different)]
    return [*different, *others][:count]


def why(best: Estimate, ranked: Sequence[Estimate], device: Device, rows: int) -> str:
    """Returns a paragraph that says what was chosen, what a device needs and sends by part, and what decided.

    Args:
      best: the choice.
      ranked: all estimates, as `rank` returns them.
      device: what is known of a device.
      rows: rows of the global batch.
    """
    split = best.split
    share = rows // (split.data * split.fsdp * split.accumulate)
    passes = f" in {split.accumulate} micro-batches" if split.accumulate > 1 else ""
    memory = ", ".join(
        f"{label} {_gib(size)}"
        for label, size in (
            ("parameters", best.parameters_bytes),
            ("optimizer", best.optimizer_bytes),
            ("gradients", best.gradient_bytes),
            ("cast parameters", best.cast_bytes),
            ("activations", best.activation_bytes),
            ("a layer at work", best.working_bytes),
            ("logits", best.logit_bytes),
        )
    )
    sent = ", ".join(f"{name} {size / 1e9:.3g}" for name, size in best.wire_bytes.items() if size) or "nothing"
    limit = "" if device.limit_bytes is None else f" of {_gib(device.limit_bytes)}"
    lines = [
        f"mesh       auto: {named(split)}; {share} rows on a device{passes}",
        f"  memory   about {_gib(best.needed_bytes)}{limit} GiB a device: {memory}; the last two at different times",
        f"  sends    about {best.sent_bytes / 1e9:.3g} GB a device and step: {sent}; it repeats "
        f"{best.repeated_flops / best.flops if best.flops else 0:.0%} of the operations",
        f"  why      {_decided(best, ranked, device)}",
    ]
    return "\n".join(lines)


def named(split: Split) -> str:
    """Describes a split in a few words."""
    axes = " x ".join(f"{name} {size}" for name, size in split.axes.items())
    return axes + (f", remat {split.remat}" if split.remat is not None else "")


def flags(split: Split, stacks: Sequence[str]) -> list[str]:
    """Returns the arguments that choose a split; `stacks` are the keys of the stacks whose `remat` is open."""
    words = [f"--config.mesh.{name}={size}" for name, size in split.axes.items()]
    words += [f"--{key}.remat={split.remat}" for key in stacks if split.remat is not None]
    return words + ([f"--config.train.accumulate={split.accumulate}"] if split.accumulate > 1 else [])


def _decided(best: Estimate, ranked: Sequence[Estimate], device: Device) -> str:
    """Says which constraint decided: memory, or none."""
    count = sum(map(device.fits, ranked))
    among = f"{count} of {len(ranked)} ways to divide the step are estimated to fit"
    if not device.fits(best):
        return f"none of {len(ranked)} ways to divide the step is estimated to fit; this one needs the least memory"
    # What would be best if devices had all memory.
    ideal = min(ranked, key=lambda each: (each.split.tensor, each.sent_bytes, *_cost(each)))
    if ideal is best:
        return f"{among}; this one sends the least and repeats the least"
    other = f"{named(ideal.split)} would send {ideal.sent_bytes / 1e9:.3g} GB"
    if device.fits(ideal):
        share = f"less than {SLACK:.0%} of the time of the products"
        return f"{among}; {other}, which saves {share}, but would repeat more operations"
    needs = ideal.needed_bytes
    if device.limit_bytes is None:
        needs = ideal.parameters_bytes + ideal.optimizer_bytes + ideal.gradient_bytes
    return f"memory decided: {among}; {other}, but needs about {_gib(needs)} GiB"


def _cost(each: Estimate) -> tuple[float, ...]:
    """The order of splits whose traffic is equal."""
    remat = each.split.remat
    order = 0 if remat is None else list(KEPT).index(remat)
    return each.repeated_flops, order, each.split.accumulate, each.sent_bytes


def _gib(size: float) -> str:
    return f"{size / 2**30:.2f}"
