"""The cheapest changes that make a step fit, by closed forms: estimates, which a new plan confirms.

Activations of a layer take `width * (34 + 5 * heads * length / width)` bytes a token in 16 bits, and its input takes
`2 * width` (Korthikanti et al. 2022, arXiv:2205.05198, section 4.1). The outputs of its products are about half of 34.
"""

from __future__ import annotations

import dataclasses


@dataclasses.dataclass(frozen=True, kw_only=True)
class Step:
    """Sizes of a step on one device.

    Attributes:
      layers: (depth, width, heads, length, remat) of each stack.
      rows: rows of the batch on a device in one micro-batch.
      itemsize: bytes of an activation.
      accumulate: micro-batches of a step.
      state_bytes: parameters and optimizer state on a device.
      moments_bytes: the optimizer's moments on a device, if they are float32 and could be narrower; else 0.
      gradient_bytes: gradients of a step on a device; micro-batches are summed in as much again.
      data: replicas, which hold the same state.
      slices: slices, which only replicas can span.
      needed_bytes: what the compiler asked for.
      limit_bytes: what a device has.
    """

    layers: tuple[tuple[int, int, int, int, str], ...]
    rows: int
    itemsize: int
    accumulate: int
    state_bytes: int
    moments_bytes: int
    gradient_bytes: int
    data: int
    slices: int
    needed_bytes: int
    limit_bytes: int


@dataclasses.dataclass(frozen=True, kw_only=True)
class Change:
    """A change of the configuration, its price in words, and the bytes of a device that it saves, as estimated."""

    change: str
    price: str
    saves_bytes: int


def _kept(remat: str) -> float:
    """Bytes of a layer for each token and feature of the stream, in 16 bits, that `models.remat` keeps."""
    choices = {"dots": 17.0, "minimal": 20.0, "save_attention": 12.0, "save_qkv": 8.0, "full": 2.0, "offload": 0.0}
    # Beside its input, the named values, of which two have four times the stream's features.
    return choices.get(remat, 2.0 + sum(8 if name in ("gate", "in") else 2 for name in remat.split(",")))


def activations(step: Step, remat: str | None = None) -> float:
    """Returns the bytes of a micro-batch's stored activations; `remat` replaces the setting of every stack."""
    total = 0.0
    for depth, width, heads, length, own in step.layers:
        everything, kept = 34 + 5 * heads * length / width, remat or own
        per_layer = everything if kept == "none" else _kept(kept)
        # A layer that is computed again needs its activations while it is.
        again = 0.0 if kept == "none" else everything
        total += step.rows * length * width * step.itemsize / 2 * (depth * per_layer + again)
    return total


def cheapest(step: Step, count: int = 3) -> list[Change]:
    """Returns up to `count` changes, the cheapest first; those that are estimated to suffice come before the others."""
    stored = activations(step)
    # The closed form gives the share of the activations that a change saves; the compiler has said how much they take.
    most = max(step.needed_bytes - step.state_bytes - step.gradient_bytes, 0)
    excess, summed = step.needed_bytes - step.limit_bytes, step.gradient_bytes if step.accumulate == 1 else 0
    saved = lambda number: round(most * min(max(number / stored, 0.0), 1.0))
    changes = []
    replicas = step.data // step.slices
    if replicas > 1:
        keys = f"config.mesh.data={step.slices} config.mesh.fsdp=-1"
        kept = round(step.state_bytes * (1 - 1 / replicas))
        changes.append(Change(change=keys, price="gathers each layer's parameters twice a step", saves_bytes=kept))
    if step.itemsize == 4:
        half = saved(stored / 2)
        changes.append(Change(change="config.model.dtype=bfloat16", price="16-bit products", saves_bytes=half))
    possible = [parts for parts in (2, 4, 8, 16) if step.rows % parts == 0]
    if possible:
        less = {parts: max(saved(stored * (1 - 1 / parts)) - summed, 0) for parts in possible}
        enough = [parts for parts in possible if less[parts] >= excess]
        parts = enough[0] if enough else possible[-1]
        key = f"config.train.accumulate={step.accumulate * parts}"
        price = f"gathers parameters {parts} times as often"
        changes.append(Change(change=key, price=price, saves_bytes=less[parts]))
    remats = {remat for *_, remat in step.layers}
    for remat, price in (("dots", "a few more operations"), ("full", "a third more operations")):
        if "none" in remats or (remat == "full" and "dots" in remats):
            key = f"remat={remat} of the stack (config.model.stack.remat, or of encoder and decoder)"
            kept = activations(step, remat)
            changes.append(Change(change=key, price=price, saves_bytes=saved(stored - kept)))
    for format, kept in (("bfloat16", 2), ("int8", 1)):
        key, less = f"config.optimizer.moments={format}", round(step.moments_bytes * (1 - kept / 4))
        changes.append(Change(change=key, price=f"moments in {8 * kept} bits", saves_bytes=less))
    if step.rows % 2 == 0:
        changes.append(Change(change="half of config.data.batch", price="another batch", saves_bytes=saved(stored / 2)))
    half = round((step.needed_bytes if replicas <= 1 else most) / 2)
    changes.append(
        Change(change="twice the chips, with config.mesh.fsdp=-1", price="twice the chips", saves_bytes=half)
    )
    return sorted((each for each in changes if each.saves_bytes), key=lambda each: each.saves_bytes < excess)[:count]
