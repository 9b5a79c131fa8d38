"""Walks a family's table: from a Hugging Face checkpoint to our parameters, and back.

The tables name tensors layer by layer; this file knows that our stacks keep layers on a leading axis. Tensors are read
one at a time from mapped files, so that no more is in memory than the parameters and the leaf being built. Nothing of a
checkpoint is executed.
"""

from __future__ import annotations

import dataclasses
import functools
import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from lm_jax.core.config import InputError, lookup
from lm_jax.core.trees import Params, named_leaves
from lm_jax.interop import document, fields, guess, heads, naming, safetensors
from lm_jax.interop.family import Family
from lm_jax.interop.heads import Head
from lm_jax.interop.rules import Rule, Rules
from lm_jax.interop.safetensors import Entry, Tensor
from lm_jax.interop.settings import Settings
from lm_jax.interop.tables import TABLES, kind
from lm_jax.models import transformer
from lm_jax.models.config import (
    AttentionConfig,
    EmbedConfig,
    EncoderDecoderConfig,
    FeedForwardConfig,
    ModelConfig,
    StackConfig,
    TransformerConfig,
)
from lm_jax.models.model import of_module
from lm_jax.models.stack import segments

# Heads that our models have not are kept beside the parameters.
EXTRA = "extra/"
_LAYER = re.compile(r"(stack|encoder|decoder)/(\d+)/(.*)")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """A checkpoint whose settings were understood and whose tensors are all there; none has been read.

    Attributes:
      family: its table.
      architecture: the class that saved it.
      head: what that class has on top of the model, where our model has not.
      tree: its config.json.
      config: the same as ours.
      module: our model.
      shapes, axes: its parameters' shapes and logical axes.
      rules: which tensor is which.
      entries: where each tensor is, by the names that the table gives them.
      spelled: names in the checkpoint that are not the table's, and the table's.
      notes: what was guessed or passed over, a sentence each.
    """

    family: Family
    architecture: str
    head: Head | None
    tree: dict[str, Any]
    config: ModelConfig
    module: Any
    shapes: Params
    axes: Params
    rules: Rules
    entries: Mapping[str, Entry]
    spelled: Mapping[str, str]
    notes: tuple[str, ...] = ()

    @property
    def writes(self) -> bool:
        """Whether the class has a readout over the vocabulary."""
        bare = heads.bare(self.architecture) or self.architecture.endswith((heads.ROWS, "ForNextSentencePrediction"))
        readout = self.config.readout
        able = readout.transform or readout.bias or self.config.kind != "encoder"
        return bool(able) and self.head is None and not bare

    def params(self, layout: Any = None) -> Any:
        """The parameters in float32, sharded as a `Layout` says where one is given."""
        shardings = [None] * len(jax.tree.leaves(self.shapes))
        if layout is not None:
            shardings = jax.tree.leaves(layout.shardings(self.axes, self.shapes))
        where = sources(self.rules, self.config, self.shapes)
        leaves = [
            jax.device_put(self._leaf(where[path], shape), sharding)
            for (path, shape), sharding in zip(named_leaves(self.shapes), shardings, strict=True)
        ]
        return jax.tree.unflatten(jax.tree.structure(self.shapes), leaves)

    def extra(self) -> dict[str, Any]:
        """What belongs to heads that our model has not, by path."""
        stored = lambda rule: all(name in self.entries for name in rule.theirs)
        rules = [rule for rule in self.rules if rule.ours and rule.ours[0].startswith(EXTRA) and stored(rule)]
        return {path: jnp.asarray(self._read(rule, index)) for rule in rules for index, path in enumerate(rule.ours)}

    def _leaf(self, parts: list[tuple[Rule, int]], shape: Any) -> np.ndarray:
        rule, index = parts[0]
        if not _LAYER.fullmatch(rule.ours[index]):
            return self._read(rule, index)
        leaf = np.empty(shape.shape, np.float32)
        for row, part in enumerate(parts):
            leaf[row] = self._read(*part)
        return leaf

    def _read(self, rule: Rule, index: int) -> np.ndarray:
        # A copy: jax may take over the memory of an array, and this one must not be a file's.
        return np.array(rule.load(*(self.entries[name].read() for name in rule.theirs))[index], np.float32, order="C")


def open_checkpoint(path: Path | str, over: Mapping[str, str] | None = None) -> Checkpoint:
    """Understands a directory with config.json and safetensors.

    Args:
      path: the directory.
      over: fields of config.json as the command line sets them (`document.laid_over`).

    Raises:
      InputError: it is no such directory, or its settings or tensors are not those of a model that we have.
    """
    path = Path(path).expanduser()
    file = str(path / document.CONFIG)
    tree = document.laid_over(document.read(path), over or {})
    stored = safetensors.entries(path)
    tree, notes = guess.completed(tree, stored, file)
    family = family_of(tree, f"{file}: model_type")
    architecture = (tree.get("architectures") or [""])[0]
    head = heads.of(family.heads, architecture, tree)
    stored, wrapper = naming.unwrapped(stored, family)
    spelled = family.spelled(tree, stored)
    entries = naming.named(stored, family, spelled, head)
    settings = Settings(tree, entries, file, family.heads)
    config = family.config(settings)
    passed = settings.finish(fields.of(kind(tree)))
    module, shapes, axes = describe(config)
    rules = family.weights(config, architecture) + heads.rules(head)
    _check(path, rules, entries, family, expected(rules, config, shapes))
    notes += (f"names of tensors without {wrapper}, which is before all of them",) if wrapper else ()
    notes += (f"passed over, as no class of {kind(tree)} reads it: {', '.join(passed)}",) if passed else ()
    return Checkpoint(
        family=family,
        architecture=architecture,
        head=head,
        tree=tree,
        config=config,
        module=module,
        shapes=shapes,
        axes=axes,
        rules=rules,
        entries=entries,
        spelled=spelled,
        notes=notes,
    )


def family_of(tree: Mapping[str, Any], key: str = "model_type") -> Family:
    """The table of a config.json; `key` is its name in messages."""
    return lookup(TABLES, kind(tree), key)


def load(path: Path | str, layout: Any = None) -> tuple[Any, Any]:
    """A model and its float32 parameters from a Hugging Face checkpoint.

    Args:
      path: a directory with config.json and model.safetensors, or shards and their index.
      layout: the mesh to shard the parameters over; None puts them on one device.

    Returns:
      A Linen module and its parameters: `model.apply({"params": params}, Inputs(tokens=...), logits=True).logits`.

    Raises:
      InputError: what was found and what was expected, in one line.
    """
    checkpoint = open_checkpoint(path)
    return checkpoint.module, checkpoint.params(layout)


def describe(config: ModelConfig) -> tuple[Any, Params, Params]:
    """The module of a configuration, and shapes and logical axes of its parameters; no memory is taken."""
    model = of_module(transformer.build_transformer(config))
    return model.module, model.shapes, model.axes


def _check(path: Path, rules: Rules, entries: Mapping[str, Entry], family: Family, shapes: dict[str, Any]) -> None:
    """Compares the names and shapes that rules ask for with those that are there."""
    missing, extra = naming.compared(rules, entries, family)
    shaped = [
        f"{name} is {list(entries[name].shape)}, not {list(shape)}"
        for name, shape in shapes.items()
        if name in entries and entries[name].shape != shape
    ]
    problems = [f"{_few(missing)} missing"] if missing else []
    problems += [f"{_few(extra)} unexpected"] if extra else []
    problems += [_few(shaped)] if shaped else []
    if problems:
        raise InputError(
            f"the tensors of {path} are not those that its {document.CONFIG} describes: {'; '.join(problems)}; the "
            "file may be incomplete, or of a class that is not supported"
        )


def _few(names: list[str]) -> str:
    return ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")


def stacks(config: ModelConfig) -> dict[str, Any]:
    """The stacks of a model by their names in its parameters."""
    if isinstance(config, EncoderDecoderConfig):
        return {"encoder": config.encoder, "decoder": config.decoder}
    return {"stack": config.stack}


def places(config: ModelConfig, shapes: Params) -> dict[str, tuple[str, int]]:
    """`stack/3` to the path that holds layer 3's parameters and their row there, for every set of parameters."""
    found = {}
    for name, stack in stacks(config).items():
        apart = tuple(kind for kind in segments.kinds(stack) if kind in shapes[name])
        for group, owners in segments.owned(stack, apart).items():
            path = f"{name}/{group}/layers" if group else f"{name}/layers"
            found |= {f"{name}/{owner}": (path, rank) for rank, owner in enumerate(owners)}
    return found


def _place(where: Mapping[str, tuple[str, int]], path: str) -> tuple[str, int | None]:
    """The leaf that a rule's path means, and the row in it."""
    found = _LAYER.fullmatch(path)
    if found is None:
        return path, None
    prefix, rank = where[f"{found[1]}/{found[2]}"]
    return f"{prefix}/{found[3]}", rank


def sources(rules: Rules, config: ModelConfig, shapes: Params) -> dict[str, list[tuple[Rule, int]]]:
    """For every leaf of ours the rules that fill its rows, and which of a rule's results each takes."""
    where = places(config, shapes)
    found: dict[str, dict[int, tuple[Rule, int]]] = {}
    for rule in rules:
        for index, path in enumerate(rule.ours):
            leaf, rank = _place(where, path)
            found.setdefault(leaf, {})[rank or 0] = (rule, index)
    filled = {leaf: [rows[rank] for rank in sorted(rows)] for leaf, rows in found.items()}
    for path, _ in named_leaves(shapes):
        if path not in filled:
            raise ValueError(f"the table has no rule for {path}")
    return filled


def expected(rules: Rules, config: ModelConfig, shapes: Params) -> dict[str, tuple[int, ...]]:
    """The shape of every tensor of theirs, from those of our parameters."""
    where, leaves = places(config, shapes), dict(named_leaves(shapes))

    @functools.cache
    def shaped(save: Any, inputs: tuple[tuple[int, ...], ...]) -> tuple[tuple[int, ...], ...]:
        # Bytes that nobody has written: most changes only look at them otherwise.
        return tuple(one.shape for one in save(*(np.empty(shape, np.uint8) for shape in inputs)))

    found = {}
    for rule in rules:
        if not rule.ours or rule.ours[0].startswith(EXTRA):
            continue
        inputs = []
        for path in rule.ours:
            leaf, rank = _place(where, path)
            if leaf not in leaves:
                raise ValueError(f"the table has a rule for {path}, which the model has not")
            inputs.append(leaves[leaf].shape if rank is None else leaves[leaf].shape[1:])
        found |= dict(zip(rule.theirs, shaped(rule.save, tuple(inputs)), strict=True))
    return found


def to_theirs(
    rules: Rules, config: ModelConfig, shapes: Params, params: Params, extra: Mapping[str, Any] | None = None
) -> Iterator[tuple[Rule, str, Any]]:
    """A tree like our parameters (they themselves, or their gradients) by their names, one tensor at a time."""
    where, leaves = places(config, shapes), dict(named_leaves(params))
    for rule in rules:
        arrays = []
        for path in rule.ours:
            leaf, rank = _place(where, path)
            array = _near((extra or {})[path] if path.startswith(EXTRA) else leaves[leaf])
            arrays.append(np.asarray(array if rank is None else array[rank]))
        yield from ((rule, name, array) for name, array in zip(rule.theirs, rule.save(*arrays), strict=True))


def _near(array: Any) -> Any:
    """An array in this machine's memory as numpy sees it, without a copy; others stay where they are."""
    local = isinstance(array, jax.Array) and {device.platform for device in array.devices()} == {"cpu"}
    return np.asarray(array) if local and len(array.devices()) == 1 else array


def save(
    directory: Path,
    tree: Mapping[str, Any],
    config: ModelConfig,
    params: Params,
    extra: Mapping[str, Any] | None = None,
) -> None:
    """Writes config.json and safetensors: what `load` reads, and what Hugging Face's own classes read.

    Args:
      directory: where to.
      tree: config.json.
      config: our configuration.
      params: our parameters, of any sharding.
      extra: heads that our model has not.
    """
    family, held = family_of(tree), extra or {}
    architecture = (tree.get("architectures") or [""])[0]
    head = heads.of(family.heads, architecture, tree)
    spelled = {table: name for name, table in family.spelled(tree, ()).items()}
    # What a checkpoint may lack is written where there is any.
    absent = lambda rule: rule.optional and any(path.startswith(EXTRA) and path not in held for path in rule.ours)
    rules = [rule for rule in family.weights(config, architecture) + heads.rules(head) if not absent(rule)]
    _, shapes, _ = describe(config)
    told = expected(rules, config, shapes)
    tensors = []
    for rule in rules:
        make = functools.partial(_tensor, rule, config, shapes, params, extra)
        for index, name in enumerate(rule.theirs):
            shape = told[name] if name in told else make(index).shape
            name = naming.their_name(spelled.get(name, name), family, architecture, head)
            tensors.append(Tensor(name, tuple(shape), np.dtype(np.float32), functools.partial(make, index)))
    safetensors.write(directory, tensors)
    text = json.dumps(dict(tree), indent=2, sort_keys=True) + "\n"
    safetensors.replace(directory / document.CONFIG, lambda partial: partial.write_text(text, encoding="utf-8"))


def _tensor(rule: Rule, config: Any, shapes: Params, params: Params, extra: Any, index: int) -> np.ndarray:
    return [array for _, _, array in to_theirs([rule], config, shapes, params, extra)][index]


def tree_for(config: ModelConfig) -> dict[str, Any]:
    """The config.json of a model that was not imported.

    Of several families that compute the same function it is the first in `TABLES`: a model that is LLaMA and Mistral
    without a window is LLaMA.

    Raises:
      InputError: no family of theirs computes the same function.
    """
    for name, family in TABLES.items():
        if family.settings is None:
            continue
        try:
            tree = family.settings(config)
            again = family.config(Settings(tree, tree.pop("tensors", ()), name, family.heads))
        except (InputError, ArithmeticError, AttributeError, KeyError, TypeError):
            continue
        if function_of(again) == function_of(config):
            return tree
    known = ", ".join(name for name, family in TABLES.items() if family.settings is not None)
    raise InputError(
        "no Hugging Face family computes what this model computes (PaLM, Gopher, Chinchilla and GPT-3 have no class in "
        f"transformers); a model can be exported as {known}, where its settings are ones that this family has"
    )


@functools.lru_cache(maxsize=4096)
def function_of(config: Any, width: int = 0) -> Any:
    """A configuration without what does not change its function: dropout, initialisation, kernels, loops, losses."""
    if isinstance(config, tuple):
        return tuple(function_of(one, width) for one in config)
    if not dataclasses.is_dataclass(config):
        return config
    width = getattr(getattr(config, "embed", None), "width", width)
    free = ("dropout", "init", "scan", "remat", "kernel", "dtype", "balance")
    names = [field.name for field in dataclasses.fields(config) if field.name not in free]
    held = {name: function_of(getattr(config, name), width) for name in names}
    if isinstance(config, TransformerConfig | EncoderDecoderConfig):
        # muP scales scores and logits.
        held["init"] = config.init.base_width if config.init.name == "mup" else None
    if isinstance(config, AttentionConfig):
        head = config.head_width(width)
        held |= {"kv_heads": config.kv_heads or config.heads, "head_dim": head, "block": None}
        if config.position != "disentangled":
            held["scale"] = head**-0.5 if config.scale is None else config.scale
        names = ("rotary", "buckets", "alibi", "transformer_xl", "disentangled")
        held |= {name: None for name in names if name != config.position}
    if isinstance(config, FeedForwardConfig):
        held["width"] = config.width or 4 * width
    if isinstance(config, StackConfig):
        # Which names the kinds of layers have, and what of them stands in the block, is the same function.
        held |= {"block": None, "kinds": None, "pattern": function_of(config.layers, width)}
    if isinstance(config, EmbedConfig) and config.positions != "learned":
        held["max_length"] = None
    return type(config).__name__, tuple(held.items())
