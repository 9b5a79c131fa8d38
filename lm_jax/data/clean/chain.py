"""The chain that a document goes through, from raw bytes to text worth keeping.

Duplicates are not decided here: whether a document is the first of its kind depends on those before it, which
another worker may hold. See `lm_jax.data.texts`.
"""

from __future__ import annotations

import codecs
import dataclasses

from lm_jax.core.config import InputError, lookup
from lm_jax.data.clean import report as reports
from lm_jax.data.clean.steps import STEPS, decode


@dataclasses.dataclass(frozen=True, kw_only=True)
class CleanConfig:
    """How text is cleaned.

    Attributes:
      steps: names from `steps.STEPS`, applied in this order; an empty tuple leaves text as it was decoded. The
        default keeps layout; add `flow` for running prose.
      encoding: how documents that are not UTF-8 are read; empty drops them as "undecodable".
      min_characters: shorter documents are dropped as "short" (those without any text as "empty").
      max_characters: longer documents are dropped as "long"; 0 keeps them.
      deduplicate: drop a document equal to an earlier one, after cleaning.
    """

    steps: tuple[str, ...] = ("line_breaks", "repair", "compose", "controls", "whitespace")
    encoding: str = "cp1252"
    min_characters: int = 1
    max_characters: int = 0
    deduplicate: bool = True


def check(config: CleanConfig) -> None:
    """Raise InputError for settings that no document can meet."""
    for step in config.steps:
        lookup(STEPS, step, "config.data.clean.steps")
    if config.encoding:
        try:
            codecs.lookup(config.encoding)
        except LookupError as error:
            raise InputError(
                f"config.data.clean.encoding is {config.encoding!r}, which Python does not know; try cp1252 or latin-1"
            ) from error
    if 0 < config.max_characters < config.min_characters:
        raise InputError(
            f"config.data.clean.max_characters is {config.max_characters}, less than min_characters "
            f"{config.min_characters}; nothing would be left"
        )


def clean(document: bytes | str, config: CleanConfig, report: reports.Report) -> str | None:
    """A cleaned document, or None where it is dropped; the report is added to.

    Args:
      document: as a source yields it.
      config: the steps and limits.
      report: counts, changed in place.
    """
    text, how = decode(document, config.encoding)
    size = len(document) if isinstance(document, bytes) else len(text.encode())
    reports.count(report, "read", size)
    if how == "undecodable":
        return _dropped(report, how, size)
    if how:
        what = reports.fallback(config.encoding) if how == "fallback" else f"decode ({how})"
        report["changed"][what] = report["changed"].get(what, 0) + 1
    for name in config.steps:
        cleaned = STEPS[name](text)
        if cleaned != text:
            report["changed"][name] = report["changed"].get(name, 0) + 1
            text = cleaned
    if not text.strip():
        return _dropped(report, "empty", size)
    if len(text) < config.min_characters:
        return _dropped(report, "short", size)
    if 0 < config.max_characters < len(text):
        return _dropped(report, "long", size)
    reports.count(report, "kept", len(text.encode()))
    return text


def _dropped(report: reports.Report, reason: str, size: int) -> None:
    reports.count(report, "dropped", size, reason)
