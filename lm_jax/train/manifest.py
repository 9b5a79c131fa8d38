"""Manifests: size and hash of every file of a directory, to detect missing and changed files.

Files are hashed with XXH3 (64 bits, far faster than any disk); the manifest contains the sha256 of its own content.
Both detect damage, not tampering. Paths may be local or in any store that `etils.epath` opens.
"""

from __future__ import annotations

import concurrent.futures
import hashlib
import json
import os
import time
from collections.abc import Callable, Iterable
from typing import Any

import xxhash
from etils import epath

NAME = "manifest.json"
CHUNK_BYTES = 1 << 22
PEER_TIMEOUT_S = 1200.0  # longest wait for another process's hashes; allows for slow disks
THREADS = 8  # xxhash and file reads release the interpreter lock


def digest(path: os.PathLike, *, flush: bool = False) -> dict[str, Any]:
    """Returns `{"size": bytes, "xxh3": hexadecimal digits}` of a local or remote file.

    With `flush`, a local file is synced to the disk first, so that it survives a power failure.
    """
    hasher, size = xxhash.xxh3_64(), 0
    with epath.Path(path).open("rb") as file:
        if flush and "://" not in os.fspath(path):
            os.fsync(file.fileno())
        while chunk := file.read(CHUNK_BYTES):
            hasher.update(chunk)
            size += len(chunk)
    return {"size": size, "xxh3": hasher.hexdigest()}


def digests(root: os.PathLike, paths: Iterable[str], *, flush: bool = False) -> dict[str, dict[str, Any]]:
    """Computes `digest` of each of `paths`, relative to `root`, in parallel."""
    paths = sorted(paths)
    with concurrent.futures.ThreadPoolExecutor(THREADS) as pool:
        results = pool.map(lambda path: digest(epath.Path(root) / path, flush=flush), paths)
        return dict(zip(paths, results, strict=True))


def files(root: os.PathLike) -> list[str]:
    """Lists every file below `root` except the manifest, relative to it, with forward slashes."""

    def walk(directory: epath.Path, prefix: str) -> Iterable[str]:
        for entry in directory.iterdir():
            if entry.is_dir():
                yield from walk(entry, f"{prefix}{entry.name}/")
            else:
                yield prefix + entry.name

    return sorted(path for path in walk(epath.Path(root), "") if path != NAME)


def write_json(path: os.PathLike, value: Any) -> None:
    """Writes a JSON file atomically."""
    path = epath.Path(path)
    temporary = path.parent / f".{path.name}.{os.getpid()}.tmp"
    local = "://" not in os.fspath(path)
    with temporary.open("w") as file:
        file.write(json.dumps(value, indent=1, sort_keys=True) + "\n")
        if local:
            file.flush()
            os.fsync(file.fileno())
    temporary.replace(path)
    if local:
        directory = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(directory)
        finally:
            os.close(directory)


def write(root: os.PathLike, entries: dict[str, dict[str, Any]], about: dict[str, Any]) -> None:
    """Writes the manifest of `root` atomically: `digests` of its files and other JSON, which the sha256 covers too."""
    content = {"files": entries, "about": about}
    write_json(epath.Path(root) / NAME, {"content": content, "sha256": _fingerprint(content)})


def write_together(
    root: os.PathLike, about: dict[str, Any], *, writer: Callable[[str], int], rank: int = 0, ranks: int = 1
) -> None:
    """Writes the manifest of a directory that several processes have written; all call this, and wait until it exists.

    Each process hashes the files that it wrote and saves the hashes beside `root`; process 0 collects them. They
    communicate through the file system alone, so this may run in the background while the devices are busy.

    Args:
      root: the finished directory, shared by all processes.
      about: as in `write`.
      writer: returns the rank of the process that wrote a path; process 0 hashes the files of unknown ranks.
      rank: of this process.
      ranks: number of processes.
    """
    owner = lambda path: writer(path) if writer(path) < ranks else 0
    entries = digests(root, [path for path in files(root) if owner(path) == rank], flush=True)
    if rank:
        write_json(_hashes_path(root, rank), entries)
        _wait_for(epath.Path(root) / NAME, "process 0")
        return
    for peer in range(1, ranks):
        _wait_for(_hashes_path(root, peer), f"process {peer}")
        entries |= json.loads(_hashes_path(root, peer).read_text())
    write(root, entries, about)
    for peer in range(1, ranks):
        forget(root, peer)


def forget(root: os.PathLike, rank: int) -> None:
    """Deletes a process's hashes beside `root`; required before `root` is written again."""
    _hashes_path(root, rank).unlink(missing_ok=True)


def read(root: os.PathLike) -> dict[str, Any]:
    """Returns `files` and `about` of the manifest of `root`; raises ValueError if it is missing or damaged."""
    path = epath.Path(root) / NAME
    if not path.exists():
        raise ValueError(f"{NAME} is missing")
    try:
        document = json.loads(path.read_bytes().decode())
        content, expected = document["content"], document["sha256"]
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{NAME} is damaged: {error}") from error
    if _fingerprint(content) != expected:
        raise ValueError(f"{NAME} is damaged: its sha256 does not match its content")
    return content


def problems(root: os.PathLike) -> list[str]:
    """Lists the missing and changed files of `root`, one line each; empty for an intact directory."""
    try:
        expected = read(root)["files"]
    except ValueError as error:
        return [str(error)]

    def problem(path: str) -> str | None:
        file, entry = epath.Path(root) / path, expected[path]
        try:
            size = file.stat().length
            if size != entry["size"]:
                return f"{path} has {size} bytes instead of {entry['size']}"
            if digest(file)["xxh3"] != entry["xxh3"]:
                return f"{path} has changed: its hash differs from the manifest's"
        except FileNotFoundError:
            return f"{path} is missing"
        except OSError as error:
            return f"{path} cannot be read: {error.strerror or error}"
        return None

    with concurrent.futures.ThreadPoolExecutor(THREADS) as pool:
        return [line for line in pool.map(problem, sorted(expected)) if line]


def _hashes_path(root: os.PathLike, rank: int) -> epath.Path:
    return epath.Path(root).parent / f"{epath.Path(root).name}.hashes-{rank}.json"


def _wait_for(path: epath.Path, who: str) -> None:
    deadline = time.monotonic() + PEER_TIMEOUT_S
    while not path.exists():
        if time.monotonic() > deadline:
            raise TimeoutError(f"{who} has not written {path} in {PEER_TIMEOUT_S:.0f} s")
        time.sleep(0.05)


def _fingerprint(content: Any) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True, separators=(",", ":")).encode()).hexdigest()
