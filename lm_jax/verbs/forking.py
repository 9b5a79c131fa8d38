"""`--fork`: starts a run from the parameters of another run, with the tokenizer that they were trained with."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from lm_jax import experiment, objectives
from lm_jax.adapt import AdaptConfig
from lm_jax.adapt.partition import HEADS
from lm_jax.core.config import InputError, from_config_dict
from lm_jax.core.trees import Params, flatten, merge, unflatten
from lm_jax.data import tokenizers
from lm_jax.experiment import Experiment
from lm_jax.models.model import Model, from_module
from lm_jax.objectives import ObjectiveConfig
from lm_jax.objectives.roles import product
from lm_jax.train.base import Base
from lm_jax.train.checkpoint import Checkpointer
from lm_jax.train.linking import link
from lm_jax.verbs import report
from lm_jax.verbs.runs import restore_params, stored

# Noise of new embedding rows, in standard deviations of the old ones: no logit stands out, and no two rows are equal.
SPREAD = 0.01
# Where the layers of a task's head come from if the forked run has no such head, by path and by whether it has a norm:
# BERT's dense layer is the pooler of the sentence pairs; ModernBERT's head has the layers of the masked-LM head.
_SOURCES = {
    ("task/dense", False): ("pair/pooler",),
    ("task/dense", True): ("head/transform",),
    ("task/norm", True): ("head/norm",),
}


def tokenizer(config: tokenizers.TokenizerConfig, fork: Path) -> tokenizers.Tokenizer | None:
    """Returns the forked run's tokenizer with the tokens that `config` adds; None if `config` alone decides.

    Raises:
      InputError: `config.path` is a tokenizer with other ids.
    """
    if config.anew:
        return None
    inherited = tokenizers.load(fork / "tokenizer")
    if inherited.kind == tokenizers.IDS:
        # Only the user knows which tokenizer these ids come from.
        tokenizers.refuse_ids(config.path or fork / "tokenizer")
        return None
    if config.path:
        configured = tokenizers.load(config.path, sentinels=config.sentinels, lowercase=config.lowercase)
        if configured.fingerprint != inherited.fingerprint:
            raise InputError(
                f"config.data.tokenizer.path is {config.path}, but the parameters of --fork={fork} were trained with "
                "another tokenizer; leave the path out, or initialise new token embeddings with "
                "--config.data.tokenizer.anew=true"
            )
    return tokenizers.extend(inherited, config.added, config.markers)


def parameters(exp: Experiment, fork: Path) -> Params:
    """Returns the forked run's parameters by role, with those that `config.adapt` adds.

    Raises:
      InputError: the forked run has no checkpoint, or its parameters have other shapes.
    """
    method, tokens = exp.config.adapt.method, exp.config.data.tokenizer
    if method != "full" and tokens.anew:
        raise InputError(
            f"config.data.tokenizer.anew draws new embeddings, which config.adapt.method={method} would never train; "
            "use config.adapt.method=full"
        )
    if method != "full" and tokens.added:
        report.warn(f"the embeddings of added tokens are new, and {method!r} does not train them")
    plain = dataclasses.replace(exp, config=dataclasses.replace(exp.config, adapt=AdaptConfig()))
    params = _plain(plain, fork)
    if all(model.extend is None for model in exp.models.models.values()):
        return params
    like = exp.params_like(*exp.models.roles)
    shardings = jax.tree.map(lambda leaf: leaf.sharding, like)
    extend = lambda params: exp.models.extend(params, exp.config.seed)
    return exp.layout.jit(extend, once=True, out_shardings=shardings, donate_argnums=0)(params)


def _plain(exp: Experiment, fork: Path) -> Params:
    """Returns the forked run's parameters by role, with embedding tables resized to the vocabulary of `exp`.

    The product starts from the forked run's product; heads that it lacks are left out. New rows of a table are drawn
    around the mean of its rows (Hewitt 2021, "Initializing new word embeddings for pretrained language models"). Roles
    that the forked run lacks, layers of a task's head without a source and, for a new tokenizer (`anew`), the tables
    are initialised as in a new run.

    Raises:
      InputError: the forked run has no checkpoint, or its parameters have other shapes.
    """
    checkpointer, tuned = Checkpointer(fork / "checkpoints"), _tuned(fork)
    saved = _saved_shapes(checkpointer) if tuned is None else {path: leaf.shape for path, leaf in tuned.items()}
    like, axes = flatten(exp.params_like(*exp.models.roles)), flatten(exp.models.axes)
    roles = _roles(exp, saved, fork)
    owner = roles[exp.models.product]
    paths = _names(like, saved, roles, owner)
    paths = _with_task_head(paths, like, saved, exp.product.module.config.task.norm)
    unread = _left_out(saved, set(paths.values()), owner)
    _report([path for path in like if path not in paths], unread)
    vocab_axes = {path: axes[path].index("vocab") if "vocab" in axes[path] else None for path in like}
    targets = {}
    for path, name in paths.items():
        leaf, axis, shape = like[path], vocab_axes[path], saved.get(name)
        if axis is not None and shape is not None and len(shape) == leaf.ndim:
            saved_shape = (*leaf.shape[:axis], shape[axis], *leaf.shape[axis + 1 :])
            if saved_shape != leaf.shape:
                leaf = jax.ShapeDtypeStruct(saved_shape, leaf.dtype, sharding=exp.layout.replicated)
        targets[name] = leaf
    if tuned is None:
        restored = flatten(restore_params(checkpointer, unflatten(targets), but=unread))
    else:
        _check_tuned(tuned, targets, unread, fork)
        restored = {name: jax.device_put(tuned[name], leaf.sharding) for name, leaf in targets.items()}
    uses = Counter(paths.values())
    # Each parameter needs a buffer of its own, which the train step donates.
    source = lambda path: restored[paths[path]] if uses[paths[path]] == 1 else jnp.copy(restored[paths[path]])
    anew = exp.config.data.tokenizer.anew
    fresh = {}
    if anew or len(paths) < len(like):
        state = exp.fresh_state()
        fresh = flatten(merge(state.params, state.frozen))
    resized = {
        path: fresh[path]
        if path not in paths or (anew and vocab_axes[path] is not None)
        else _resized(source(path), like[path], vocab_axes[path], exp.config.seed, number)
        for number, path in enumerate(like)
    }
    return unflatten(resized)


def base(exp: Experiment, checkpointer: Checkpointer, fork: Path, frozen: Params) -> Base | None:
    """The base of a new run: what the forked run has of its `frozen` parameters by role; None: nothing."""
    other = Checkpointer(fork / "checkpoints")
    shapes, saved = _saved_shapes(other), other.describe(other.chosen(None))
    roles, leaves = _roles(exp, shapes, fork), flatten(frozen)
    names = _names(leaves, shapes, roles, roles[exp.models.product])
    names = {f"frozen/{path}": stored(name, saved) for path, name in names.items() if name in shapes}
    return link(checkpointer, fork, names, {f"frozen/{path}": leaf for path, leaf in leaves.items()})


def _names(
    paths: Iterable[str], saved: Mapping[str, tuple[int, ...]], roles: Mapping[str, str], owner: str
) -> dict[str, str]:
    """Maps parameters to those of the forked run: `roles` to its roles, shared ones to its product `owner`."""
    names = {}
    for path in paths:
        role, _, rest = path.partition("/")
        if role in roles:
            name, shared = f"{roles[role]}/{rest}", f"{owner}/{rest}"
            names[path] = shared if name not in saved and shared in saved else name
    return names


def _tuned(fork: Path) -> dict[str, Any] | None:
    """Returns the parameters of a run that added some to its models, folded into those of plain models; else None.

    Raises:
      InputError: they cannot be folded.
    """
    if ((experiment.saved(fork) or {}).get("adapt") or {}).get("method", "full") == "full":
        return None
    exp = experiment.load(fork)
    models = exp.models.models
    if all(model.extend is None for model in models.values()):
        return None
    params = restore_params(Checkpointer(fork / "checkpoints"), exp.params_like(*models))
    merged = {role: model.merge(params[role]) for role, model in models.items()}
    for role, model in models.items():
        refuse_unfolded(model, merged[role], f"--fork={fork}", exp.config.adapt.method)
    return flatten(merged)


def _check_tuned(tuned: Params, targets: Params, unread: Collection[str], fork: Path) -> None:
    """Refuses the folded parameters of a run that are not those of the new model, as a checkpoint's would be."""
    roles = tuple({f"{name.partition('/')[0]}/" for name in targets})
    missing = sorted({*targets} - {*tuned})
    unknown = sorted(name for name in {*tuned} - {*targets} - {*unread} if name.startswith(roles))
    other = [name for name in targets if name in tuned and tuned[name].shape != targets[name].shape]
    if missing or unknown or other:
        name = (missing or unknown or other)[0]
        shapes = [list(tree[name].shape) if name in tree else "missing" for tree in (tuned, targets)]
        raise InputError(
            f"--fork={fork} has other parameters than this model: {name} is {shapes[0]} there and {shapes[1]} here; "
            "leave out the settings of config.model that change them"
        )


def refuse_unfolded(model: Model, merged: Params, run: str, method: str) -> None:
    """Refuses merged parameters that a plain model has no place for."""
    if unknown := {*flatten(merged)} - {*flatten(from_module(model.module).shapes)}:
        raise InputError(
            f"{run} was tuned by {method!r}, whose parameters, such as {min(unknown)}, are no part of a plain model; "
            "use that run itself: predict, generate, evaluate and train read it"
        )


def _with_task_head(
    paths: Mapping[str, str], like: Params, saved: Mapping[str, tuple[int, ...]], norm: bool
) -> dict[str, str]:
    """Chooses where the parameters of a task's head come from.

    Args:
      paths: the parameter of the forked run by that of the new run.
      like: shapes of the new run's parameters.
      saved: shapes of the forked run's parameters.
      norm: whether the head has a norm.

    Returns:
      `paths` with these sources, and without parameters of the head that have none of the right shape.
    """
    chosen = {}
    for path, name in paths.items():
        role, _, rest = name.partition("/")
        parent, _, leaf = rest.rpartition("/")
        sources = [parent, *_SOURCES.get((parent, norm), ())] if rest.startswith("task/") else []
        fitting = (each for each in (f"{role}/{source}/{leaf}" for source in sources) if each in saved)
        source = next((each for each in fitting if saved[each] == like[path].shape), None) if sources else name
        if source is not None:
            chosen[path] = source
    return chosen


def _report(drawn: Sequence[str], unread: Sequence[str]) -> None:
    """Says which parameters of a task's head are new, and which other heads of the forked run this model lacks."""
    new = [path.partition("/")[2] for path in drawn if path.partition("/")[2].startswith("task/")]
    if new:
        report.say(f"new head   {', '.join(new)}")
    heads = {name.split("/")[1] for name in unread} - {path.split("/")[0] for path in new}
    if heads:
        report.say(f"left out   {', '.join(sorted(heads))}, which this model lacks")


def _left_out(saved: Mapping[str, tuple[int, ...]], used: Collection[str], role: str) -> list[str]:
    """Returns the parameters of heads of the forked run's product that the new run does not read."""
    return [name for name in saved if name.startswith(tuple(f"{role}/{head}/" for head in HEADS)) and name not in used]


def _roles(exp: Experiment, saved: Params, fork: Path) -> dict[str, str]:
    """Maps the product to the forked run's product, and every other role to the same role of the forked run."""
    available = {path.partition("/")[0] for path in saved}
    before = experiment.saved(fork)
    objective = from_config_dict(ObjectiveConfig, before["objective"]) if before else exp.config.objective
    forked_product = product(objectives.roles(objective))
    others = {role: role for role in exp.models.roles if role in available - {forked_product}}
    return {**others, exp.models.product: forked_product}


def _saved_shapes(checkpointer: Checkpointer) -> dict[str, tuple[int, ...]]:
    """Returns the shapes of the newest checkpoint's parameters by path, without `params/` or `frozen/`."""
    step = checkpointer.latest()
    leaves = {} if step is None else checkpointer.describe(step)
    return {
        path.partition("/")[2]: leaf.shape for path, leaf in leaves.items() if path.startswith(("params/", "frozen/"))
    }


def _resized(old: Any, target: Any, axis: int | None, seed: int, number: int) -> Any:
    if axis is None or old.shape == target.shape:
        return old
    if old.shape[axis] > target.shape[axis]:
        raise InputError(
            f"the embedding tables of the forked run have {old.shape[axis]:,} rows, but this model's have "
            f"{target.shape[axis]:,}; set config.model.embed.vocab as in the forked run"
        )
    table = np.asarray(jax.device_get(old))
    shape = (*table.shape[:axis], target.shape[axis] - table.shape[axis], *table.shape[axis + 1 :])
    mean, spread = table.mean(axis, keepdims=True), table.std(axis, keepdims=True)
    noise = np.random.default_rng([seed, number]).standard_normal(shape)
    rows = (mean + SPREAD * spread * noise).astype(table.dtype)
    return jax.device_put(jnp.asarray(np.concatenate([table, rows], axis)), target.sharding)
