"""Gradual unfreezing: the head is trained first, then one further layer at a time, from the last one to the embeddings.

Howard and Ruder 2018 (arXiv:1801.06146), section 3.3. A parameter is trained from a step on that depends on its
distance from the output (`models.layerwise`); `train.phases` says how.
"""

from __future__ import annotations

from lm_jax.adapt import targets
from lm_jax.adapt.config import AdaptConfig
from lm_jax.core.config import InputError
from lm_jax.models.model import Model


def gradual(config: AdaptConfig, model: Model) -> Model:
    """Trains all parameters in the end: `train.phases` says when.

    Raises:
      InputError: no steps are set, or layers share parameters.
    """
    if bool(config.every) == bool(config.steps):
        raise InputError(
            f"config.adapt.every is {config.every} and config.adapt.steps {config.steps}; set one of them, such as "
            "config.adapt.every to the steps of an epoch"
        )
    for name, stack in targets.stacks(model).items():
        if stack.share.groups:
            raise InputError(
                f"config.adapt.method is 'gradual', but layers of {name} share parameters; choose another one"
            )
    return model
