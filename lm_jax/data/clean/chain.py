"""The chain of cleaning steps that turns a raw document into clean text or drops it.

Duplicates are dropped in `lm_jax.data.texts`, because another worker may have cleaned the earlier document.
"""

from __future__ import annotations

import codecs
import dataclasses

from lm_jax.core.config import InputError, lookup
from lm_jax.data.clean import report as reports
from lm_jax.data.clean.steps import STEPS, decode


@dataclasses.dataclass(frozen=True, kw_only=True)
class CleanConfig:
    """Settings of cleaning.

    Attributes:
      steps: names from `steps.STEPS`, applied in this order; an empty tuple leaves the decoded text unchanged. The
        default keeps layout; add `flow` for running prose.
      encoding: encoding of documents that are not UTF-8; "" drops them as "undecodable".
      min_characters: shorter documents are dropped as "short" (documents of only white space as "empty").
      max_characters: longer documents are dropped as "long"; 0 keeps them.
      deduplicate: drop a document that equals an earlier one after cleaning.
    """

    steps: tuple[str, ...] = ("line_breaks", "repair", "compose", "controls", "whitespace")
    encoding: str = "cp1252"
    min_characters: int = 1
    max_characters: int = 0
    deduplicate: bool = True


def check(config: CleanConfig) -> None:
    """Raise InputError for unknown steps or encodings and for contradictory limits."""
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


def clean(
    document: bytes | str, config: CleanConfig, report: reports.Report, sides: tuple[str, str] = ("", "")
) -> str | None:
    """Clean a document.

    Args:
      document: text, or bytes to decode.
      config: the cleaning steps.
      report: counts of changed and dropped documents, updated in place.
      sides: what to put before and after a text, if there is text: those of a template.

    Returns:
      The cleaned text, or None if the document is dropped.

    Example:
      >>> counts = reports.empty()
      >>> clean(b"  Two   words ", CleanConfig(steps=("flow",)), counts)
      'Two words'
      >>> counts["changed"]
      {'flow': 1}
    """
    text, problem = decode(document, config.encoding)
    size = len(document) if isinstance(document, bytes) else len(text.encode())
    reports.count(report, "read", size)
    if problem == "undecodable":
        return _drop(report, problem, size)
    if problem:
        step = reports.fallback(config.encoding) if problem == "fallback" else f"decode ({problem})"
        report["changed"][step] = report["changed"].get(step, 0) + 1
    # A text without a letter or digit may be nothing but control characters.
    if any(sides) and (any(map(str.isalnum, text)) or apply(text, config).strip()):
        text = sides[0] + text + sides[1]
    for name in config.steps:
        cleaned = STEPS[name](text)
        if cleaned != text:
            report["changed"][name] = report["changed"].get(name, 0) + 1
            text = cleaned
    if not text.strip():
        return _drop(report, "empty", size)
    if len(text) < config.min_characters:
        return _drop(report, "short", size)
    if 0 < config.max_characters < len(text):
        return _drop(report, "long", size)
    reports.count(report, "kept", len(text.encode()))
    return text


def apply(text: str, config: CleanConfig) -> str:
    """Apply the cleaning steps to a text."""
    for name in config.steps:
        text = STEPS[name](text)
    return text


def _drop(report: reports.Report, reason: str, size: int) -> None:
    reports.count(report, "dropped", size, reason)
