"""W2: a BERT-small encoder, 4 layers of 512, vocabulary 30,522; one AdamW step on 16 rows of 128 tokens, 20 masked."""

import numpy as np

from benchmarks.worker import Training, generator, vocabulary
from lm_jax.models.presets.bert import bert
from lm_jax.objectives.masked import Masked, MaskedConfig
from lm_jax.train.optimizers import OptimizerConfig
from lm_jax.train.schedules import ScheduleConfig

ROWS, LENGTH, VOCAB, MASKED = 16, 128, 30_522, 20


def main() -> None:
    """Serve train steps on one fixed batch without padding; no next-sentence loss, no dropout."""
    model = bert("small")
    model.embed.vocab, model.embed.max_length, model.embed.dropout = VOCAB, LENGTH, 0.0
    model.stack.block.dropout, model.stack.block.attention.dropout, model.pair_classes = 0.0, 0.0, 0
    rng = generator(1)
    tokens = rng.integers(0, VOCAB, (ROWS, LENGTH), dtype="int32")
    positions = np.sort(np.stack([rng.permutation(LENGTH)[:MASKED] for _ in range(ROWS)]), 1).astype("int32")
    batch = {
        "tokens": tokens,
        "types": np.zeros_like(tokens),
        "segments": np.ones_like(tokens),
        "positions": positions,
        "labels": np.take_along_axis(tokens, positions, 1),
        "weights": np.ones((ROWS, MASKED), "float32"),
    }
    objective = Masked(MaskedConfig(next_sentence=False), vocabulary(VOCAB), LENGTH)
    training = Training(model, objective, OptimizerConfig(schedule=ScheduleConfig(name="constant")), 1000, batch)
    training.serve(batch, "masked_lm_loss", tokens=ROWS * LENGTH)


if __name__ == "__main__":
    main()
