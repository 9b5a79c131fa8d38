"""The models of an objective, by role: generator and discriminator, teacher and student, or a single model.

Every role has a tree of parameters. A shared parameter is initialised, stored and updated in its owner's tree only.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping

import jax

from lm_jax.core.config import InputError, Tree
from lm_jax.core.trees import Params, flatten, is_below, merge, partition, unflatten
from lm_jax.models import layerwise
from lm_jax.models.model import Bound, Model
from lm_jax.models.transformer import STACKS


@dataclasses.dataclass(frozen=True, kw_only=True)
class Role:
    """Requirements for one model of an objective.

    Attributes:
      kinds: kinds of model that fit the role.
      trainable: False freezes the parameters: no gradients, no optimizer state.
      product: whether this is the model to evaluate, generate from and export; a single role always is.
      shares: maps paths of shared parameters, or of subtrees, to the role that owns them.
    """

    kinds: tuple[str, ...]
    trainable: bool = True
    product: bool = False
    shares: Mapping[str, str] = Tree()


@dataclasses.dataclass(frozen=True)
class Models:
    """The models of an objective, by role."""

    roles: Mapping[str, Role]
    models: Mapping[str, Model]

    def check(self, objective: str) -> None:
        """Raises InputError if a model's kind does not fit its role, or if shared parameters differ in shape."""
        shapes = {
            role: {path: leaf.shape for path, leaf in flatten(model.shapes).items()}
            for role, model in self.models.items()
        }
        for role, requirements in self.roles.items():
            kind = self.models[role].module.config.kind
            if kind not in requirements.kinds:
                raise InputError(
                    f"config.objective.name {objective!r} trains {' or '.join(requirements.kinds)} models, but "
                    f"{key(self.roles, role)}.kind is {kind!r}"
                )
            for path, owner in requirements.shares.items():
                ours, theirs = (_below(path, shapes[name]) for name in (role, owner))
                if ours != theirs:
                    raise InputError(
                        f"{key(self.roles, role)} shares {path} with {key(self.roles, owner)}, but their shapes are "
                        f"{ours} and {theirs}; give both the same widths"
                    )

    @functools.cached_property
    def product(self) -> str:
        """The role to evaluate, generate from and export."""
        return product(self.roles)

    @functools.cached_property
    def shapes(self) -> Params:
        """Parameter shapes by role; shared parameters appear under their owner only."""
        return {role: self._unshared(role, model.shapes) for role, model in self.models.items()}

    @functools.cached_property
    def dense_shapes(self) -> Params:
        """Like `shapes`, with all matrices in float32, to count parameters."""
        return {role: self._unshared(role, model.dense_shapes) for role, model in self.models.items()}

    @functools.cached_property
    def axes(self) -> Params:
        """Logical axes by role, like `shapes`."""
        return {role: self._unshared(role, model.axes) for role, model in self.models.items()}

    def draw(self, seed: int) -> Params:
        """Initial parameters by role; the product's depend on the seed only. Call it under jit."""
        keys = self._keys(seed)
        return {role: self._unshared(role, model.draw(keys[role])) for role, model in self.models.items()}

    def extend(self, params: Params, seed: int) -> Params:
        """Parameters by role from those of the plain models: with those that the models add. Call it under jit."""
        keys = self._keys(seed)
        extends = {role: model.extend for role, model in self.models.items()}
        return {
            role: tree if (extend := extends[role]) is None else extend(tree, keys[role])
            for role, tree in params.items()
        }

    def _keys(self, seed: int) -> dict[str, jax.Array]:
        root = jax.random.key(seed)
        return {
            role: root if role == self.product else jax.random.fold_in(root, number)
            for number, role in enumerate(self.models, 1)
        }

    def split(self, tree: Params) -> tuple[Params, Params]:
        """Splits parameters by role into the trained and the frozen ones."""
        return partition(tree, self._trained)

    def trains_layers(self, role: str) -> bool:
        """Whether gradients pass through the layers of a model: not if only its heads are trained."""
        first_words = (*STACKS, *layerwise.BEFORE)
        return any(
            self._trained(f"{role}/{path}") for path in flatten(self.shapes[role]) if path.split("/")[0] in first_words
        )

    def weighted(self, role: str) -> float:
        """The share of the parameters of a model's layers that are trained."""
        leaves = flatten(self.dense_shapes[role])
        sizes = {path: leaf.size for path, leaf in leaves.items() if path.split("/")[0] in STACKS}
        return sum(size for path, size in sizes.items() if self._trained(f"{role}/{path}")) / sum(sizes.values())

    def bind(self, params: Params, frozen: Params | None = None) -> dict[str, Bound]:
        """Binds every model to its parameters, shared ones included."""
        return {role: self.models[role].bind(self.parameters(role, params, frozen)) for role in self.models}

    def parameters(self, role: str, params: Params, frozen: Params | None = None) -> Params:
        """All parameters of a role, shared ones included."""
        trees = merge(params, frozen) if frozen else params
        shares = self.roles[role].shares
        if not shares:
            return trees[role]
        return merge(trees[role], *(unflatten(_below(path, flatten(trees[owner]))) for path, owner in shares.items()))

    def _unshared(self, role: str, tree: Params) -> Params:
        return partition(tree, lambda path: not is_below(path, self.roles[role].shares))[0]

    def _trained(self, path: str) -> bool:
        role, _, rest = path.partition("/")
        trained = self.models[role].trainable
        return self.roles[role].trainable and (trained is None or trained(rest))


def product(roles: Mapping[str, Role]) -> str:
    """The role marked as the product, or the only role."""
    (name,) = [name for name, role in roles.items() if role.product or len(roles) == 1]
    return name


def key(roles: Mapping[str, Role], role: str) -> str:
    """The configuration key of a role's model."""
    return "config.model" if role == product(roles) else f"config.models.{role}"


def _below(path: str, leaves: Params) -> Params:
    return {name: leaf for name, leaf in leaves.items() if is_below(name, [path])}
