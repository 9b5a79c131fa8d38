"""W3: a T5-small-like encoder-decoder, 6 + 6 layers of 512; one AdamW step on 4 rows of 256 tokens in and 64 out."""

import numpy as np

from benchmarks.worker import Training, generator, vocabulary
from lm_jax.models.presets.t5 import t5
from lm_jax.objectives.span import Span, SpanConfig
from lm_jax.train.optimizers import OptimizerConfig
from lm_jax.train.schedules import ScheduleConfig

ROWS, SOURCE, TARGET, VOCAB = 4, 256, 64, 32_128


def main() -> None:
    """Serve train steps on one fixed batch without padding."""
    model = t5("small")
    model.embed.vocab, model.readout.tied, model.readout.scale = VOCAB, True, True
    model.encoder.depth = model.decoder.depth = 6
    for attention in (model.encoder.block.attention, model.decoder.block.attention, model.decoder.block.cross):
        attention.heads = 8
    rng = generator(1)
    source = rng.integers(2, VOCAB, (ROWS, SOURCE), dtype="int32")
    target = rng.integers(2, VOCAB, (ROWS, TARGET), dtype="int32")
    batch = {
        "source": source,
        "source_segments": np.ones_like(source),
        "tokens": np.concatenate([np.zeros((ROWS, 1), "int32"), target[:, :-1]], 1),
        "targets": target,
        "weights": np.ones((ROWS, TARGET), "float32"),
    }
    objective = Span(SpanConfig(), vocabulary(VOCAB, sentinels=100), SOURCE)
    training = Training(model, objective, OptimizerConfig(schedule=ScheduleConfig(name="constant")), 1000, batch)
    training.serve(batch, "loss", tokens=ROWS * (SOURCE + TARGET))


if __name__ == "__main__":
    main()
