"""`lm-jax import DIR --role.NAME=DIR`: checkpoints for all roles of an objective, such as ELECTRA's two models."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from lm_jax import objectives
from lm_jax.core.config import InputError
from lm_jax.core.trees import Params, flatten, partition
from lm_jax.flags import ROLES
from lm_jax.interop.huggingface import Checkpoint
from lm_jax.objectives import OBJECTIVES, ObjectiveConfig
from lm_jax.objectives.roles import Models, Role, product

# Values of an objective's setting `share`, from all shared parameters to none.
SHARES = ("all", "token", "none")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Actor:
    """The checkpoint that plays a role, and the paths of its directory and its tokenizer (None: it has none)."""

    source: Path
    checkpoint: Checkpoint
    tokenizer_path: Path | None


def objective(actor: Actor, others: Mapping[str, Actor]) -> tuple[ObjectiveConfig, tuple[str, ...]]:
    """Returns the objective of the product `actor` and of `others` by role, and notes for the user.

    Parameters that the roles share by default are separate if they differ between the checkpoints.

    Raises:
      InputError: no objective has these roles, or the checkpoints do not fit them.
    """
    name = _name(others)
    _check(actor, others)
    notes: list[str] = []
    for config in _choices(name):
        roles = objectives.roles(config)
        differences = list(_differences(roles, {product(roles): actor.checkpoint, **_checkpoints(others)}))
        if not differences:
            share = f"config.objective.{name}.share is {getattr(getattr(config, name), 'share', '')!r}, because "
            return config, tuple(f"{share}{note}" for note in notes)
        notes = notes or [f"the checkpoints differ in {', '.join(differences)}"]
    raise InputError(f"{notes[0]}, which the objective {name!r} shares; give the checkpoints of one run")


def owned(models: Models, role: str, params: Params) -> Params:
    """Returns the parameters that a run stores for a role: those that it shares are stored with their owner."""
    paths = flatten(models.shapes[role])
    return partition(params, lambda path: path in paths)[0]


def _checkpoints(actors: Mapping[str, Actor]) -> dict[str, Checkpoint]:
    return {role: actor.checkpoint for role, actor in actors.items()}


def _name(others: Collection[str]) -> str:
    """Returns the first objective that has these roles beside its product."""
    known = set()
    # A mixture has the roles of its parts.
    for name in sorted(OBJECTIVES.keys() - {"mixture"}):
        roles = objectives.roles(ObjectiveConfig(name=name))
        beside = sorted(set(roles) - {product(roles)})
        if beside == sorted(others):
            return name
        known.add(" ".join(f"{ROLES}{role}=DIR" for role in beside))
    given = " ".join(f"{ROLES}{role}" for role in others)
    raise InputError(f"no objective trains {given} beside its product; expected {' or '.join(filter(None, known))}")


def _check(actor: Actor, others: Mapping[str, Actor]) -> None:
    """Refuses models that lack the head of their role, or that do not read the same ids."""
    usage = f"lm-jax import DISCRIMINATOR {ROLES}generator=GENERATOR"
    if not actor.checkpoint.detects:
        raise InputError(
            f"{actor.source} is {actor.checkpoint.architecture}, which detects no replaced tokens: {usage}"
        )
    rows = actor.checkpoint.config.embed.vocab
    for role, other in others.items():
        flag, architecture = f"{ROLES}{role}={other.source}", other.checkpoint.architecture
        if not other.checkpoint.has_readout:
            raise InputError(f"{flag} is {architecture}, which predicts no tokens: {usage}")
        if other.checkpoint.config.embed.vocab != rows:
            raise InputError(
                f"{flag} has {other.checkpoint.config.embed.vocab:,} token embeddings and {actor.source} {rows:,}, but "
                "both read the same ids; give the checkpoints of one run"
            )


def _choices(name: str) -> Iterator[ObjectiveConfig]:
    """Yields the objective with fewer and fewer shared parameters."""
    config = ObjectiveConfig(name=name)
    settings: Any = getattr(config, name, None)
    if not hasattr(settings, "share"):
        yield config
        return
    for share in SHARES:
        yield dataclasses.replace(config, **{name: dataclasses.replace(settings, share=share)})


def _differences(roles: Mapping[str, Role], checkpoints: Mapping[str, Checkpoint]) -> Iterator[str]:
    """Yields the shared parameters that differ between the checkpoints of two roles."""
    for role, requirements in roles.items():
        for path, owner in requirements.shares.items():
            ours, theirs = (checkpoints[name].below(path) for name in (role, owner))
            same = ours.keys() == theirs.keys()
            if not same or not all(np.array_equal(ours[name], theirs[name]) for name in ours):
                yield path
