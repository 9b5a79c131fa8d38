"""What config.json does not say and the tensors tell: the family of a checkpoint, and the class that saved it."""

from __future__ import annotations

import dataclasses
import functools
import re
from collections.abc import Mapping, Sequence
from typing import Any

from lm_jax.core.config import InputError
from lm_jax.interop import fields, heads, naming
from lm_jax.interop.heads import Head
from lm_jax.interop.safetensors import Entry
from lm_jax.interop.settings import Settings
from lm_jax.interop.tables import TABLES, kind

# What reading a config.json as another family's may raise.
_MISFITS = (InputError, AttributeError, KeyError, TypeError, ValueError, ZeroDivisionError)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Candidate:
    """A class whose tensors these may be.

    Attributes:
      family: its `model_type`.
      architecture: its name.
      config: our configuration of it.
      head: what it has on top of the model.
      names: the tensors that it reads.
    """

    family: str
    architecture: str
    config: Any
    head: Head | None
    names: frozenset[str]

    def computes(self) -> tuple[Any, ...]:
        """Equal for classes of the same function."""
        return self.family, self.config, self.head, self.names


def completed(
    tree: Mapping[str, Any], stored: Mapping[str, Entry], file: str
) -> tuple[dict[str, Any], tuple[str, ...]]:
    """config.json with a family and a class in it.

    Args:
      tree: config.json.
      stored: the tensors beside it.
      file: its name in messages.

    Returns:
      The tree, and a sentence for each guess.

    Raises:
      InputError: the tensors may be of several classes that compute different things, or of none.
    """
    tree, notes = dict(tree), []
    named = tree.get("architectures") or []
    named = [named] if isinstance(named, str) else [name for name in named if isinstance(name, str)]
    tree["architectures"] = named
    family = kind(tree) if tree.get("model_type") or kind(tree) in TABLES else ""
    if family and family not in TABLES:
        same = [name for name in TABLES if _plain(name) == _plain(family)]
        if len(same) != 1:
            return tree, ()
        notes.append(f"model_type {family} is taken for {same[0]} (--hf.model_type=... says otherwise)")
        tree["model_type"] = family = same[0]
    if not family and named:
        owners = [name for name in TABLES if named[0] in classes(name)]
        if len(owners) == 1:
            notes.append(f"taken for {owners[0]}, the family of {named[0]} (--hf.model_type=... says otherwise)")
            tree["model_type"] = family = owners[0]
    if family and (named or not classes(family)):
        return _without_nothing(tree), tuple(notes)
    found = candidates(tree, stored, [family] if family else list(TABLES))
    if not found and family:
        # The first class of the family then names the tensors that are missing.
        return _without_nothing(tree), tuple(notes)
    best = _chosen(found, tree, file)
    flags = "--hf.architectures=..." if family else "--hf.model_type=... and --hf.architectures=..."
    of = "" if family else f" of {best.family}"
    notes.append(f"taken for {best.architecture}{of} by its tensors ({flags} {'says' if family else 'say'} otherwise)")
    return tree | {"model_type": best.family, "architectures": [best.architecture]}, tuple(notes)


def _plain(name: str) -> str:
    return re.sub(r"[-_ ]", "", name.lower())


def _without_nothing(tree: dict[str, Any]) -> dict[str, Any]:
    return tree if tree["architectures"] else {name: value for name, value in tree.items() if name != "architectures"}


def _chosen(found: Sequence[Candidate], tree: Mapping[str, Any], file: str) -> Candidate:
    lacking = " and ".join(name for name in ("model_type", "architectures") if not tree.get(name))
    if not found:
        raise InputError(
            f"{file} has no {lacking}, and no class that is supported has these tensors; say what it is with "
            "--hf.model_type=... and --hf.architectures=..."
        )
    if len({one.computes() for one in found}) > 1:
        one_family = len({one.family for one in found}) == 1
        named = [one.architecture if one_family else f"{one.architecture} ({one.family})" for one in found]
        flag = "--hf.architectures" if one_family else "--hf.model_type"
        raise InputError(
            f"{file} has no {lacking}, and its tensors may be those of {', '.join(named)}; choose one: "
            f"{flag}={found[0].architecture if one_family else found[0].family}"
        )
    # Of classes that compute the same, a decoder's is the one whose labels are the next tokens.
    writers = [one for one in found if one.config.kind == "decoder" and heads.SHIFTED.search(one.architecture)]
    return (writers or found)[0]


@functools.cache
def classes(family: str) -> tuple[str, ...]:
    """Names of the classes of a family that are supported, the likeliest first."""
    settings = Settings({"architectures": ["?"]}, heads=TABLES[family].heads)
    try:
        TABLES[family].config(settings)
    except InputError:
        # It refuses this class, and has named its own.
        pass
    return settings.classes


def candidates(tree: Mapping[str, Any], stored: Mapping[str, Entry], families: Sequence[str]) -> list[Candidate]:
    """Classes of these families that have these tensors; those that also name them so where there are any."""
    tried = [_fitting(tree, stored, family, name) for family in families for name in classes(family)]
    found = [(one, exact) for one, exact in tried if one is not None]
    return [one for one, exact in found if exact] or [one for one, _ in found]


def _fitting(
    tree: Mapping[str, Any], stored: Mapping[str, Entry], family: str, architecture: str
) -> tuple[Candidate | None, bool]:
    """A class if these can be its tensors, and whether it would write them under these names."""
    table, tree = TABLES[family], {**tree, "model_type": family, "architectures": [architecture]}
    try:
        head = heads.of(table.heads, architecture, tree)
        stored, _ = naming.unwrapped(stored, table)
        entries = naming.named(stored, table, table.spelled(tree, stored), head)
        settings = Settings(tree, entries, heads=table.heads)
        config = table.config(settings)
        settings.finish(fields.of(family))
        rules = table.weights(config, architecture) + heads.rules(head)
    except _MISFITS:
        return None, False
    missing, extra = naming.compared(rules, entries, table)
    mark = table.marks.get(architecture)
    if missing or extra or (mark and mark not in entries):
        return None, False
    own = head is not None and head.prefix is not None
    prefixed = any(name.startswith(table.prefix) for name in stored)
    exact = own or not table.prefix or prefixed != heads.bare(architecture)
    read = frozenset(name for rule in rules for name in rule.theirs if name in entries)
    return Candidate(family=family, architecture=architecture, config=config, head=head, names=read), exact
