"""Mixtures of objectives: each row of a batch is made by one of several objectives, and one forward pass reads all.

UL2 mixes seven denoisers (Tay et al. 2022, arXiv:2205.05131, section 3.1). The schedule of mixtures of sources
(`data.mixture`) assigns the rows to the parts; each part reads the whole corpus, with its own row plan and epochs.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import re
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from jaxtyping import Array, Float

from lm_jax.core.config import InputError, Tree
from lm_jax.data.rows import Reads
from lm_jax.models.config import ModelConfig
from lm_jax.models.interface import Inputs
from lm_jax.models.model import Bound
from lm_jax.objectives.base import Batch, Field, Loss, Objective, Part, Work
from lm_jax.objectives.roles import Role

KEY = "config.objective.mixture.parts"
# Values of a feature that a part lacks, for a row of it; scalars are 0: no prefix, a pair without weight.
ABSENT = {"segments": np.ones, "positions": lambda shape, dtype: np.arange(*shape, dtype=dtype)}


@dataclasses.dataclass(frozen=True, kw_only=True)
class MixtureConfig:
    """Several objectives for one model.

    Attributes:
      parts: `ObjectiveConfig`s by names of your choice, in any order; `weight` is a part's share of the rows, relative
        to the sum of all: `{"r": {"name": "span"}, "s": {"name": "prefix", "weight": 2.0}}`.
    """

    parts: Tree = Tree()


@dataclasses.dataclass(frozen=True)
class Mixture(Objective):
    """Rows of several objectives, padded to the largest shape of each feature.

    All parts compute their loss with the same functions and settings, those of the part with the most features. A mean
    over tokens is one over the tokens of all parts.

    Attributes:
      parts: the objectives by name.
      shares: each part's share of the rows, relative to their sum.
      pad: the id to pad with.
    """

    parts: Mapping[str, Objective]
    shares: Mapping[str, float]
    pad: int

    def __post_init__(self):
        _ = self.roles
        for name in self.parts:
            self._check(name)

    @functools.cached_property
    def leader(self) -> str:
        """The name of the part with the most features, whose loss is that of all parts."""
        return max(self.parts, key=lambda name: len(self.parts[name].spec))

    @property
    def leading(self) -> Objective:
        """The part `leader`."""
        return self.parts[self.leader]

    @functools.cached_property
    def roles(self) -> Mapping[str, Role]:  # type: ignore[override]
        """The roles that all parts have, for kinds of model that fit all."""
        return common_roles({name: part.roles for name, part in self.parts.items()})

    @functools.cached_property
    def reads(self) -> Reads:
        """What each part reads, and its share of the rows."""
        parts = {name: dataclasses.replace(part.reads, share=self.shares[name]) for name, part in self.parts.items()}
        return Reads(plan="mixture", length=max(reads.length for reads in parts.values()), parts=parts)

    @property
    def terms(self) -> tuple[str, ...]:
        """The terms of the leading part, which for other parts may be 0."""
        return self.leading.terms

    @property
    def coupled(self) -> bool:  # type: ignore[override]
        """Whether a part couples rows."""
        return any(part.coupled for part in self.parts.values())

    @functools.cached_property
    def spec(self) -> Mapping[str, Field]:
        """Fields of the features, as large as in any part."""
        specs = [part.spec for part in self.parts.values()]
        largest = lambda name: np.max([spec[name].shape for spec in specs if name in spec], axis=0).astype(int).tolist()
        return {
            name: dataclasses.replace(field, shape=tuple(largest(name))) for name, field in self.leading.spec.items()
        }

    @property
    def work(self) -> tuple[Work, ...]:
        """The largest of the parts' token counts."""
        largest = []
        for role in (each.role for each in self.leading.work):
            counts = [work for part in self.parts.values() for work in part.work if work.role == role]
            most = lambda name: max(getattr(each, name) for each in counts)  # noqa: B023 - called in this iteration.
            numbers = {name: most(name) for name in ("length", "scored", "source", "targets", "candidates")}
            heads = {head: max(each.heads.get(head, 0) for each in counts) for each in counts for head in each.heads}
            largest.append(Work(role=role, **numbers, heads=Tree(heads)))
        return tuple(largest)

    def check(self, configs: Mapping[str, ModelConfig]) -> None:
        """Raises InputError if a model ignores a setting of a part."""
        for part in self.parts.values():
            part.check(configs)

    def features(self, row: Mapping[str, Any], rng: np.random.Generator) -> dict[str, np.ndarray]:
        """The features of the row's part, padded."""
        features = self.parts[str(row["part"])].features(row, rng)
        return {name: self._fitted(name, features.get(name), field) for name, field in self.spec.items()}

    def inputs(self, batch: Batch) -> Inputs:
        """The leading part's inputs."""
        return self.leading.inputs(batch)  # type: ignore[attr-defined]

    def weights(self, batch: Batch) -> dict[str, Float[Array, ""]]:
        """The leading part's denominators."""
        return self.leading.weights(batch)

    def loss(self, models: Mapping[str, Bound], part: Part) -> Loss:
        """The leading part's loss."""
        return self.leading.loss(models, part)

    def _fitted(self, name: str, values: np.ndarray | None, field: Field) -> np.ndarray:
        if values is None:
            return ABSENT.get(name, np.zeros)(field.shape, field.dtype)
        if values.shape == field.shape:
            return values
        result = np.full(field.shape, self.pad if field.ids else 0, field.dtype)
        result[tuple(map(slice, values.shape))] = values
        return result

    def _check(self, name: str) -> None:
        """Raises InputError if a part does not fit the leading part."""
        part, leading, both = self.parts[name], self.leading, f"{KEY}.{name} and {KEY}.{self.leader}"
        functions = ("inputs", "weights", "loss")
        if any(getattr(type(part), each, None) is not getattr(type(leading), each, None) for each in functions):
            raise InputError(
                f"{both} are {type(part).__name__} and {type(leading).__name__}, which compute different losses, but "
                "one forward pass computes the loss of all parts; leave out one of them"
            )
        if part.device != leading.device:
            raise InputError(
                f"{both} compute their loss with different settings, {part.device} and {leading.device}; give both the "
                "same"
            )
        if part.carry.rows or part.carry.shared:
            raise InputError(
                f"{KEY}.{name} is {type(part).__name__}, which carries arrays from step to step; leave it out"
            )
        for field in {**part.spec, **leading.spec}:
            ours, theirs = part.spec.get(field), leading.spec.get(field)
            if ours is None and theirs is not None and (field in ABSENT or not theirs.shape):
                continue
            if ours is None or theirs is None or (ours.dtype, ours.axis_names) != (theirs.dtype, theirs.axis_names):
                raise InputError(
                    f"{both} do not fit into one batch, because their features {field} are {ours} and {theirs}; leave "
                    "out one of them"
                )


def common_roles(parts: Mapping[str, Mapping[str, Role]]) -> Mapping[str, Role]:
    """The roles of all parts, each with the kinds of model that fit every part.

    Raises:
      InputError: there are no parts, they have other roles, or no kind of model fits all of them.
    """
    if not parts:
        raise InputError(f"{KEY} is empty; name the objectives to mix, such as --{KEY}.a.name=span")
    (first, roles), *others = parts.items()
    for name, other in others:
        merged = {}
        for role in {**roles, **other}:
            ours, theirs = roles.get(role), other.get(role)
            kinds = tuple(kind for kind in ours.kinds if kind in theirs.kinds) if ours and theirs else ()
            if not (ours and theirs and kinds) or dataclasses.replace(ours, kinds=theirs.kinds) != theirs:
                raise InputError(f"{KEY}.{first} and {KEY}.{name} train different models; leave out one of them")
            merged[role] = dataclasses.replace(ours, kinds=kinds)
        roles = merged
    return roles


@contextlib.contextmanager
def naming_part(name: str) -> Iterator[None]:
    """Makes the InputErrors of a part name its settings: `config.objective.span` becomes `KEY.name.span`."""
    try:
        yield
    except InputError as error:
        message = re.sub(r"config\.objective\.(?!mixture\.)", f"{KEY}.{name}.", str(error))
        raise InputError(message if f"{KEY}.{name}" in message else f"{KEY}.{name}: {message}") from error
