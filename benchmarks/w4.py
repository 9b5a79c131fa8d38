"""W4: greedy generation with W1's model, 128 tokens after prompts of 32; rows=N is the batch size (default 1)."""

import sys
import time

import flax.linen as nn
import jax
import jax.numpy as jnp

from benchmarks.worker import generator, serve
from lm_jax.core.config import from_config_dict
from lm_jax.decode.generate import generate
from lm_jax.decode.sampling import GREEDY
from lm_jax.decode.weights import unstacked
from lm_jax.flags import override
from lm_jax.models.config import TransformerConfig
from lm_jax.models.interface import Inputs
from lm_jax.models.presets.gpt import gpt2
from lm_jax.models.transformer import build_transformer

PROMPT, TOKENS, VOCAB = 32, 128, 8192


def main() -> None:
    """Serve complete generations; a unit is one batch."""
    words = [word for word in sys.argv[1:] if "=" in word]
    rows = next((int(word.removeprefix("rows=")) for word in words if word.startswith("rows=")), 1)
    model = gpt2("mini")
    model.embed.vocab = VOCAB
    model = override(model, [f"--config.{word}" for word in words if not word.startswith("rows=")])
    module = build_transformer(from_config_dict(TransformerConfig, model, "config.model"))
    inputs = Inputs(tokens=jnp.zeros((1, 8), jnp.int32))
    params = jax.jit(lambda key: module.init(key, inputs, method="everything")["params"])(jax.random.key(0))
    params = unstacked(module, nn.unbox(params))
    prompts = list(generator(0).integers(0, VOCAB, (rows, PROMPT)).astype("int32"))

    def go(units: int) -> int:
        for _ in range(units):
            out = generate(module, params, prompts, max_tokens=TOKENS, sampling=GREEDY, seed=0, pad=0, eos=None, bos=2)
        return int(out[0].tokens[-1])

    start = time.perf_counter()
    go(1)
    serve(go, tokens=rows * TOKENS, compile_s=round(time.perf_counter() - start, 2))


if __name__ == "__main__":
    main()
