"""Evaluation counts every validation token once, however tokens are divided into batches."""

import functools
import math

import jax
import numpy as np
import pytest
import tiny

from lm_jax.core.sums import Sum
from lm_jax.evaluate.language_modelling import LanguageModelling
from lm_jax.objectives.base import Vocabulary
from lm_jax.objectives.causal import Causal, CausalConfig
from lm_jax.parallel import mesh
from lm_jax.parallel.layout import Layout
from lm_jax.parallel.mesh import MeshConfig

VOCABULARY = Vocabulary(size=3, pad=0, bos=0, eos=0, cls=0, sep=0, mask=0, sentinels=(), ordinary=(1, 3))


def _evaluator(rows, **sources):
    layout = Layout(mesh.make(MeshConfig(), jax.devices()[:1]))

    def step(params, batch):
        return {"loss": Sum(total=(batch["weights"] * batch["value"]).sum(), weight=batch["weights"].sum())}

    return LanguageModelling(
        objective=Causal(CausalConfig(), VOCABULARY, 2),
        step=layout.jit(step),
        batches={name: functools.partial(iter, batches) for name, batches in (sources or {"": rows}).items()},
        put=functools.partial(tiny.put, layout),
        byte_lengths=np.array([0, 1, 2]),
    )


def _batch(value, weights, targets):
    return {
        "value": np.full((2, 2), value, np.float32),
        "weights": np.array(weights, np.float32),
        "targets": np.array(targets, np.int32),
    }


def test_ragged_batches_are_weighted_by_their_tokens():
    full = _batch(1.0, [[1, 1], [1, 1]], [[1, 1], [2, 2]])
    last = _batch(4.0, [[1, 0], [0, 0]], [[2, 0], [0, 0]])

    values = dict(_evaluator([full, last]).run({}))

    assert values["loss"] == pytest.approx((4 * 1.0 + 4.0) / 5)
    assert values["perplexity"] == pytest.approx(math.exp(8 / 5))
    # The first batch has 1 + 1 + 2 + 2 bytes, the second 2.
    assert values["bits_per_byte"] == pytest.approx(8 / math.log(2) / 8)


def test_batches_without_weight_give_a_loss_of_zero():
    values = dict(_evaluator([_batch(1.0, [[0, 0], [0, 0]], [[0, 0], [0, 0]])]).run({}))
    assert values["loss"] == 0.0


def test_every_source_has_a_loss_and_the_total_is_weighted_by_tokens():
    long = _batch(1.0, [[1, 1], [1, 1]], [[1, 1], [2, 2]])
    short = _batch(4.0, [[1, 0], [0, 0]], [[2, 0], [0, 0]])

    values = dict(_evaluator([], en=[long, long], zh=[short], none=[]).run({}))

    assert values["loss"] == pytest.approx((8 * 1.0 + 4.0) / 9)
    assert (values["en/loss"], values["zh/loss"]) == (1.0, 4.0)
    assert "none/loss" not in values
    assert values["bits_per_byte"] == pytest.approx(12 / math.log(2) / 14)
