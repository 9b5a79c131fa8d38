"""The models of an objective by role: a generator and a discriminator, a teacher and a student, or one model alone.

Parameters are trees by role. A shared parameter is in its owner's tree only, so it is drawn, stored and updated once.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping

import jax

from lm_jax.core.config import InputError, Tree
from lm_jax.core.trees import Params, below, flat, merged, nested, partition
from lm_jax.models.model import Bound, Model


@dataclasses.dataclass(frozen=True, kw_only=True)
class Role:
    """One model of an objective.

    Attributes:
      kinds: kinds of model that can play the role.
      trainable: False: the parameters are frozen, without gradients and optimizer state.
      product: True: this model is evaluated, generated from and exported. The only role of an objective always is.
      shares: paths of parameters, or of subtrees, to the role that owns them.
    """

    kinds: tuple[str, ...]
    trainable: bool = True
    product: bool = False
    shares: Mapping[str, str] = Tree()


@dataclasses.dataclass(frozen=True)
class Models:
    """The models of an objective.

    Attributes:
      roles: the objective's roles.
      models: the model of each role.
    """

    roles: Mapping[str, Role]
    models: Mapping[str, Model]

    def check(self, objective: str) -> None:
        """Refuses models that cannot play their roles.

        Args:
          objective: its name, for messages.

        Raises:
          InputError: a kind that the role does not take, or shared parameters of different shapes.
        """
        shapes = {
            role: {path: leaf.shape for path, leaf in flat(model.shapes).items()} for role, model in self.models.items()
        }
        for role, wanted in self.roles.items():
            kind = self.models[role].module.config.kind
            if kind not in wanted.kinds:
                raise InputError(
                    f"config.objective.name {objective!r} trains {' or '.join(wanted.kinds)} models, but "
                    f"{key(self.roles, role)}.kind is {kind!r}"
                )
            for path, owner in wanted.shares.items():
                mine, theirs = (_below(path, shapes[one]) for one in (role, owner))
                if mine != theirs:
                    ours, other = key(self.roles, role), key(self.roles, owner)
                    raise InputError(
                        f"{ours} shares {path} with {other}, but its shapes are {mine} and those are {theirs}; give "
                        "both the same widths"
                    )

    @functools.cached_property
    def product(self) -> str:
        """The role that is evaluated, generated from and exported."""
        return product(self.roles)

    @functools.cached_property
    def shapes(self) -> Params:
        """Shapes of the parameters by role, shared ones with their owner only."""
        return {role: self._own(role, model.shapes) for role, model in self.models.items()}

    @functools.cached_property
    def axes(self) -> Params:
        """Logical axes of the same parameters."""
        return {role: self._own(role, model.axes) for role, model in self.models.items()}

    def draw(self, seed: int) -> Params:
        """Freshly drawn parameters by role; the product's depend on the seed alone (traced: call it under jit)."""
        first, drawn = jax.random.key(seed), {}
        for number, (role, model) in enumerate(self.models.items(), 1):
            one = first if role == self.product else jax.random.fold_in(first, number)
            drawn[role] = self._own(role, model.draw(one))
        return drawn

    def split(self, tree: Params) -> tuple[Params, Params]:
        """The trained and the frozen part of a tree by role."""
        return partition(tree, self._trained)

    def bind(self, params: Params, frozen: Params | None = None) -> dict[str, Bound]:
        """Binds every model to its parameters, shared ones included."""
        return {role: self.models[role].bind(self.parameters(role, params, frozen)) for role in self.models}

    def parameters(self, role: str, params: Params, frozen: Params | None = None) -> Params:
        """All parameters of one role as a plain tree."""
        trees = merged(params, frozen) if frozen else params
        shares = self.roles[role].shares
        if not shares:
            return trees[role]
        return merged(trees[role], *(nested(_below(path, flat(trees[owner]))) for path, owner in shares.items()))

    def _own(self, role: str, tree: Params) -> Params:
        return partition(tree, lambda path: not below(path, self.roles[role].shares))[0]

    def _trained(self, path: str) -> bool:
        role, _, rest = path.partition("/")
        trained = self.models[role].trainable
        return self.roles[role].trainable and (trained is None or trained(rest))


def product(roles: Mapping[str, Role]) -> str:
    """The role that is the product."""
    (found,) = [role for role, wanted in roles.items() if wanted.product or len(roles) == 1]
    return found


def key(roles: Mapping[str, Role], role: str) -> str:
    """Where the configuration has the model of a role."""
    return "config.model" if role == product(roles) else f"config.models.{role}"


def _below(path: str, leaves: Params) -> Params:
    return {name: leaf for name, leaf in leaves.items() if below(name, [path])}
