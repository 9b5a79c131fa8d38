"""Cleaned text on disk: the documents of a source, cleaned by parallel workers, first of each kind kept.

A corpus is cut into units of raw text whose borders depend on the source alone, so neither the number of workers nor
an interruption can show in the result. A unit becomes three files: its text, the lengths and hashes of its documents,
and last a note that says it is done.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

from lm_jax.core.config import InputError
from lm_jax.data import atomic, sources, workers
from lm_jax.data.clean import chain
from lm_jax.data.clean import report as reports

# Raised when the same text would be cleaned or stored differently. Version 2 puts a space for control characters that
# stand between words: where there was none of them, the text is that of version 1, and bears its fingerprint.
VERSION = 2
UNIT_BYTES = (2 << 20, 64 << 20)

Progress = Callable[[str, int, int], None]
Document = bytes | str | None


@dataclasses.dataclass(frozen=True)
class Texts:
    """Cleaned documents in a directory.

    Attributes:
      directory: where they lie.
      fingerprint: of the source and the cleaning; texts of one fingerprint are equal.
      units: the number of units.
      documents: documents kept.
      bytes: their UTF-8 bytes.
      report: what cleaning did.
    """

    directory: Path
    fingerprint: str
    units: int
    documents: int
    bytes: int
    report: reports.Report

    def unit(self, index: int) -> list[str]:
        """The documents of one unit that were kept."""
        import zstandard

        data = zstandard.ZstdDecompressor().decompress(_path(self.directory, index, "zst").read_bytes())
        keep = np.load(_path(self.directory, index, "keep.npy"))
        stops = np.cumsum(np.load(_path(self.directory, index, "npy"))[:, 0].astype(np.int64)).tolist()
        return [data[a:b].decode() for a, b, kept in zip([0, *stops[:-1]], stops, keep, strict=False) if kept]

    def __iter__(self) -> Iterator[str]:
        """Every document, in the order of the source."""
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
    """The cleaned text of a source: found under `root`, finished, or made.

    Args:
      root: the directory of all prepared corpora.
      source: which text.
      clean: how it is cleaned.
      workers: processes; 0 for one a core.
      progress: called with a stage, what is done and the whole (0 where unknown).
      aligned: an empty document stands for each one that is dropped, and none is dropped as a duplicate.

    Raises:
      InputError: the source cannot be read, or nothing is left of it.
    """
    chain.check(clean)
    sources.check(source)
    clean = dataclasses.replace(clean, deduplicate=clean.deduplicate and not aligned)
    contents = sources.fingerprint(source) + " aligned" * aligned
    directory = Path(root) / "texts" / _fingerprint(contents, clean, VERSION)
    say = progress or (lambda stage, done, whole: None)
    waiting = lambda: say("waiting for another process to clean", 0, 0)
    with atomic.unfinished(directory, "texts.json", waiting) as unfinished:
        if unfinished:
            if count := sources.skipped(source):
                say(f"skipping {count} files of {source.path} that are hidden or no text", 0, 0)
            for note in sources.notes(source):
                say(f"reading {note}", 0, 0)
            _make(directory, contents, source, clean, workers, say, aligned)
    return open_texts(directory)


def open_texts(directory: Path | str) -> Texts:
    """Texts that `prepare` finished."""
    directory = Path(directory)
    return Texts(directory=directory, **json.loads((directory / "texts.json").read_bytes()))


def _fingerprint(contents: str, clean: chain.CleanConfig, version: int) -> str:
    described = [version, UNIT_BYTES, contents, dataclasses.asdict(clean)]
    return hashlib.sha256(json.dumps(described).encode()).hexdigest()[:32]


def _make(
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

    for done, _ in enumerate(workers.run(clean_unit, (str(directory), clean, aligned), jobs(), count), 1):
        progress("cleaning", done, 0)
    notes = [json.loads(_path(directory, index, "json").read_bytes()) for index in range(units)]
    # Every document was read again here, those of units from before an interruption too: all bad rows are counted.
    report = reports.total([*(note["report"] for note in notes), skipped])
    documents = _deduplicate(directory, units, clean.deduplicate, report)
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
    """Raw documents in units of a size that follows from the source's: many enough to share, few enough as files."""
    low, high = UNIT_BYTES
    size = min(max(sources.size_bytes(source) // 256, low), high)
    unit: list[Document] = []
    held = 0
    for document in sources.documents(source, skipped, aligned=aligned):
        unit.append(document)
        held += len(document or b"")
        if held >= size:
            yield unit
            unit, held = [], 0
    if unit:
        yield unit


def clean_unit(directory: str, config: chain.CleanConfig, aligned: bool, job: tuple[int, list[Document]]) -> int:
    """Clean one unit and write it; the worker's part."""
    import xxhash
    import zstandard

    index, documents = job
    report = reports.empty()
    # A row that was rejected is None, and is counted already.
    cleaned = (document if document is None else chain.clean(document, config, report) for document in documents)
    texts = [(text or "").encode() for text in cleaned if aligned or text is not None]
    facts = np.array([(len(text), *divmod(xxhash.xxh3_128_intdigest(text), 1 << 64)) for text in texts], np.uint64)
    compressed = zstandard.ZstdCompressor(level=3).compress(b"".join(texts))
    atomic.write_bytes(_path(Path(directory), index, "zst"), compressed)
    atomic.write_array(_path(Path(directory), index, "npy"), facts.reshape(-1, 3))
    atomic.write_json(_path(Path(directory), index, "json"), {"report": report})
    return index


def _deduplicate(directory: Path, units: int, wanted: bool, report: reports.Report) -> int:
    """Decide which documents stay, the first of each hash in the order of the source, and count them."""
    facts = [np.load(_path(directory, index, "npy")) for index in range(units)]
    hashes = np.concatenate([unit[:, 1:] for unit in facts] or [np.zeros((0, 2), np.uint64)])
    keep = np.ones(len(hashes), bool)
    if wanted:
        # A stable sort, so that the first of equal hashes is the first of the source.
        order = np.lexsort((hashes[:, 1], hashes[:, 0]))
        repeated = (hashes[order][1:] == hashes[order][:-1]).all(axis=1)
        keep[order[1:][repeated]] = False
    sizes = np.concatenate([unit[:, 0] for unit in facts] or [np.zeros(0, np.uint64)]).astype(np.int64)
    if not keep.all():
        dropped = {"documents": int((~keep).sum()), "bytes": int(sizes[~keep].sum())}
        report["dropped"]["duplicate"] = dropped
        for name, value in dropped.items():
            report["kept"][name] -= value
    start = 0
    for index, unit in enumerate(facts):
        atomic.write_array(_path(directory, index, "keep.npy"), keep[start : start + len(unit)])
        start += len(unit)
    return int(keep.sum())


def _path(directory: Path, index: int, suffix: str) -> Path:
    return directory / f"text-{index:05d}.{suffix}"
