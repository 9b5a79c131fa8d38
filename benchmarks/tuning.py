"""Fine-tuning an encoder of the size of MiniLM (Wang et al. 2020, arXiv:2002.10957): 6 layers of 384, 12 heads.

A unit is an AdamW step on each of the batches of `batches`, with dropout; task=classify or task=tag. Compare with
Transformers, seven rounds: `python -m benchmarks tune_classify --rounds 7 --transformers PYTHON`.
"""

import sys

import numpy as np

from benchmarks import batches
from benchmarks.worker import Training, serve, vocabulary
from lm_jax.models.presets.bert import bert
from lm_jax.objectives.classify import Classify, ClassifyConfig
from lm_jax.objectives.tag import Tag, TagConfig
from lm_jax.train.optimizers import OptimizerConfig
from lm_jax.train.schedules import ScheduleConfig


def main() -> None:
    """Serve passes over the batches of a task."""
    task = next((word.removeprefix("task=") for word in sys.argv[1:] if word.startswith("task=")), "classify")
    model = bert("small")
    model.embed.vocab, model.embed.width, model.pair_classes = batches.VOCAB, 384, 0
    model.stack.depth, model.stack.block.attention.heads = 6, 12
    words = vocabulary(batches.VOCAB, labels={"label": ("no", "yes"), "tags": tuple("ABCDEFGHI")})
    if task == "classify":
        model.task = dict(dense=True, activation="tanh", dropout=0.1)
        objective = Classify(ClassifyConfig(), words, batches.BUCKETS[-1])
    else:
        model.task = dict(pool="all", dropout=0.1)
        objective = Tag(TagConfig(), words, batches.BUCKETS[-1])
    drawn = [{**batch, "types": np.zeros_like(batch["tokens"])} for batch in batches.draw(task)]
    optimizer = OptimizerConfig(schedule=ScheduleConfig(name="constant"))
    training = Training(model, objective, optimizer, 1000, *drawn)

    def go(units: int) -> float:
        for _ in range(units):
            for batch in drawn:
                sums = training.train(batch)
        return round(sums["loss"].mean(), 4)

    tokens = sum(batch["tokens"].size for batch in drawn)
    serve(go, tokens=tokens, compile_s=training.compile_s, temp_mb=training.temp_mb)


if __name__ == "__main__":
    main()
