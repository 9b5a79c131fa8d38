"""What the machine gives at most: `python -m benchmarks.limits`.

The float32 products of W1, by numpy and by XLA, bound what any program can reach on W1; sums over a first axis, beside
the same sums as products with ones, are why `lm_jax/models/cpu.py` is there. Best of several times, one line each.
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

# Rows, contracted and columns of W1's products: projections, feed-forward, readout.
PRODUCTS = ((2048, 384, 384), (2048, 384, 1536), (2048, 1536, 384), (2048, 384, 8192))
SUMS = ((320, 30522), (4, 524288), (2048, 2048))
TIMES = 15


def fastest(work: Callable[[], Any]) -> float:
    """Seconds of the fastest of several calls."""
    spent = []
    for _ in range(TIMES):
        start = time.perf_counter()
        jax.block_until_ready(work())
        spent.append(time.perf_counter() - start)
    return min(spent)


def main() -> None:
    """Prints one JSON line a shape."""
    draw = np.random.default_rng(0).standard_normal
    times = jax.jit(jnp.matmul)
    for rows, inner, columns in PRODUCTS:
        left, right = (draw(shape).astype("float32") for shape in ((rows, inner), (inner, columns)))
        on_device = jnp.asarray(left), jnp.asarray(right)
        seconds = {"numpy": fastest(lambda l=left, r=right: l @ r), "xla": fastest(lambda d=on_device: times(*d))}
        gflops = {name: round(2e-9 * rows * inner * columns / spent, 1) for name, spent in seconds.items()}
        print(json.dumps({"product": [rows, inner, columns], "gflop_per_s": gflops}), flush=True)
    summed = jax.jit(lambda x: x.sum(0))
    multiplied = jax.jit(lambda x: jnp.ones((1, x.shape[0]), x.dtype) @ x)
    for shape in SUMS:
        x = jnp.asarray(draw(shape).astype("float32"))
        spent = {"sum": fastest(lambda x=x: summed(x)), "product": fastest(lambda x=x: multiplied(x))}
        print(
            json.dumps({"over_first_axis": shape, "ms": {k: round(1e3 * v, 2) for k, v in spent.items()}}), flush=True
        )


if __name__ == "__main__":
    main()
