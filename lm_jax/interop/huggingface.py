"""Converts Hugging Face checkpoints to our models and back, by the rules of a family's table.

The tables name tensors layer by layer; only this file knows that our stacks have a leading axis of layers. Tensors are
read one at a time from memory-mapped files, so memory holds only the parameters and the leaf being built. No code of a
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
from lm_jax.core.trees import Params, is_below, named_leaves
from lm_jax.interop import document, fields, guess, heads, naming, safetensors
from lm_jax.interop.family import Family
from lm_jax.interop.heads import Head
from lm_jax.interop.rules import Rule, Rules
from lm_jax.interop.safetensors import Entry, Tensor
from lm_jax.interop.settings import Settings
from lm_jax.interop.tables import TABLES, kind
from lm_jax.models import transformer
from lm_jax.models.config import EncoderDecoderConfig, ModelConfig, TransformerConfig
from lm_jax.models.model import from_module
from lm_jax.models.stack import segments

# Prefix of the paths of tensors that our models lack.
EXTRA = "extra/"
_LAYER = re.compile(r"(stack|encoder|decoder)/(\d+)/(.*)")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """A supported checkpoint whose tensors are complete, but not read yet.

    Attributes:
      family: its table.
      architecture: the class that saved it.
      head: the head of a task that the class has, or the pooler.
      tree: its config.json.
      config, module: our configuration and our model.
      shapes, axes: shapes and logical axes of our parameters.
      rules: rules that pair tensors with parameters.
      entries: the tensors in the files, by the table's names.
      aliases: maps the checkpoint's names that differ from the table's to the table's.
      notes: a sentence for each guess, and for names or fields that were changed or ignored.
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
    aliases: Mapping[str, str]
    notes: tuple[str, ...] = ()

    @property
    def has_readout(self) -> bool:
        """Whether the class has a readout over the vocabulary."""
        bare = heads.bare(self.architecture) or self.architecture.endswith("ForNextSentencePrediction")
        readout = self.config.readout
        exists = readout.transform or readout.bias or self.config.kind != "encoder"
        return bool(exists) and self.head is None and not bare and not self.detects

    @property
    def detects(self) -> bool:
        """Whether the class has a head that detects replaced tokens."""
        return isinstance(self.config, TransformerConfig) and self.config.detection

    def params(self, layout: Any = None) -> Any:
        """The parameters in float32, sharded by a `Layout` if one is given."""
        shardings = [None] * len(jax.tree.leaves(self.shapes))
        if layout is not None:
            shardings = jax.tree.leaves(layout.shardings(self.axes, self.shapes))
        where = sources(self.rules, self.config, self.shapes)
        leaves = [
            jax.device_put(self._leaf(where[path], shape), sharding)
            for (path, shape), sharding in zip(named_leaves(self.shapes), shardings, strict=True)
        ]
        return jax.tree.unflatten(jax.tree.structure(self.shapes), leaves)

    def below(self, parent: str) -> dict[str, np.ndarray]:
        """The parameters at or below a path, by path."""
        where = sources(self.rules, self.config, self.shapes)
        leaves = [(path, shape) for path, shape in named_leaves(self.shapes) if is_below(path, [parent])]
        return {path: self._leaf(where[path], shape) for path, shape in leaves}

    def extra(self) -> dict[str, Any]:
        """Tensors that the class stores and our model lacks, by path."""
        stored = lambda rule: all(name in self.entries for name in rule.theirs)
        rules = [rule for rule in self.rules if rule.ours and rule.ours[0].startswith(EXTRA) and stored(rule)]
        return {path: jnp.asarray(self._read(rule, index)) for rule in rules for index, path in enumerate(rule.ours)}

    def _leaf(self, rows: list[tuple[Rule, int]], shape: Any) -> np.ndarray:
        rule, index = rows[0]
        if not _LAYER.fullmatch(rule.ours[index]):
            return self._read(rule, index)
        leaf = np.empty(shape.shape, np.float32)
        for at, row in enumerate(rows):
            leaf[at] = self._read(*row)
        return leaf

    def _read(self, rule: Rule, index: int) -> np.ndarray:
        # Copied, because jax may keep the memory of a numpy array, here the mapped file.
        return np.array(rule.load(*(self.entries[name].read() for name in rule.theirs))[index], np.float32, order="C")


def open_checkpoint(path: Path | str, over: Mapping[str, str] | None = None) -> Checkpoint:
    """Opens and checks a directory with config.json and safetensors; `over` is as for `document.override`.

    Raises:
      InputError: a file is missing or damaged, or the settings or tensors are not supported.
    """
    path = Path(path).expanduser()
    file = str(path / document.CONFIG)
    tree = document.override(document.read(path), over or {})
    stored = safetensors.entries(path)
    tree, notes = guess.complete(tree, stored, file)
    family = family_of(tree, f"{file}: model_type")
    architecture = (tree.get("architectures") or [""])[0]
    head = family.head(architecture, tree)
    stored, wrapper = naming.unwrap(stored, family)
    aliases = family.aliases_of(tree, stored)
    entries = naming.to_table_names(stored, family, aliases, head)
    settings = Settings(tree, entries, file, family.heads)
    config = family.configure(settings)
    ignored = settings.finish(fields.of(kind(tree)))
    module, shapes, axes = describe(config)
    rules = family.rules(config, architecture, tree)
    _check(path, rules, entries, family, expected(rules, config, shapes))
    notes += (f"removed {wrapper} from the names of all tensors",) if wrapper else ()
    notes += (f"ignored, because no class of {kind(tree)} reads them: {', '.join(ignored)}",) if ignored else ()
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
        aliases=aliases,
        notes=notes,
    )


def family_of(tree: Mapping[str, Any], key: str = "model_type") -> Family:
    """Looks up the table of a config.json; `key` names the field in messages.

    Example:
      >>> from lm_jax.interop import huggingface
      >>> huggingface.family_of({"model_type": "gpt2"}).prefix
      'transformer.'
    """
    return lookup(TABLES, kind(tree), key)


def load(path: Path | str, layout: Any = None) -> tuple[Any, Any]:
    """Implements `interop.load`."""
    checkpoint = open_checkpoint(path)
    return checkpoint.module, checkpoint.params(layout)


def describe(config: ModelConfig) -> tuple[Any, Params, Params]:
    """Returns a configuration's module, and the shapes and logical axes of its parameters, without allocating them."""
    model = from_module(transformer.build_transformer(config))
    return model.module, model.shapes, model.axes


def _check(path: Path, rules: Rules, entries: Mapping[str, Entry], family: Family, shapes: dict[str, Any]) -> None:
    """Compares the names and shapes that the rules require with those of the checkpoint."""
    missing, extra = naming.compare(rules, entries, family)
    mismatched = [
        f"{name} is {list(entries[name].shape)}, not {list(shape)}"
        for name, shape in shapes.items()
        if name in entries and entries[name].shape != shape
    ]
    problems = [f"{_few(missing)} missing"] if missing else []
    problems += [f"{_few(extra)} unexpected"] if extra else []
    problems += [_few(mismatched)] if mismatched else []
    if problems:
        raise InputError(
            f"the tensors of {path} are not those that its {document.CONFIG} describes: {'; '.join(problems)}; the "
            "file may be incomplete, or of a class that is not supported"
        )


def _few(names: list[str]) -> str:
    return ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")


def places(config: ModelConfig, shapes: Params) -> dict[str, tuple[str, int]]:
    """Maps `stack/3` to the path of layer 3's parameters and their row there, for layers that own parameters."""
    rows, names = {}, ("encoder", "decoder") if isinstance(config, EncoderDecoderConfig) else ("stack",)
    for name in names:
        stack = getattr(config, name)
        separate = tuple(kind for kind in segments.kinds(stack) if kind in shapes[name])
        for group, owners in segments.parameter_groups(stack, separate).items():
            path = f"{name}/{group}/layers" if group else f"{name}/layers"
            rows |= {f"{name}/{owner}": (path, rank) for rank, owner in enumerate(owners)}
    return rows


def place(where: Mapping[str, tuple[str, int]], path: str) -> tuple[str, int | None]:
    """The leaf that a rule's path is in, and its row there; None: the whole leaf."""
    match = _LAYER.fullmatch(path)
    if match is None:
        return path, None
    prefix, rank = where[f"{match[1]}/{match[2]}"]
    return f"{prefix}/{match[3]}", rank


def sources(rules: Rules, config: ModelConfig, shapes: Params) -> dict[str, list[tuple[Rule, int]]]:
    """Maps each leaf of our parameters to the rule of each row, and the row's index in the outputs of `rule.load`."""
    where = places(config, shapes)
    rules_by_row: dict[str, dict[int, tuple[Rule, int]]] = {}
    for rule in rules:
        for index, path in enumerate(rule.ours):
            leaf, rank = place(where, path)
            rules_by_row.setdefault(leaf, {})[rank or 0] = (rule, index)
    rules_by_leaf = {leaf: [rows[rank] for rank in sorted(rows)] for leaf, rows in rules_by_row.items()}
    for path, _ in named_leaves(shapes):
        if path not in rules_by_leaf:
            raise ValueError(f"the table has no rule for {path}")
    return rules_by_leaf


def expected(rules: Rules, config: ModelConfig, shapes: Params) -> dict[str, tuple[int, ...]]:
    """Shapes of the Hugging Face tensors by name, from the shapes of our parameters."""
    where, leaves = places(config, shapes), dict(named_leaves(shapes))

    @functools.cache
    def saved_shapes(save: Any, inputs: tuple[tuple[int, ...], ...]) -> tuple[tuple[int, ...], ...]:
        # Uninitialised bytes, because most conversions only return views.
        return tuple(array.shape for array in save(*(np.empty(shape, np.uint8) for shape in inputs)))

    theirs = {}
    for rule in rules:
        if not rule.ours or rule.ours[0].startswith(EXTRA):
            continue
        inputs = []
        for path in rule.ours:
            leaf, rank = place(where, path)
            if leaf not in leaves:
                raise ValueError(f"the table has a rule for {path}, which the model lacks")
            inputs.append(leaves[leaf].shape if rank is None else leaves[leaf].shape[1:])
        theirs |= dict(zip(rule.theirs, saved_shapes(rule.save, tuple(inputs)), strict=True))
    return theirs


def to_theirs(
    rules: Rules, config: ModelConfig, shapes: Params, params: Params, extra: Mapping[str, Any] | None = None
) -> Iterator[tuple[Rule, str, Any]]:
    """Yields the rule, name and array of each Hugging Face tensor, from our parameters or their gradients."""
    where, leaves = places(config, shapes), dict(named_leaves(params))
    for rule in rules:
        arrays = []
        for path in rule.ours:
            leaf, rank = place(where, path)
            array = _host_view((extra or {})[path] if path.startswith(EXTRA) else leaves[leaf])
            arrays.append(np.asarray(array if rank is None else array[rank]))
        yield from ((rule, name, array) for name, array in zip(rule.theirs, rule.save(*arrays), strict=True))


def _host_view(array: Any) -> Any:
    """A numpy view of an array on one CPU device; any other array as it is."""
    local = isinstance(array, jax.Array) and {device.platform for device in array.devices()} == {"cpu"}
    return np.asarray(array) if local and len(array.devices()) == 1 else array


def save(
    path: Path, tree: Mapping[str, Any], config: ModelConfig, params: Params, extra: Mapping[str, Any] | None = None
) -> None:
    """Writes config.json and safetensors, which `load` and Hugging Face's classes read.

    The parameters may have any sharding; `extra` has tensors that the class stores and our model lacks, by path.
    """
    family, extras = family_of(tree), extra or {}
    architecture = (tree.get("architectures") or [""])[0]
    head = family.head(architecture, tree)
    aliases = {table: name for name, table in family.aliases_of(tree, ()).items()}
    # Optional tensors are written only if `extra` has them.
    absent = lambda rule: rule.optional and any(path.startswith(EXTRA) and path not in extras for path in rule.ours)
    rules = [rule for rule in family.rules(config, architecture, tree) if not absent(rule)]
    _, shapes, _ = describe(config)
    theirs = expected(rules, config, shapes)
    tensors = []
    for rule in rules:
        make = functools.partial(_tensor, rule, config, shapes, params, extra)
        for index, name in enumerate(rule.theirs):
            shape = theirs[name] if name in theirs else make(index).shape
            name = naming.their_name(aliases.get(name, name), family, architecture, head)
            tensors.append(Tensor(name, tuple(shape), np.dtype(np.float32), functools.partial(make, index)))
    safetensors.write(path, tensors)
    text = json.dumps(dict(tree), indent=2, sort_keys=True) + "\n"
    safetensors.replace(path / document.CONFIG, lambda partial: partial.write_text(text, encoding="utf-8"))


def _tensor(rule: Rule, config: Any, shapes: Params, params: Params, extra: Any, index: int) -> np.ndarray:
    return [array for _, _, array in to_theirs([rule], config, shapes, params, extra)][index]
