"""Ways of tuning a model: which of its parameters are trained, and which are added to it.

A method maps a model to a model: with `trainable`, with further parameters in `init` that its modules read
(`models.adapted`), and with `fold`, which gives a plain model the same outputs. `config.adapt.base` stores its frozen
matrices in fewer bits (`quantised`).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

from lm_jax.adapt import adapters, gradual, ia3, last, lora, partition, prompts, quantised
from lm_jax.adapt.config import AdaptConfig as AdaptConfig
from lm_jax.adapt.config import RankConfig as RankConfig
from lm_jax.core.config import InputError, lookup
from lm_jax.models.model import Model
from lm_jax.models.quantised import FORMATS

METHODS: dict[str, Callable[[AdaptConfig, Model], Model]] = {
    "full": partition.full,
    **dict.fromkeys(partition.CHOICES, partition.part),
    "last": last.last,
    "gradual": gradual.gradual,
    **dict.fromkeys(("lora", "rslora", "dora"), lora.lora),
    "ia3": ia3.ia3,
    **dict.fromkeys(adapters.BRANCHES, adapters.adapters),
    "prompt": prompts.prompt,
    "prefix": prompts.prefix,
}


# The settings beside `method` that a method reads.
_LOW_RANK = ("targets", "rank", "alpha", "ranks", "base")
READS = {
    **dict.fromkeys(("lora", "rslora", "dora"), _LOW_RANK),
    "ia3": ("targets",),
    "last": ("layers",),
    "gradual": ("every", "steps"),
    **dict.fromkeys(adapters.BRANCHES, ("width",)),
    **dict.fromkeys(("prompt", "prefix"), ("tokens",)),
}


def adapt(model: Model, config: AdaptConfig) -> Model:
    """The model as `config.method` tunes it.

    Raises:
      InputError: an unknown method, one that has nothing to train in this model, or a setting that it does not read.
    """
    method = lookup(METHODS, config.method, "config.adapt.method")
    for field in dataclasses.fields(config):
        value, read = getattr(config, field.name), READS.get(config.method, ())
        if value != field.default and field.name not in ("method", *read):
            readers = [name for name, fields in READS.items() if field.name in fields]
            raise InputError(
                f"config.adapt.{field.name} is {value!r}, but config.adapt.method {config.method!r} does not read it; "
                f"leave it out, or set the method to {' or '.join(readers)}"
            )
    base = lookup({quantised.UNCHANGED: None, **FORMATS}, config.base, "config.adapt.base")
    adapted = method(config, model)
    return adapted if base is None else quantised.quantise(model, adapted, config.base)
