"""Upper limits of the machine: `python -m benchmarks.limits`.

The speed of W1's float32 matrix products, in numpy and in XLA, limits every implementation of W1. Sums over the first
axis, slower than products with ones, are the reason for `lm_jax/models/cpu.py`. Each line is the best of several runs.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable
from typing import Any

os.environ.setdefault("JAX_PLATFORMS", "cpu")

import jax
import jax.numpy as jnp
import numpy as np

# W1's products as rows, contracted axis, columns: projections, feed-forward, readout.
PRODUCTS = ((2048, 384, 384), (2048, 384, 1536), (2048, 1536, 384), (2048, 384, 8192))
SUMS = ((320, 30522), (4, 524288), (2048, 2048))
REPEATS = 15


def fastest(work: Callable[[], Any]) -> float:
    """Return the seconds of the fastest of several calls."""
    spent = []
    for _ in range(REPEATS):
        start = time.perf_counter()
        jax.block_until_ready(work())
        spent.append(time.perf_counter() - start)
    return min(spent)


def main() -> None:
    """Print one JSON line for each shape."""
    draw = np.random.default_rng(0).standard_normal
    matmul = jax.jit(jnp.matmul)
    for rows, inner, columns in PRODUCTS:
        left, right = (draw(shape).astype("float32") for shape in ((rows, inner), (inner, columns)))
        on_device = jnp.asarray(left), jnp.asarray(right)
        seconds = {"numpy": fastest(lambda l=left, r=right: l @ r), "xla": fastest(lambda d=on_device: matmul(*d))}
        gflops = {name: round(2e-9 * rows * inner * columns / spent, 1) for name, spent in seconds.items()}
        print(json.dumps({"product": [rows, inner, columns], "gflop_per_s": gflops}), flush=True)
    summed = jax.jit(lambda x: x.sum(0))
    multiplied = jax.jit(lambda x: jnp.ones((1, x.shape[0]), x.dtype) @ x)
    for shape in SUMS:
        x = jnp.asarray(draw(shape).astype("float32"))
        spent = {"sum": fastest(lambda x=x: summed(x)), "product": fastest(lambda x=x: multiplied(x))}
        ms = {name: round(1e3 * seconds, 2) for name, seconds in spent.items()}
        print(json.dumps({"over_first_axis": shape, "ms": ms}), flush=True)


if __name__ == "__main__":
    main()
