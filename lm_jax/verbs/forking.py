"""What a run takes from another one that it starts from: parameters, and the tokenizer whose ids they know."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from lm_jax.core.config import InputError
from lm_jax.core.trees import named_leaves
from lm_jax.data import tokenizers
from lm_jax.experiment import Experiment
from lm_jax.train.checkpoint import Checkpointer
from lm_jax.verbs.runs import restore_weights

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


def parameters(exp: Experiment, fork: Path) -> Any:
    """The parameters of a forked run, by role, with a row in every table of tokens for each id of `exp`'s tokenizer.

    Rows that the forked run does not have are drawn around the mean of its rows (Hewitt 2021, "Initializing new word
    embeddings for pretrained language models"); where the tokenizer is another, all are drawn as in a new run.

    Raises:
      InputError: the forked run has no checkpoint, or its parameters are of another shape.
    """
    checkpointer = Checkpointer(fork / "checkpoints")
    saved = _described(checkpointer)
    like = exp.state_like.params
    axes = {"model": exp.model.axes}
    names = jax.tree.leaves(axes, is_leaf=lambda node: isinstance(node, tuple))
    rows = [axis.index("vocab") if "vocab" in axis else None for axis in names]
    wanted = []
    for (path, leaf), row in zip(named_leaves(like), rows, strict=True):
        shape = saved.get(path)
        if row is not None and shape is not None and len(shape) == leaf.ndim:
            there = (*leaf.shape[:row], shape[row], *leaf.shape[row + 1 :])
            if there != leaf.shape:
                leaf = jax.ShapeDtypeStruct(there, leaf.dtype, sharding=exp.layout.replicated)
        wanted.append(leaf)
    tree = jax.tree.structure(like)
    restored = restore_weights(checkpointer, jax.tree.unflatten(tree, wanted))
    anew = exp.config.data.tokenizer.anew
    fresh = exp.fresh_state().params if anew else like
    grown = [
        new if anew and row is not None else _grown(old, target, row, exp.config.seed, number)
        for number, (old, target, new, row) in enumerate(
            zip(jax.tree.leaves(restored), jax.tree.leaves(like), jax.tree.leaves(fresh), rows, strict=True)
        )
    ]
    return jax.tree.unflatten(tree, grown)


def _described(checkpointer: Checkpointer) -> dict[str, tuple[int, ...]]:
    """Shapes of the parameters of the newest checkpoint, by path below their name."""
    step = checkpointer.latest()
    if step is None:
        return {}
    leaves = checkpointer.describe(step)
    return {path.partition("/")[2]: leaf.shape for path, leaf in leaves.items() if path.startswith("params/")}


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
