"""Cleaned text on disk: parallel workers clean the documents of a source, then duplicates are dropped.

A corpus is split into units of raw text whose borders depend on the source alone, so the result does not depend on the
number of workers or on interruptions. A unit is stored as three files: its text, the lengths and hashes of its
documents, and its report, which is written last and marks the unit as complete.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

from lm_jax.core.config import InputError
from lm_jax.data import atomic, records, sources, templates, workers
from lm_jax.data.clean import chain
from lm_jax.data.clean import report as reports

# Increased when the same text would be cleaned or stored differently. Version 2 replaces control characters between
# words by a space; text without control characters is the same as in version 1 and keeps its fingerprint.
VERSION = 2
UNIT_BYTES = (2 << 20, 64 << 20)  # Least and largest size of a unit.

Progress = Callable[[str, int, int], None]
Document = bytes | str | None


@dataclasses.dataclass(frozen=True)
class Texts:
    """Cleaned documents in a directory.

    Attributes:
      fingerprint: hash of the source and the cleaning; texts with the same fingerprint are equal.
      units, documents: number of units and of kept documents.
      bytes: size of the kept documents in UTF-8.
      report: counts of read, changed, dropped and kept documents.
    """

    directory: Path
    fingerprint: str
    units: int
    documents: int
    bytes: int
    report: reports.Report

    def unit(self, index: int) -> list[str]:
        """Return the kept documents of one unit."""
        import zstandard

        data = zstandard.ZstdDecompressor().decompress(_path(self.directory, index, "zst").read_bytes())
        keep = np.load(_path(self.directory, index, "keep.npy"))
        stops = np.cumsum(np.load(_path(self.directory, index, "npy"))[:, 0].astype(np.int64)).tolist()
        return [data[a:b].decode() for a, b, keeps in zip([0, *stops[:-1]], stops, keep, strict=False) if keeps]

    def __iter__(self) -> Iterator[str]:
        """Iterate over the kept documents in the order of the source."""
        for index in range(self.units):
            yield from self.unit(index)


def prepare(
    root: Path | str,
    source: sources.SourceConfig,
    clean: chain.CleanConfig,
    *,
    workers: int = 1,
    progress: Progress | None = None,
    aligned: bool = False,
) -> Texts:
    """Return the cleaned text of a source; cleans it, or resumes cleaning, if it is not stored under `root`.

    Args:
      root: the directory of all prepared corpora.
      source: the text to clean.
      clean: the cleaning steps and limits.
      workers: number of processes; 0 for one per core.
      progress: called with a stage, the amount done and the total (0 if unknown).
      aligned: replace dropped documents by empty ones and keep duplicates, so that row numbers do not change.

    Raises:
      InputError: the source cannot be read, or cleaning drops every document.
    """
    chain.check(clean)
    sources.check(source)
    clean = dataclasses.replace(clean, deduplicate=clean.deduplicate and not aligned)
    contents = sources.fingerprint(source) + " aligned" * aligned
    directory = Path(root) / "texts" / _fingerprint(contents, clean, VERSION)
    report_progress = progress or (lambda stage, done, total: None)
    waiting = lambda: report_progress("waiting for another process to clean", 0, 0)
    with atomic.lock_unfinished(directory, "texts.json", waiting) as unfinished:
        if unfinished:
            if count := sources.skipped(source):
                report_progress(f"skipping {count} files of {source.path} that are hidden or not text", 0, 0)
            for note in sources.notes(source):
                report_progress(f"reading {note}", 0, 0)
            _clean_source(directory, contents, source, clean, workers, report_progress, aligned)
    return open_texts(directory)


def open_texts(directory: Path | str) -> Texts:
    """Open the texts that `prepare` wrote to a directory."""
    directory = Path(directory)
    return Texts(directory=directory, **json.loads((directory / "texts.json").read_bytes()))


def _fingerprint(contents: str, clean: chain.CleanConfig, version: int) -> str:
    described = [version, UNIT_BYTES, contents, dataclasses.asdict(clean)]
    return hashlib.sha256(json.dumps(described).encode()).hexdigest()[:32]


def _clean_source(
    directory: Path,
    contents: str,
    source: sources.SourceConfig,
    clean: chain.CleanConfig,
    count: int,
    progress: Progress,
    aligned: bool,
) -> None:
    units, skipped = 0, reports.empty()

    def jobs() -> Iterator[tuple[int, list[Document]]]:
        nonlocal units
        for index, documents in enumerate(_units(source, skipped, aligned)):
            units = index + 1
            if not _path(directory, index, "json").exists():
                yield index, documents

    settings = (str(directory), clean, aligned, templates.split(source.template, "template"))
    for done, _ in enumerate(workers.run(clean_unit, settings, jobs(), count), 1):
        progress("cleaning", done, 0)
    notes = [json.loads(_path(directory, index, "json").read_bytes()) for index in range(units)]
    # `skipped` counts the bad rows of all units, because the source is read from its start after an interruption too.
    report = reports.total([*(note["report"] for note in notes), skipped])
    documents = _deduplicate(directory, units, clean.deduplicate, report)
    if not report["read"]["documents"]:
        raise InputError(
            f"config.data.path: {source.path} holds no document; it is empty, or has a header alone: give one with text"
        )
    if not report["kept"]["documents"]:
        reasons = ", ".join(f"{entry['documents']} {reason}" for reason, entry in report["dropped"].items())
        raise InputError(
            f"config.data.path: nothing is left of {source.path} after cleaning "
            f"({report['read']['documents']} documents read{', dropped: ' + reasons if reasons else ''}); "
            "check the file and config.data.clean"
        )
    manifest = {
        "fingerprint": _fingerprint(contents, clean, VERSION if "controls" in report["changed"] else 1),
        "units": units,
        "documents": documents,
        "bytes": report["kept"]["bytes"],
        "report": report,
    }
    atomic.write_json(directory / "texts.json", manifest)


def _units(source: sources.SourceConfig, skipped: reports.Report, aligned: bool) -> Iterator[list[Document]]:
    """Yield raw documents in about 256 units, bounded by UNIT_BYTES: enough for many workers, not too many files."""
    low, high = UNIT_BYTES
    size = min(max(sources.size_bytes(source) // 256, low), high)
    unit: list[Document] = []
    unit_bytes = 0
    # A column of text may hold lists of words.
    for value in sources.documents(source, skipped, aligned=aligned, words=aligned):
        document = records.whole(value)
        unit.append(document)
        unit_bytes += len(document or b"")
        if unit_bytes >= size:
            yield unit
            unit, unit_bytes = [], 0
    if unit:
        yield unit


def clean_unit(
    directory: str,
    config: chain.CleanConfig,
    aligned: bool,
    sides: tuple[str, str],
    job: tuple[int, list[Document]],
) -> int:
    """Clean one unit and write its files; runs in a worker process."""
    import xxhash
    import zstandard

    index, documents = job
    report = reports.empty()
    # A document is None for a bad row, which the source has already counted.
    cleaned = (None if document is None else chain.clean(document, config, report, sides) for document in documents)
    texts = [(text or "").encode() for text in cleaned if aligned or text is not None]
    rows = np.array([(len(text), *divmod(xxhash.xxh3_128_intdigest(text), 1 << 64)) for text in texts], np.uint64)
    compressed = zstandard.ZstdCompressor(level=3).compress(b"".join(texts))
    atomic.write_bytes(_path(Path(directory), index, "zst"), compressed)
    atomic.write_array(_path(Path(directory), index, "npy"), rows.reshape(-1, 3))
    atomic.write_json(_path(Path(directory), index, "json"), {"report": report})
    return index


def _deduplicate(directory: Path, units: int, enabled: bool, report: reports.Report) -> int:
    """Keep the first document of each hash in the order of the source; return the number kept and update the report."""
    rows = [np.load(_path(directory, index, "npy")) for index in range(units)]
    hashes = np.concatenate([unit[:, 1:] for unit in rows] or [np.zeros((0, 2), np.uint64)])
    keep = np.ones(len(hashes), bool)
    if enabled:
        # lexsort is stable: the first of equal hashes is the first in the source.
        order = np.lexsort((hashes[:, 1], hashes[:, 0]))
        repeated = (hashes[order][1:] == hashes[order][:-1]).all(axis=1)
        keep[order[1:][repeated]] = False
    sizes = np.concatenate([unit[:, 0] for unit in rows] or [np.zeros(0, np.uint64)]).astype(np.int64)
    if not keep.all():
        dropped = {"documents": int((~keep).sum()), "bytes": int(sizes[~keep].sum())}
        report["dropped"]["duplicate"] = dropped
        for name, value in dropped.items():
            report["kept"][name] -= value
    start = 0
    for index, unit in enumerate(rows):
        atomic.write_array(_path(directory, index, "keep.npy"), keep[start : start + len(unit)])
        start += len(unit)
    return int(keep.sum())


def _path(directory: Path, index: int, suffix: str) -> Path:
    return directory / f"text-{index:05d}.{suffix}"
