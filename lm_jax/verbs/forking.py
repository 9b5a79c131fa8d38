"""What a run takes from another one that it starts from: parameters, and the tokenizer whose ids they know."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from lm_jax import experiment, objectives
from lm_jax.core.config import InputError
from lm_jax.core.trees import Params, flat, merged, nested
from lm_jax.data import tokenizers
from lm_jax.experiment import Experiment
from lm_jax.objectives import ObjectiveConfig
from lm_jax.objectives.roles import product
from lm_jax.train.checkpoint import Checkpointer
from lm_jax.verbs.runs import restore_params

# New rows of a table lie around the mean of the others, so near that no logit stands out, and are not all the same.
SPREAD = 0.01


def tokenizer(config: tokenizers.TokenizerConfig, fork: Path) -> tokenizers.Tokenizer | None:
    """The tokenizer of a forked run, with the tokens that the configuration adds; None where that names its own.

    Raises:
      InputError: the configuration names one with other ids.
    """
    if config.anew:
        return None
    own = tokenizers.load(fork / "tokenizer")
    if own.kind == tokenizers.IDS:
        # Whose ids they are only the user knows.
        tokenizers.refuse_ids(config.path or fork / "tokenizer")
        return None
    if config.path:
        named = tokenizers.load(config.path, sentinels=config.sentinels, lowercase=config.lowercase)
        if named.fingerprint != own.fingerprint:
            raise InputError(
                f"config.data.tokenizer.path is {config.path}, but the parameters of --fork={fork} know the ids of "
                "their own tokenizer; leave the path out, or draw the tables of tokens anew with "
                "--config.data.tokenizer.anew=true"
            )
    return tokenizers.extend(own, config.add)


def parameters(exp: Experiment, fork: Path) -> Params:
    """The parameters of a forked run, by role, with a row in every table of tokens for each id of `exp`'s tokenizer.

    Its product becomes the product; a role that it does not have is drawn as in a new run. Rows that it does not have
    are drawn around the mean of its rows (Hewitt 2021, "Initializing new word embeddings for pretrained language
    models"); where the tokenizer is another, all are drawn as in a new run.

    Raises:
      InputError: the forked run has no checkpoint, or its parameters are of another shape.
    """
    checkpointer = Checkpointer(fork / "checkpoints")
    saved = _described(checkpointer)
    like, axes = flat(exp.params_like(*exp.models.roles)), flat(exp.models.axes)
    theirs = _roles(exp, saved, fork)
    paths = {
        path: f"{theirs[role]}/{rest}" for path in like for role, _, rest in [path.partition("/")] if role in theirs
    }
    rows = {path: axes[path].index("vocab") if "vocab" in axes[path] else None for path in like}
    wanted = {}
    for path, name in paths.items():
        leaf, row, shape = like[path], rows[path], saved.get(name)
        if row is not None and shape is not None and len(shape) == leaf.ndim:
            there = (*leaf.shape[:row], shape[row], *leaf.shape[row + 1 :])
            if there != leaf.shape:
                leaf = jax.ShapeDtypeStruct(there, leaf.dtype, sharding=exp.layout.replicated)
        wanted[name] = leaf
    restored = flat(restore_params(checkpointer, nested(wanted)))
    anew = exp.config.data.tokenizer.anew
    fresh = {}
    if anew or len(paths) < len(like):
        drawn = exp.fresh_state()
        fresh = flat(merged(drawn.params, drawn.frozen))
    grown = {
        path: fresh[path]
        if path not in paths or (anew and rows[path] is not None)
        else _grown(restored[paths[path]], like[path], rows[path], exp.config.seed, number)
        for number, path in enumerate(like)
    }
    return nested(grown)


def _roles(exp: Experiment, saved: Params, fork: Path) -> dict[str, str]:
    """The forked run's role for each of ours that it has a model for; its product is ours."""
    there = {path.partition("/")[0] for path in saved}
    before = experiment.saved(fork)
    name = before["objective"]["name"] if before else exp.config.objective.name
    theirs = product(objectives.roles(ObjectiveConfig(name=name)))
    return {**{role: role for role in exp.models.roles if role in there - {theirs}}, exp.models.product: theirs}


def _described(checkpointer: Checkpointer) -> dict[str, tuple[int, ...]]:
    """Shapes of the parameters of the newest checkpoint, by path below their name."""
    step = checkpointer.latest()
    leaves = {} if step is None else checkpointer.describe(step)
    return {
        path.partition("/")[2]: leaf.shape for path, leaf in leaves.items() if path.startswith(("params/", "frozen/"))
    }


def _grown(old: Any, target: Any, row: int | None, seed: int, number: int) -> Any:
    """A table with the rows that are missing, around the mean of those that are there."""
    if row is None or old.shape == target.shape:
        return old
    if old.shape[row] > target.shape[row]:
        raise InputError(
            f"the tables of the forked run have {old.shape[row]:,} rows, and this model's {target.shape[row]:,}; leave "
            "config.model.embed.vocab as it is there"
        )
    table = np.asarray(jax.device_get(old))
    shape = (*table.shape[:row], target.shape[row] - table.shape[row], *table.shape[row + 1 :])
    mean, spread = table.mean(row, keepdims=True), table.std(row, keepdims=True)
    noise = np.random.default_rng([seed, number]).standard_normal(shape)
    rows = (mean + SPREAD * spread * noise).astype(table.dtype)
    return jax.device_put(jnp.asarray(np.concatenate([table, rows], row)), target.sharding)
