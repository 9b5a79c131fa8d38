"""A manifest names every file of a directory with its size and hash: the proof that nothing was lost or changed since.

The files are hashed with XXH3 (64 bits, far faster than any disk); the manifest holds the sha256 of its own content.
Damage is what it guards against, not malice. Paths may be local or on any store that `etils.epath` opens.
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
PEER_TIMEOUT_S = 1200.0  # how long one process waits for another's hashes: slow disks, not slow networks
THREADS = 8  # xxhash and file reads release the interpreter lock


def digest(path: os.PathLike, *, flush: bool = False) -> dict[str, Any]:
    """The size and XXH3 of one file.

    Args:
      path: a file, local or remote.
      flush: force a local file to the disk first, so that a power cut cannot take it back.

    Returns:
      `{"size": bytes, "xxh3": hexadecimal digits}`.
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
    """`digest` of each of `paths`, which are relative to `root`, in parallel."""
    paths = sorted(paths)
    with concurrent.futures.ThreadPoolExecutor(THREADS) as pool:
        results = pool.map(lambda path: digest(epath.Path(root) / path, flush=flush), paths)
        return dict(zip(paths, results, strict=True))


def files(root: os.PathLike) -> list[str]:
    """Every file below `root` but the manifest itself, relative to it, with forward slashes."""

    def walk(directory: epath.Path, prefix: str) -> Iterable[str]:
        for entry in directory.iterdir():
            if entry.is_dir():
                yield from walk(entry, f"{prefix}{entry.name}/")
            else:
                yield prefix + entry.name

    return sorted(path for path in walk(epath.Path(root), "") if path != NAME)


def write_json(path: os.PathLike, value: Any) -> None:
    """`value` as a JSON file that is there whole or not at all."""
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
    """The manifest of `root`, by a temporary name and a rename.

    Args:
      root: the directory.
      entries: what `digests` returned for its files.
      about: more to say, as JSON; guarded by the same sha256.
    """
    content = {"files": entries, "about": about}
    write_json(epath.Path(root) / NAME, {"content": content, "sha256": _fingerprint(content)})


def write_together(
    root: os.PathLike, about: dict[str, Any], *, writer: Callable[[str], int], rank: int = 0, ranks: int = 1
) -> None:
    """The manifest of a directory that several processes have filled; all of them call this and return when it stands.

    Each process hashes the files that it wrote and leaves the hashes beside `root`; process 0 gathers them. They meet
    in the file system alone, so this may run in the background while the devices are busy.

    Args:
      root: the directory, finished and the same for every process.
      about: as in `write`.
      writer: which process wrote a path; files of unknown processes are hashed by process 0.
      rank: this process.
      ranks: how many there are.
    """
    owner = lambda path: writer(path) if writer(path) < ranks else 0
    entries = digests(root, [path for path in files(root) if owner(path) == rank], flush=True)
    if rank:
        write_json(_hashes(root, rank), entries)
        _await(epath.Path(root) / NAME, "process 0")
        return
    for peer in range(1, ranks):
        _await(_hashes(root, peer), f"process {peer}")
        entries |= json.loads(_hashes(root, peer).read_text())
    write(root, entries, about)
    for peer in range(1, ranks):
        forget(root, peer)


def forget(root: os.PathLike, rank: int) -> None:
    """Removes the hashes that a process left beside `root`; to be done before `root` is filled again."""
    _hashes(root, rank).unlink(missing_ok=True)


def read(root: os.PathLike) -> dict[str, Any]:
    """The content of the manifest of `root`: `files` and `about`.

    Raises:
      ValueError: it is missing or damaged; the message says which.
    """
    path = epath.Path(root) / NAME
    if not path.exists():
        raise ValueError(f"{NAME} is missing")
    try:
        whole = json.loads(path.read_bytes().decode())
        content, expected = whole["content"], whole["sha256"]
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{NAME} is damaged: {error}") from error
    if _fingerprint(content) != expected:
        raise ValueError(f"{NAME} is damaged: its sha256 does not match its content")
    return content


def problems(root: os.PathLike) -> list[str]:
    """What is wrong with the files of `root`, one line each, the file named; an intact directory has none."""
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
                return f"{path} has changed: its hash is not the manifest's"
        except FileNotFoundError:
            return f"{path} is missing"
        except OSError as error:
            return f"{path} cannot be read: {error.strerror or error}"
        return None

    with concurrent.futures.ThreadPoolExecutor(THREADS) as pool:
        return [line for line in pool.map(problem, sorted(expected)) if line]


def _hashes(root: os.PathLike, rank: int) -> epath.Path:
    return epath.Path(root).parent / f"{epath.Path(root).name}.hashes-{rank}.json"


def _await(path: epath.Path, who: str) -> None:
    deadline = time.monotonic() + PEER_TIMEOUT_S
    while not path.exists():
        if time.monotonic() > deadline:
            raise TimeoutError(f"{who} has not written {path} in {PEER_TIMEOUT_S:.0f} s")
        time.sleep(0.05)


def _fingerprint(content: Any) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True, separators=(",", ":")).encode()).hexdigest()
