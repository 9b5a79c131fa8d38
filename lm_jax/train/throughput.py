"""Tokens per second, model FLOPs utilisation (MFU) and remaining time.

MFU counts the floating-point operations that the model requires, without recomputed activations (Chowdhery et al. 2022,
PaLM, arXiv:2204.02311, appendix B).
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import re
import time
from collections.abc import Callable, Iterator

import jax
import jax.numpy as jnp

from lm_jax.core.chips import KINDS, TPUS

# Dense bfloat16 FLOP/s of one jax device, by `device_kind`. TPUs: cloud.google.com/tpu/docs, the page of each version;
# a device is a chip, on v2, v3 and TPU7x one of a chip's two cores. GPUs: the vendor's data sheets, without sparsity;
# float16 for V100 and T4, which have no bfloat16.
TPU_FLOPS = {
    "TPU v2": 22.5e12,
    "TPU v3": 61.5e12,
    **{kind: TPUS[family].flops for kind, family in KINDS.items()},
}
GPU_FLOPS = {
    "V100": 125e12,
    "T4": 65e12,
    "A10": 125e12,
    "A10G": 70e12,
    "A100": 312e12,
    "L4": 121e12,
    "L40S": 362e12,
    "H100": 989.5e12,
    "H100 PCIe": 756e12,
    "H100 NVL": 835e12,
    "H200": 989.5e12,
    "GH200": 989.5e12,
    "B200": 2250e12,
    "GB200": 2500e12,
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Peak:
    """Peak performance of a device.

    Attributes:
      flops: floating-point operations per second.
      source: `table`, or `measured` with the matrix product that was timed.
    """

    flops: float
    source: str


def tabulated(kind: str) -> float | None:
    """Returns the peak of a `device_kind` according to the tables, such as `TPU v5 lite` or `NVIDIA A100-SXM4-80GB`."""
    names = [name for name in GPU_FLOPS if re.search(rf"\b{name}\b", kind)]
    return GPU_FLOPS[max(names, key=len)] if names else TPU_FLOPS.get(kind)


def peak(device: jax.Device) -> Peak:  # type: ignore[valid-type]
    """Returns the peak of a device: from the tables, else measured once per process."""
    flops = tabulated(device.device_kind)
    return Peak(flops=flops, source="table") if flops else _measured(device.platform)


@functools.cache
def _measured(platform: str) -> Peak:
    """Times matrix products on the first device of a platform; takes the best of three runs."""
    cpu = platform == "cpu"
    size, chain, dtype = (1024, 4, jnp.float32) if cpu else (8192, 16, jnp.bfloat16)
    device = jax.local_devices(backend=platform)[0]

    @jax.jit
    def products(x: jax.Array) -> jax.Array:
        return jax.lax.fori_loop(0, chain, lambda _, y: x @ y, x)

    x = jax.device_put(jnp.full((size, size), 1.0 / size, dtype), device)
    products(x).block_until_ready()
    best = float("inf")
    for _ in range(3):
        start = time.perf_counter()
        products(x).block_until_ready()
        best = min(best, time.perf_counter() - start)
    # All jax devices of a CPU share its cores.
    shared = jax.local_device_count(backend=platform) if cpu else 1
    flops = 2 * size**3 * chain / best / shared
    return Peak(flops=flops, source=f"measured ({size} x {size} {jnp.dtype(dtype).name} product)")


@dataclasses.dataclass(frozen=True, kw_only=True)
class MeterConfig:
    """Constants of a run from which rates are computed.

    Attributes:
      steps: length of the run.
      devices: number of devices.
      peak_flops: of one device; 0: no MFU.
    """

    steps: int
    devices: int
    peak_flops: float = 0.0


@dataclasses.dataclass(frozen=True, kw_only=True)
class Read:
    """What the steps of a run have read so far, over all devices.

    Attributes:
      tokens: input tokens, padding included.
      flops: floating-point operations of their forward and backward passes (`models.flops`); 0: unknown.
    """

    tokens: int = 0
    flops: float = 0.0

    def __add__(self, other: Read) -> Read:
        return Read(tokens=self.tokens + other.tokens, flops=self.flops + other.flops)

    def __mul__(self, steps: int) -> Read:
        return Read(tokens=steps * self.tokens, flops=steps * self.flops)


class Meter:
    """Computes rates between readings from the number of steps, and what they have read, so far.

    Call `start` after the first step, to exclude its compilation. `read` does not wait for the device, so call it just
    after the metrics of the same step were fetched.
    """

    def __init__(self, config: MeterConfig, *, clock: Callable[[], float] = time.perf_counter):
        self._config, self._clock = config, clock
        self._paused_s = 0.0  # since the last reading
        self._begin: tuple[int, float] | None = None
        self._last: tuple[int, Read, float] | None = None

    def start(self, step: int, read: Read) -> None:
        """Starts the clock after `step` steps of the run."""
        now = self._clock()
        self._begin, self._last, self._paused_s = (step, now), (step, read, now), 0.0

    @contextlib.contextmanager
    def paused(self) -> Iterator[None]:
        """A context whose time, such as an evaluation's, is excluded from the rates, but not from `eta_s`."""
        begin = self._clock()
        try:
            yield
        finally:
            self._paused_s += self._clock() - begin

    def read(self, step: int, read: Read) -> dict[str, float]:
        """Returns rates since the last reading, given the steps so far and what they have read.

        They are `tokens_per_second`, `tokens_per_second_per_device`, `mfu` (a fraction) and `eta_s`, the remaining
        seconds. The result is empty before `start`, and if there was no step since the last reading.
        """
        if self._begin is None or self._last is None or step <= self._last[0]:
            return {}
        config, now, before = self._config, self._clock(), self._last[1]
        seconds = max(now - self._last[2] - self._paused_s, 1e-9)
        rate = (read.tokens - before.tokens) / seconds
        per_step = (now - self._begin[1]) / (step - self._begin[0])
        self._last, self._paused_s = (step, read, now), 0.0
        rates = {"tokens_per_second": rate, "tokens_per_second_per_device": rate / config.devices}
        if read.flops and config.peak_flops:
            rates["mfu"] = (read.flops - before.flops) / seconds / (config.devices * config.peak_flops)
        return {**rates, "eta_s": per_step * max(config.steps - step, 0)}
