"""Names of tensors: as a checkpoint has them, as the tables do, and back."""

from __future__ import annotations

import re
from collections.abc import Mapping

from lm_jax.interop import heads
from lm_jax.interop.family import Family
from lm_jax.interop.heads import Head
from lm_jax.interop.rules import Rules
from lm_jax.interop.safetensors import Entry

# What puts itself before every name: torch's DataParallel, torch.compile, and trainers that keep a model as `model`.
_WRAPPERS = ("module.", "_orig_mod.", "model.")


def named(
    stored: Mapping[str, Entry], family: Family, spelled: Mapping[str, str], head: Head | None
) -> dict[str, Entry]:
    """Tensors by the names that tables use: of a model with its prefix, and of today's spelling."""
    prefix, table = family.prefix, {**family.renamed, **spelled}
    stored = {table.get(name, name): at for name, at in stored.items()}
    # BERT's first checkpoints are named after TensorFlow's.
    named = {re.sub(r"\.gamma$", ".weight", re.sub(r"\.beta$", ".bias", name)): at for name, at in stored.items()}
    if head is not None and head.prefix is not None:
        own = head.prefix
        named = {prefix + name.removeprefix(own) if name.startswith(own) else name: at for name, at in named.items()}
    if prefix and not any(name.startswith(prefix) for name in named):
        named = {f"{prefix}{name}": at for name, at in named.items()}
    copied = {name: named[other] for name, other in family.copies.items() if name not in named and other in named}
    return named | copied


def their_name(name: str, family: Family, architecture: str, head: Head | None) -> str:
    """A tensor's name as its class has it, from the name that tables use."""
    if head is not None and (head.prefix is None or name.startswith(head.names)):
        return name
    if not name.startswith(family.prefix):
        return name
    if head is not None:
        return f"{head.prefix}{name.removeprefix(family.prefix)}"
    return name.removeprefix(family.prefix) if heads.bare(architecture) else name


def unwrapped(stored: Mapping[str, Entry], family: Family) -> tuple[dict[str, Entry], str]:
    """Tensors without what wraps a whole model, and what that was."""
    inside, wrapper = dict(stored), ""
    while found := next((one for one in _WRAPPERS if inside and all(name.startswith(one) for name in inside)), ""):
        names = {name.removeprefix(found): at for name, at in inside.items()}
        # Many models call their own parts so.
        if found == family.prefix and not any(name.startswith(found) for name in names):
            break
        inside, wrapper = names, wrapper + found
    return inside, wrapper


def compared(rules: Rules, entries: Mapping[str, Entry], family: Family) -> tuple[list[str], list[str]]:
    """Names that rules ask for and that are not there, and names that no rule knows."""
    wanted = {name for rule in rules if not rule.optional for name in rule.theirs}
    known = {name for rule in rules for name in rule.theirs}
    ignored = re.compile("|".join(family.ignored) or "(?!)")
    plain = lambda name: ignored.fullmatch(name) or ignored.fullmatch(name.removeprefix(family.prefix))
    return sorted(wanted - set(entries)), sorted(name for name in entries if name not in known and not plain(name))
