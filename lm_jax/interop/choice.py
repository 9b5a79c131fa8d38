"""The Hugging Face class that computes what a model computes, for models that were not imported or have a new task."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Iterator, Mapping
from typing import Any

from lm_jax.core.config import InputError
from lm_jax.interop import guess, heads
from lm_jax.interop.family import Family
from lm_jax.interop.heads import Head
from lm_jax.interop.settings import Settings
from lm_jax.interop.tables import TABLES, kind
from lm_jax.models.config import (
    AttentionConfig,
    EmbedConfig,
    EncoderDecoderConfig,
    FeedForwardConfig,
    ModelConfig,
    ReadoutConfig,
    StackConfig,
    TransformerConfig,
)
from lm_jax.models.task import TaskHeadConfig

# Errors of a table on the settings of another family.
_MISFITS = (InputError, ArithmeticError, AttributeError, KeyError, TypeError)
# The suffix of bare models.
BARE = "Model"
# Settings that do not change what a model computes without dropout.
IRRELEVANT = (
    *("dropout", "dropout_on", "init", "scan", "remat", "kernel", "dtype"),
    *("balance", "boundary", "boundary_width"),
)
# How to export a model whose head no class has.
ADVICE = "--format=bare exports the model without its head"


def tree_for(config: ModelConfig) -> dict[str, Any]:
    """Builds the config.json of a model that was not imported.

    The first family in `TABLES` that computes the same function is chosen: Mistral without a window becomes LLaMA.

    Raises:
      InputError: no family computes the same function.
    """
    for name, family, tree in _families(config):
        try:
            again = family.configure(Settings(tree, tree.pop("tensors", ()), name, family.heads))
        except _MISFITS:
            continue
        if function_of(again) == function_of(config):
            return tree
    raise _no_family()


def tree_for_task(
    config: ModelConfig, suffix: str, fields: Mapping[str, Any], origin: Mapping[str, Any]
) -> tuple[dict[str, Any], ModelConfig]:
    """Builds the config.json of the class with the head of a task.

    Args:
      config: the model, whose other heads are left out.
      suffix: suffix of the class, such as `ForTokenClassification`; `BARE` for the model alone.
      fields: fields of config.json with the labels.
      origin: config.json of the checkpoint that the model began as, whose family is tried first; empty: none.

    Returns:
      The tree, and the configuration of the class's model.

    Raises:
      InputError: no class computes the same function; the message names the class that comes nearest.
    """
    lacking, nearest = "", ""
    begun = [(kind(origin), TABLES[kind(origin)], {**origin, "vocab_size": config.embed.vocab})] if origin else []
    for name, family, tree in [*begun, *_families(config)]:
        tree.pop("tensors", ())
        try:
            tree, again = _with_head(family, name, {**tree, **fields}, suffix, config)
        except _MISFITS:
            continue
        if function_of(_body(again)) != function_of(_body(config)):
            continue
        (architecture,) = tree["architectures"]
        if suffix != BARE and family.head(architecture, tree) is None:
            lacking = lacking or architecture
        elif suffix == BARE or function_of(again.task) == function_of(config.task):
            return tree, again
        else:
            nearest = nearest or _differences(architecture, again.task, config.task)
    if nearest or lacking:
        raise InputError(f"{nearest or f'transformers has no {lacking}'}; {ADVICE}")
    raise _no_family()


def _families(config: ModelConfig) -> Iterator[tuple[str, Family, dict[str, Any]]]:
    """Yields the families that can be exported, each with the config.json that it has for a model."""
    for name, family in TABLES.items():
        if family.settings is not None:
            try:
                yield name, family, family.settings(config)
            except _MISFITS:
                continue


def _with_head(
    family: Family, name: str, tree: dict[str, Any], suffix: str, config: ModelConfig
) -> tuple[dict[str, Any], ModelConfig]:
    """Returns the config.json and the configuration of a family's class; of its first class, if it lacks that one."""
    known = guess.classes(name)
    bare = [each for each in known if heads.bare(each)]
    # T5 has two bare models, of which the second is the encoder; XLNet's class of answers has another suffix.
    named = [each for each in known if heads.suffix(each).startswith(suffix)]
    if suffix == BARE:
        named = bare[-1:] if config.kind == "encoder" else bare[:1]
    architecture = named[0] if named else heads.stem(bare[0]) + suffix
    read = {**tree, "architectures": [architecture if named else known[0]]}
    head, task = family.head(architecture, read), config.task
    pooler = head.dense if suffix == BARE and head is not None and _has_pooler(family, head, task, read) else ""
    again = family.configure(Settings(read, (f"{pooler}.weight",) if pooler else (), name, family.heads))
    rates = head.rates(task) if head is not None and named else {}
    return {**read, **rates, "architectures": [architecture]}, again


def _has_pooler(family: Family, pooler: Head, task: TaskHeadConfig, tree: Mapping[str, Any]) -> bool:
    """Whether the dense layer of a task is that of the family's bare models."""
    sequences = heads.of(family.heads, heads.SEQUENCES, tree)
    shared = task.pooler or (sequences is not None and sequences.dense == pooler.dense)
    alone = lambda each: function_of(dataclasses.replace(each, classes=0, pooler=True))
    return shared and task.exists and alone(task) == alone(pooler.settings(tree))


def _body(config: ModelConfig) -> ModelConfig:
    """A model without heads."""
    others = {"pair_classes": 0, "detection": False} if isinstance(config, TransformerConfig) else {}
    return dataclasses.replace(config, readout=ReadoutConfig(), task=TaskHeadConfig(), **others)


def _differences(architecture: str, theirs: TaskHeadConfig, ours: TaskHeadConfig) -> str:
    """The settings in which a class's head differs from ours."""
    pairs = zip(function_of(theirs)[1], function_of(ours)[1], strict=True)
    names = [(name, value, own) for (name, value), (_, own) in pairs if value != own]
    describe = lambda which: ", ".join(f"{names[at][0]}={names[at][which]!r}" for at in range(len(names)))
    return f"config.model.task has {describe(2)}, but the head of {architecture} has {describe(1)}"


def _no_family() -> InputError:
    exportable = ", ".join(name for name, family in TABLES.items() if family.settings is not None)
    return InputError(
        "no Hugging Face family computes what this model computes (PaLM, Gopher, Chinchilla and GPT-3 have no class in "
        f"transformers); use settings of one of the families that can be exported: {exportable}"
    )


@functools.lru_cache(maxsize=4096)
def function_of(config: Any, width: int = 0) -> Any:
    """A configuration without what does not change its function: dropout, initialisation, kernels, loops and losses.

    The span-boundary head is left out too: it serves pretraining only, and no released model has it. So are settings
    of a task's head that has no parameters yet.
    """
    if isinstance(config, tuple):
        return tuple(function_of(item, width) for item in config)
    if not dataclasses.is_dataclass(config):
        return config
    if isinstance(config, TaskHeadConfig):
        return _function_of_head(config)
    width = getattr(getattr(config, "embed", None), "width", width)
    names = [field.name for field in dataclasses.fields(config) if field.name not in IRRELEVANT]
    values = {name: function_of(getattr(config, name), width) for name in names}
    if isinstance(config, TransformerConfig | EncoderDecoderConfig):
        # muP scales attention scores and logits.
        values["init"] = config.init.base_width if config.init.name == "mup" else None
    if isinstance(config, TransformerConfig):
        heads_of = {"detection_activation": config.detection, "pair_activation": config.pair_classes}
        values |= {name: None for name, exists in heads_of.items() if not exists}
    if isinstance(config, AttentionConfig):
        head = config.head_width(width)
        values |= {"kv_heads": config.kv_heads or config.heads, "head_dim": head, "block": None}
        if config.position != "disentangled":
            values["scale"] = head**-0.5 if config.scale is None else config.scale
        names = ("rotary", "buckets", "alibi", "transformer_xl", "disentangled")
        values |= {name: None for name in names if name != config.position}
    if isinstance(config, FeedForwardConfig):
        values["width"] = config.width or 4 * width
    if isinstance(config, StackConfig):
        # Names of layer kinds, and settings that kinds inherit from the block, do not change the function.
        values |= {"block": None, "kinds": None, "pattern": function_of(config.layers, width)}
    if isinstance(config, EmbedConfig) and config.positions != "learned":
        values["max_length"] = None
    return type(config).__name__, tuple(values.items())


def _function_of_head(task: TaskHeadConfig) -> tuple[str, tuple[tuple[str, Any], ...]] | None:
    if not task.exists:
        return None
    values = {
        "classes": task.classes,
        "pool": task.pool,
        "states": task.states,
        "dense": task.dense,
        "dense_bias": task.dense_bias and task.dense,
        "activation": task.activation,
        "norm": task.norm,
        "norm_bias": task.norm_bias and task.norm,
        "epsilon": task.epsilon if task.norm else 0.0,
        "bias": task.bias and bool(task.classes),
    }
    return TaskHeadConfig.__name__, tuple(values.items())
