"""Converts tensor names of checkpoints to those of the tables, and back."""

from __future__ import annotations

import re
from collections.abc import Mapping

from lm_jax.interop import heads
from lm_jax.interop.family import Family
from lm_jax.interop.heads import Head
from lm_jax.interop.rules import Rules
from lm_jax.interop.safetensors import Entry

# Wrappers of whole models: torch's DataParallel, torch.compile, and trainers that store the model as `model`.
_WRAPPERS = ("module.", "_orig_mod.", "model.")


def to_table_names(
    stored: Mapping[str, Entry], family: Family, aliases: Mapping[str, str], head: Head | None
) -> dict[str, Entry]:
    """Returns tensors under the table's names, which begin with the family's prefix."""
    prefix, table = family.prefix, {**family.later_names, **aliases}
    stored = {table.get(name, name): at for name, at in stored.items()}
    # BERT's first checkpoints have TensorFlow's names.
    stored = {re.sub(r"\.gamma$", ".weight", re.sub(r"\.beta$", ".bias", name)): at for name, at in stored.items()}
    if head is not None and (old := head.prefix) is not None:
        stored = {prefix + name.removeprefix(old) if name.startswith(old) else name: at for name, at in stored.items()}
    if prefix and not any(name.startswith(prefix) for name in stored):
        stored = {f"{prefix}{name}": at for name, at in stored.items()}
    copies = {name: stored[other] for name, other in family.copies.items() if name not in stored and other in stored}
    return stored | copies


def their_name(name: str, family: Family, architecture: str, head: Head | None) -> str:
    """Converts the table's name of a tensor to the name in a class."""
    head = head if head is not None and head.out else None
    if head is not None and (head.prefix is None or name.startswith(head.names)):
        return name
    if not name.startswith(family.prefix):
        return name
    if head is not None:
        return f"{head.prefix}{name.removeprefix(family.prefix)}"
    return name.removeprefix(family.prefix) if heads.bare(architecture) else name


def unwrap(stored: Mapping[str, Entry], family: Family) -> tuple[dict[str, Entry], str]:
    """Removes wrapper prefixes that all names share; returns the tensors and the removed prefixes."""
    entries, removed = dict(stored), ""
    while outer := next((wrap for wrap in _WRAPPERS if entries and all(name.startswith(wrap) for name in entries)), ""):
        inner = {name.removeprefix(outer): at for name, at in entries.items()}
        # `model.` is also the prefix of many families.
        if outer == family.prefix and not any(name.startswith(outer) for name in inner):
            break
        entries, removed = inner, removed + outer
    return entries, removed


def compare(rules: Rules, entries: Mapping[str, Entry], family: Family) -> tuple[list[str], list[str]]:
    """Returns the names that rules require and `entries` lacks, and the names in `entries` that no rule reads."""
    required = {name for rule in rules if not rule.optional for name in rule.theirs}
    read = {name for rule in rules for name in rule.theirs}
    pattern = re.compile("|".join(family.ignored) or "(?!)")
    ignored = lambda name: pattern.fullmatch(name) or pattern.fullmatch(name.removeprefix(family.prefix))
    return sorted(required - set(entries)), sorted(name for name in entries if name not in read and not ignored(name))
