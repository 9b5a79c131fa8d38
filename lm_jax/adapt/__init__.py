"""Ways of tuning a model: which of its parameters are trained, and which are added to it.

A method maps a model to a model: with `trainable`, with further parameters in `init` that its modules read
(`models.adapted`), and with `fold`, which gives a plain model the same outputs.
"""

from __future__ import annotations

from collections.abc import Callable

from lm_jax.adapt import adapters, ia3, last, lora, partition
from lm_jax.adapt.config import AdaptConfig as AdaptConfig
from lm_jax.adapt.config import RankConfig as RankConfig
from lm_jax.core.config import lookup
from lm_jax.models.model import Model

METHODS: dict[str, Callable[[AdaptConfig, Model], Model]] = {
    "full": partition.full,
    **dict.fromkeys(partition.CHOICES, partition.part),
    "last": last.last,
    **dict.fromkeys(("lora", "rslora", "dora"), lora.lora),
    "ia3": ia3.ia3,
    **dict.fromkeys(adapters.BRANCHES, adapters.adapters),
}


def adapt(model: Model, config: AdaptConfig) -> Model:
    """The model as `config.method` tunes it.

    Raises:
      InputError: an unknown method, or one that has nothing to train in this model.
    """
    return lookup(METHODS, config.method, "config.adapt.method")(config, model)
