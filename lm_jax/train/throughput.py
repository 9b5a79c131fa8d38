"""Tokens per second, model FLOP utilisation and the time that is left.

MFU counts the floating-point operations that the model needs, not those that the compiler chose to do (recomputed
activations count nothing), after Chowdhery et al. 2022 (PaLM, arXiv:2204.02311), appendix B.
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

# Dense bfloat16 FLOP/s of one jax device, by `device_kind`. TPUs: cloud.google.com/tpu/docs, the page of each version;
# a device is a chip, but on v2, v3 and TPU7x one of a chip's two cores. GPUs: the vendor's data sheets, without
# sparsity; V100 and T4 have no bfloat16, so their float16.
TPU_FLOPS = {
    "TPU v2": 22.5e12,
    "TPU v3": 61.5e12,
    "TPU v4": 275e12,
    "TPU v5 lite": 197e12,
    "TPU v5e": 197e12,
    "TPU v5": 459e12,
    "TPU v5p": 459e12,
    "TPU v6 lite": 918e12,
    "TPU v6e": 918e12,
    "TPU7x": 1153.5e12,
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
    """What a device can do.

    Attributes:
      flops: floating-point operations per second and device.
      source: `table`, or `measured` with what was measured.
    """

    flops: float
    source: str


def listed(kind: str) -> float | None:
    """The peak that the tables give for a `device_kind`, such as `TPU v5 lite` or `NVIDIA A100-SXM4-80GB`."""
    names = [name for name in GPU_FLOPS if re.search(rf"\b{name}\b", kind)]
    return GPU_FLOPS[max(names, key=len)] if names else TPU_FLOPS.get(kind)


def peak(device: jax.Device) -> Peak:  # type: ignore[valid-type]
    """The peak of a device: from the tables, else by a short matrix product, measured once a process."""
    known = listed(device.device_kind)
    return Peak(flops=known, source="table") if known else _measured(device.platform)


@functools.cache
def _measured(platform: str) -> Peak:
    """The best of a few chained matrix products on the first device of a platform."""
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
    # The devices of a CPU are slices of the same cores.
    shared = jax.local_device_count(backend=platform) if cpu else 1
    flops = 2 * size**3 * chain / best / shared
    return Peak(flops=flops, source=f"measured ({size} x {size} {jnp.dtype(dtype).name} product)")


@dataclasses.dataclass(frozen=True, kw_only=True)
class MeterConfig:
    """What the rates are measured against.

    Attributes:
      steps: the length of the run.
      devices: how many share the work.
      flops_per_token: of the model's forward and backward pass (`models.flops`); 0 leaves MFU out.
      peak_flops: of one device.
    """

    steps: int
    devices: int
    flops_per_token: float = 0.0
    peak_flops: float = 0.0


class Meter:
    """Rates between two readings, from the number of steps and tokens so far.

    Start it after the first step, so that compilation is not counted; reading it does not wait for the device, so
    read it where the metrics of the same step have just been fetched.
    """

    def __init__(self, config: MeterConfig, *, clock: Callable[[], float] = time.perf_counter):
        self._config = config
        self._clock = clock
        self._away = 0.0  # paused since the last reading
        self._begin: tuple[int, float] | None = None
        self._last: tuple[int, int, float] | None = None

    def start(self, step: int, tokens: int) -> None:
        """Begins to count after `step` steps and `tokens` tokens of the whole run."""
        now = self._clock()
        self._begin, self._last, self._away = (step, now), (step, tokens, now), 0.0

    @contextlib.contextmanager
    def paused(self) -> Iterator[None]:
        """Evaluation and the like: time that is no training, though the end of the run comes later by it."""
        begin = self._clock()
        try:
            yield
        finally:
            self._away += self._clock() - begin

    def read(self, step: int, tokens: int) -> dict[str, float]:
        """Rates since the last reading.

        Args:
          step: steps so far.
          tokens: tokens so far, over all devices.

        Returns:
          `tokens_per_second`, `tokens_per_second_per_device`, `mfu` (a fraction) and `eta_s`; nothing before `start`
          or without a step since.
        """
        if self._begin is None or self._last is None or step <= self._last[0]:
            return {}
        config, now = self._config, self._clock()
        seconds = max(now - self._last[2] - self._away, 1e-9)
        rate = (tokens - self._last[1]) / seconds
        per_step = (now - self._begin[1]) / (step - self._begin[0])
        self._last, self._away = (step, tokens, now), 0.0
        rates = {"tokens_per_second": rate, "tokens_per_second_per_device": rate / config.devices}
        if config.flops_per_token and config.peak_flops:
            rates["mfu"] = rate * config.flops_per_token / (config.devices * config.peak_flops)
        return {**rates, "eta_s": per_step * max(config.steps - step, 0)}
