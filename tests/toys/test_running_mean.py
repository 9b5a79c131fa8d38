"""A toy objective with a carry: the running mean of the loss, and the tokens that each row of the batch has seen.

As a script, it trains in a directory until it is killed, or resumes and compares its state with an uninterrupted run.
"""

import dataclasses
import signal
import subprocess
import sys
import time
from pathlib import Path

import jax
import laws
import numpy as np
import tiny

from lm_jax.core.trees import named_leaves
from lm_jax.objectives.base import Carry, Field, Loss, per_weight, weighted
from lm_jax.objectives.causal import Causal, CausalConfig
from lm_jax.objectives.cross_entropy import cross_entropy
from lm_jax.train.checkpoint import Checkpointer
from tests.commands import one_device

ROOT = Path(__file__).resolve().parents[2]
DECAY = 0.9
NUMBER = Field(dtype="float32")


@dataclasses.dataclass(frozen=True)
class ScaledByMean(Causal):
    """Scales the loss by 1 + a tenth of its running mean."""

    carry = Carry(rows={"seen": NUMBER}, shared={"mean": NUMBER})

    def loss(self, models, part):
        batch, carry = part.batch, part.carry
        logits = models["model"](self.inputs(batch), dropout=part.key, logits=True).logits
        loss = weighted(cross_entropy(logits, batch["targets"]), batch["weights"])
        mean, weight = carry.shared["mean"], part.weights["tokens"]
        # This part's share of decay * mean + (1 - decay) * (mean loss of the batch).
        share = (DECAY * mean * loss.weight + (1 - DECAY) * jax.lax.stop_gradient(loss.total)) / weight
        after = Carry(rows={"seen": carry.rows["seen"] + batch["weights"].sum(-1)}, shared={"mean": share})
        total = per_weight(loss.total, weight) * (1 + mean / 10)
        return Loss(total=total, metrics={"loss": loss}, carry=after)


def scaled_by_mean():
    rows = [{"tokens": laws.text(count, seed)} for seed, count in enumerate(tiny.LENGTHS)]
    config = tiny.config("gpt2", over={"stack.depth": 1, "embed.max_length": 8})
    return laws.case(ScaledByMean(CausalConfig(), tiny.VOCABULARY, 8), {"model": config}, rows)


def test_it_keeps_the_laws_and_updates_its_carry(tmp_path):
    case = scaled_by_mean()
    states = laws.check(case, tmp_path)
    running_means = [float(now.carry.shared["mean"]) for now in states]
    assert running_means[0] == 0 < running_means[1] < running_means[5]
    np.testing.assert_array_equal(states[3].carry.rows["seen"], 3 * case.batch["weights"].sum(-1))


def test_killed_and_resumed_it_ends_with_the_same_bits(tmp_path):
    script = [sys.executable, __file__, str(tmp_path)]
    env = {**one_device(), "PYTHONPATH": f"{ROOT}:{ROOT / 'tests'}"}
    process = subprocess.Popen([*script, "100000"], env=env)
    deadline = time.monotonic() + 120
    while len(Checkpointer(tmp_path).steps()) < 2:
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.05)
    process.send_signal(signal.SIGKILL)
    process.wait()
    subprocess.run([*script, "3"], env=env, check=True)


def train(directory, more):
    """Trains `more` steps from the newest checkpoint, saves each, and compares the state with an uninterrupted run."""
    case = scaled_by_mean()
    step, start, batch = case.compiled(case.layout(data=1, fsdp=1, tensor=1))
    now = start
    with Checkpointer(directory) as checkpointer:
        resumes = checkpointer.latest() is not None
        if resumes:
            now, _ = checkpointer.restore(jax.tree.map(lambda leaf: leaf, start))
        first = int(now.step)
        for number in range(first + 1, first + more + 1):
            now, _ = step(now, batch)
            checkpointer.save(number, now, {})
    assert resumes and first > 0
    uninterrupted = start
    for _ in range(first + more):
        uninterrupted, _ = step(uninterrupted, batch)
    for (path, ours), theirs in zip(named_leaves(now), jax.tree.leaves(uninterrupted), strict=True):
        assert np.asarray(ours).tobytes() == np.asarray(theirs).tobytes(), path


if __name__ == "__main__":
    train(sys.argv[1], int(sys.argv[2]))
