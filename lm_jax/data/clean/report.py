"""What cleaning did: counts of documents and bytes, added up over workers."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

Report = dict[str, Any]


def empty() -> Report:
    """A report of nothing.

    `read` and `kept` hold documents and bytes; `dropped` holds the same for each reason, with bytes as they were read
    (of duplicates as they were cleaned); `changed` counts the documents that a step altered.
    """
    return {"read": _count(), "kept": _count(), "dropped": {}, "changed": {}}


def count(report: Report, group: str, size: int, reason: str = "") -> None:
    """Count one document of `size` bytes as read, kept, or dropped for a reason."""
    entry = report[group].setdefault(reason, _count()) if reason else report[group]
    entry["documents"] += 1
    entry["bytes"] += size


def total(reports: Iterable[Report]) -> Report:
    """Reports of disjoint documents as one."""
    result = empty()
    for report in reports:
        for group in ("read", "kept"):
            _add(result[group], report[group])
        for reason, entry in report["dropped"].items():
            _add(result["dropped"].setdefault(reason, _count()), entry)
        for step, documents in report["changed"].items():
            result["changed"][step] = result["changed"].get(step, 0) + documents
    return result


def table(report: Report) -> str:
    """A report as lines to print."""
    rows = [("documents read", report["read"]), ("documents kept", report["kept"])]
    rows += [(f"dropped: {reason}", entry) for reason, entry in sorted(report["dropped"].items())]
    lines = [f"{name:<28}{entry['documents']:>12,}{entry['bytes']:>18,} bytes" for name, entry in rows]
    lines += [f"changed: {step:<19}{documents:>12,}" for step, documents in sorted(report["changed"].items())]
    return "\n".join(lines)


def _count() -> dict[str, int]:
    return {"documents": 0, "bytes": 0}


def _add(into: dict[str, int], entry: dict[str, int]) -> None:
    for name, value in entry.items():
        into[name] += value
