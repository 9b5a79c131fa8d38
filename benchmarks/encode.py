"""Encode: the forward pass of the encoder in `checkpoint=DIR` on 32 rows of 128 tokens."""

import sys

import jax
import jax.numpy as jnp

from benchmarks.worker import generator, serve
from lm_jax import interop
from lm_jax.models.interface import Inputs

ROWS, LENGTH = 32, 128


def main() -> None:
    """Serve forward passes of one fixed batch without padding."""
    words = dict(word.split("=", 1) for word in sys.argv[1:])
    if "checkpoint" not in words:
        sys.exit("encode needs the directory of an encoder: checkpoint=DIR")
    module, params = interop.load(words["checkpoint"])
    tokens = generator(0).integers(1000, 20_000, (ROWS, LENGTH), dtype="int32")
    inputs = Inputs(tokens=jnp.asarray(tokens), segments=jnp.ones((ROWS, LENGTH), jnp.int32))
    encode = jax.jit(lambda params: module.apply({"params": params}, inputs).hidden)
    encode(params).block_until_ready()

    def go(units: int) -> float:
        for _ in range(units):
            hidden = encode(params).block_until_ready()
        return round(float(jnp.abs(hidden).mean()), 5)

    serve(go, tokens=tokens.size)


if __name__ == "__main__":
    main()
