"""The exponential average of the parameters, and refused settings."""

import jax.numpy as jnp
import numpy as np
import pytest

from lm_jax.core.config import InputError
from lm_jax.train import averaging
from lm_jax.train.loop import TrainConfig
from lm_jax.train.optimizers import OptimizerConfig


def test_the_average_forgets_the_initial_parameters_and_follows_slowly_later():
    average = averaging.exponential(0.9)
    after = lambda updates: average({"a": jnp.zeros(1)}, {"a": jnp.ones(1)}, None, jnp.int32(updates))["a"]
    # The decay is 0.1 at the first update, and the configured 0.9 in the long run.
    np.testing.assert_allclose(after(0), [0.9], rtol=1e-6)
    np.testing.assert_allclose(after(10_000), [0.1], rtol=1e-5)


@pytest.mark.parametrize("decay", [-0.1, 1.0])
def test_a_decay_outside_zero_to_one_is_refused(decay):
    with pytest.raises(InputError, match=r"config\.train\.ema is"):
        TrainConfig(ema=decay)


def test_an_optimizer_with_its_own_average_accepts_no_other():
    schedule_free = OptimizerConfig(name="schedule_free")
    assert averaging.build_average(schedule_free, 0.0) is not None
    assert averaging.build_average(OptimizerConfig(), 0.0) is None
    with pytest.raises(InputError, match=r"config\.train\.ema is 0\.9, but the optimizer schedule_free"):
        averaging.build_average(schedule_free, 0.9)
