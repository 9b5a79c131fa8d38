"""W5: nanoGPT's documented CPU run on the characters of tiny Shakespeare; a unit is 100 train and 100 eval steps.

The first argument that is not key=value is the text file (plain or .gz).
"""

import gzip
import sys
from pathlib import Path

import numpy as np

from benchmarks.worker import Training, generator, serve, vocabulary
from lm_jax.models.presets.gpt import gpt2
from lm_jax.objectives.causal import Causal, CausalConfig
from lm_jax.train.optimizers import AdamWConfig, OptimizerConfig
from lm_jax.train.schedules import ScheduleConfig

ROWS, LENGTH = 12, 64


def main() -> None:
    """Serve units of 100 iterations and report the validation loss."""
    files = [Path(word) for word in sys.argv[1:] if "=" not in word]
    if not files:
        sys.exit("w5 needs the text file: python -m benchmarks.w5 input.txt.gz")
    opened = gzip.open if files[0].suffix == ".gz" else open
    with opened(files[0], "rt") as file:
        text = file.read()
    ids = {character: token for token, character in enumerate(sorted(set(text)))}
    tokens = np.array([ids[character] for character in text], "int32")
    train, held_out = np.split(tokens, [int(len(tokens) * 0.9)])
    rng = generator(1337)

    def batch(split: np.ndarray) -> dict[str, np.ndarray]:
        windows = split[rng.integers(0, len(split) - LENGTH, (ROWS, 1)) + np.arange(LENGTH + 1)]
        return {"tokens": windows[:, :-1], "targets": windows[:, 1:], "weights": np.ones((ROWS, LENGTH), "float32")}

    model = gpt2("tiny")
    model.embed.vocab, model.embed.width, model.embed.max_length = len(ids), 128, LENGTH
    model.stack.depth, model.stack.block.attention.heads = 4, 4
    objective = Causal(CausalConfig(), vocabulary(len(ids)), LENGTH)
    schedule = ScheduleConfig(name="cosine", warmup=100, final=0.1)
    optimizer = OptimizerConfig(learning_rate=1e-3, schedule=schedule, adamw=AdamWConfig(b2=0.99))
    training = Training(model, objective, optimizer, 2000, batch(train))
    done = 0

    def go(units: int) -> dict[str, float]:
        nonlocal done
        for _ in range(100 * units):
            training.train(batch(train))
        done += 100 * units
        sums = [training.evaluate(training.state.weights, batch(held_out))["loss"] for _ in range(100)]
        return {"iters": done, "val": round(float(np.mean([loss.mean() for loss in sums])), 4)}

    serve(go, tokens=100 * ROWS * LENGTH, compile_s=training.compile_s)


if __name__ == "__main__":
    main()
