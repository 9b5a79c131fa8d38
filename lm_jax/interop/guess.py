"""Infers the family and the class of a checkpoint from its tensors, if config.json leaves them out."""

from __future__ import annotations

import contextlib
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

# Errors that a table may raise on the config.json of another family.
_MISFITS = (InputError, AttributeError, KeyError, TypeError, ValueError, ZeroDivisionError)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Candidate:
    """A class (`architecture`) that may have saved the tensors, and the `names` of the tensors that it reads."""

    family: str
    architecture: str
    config: Any
    head: Head | None
    names: frozenset[str]

    def computes(self) -> tuple[Any, ...]:
        """A key that is equal for classes that compute the same function."""
        return self.family, self.config, self.head, self.names


def complete(tree: Mapping[str, Any], stored: Mapping[str, Entry], file: str) -> tuple[dict[str, Any], tuple[str, ...]]:
    """Completes a config.json (`file` in messages) with the family and the class, inferred from the tensors.

    Returns:
      The tree, and a sentence for each guess.

    Raises:
      InputError: no class has these tensors, or several classes that compute different functions.
    """
    tree, notes = dict(tree), []
    architectures = tree.get("architectures") or []
    architectures = [architectures] if isinstance(architectures, str) else architectures
    tree["architectures"] = architectures = [name for name in architectures if isinstance(name, str)]
    family = kind(tree) if tree.get("model_type") or kind(tree) in TABLES else ""
    if family and family not in TABLES:
        spellings = [name for name in TABLES if _plain(name) == _plain(family)]
        if len(spellings) != 1:
            return tree, ()
        notes.append(f"model_type {family} is read as {spellings[0]} (override: --hf.model_type=...)")
        tree["model_type"] = family = spellings[0]
    if not family and architectures:
        owners = [name for name in TABLES if architectures[0] in classes(name)]
        if len(owners) == 1:
            notes.append(f"read as {owners[0]}, the family of {architectures[0]} (override: --hf.model_type=...)")
            tree["model_type"] = family = owners[0]
    if family and (architectures or not classes(family)):
        return _without_empty(tree), tuple(notes)
    matches = candidates(tree, stored, [family] if family else list(TABLES))
    if not matches and family:
        # The first class of the family then reports the missing tensors.
        return _without_empty(tree), tuple(notes)
    best = _choose(matches, tree, file)
    flags = "--hf.architectures=..." if family else "--hf.model_type=... and --hf.architectures=..."
    owner = "" if family else f" of {best.family}"
    notes.append(f"inferred from the tensors: {best.architecture}{owner} (override: {flags})")
    return tree | {"model_type": best.family, "architectures": [best.architecture]}, tuple(notes)


def _plain(name: str) -> str:
    return re.sub(r"[-_ ]", "", name.lower())


def _without_empty(tree: dict[str, Any]) -> dict[str, Any]:
    return tree if tree["architectures"] else {name: value for name, value in tree.items() if name != "architectures"}


def _choose(matches: Sequence[Candidate], tree: Mapping[str, Any], file: str) -> Candidate:
    lacking = " and ".join(name for name in ("model_type", "architectures") if not tree.get(name))
    if not matches:
        raise InputError(
            f"{file} has no {lacking}, and no supported class has these tensors; set --hf.model_type=... and "
            "--hf.architectures=..."
        )
    if len({match.computes() for match in matches}) > 1:
        one_family = len({match.family for match in matches}) == 1
        names = [match.architecture if one_family else f"{match.architecture} ({match.family})" for match in matches]
        flag = "--hf.architectures" if one_family else "--hf.model_type"
        raise InputError(
            f"{file} has no {lacking}, and its tensors may be those of {', '.join(names)}; choose one: "
            f"{flag}={matches[0].architecture if one_family else matches[0].family}"
        )
    # Among decoder classes with the same function, prefer the one whose labels are the next tokens.
    causal = [match for match in matches if match.config.kind == "decoder" and heads.SHIFTED.search(match.architecture)]
    return (causal or matches)[0]


@functools.cache
def classes(family: str) -> tuple[str, ...]:
    """Names of the supported classes of a family, the likeliest first."""
    settings = Settings({"architectures": ["?"]}, heads=TABLES[family].heads)
    with contextlib.suppress(InputError):  # `?` is refused, but only after `classes` is set
        TABLES[family].config(settings)
    return settings.classes


def candidates(tree: Mapping[str, Any], stored: Mapping[str, Entry], families: Sequence[str]) -> list[Candidate]:
    """Classes of these families that have these tensors; if some write exactly these tensor names, only those."""
    # Classes of choices are not tried, because a classifier of one class has the same tensors.
    names = {family: [name for name in classes(family) if not name.endswith(heads.CHOICES)] for family in families}
    tried = [_try(tree, stored, family, name) for family in families for name in names[family]]
    matches = [(match, exact) for match, exact in tried if match is not None]
    return [match for match, exact in matches if exact] or [match for match, _ in matches]


def _try(
    tree: Mapping[str, Any], stored: Mapping[str, Entry], family: str, architecture: str
) -> tuple[Candidate | None, bool]:
    """A class if it has these tensors, and whether it writes exactly their names."""
    table, tree = TABLES[family], {**tree, "model_type": family, "architectures": [architecture]}
    try:
        head = table.head(architecture, tree)
        stored, _ = naming.unwrap(stored, table)
        entries = naming.to_table_names(stored, table, table.aliases_of(tree, stored), head)
        settings = Settings(tree, entries, heads=table.heads)
        config = table.configure(settings)
        settings.finish(fields.of(family))
        rules = table.rules(config, architecture, tree)
    except _MISFITS:
        return None, False
    missing, extra = naming.compare(rules, entries, table)
    distinguishing = table.distinguishing.get(architecture)
    if missing or extra or (distinguishing and distinguishing not in entries):
        return None, False
    replaced = head is not None and head.prefix is not None
    prefixed = any(name.startswith(table.prefix) for name in stored)
    exact = replaced or not table.prefix or prefixed != heads.bare(architecture)
    names = frozenset(name for rule in rules for name in rule.theirs if name in entries)
    return Candidate(family=family, architecture=architecture, config=config, head=head, names=names), exact
