"""Report of cleaning: counts of documents and bytes, summed over workers."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

Report = dict[str, Any]

_FALLBACK = re.compile(r"decode \(not UTF-8, read as (.*)\)")
# The key in reports of version 1, which do not name the encoding.
_FORMER_FALLBACK = "decode (fallback)"


def empty() -> Report:
    """Return a report whose counts are zero.

    `read` and `kept` count documents and bytes; `dropped` counts both by reason, in bytes before cleaning (duplicates:
    after cleaning); `changed` counts the documents that each step altered.
    """
    return {"read": _count(), "kept": _count(), "dropped": {}, "changed": {}}


def count(report: Report, group: str, size: int, reason: str = "") -> None:
    """Count one document of `size` bytes as read, kept, or dropped for a reason."""
    entry = report[group].setdefault(reason, _count()) if reason else report[group]
    entry["documents"] += 1
    entry["bytes"] += size


def total(reports: Iterable[Report]) -> Report:
    """Return the sum of reports on disjoint sets of documents."""
    result = empty()
    for report in reports:
        for group in ("read", "kept"):
            _add(result[group], report[group])
        for reason, entry in report["dropped"].items():
            _add(result["dropped"].setdefault(reason, _count()), entry)
        for step, documents in report["changed"].items():
            result["changed"][step] = result["changed"].get(step, 0) + documents
    return result


def fallback(encoding: str) -> str:
    """Return the key in `changed` for documents that are not UTF-8 and were decoded in `encoding`."""
    return f"decode (not UTF-8, read as {encoding})"


def table(report: Report) -> str:
    """Return a report as lines to print."""
    rows = [("documents read", report["read"]), ("documents kept", report["kept"])]
    rows += [(f"dropped: {reason}", entry) for reason, entry in sorted(report["dropped"].items())]
    changed = [(f"changed: {step}", documents) for step, documents in sorted(report["changed"].items())]
    width = max(28, *(len(name) + 2 for name, _ in [*rows, *changed]))
    lines = [f"{name:<{width}}{entry['documents']:>12,}{entry['bytes']:>18,} bytes" for name, entry in rows]
    lines += [f"{name:<{width}}{documents:>12,}" for name, documents in changed]
    return "\n".join(lines)


def summary(report: Report) -> list[str]:
    """Return a line for each problem: dropped documents, guessed encodings, damaged text."""
    lines = []
    reasons = {reason: entry["documents"] for reason, entry in report["dropped"].items() if entry["documents"]}
    if reasons:
        listed = ", ".join(f"{number:,} {_plural(reason, number)}" for reason, number in sorted(reasons.items()))
        read = report["read"]["documents"]
        lines.append(f"{sum(reasons.values()):,} of {read:,} document{'s' * (read != 1)} dropped: {listed}")
    for step, documents in sorted(report["changed"].items()):
        match = _FALLBACK.fullmatch(step)
        one = documents == 1
        subject = f"{documents:,} document{'' if one else 's'}"
        if match or step == _FORMER_FALLBACK:
            encoding = match[1] if match else "another encoding"
            lines.append(
                f"{subject} {'is' if one else 'are'} not UTF-8 and {'was' if one else 'were'} read as {encoding} "
                "(config.data.clean.encoding)"
            )
        elif step == "decode (damaged)":
            lines.append(f"{subject} {'is' if one else 'are'} damaged: U+FFFD stands for each byte that is not UTF-8")
    return lines


def _plural(reason: str, documents: int) -> str:
    """Return a reason, in the plural if it is a noun and the number of documents is not 1."""
    return re.sub("^(duplicate|bad row)", r"\1s", reason) if documents != 1 else reason


def _count() -> dict[str, int]:
    return {"documents": 0, "bytes": 0}


def _add(into: dict[str, int], entry: dict[str, int]) -> None:
    for name, value in entry.items():
        into[name] += value
