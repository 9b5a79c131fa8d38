"""W1: a GPT-2-like decoder, 6 layers of 384, vocabulary 8,192; one AdamW step on 8 rows of 256 tokens."""

from benchmarks.worker import Training, generator, vocabulary
from lm_jax.models.presets.gpt import gpt2
from lm_jax.objectives.causal import Causal, CausalConfig
from lm_jax.train.optimizers import OptimizerConfig
from lm_jax.train.schedules import ScheduleConfig

ROWS, LENGTH, VOCAB = 8, 256, 8192


def main() -> None:
    """Serve train steps on one fixed batch."""
    model = gpt2("mini")
    model.embed.vocab = VOCAB
    tokens = generator(1).integers(0, VOCAB, (ROWS, LENGTH + 1), dtype="int32")
    objective = Causal(CausalConfig(), vocabulary(VOCAB), LENGTH)
    batch = {"tokens": tokens[:, :-1], "targets": tokens[:, 1:], "weights": (tokens[:, 1:] >= 0).astype("float32")}
    training = Training(model, objective, OptimizerConfig(schedule=ScheduleConfig(name="constant")), 1000, batch)
    training.serve(batch, "loss", tokens=ROWS * LENGTH)


if __name__ == "__main__":
    main()
