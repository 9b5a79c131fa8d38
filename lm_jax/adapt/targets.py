"""Which matrices of a model's layers a method changes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from lm_jax.core.config import InputError, nearest
from lm_jax.core.trees import flatten
from lm_jax.models.axes import LEADING, Axes, by_path, is_matrix
from lm_jax.models.config import StackConfig
from lm_jax.models.model import Model
from lm_jax.models.transformer import STACKS


def projections(model: Model) -> dict[str, Axes]:
    """The kernels of all projections of the layers, with their axes."""
    return {
        path: names
        for path, names in by_path(model.axes).items()
        if path.split("/")[0] in STACKS and path.endswith("/kernel") and is_matrix(names)
        if "experts" not in names and "taps" not in names
    }


def shapes(model: Model) -> dict[str, tuple[int, ...]]:
    """The shapes of all parameters by path."""
    return {path: leaf.shape for path, leaf in flatten(model.shapes).items()}


def stacks(model: Model) -> dict[str, StackConfig]:
    """The configurations of the stacks by name."""
    config = model.module.config
    return {name: getattr(config, name) for name in STACKS if hasattr(config, name)}


def layers(model: Model) -> dict[str, int]:
    """The groups of layers that are stored together, such as `stack/layers`, and the number of sets of each."""
    return {
        path.partition("/layers/")[0] + "/layers": shape[0]
        for path, shape in shapes(model).items()
        if "/layers/" in path
    }


def select(model: Model, targets: Sequence[str]) -> dict[str, Axes]:
    """The kernels that any of `targets` fits, with their axes.

    Raises:
      InputError: a target fits none.
    """
    kernels = projections(model)
    check(kernels, targets, "config.adapt.targets")
    return {path: names for path, names in kernels.items() if any(fits(target, path, names) for target in targets)}


def check(kernels: Mapping[str, Axes], targets: Sequence[str], key: str) -> None:
    """Refuses a target of a setting that fits none of some kernels."""
    for target in targets:
        if not any(fits(target, path, names) for path, names in kernels.items()):
            words = {word for path in kernels for word in path.split("/")[2:-1]} | {
                name for names in kernels.values() for name in names if name not in LEADING
            }
            raise InputError(
                f"{key} has {target!r}, which fits no projection; expected one of {', '.join(sorted(words))}"
                f"{nearest(target, sorted(words))}"
            )


def fits(target: str, path: str, names: Axes) -> bool:
    """Whether a target is a part of the path of a kernel, such as "query" or "attention/out", or one of its axes."""
    return f"/{target.strip('/')}/" in f"/{path}" or target in names
