"""Methods that add nothing: they choose which parameters are trained, by name and logical axes."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

from lm_jax.adapt.config import AdaptConfig
from lm_jax.core.config import InputError
from lm_jax.models.axes import Axes, by_path
from lm_jax.models.model import Model

# The head of a task, which every method trains.
TASK = "task/"
# Top-level parameters that read the last hidden states: heads, which a fork may leave out.
HEADS = ("task", "pair", "detect", "boundary", "head")

Choice = Callable[[str, Axes], bool]

# What is trained beside the head of a task, by method: whether a parameter with this path and these axes is.
CHOICES: dict[str, Choice] = {
    "head": lambda path, axes: path.split("/")[0] in HEADS,
    "feedforward": lambda path, axes: "feedforward" in path.split("/"),
    "attention": lambda path, axes: bool({"attention", "cross"} & {*path.split("/")}),
    # BitFit (Ben Zaken et al. 2022, arXiv:2106.10199), section 3.
    "bias": lambda path, axes: path.endswith("/bias"),
    "norms": lambda path, axes: "norm" in axes,
}


def full(config: AdaptConfig, model: Model) -> Model:
    """Trains all parameters."""
    return model


def part(config: AdaptConfig, model: Model) -> Model:
    """Trains the parameters that `CHOICES` has for `config.method`.

    Raises:
      InputError: the model has none.
    """
    choice, axes = CHOICES[config.method], by_path(model.axes)
    chosen = frozenset(path for path, names in axes.items() if choice(path, names) and not path.startswith(TASK))
    if not chosen and (config.method != "head" or "task" not in model.axes):
        raise InputError(
            f"config.adapt.method is {config.method!r}, but the model has no such parameters ({NONE[config.method]}); "
            "choose another method"
        )
    return dataclasses.replace(model, trainable=lambda path: path in chosen or path.startswith(TASK))


# Why a model lacks them, for messages.
NONE = {
    "head": "its logits are products with the token table",
    "feedforward": "its layers have no feed-forward network",
    "attention": "its layers have no attention",
    "bias": "its projections and norms have no biases",
    "norms": "its layers have no norms with parameters",
}
