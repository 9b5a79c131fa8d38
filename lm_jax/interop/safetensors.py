"""Safetensors files (github.com/huggingface/safetensors, "Format"), read lazily and written one tensor at a time.

A file is the length of a JSON header in 8 little-endian bytes, the header, and the bytes of every tensor. Reading one
never executes code; formats that can (pickle) are refused.
"""

from __future__ import annotations

import dataclasses
import json
import math
import os
import re
import uuid
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np

from lm_jax.core import pointers
from lm_jax.core.config import InputError
from lm_jax.interop import pickles

INDEX = "model.safetensors.index.json"
SINGLE = "model.safetensors"
# Model hubs refuse larger files.
LARGEST_SHARD = 5 * 10**9
_SHARD = re.compile(r"(.*)-(\d+)-of-(\d+)\.safetensors")
# A file with a longer header is damaged.
_LONGEST_HEADER = 100 * 2**20

_FLOATS = {"F64": np.float64, "F32": np.float32, "F16": np.float16, "BF16": ml_dtypes.bfloat16}
_FLOATS_8 = {"F8_E4M3": ml_dtypes.float8_e4m3fn, "F8_E5M2": ml_dtypes.float8_e5m2}
_INTEGERS = {f"{kind[0].upper()}{bits}": f"{kind}{bits}" for kind in ("int", "uint") for bits in (64, 32, 16, 8)}
DTYPES: dict[str, np.dtype] = {
    name: np.dtype(scalar) for name, scalar in {**_FLOATS, **_FLOATS_8, **_INTEGERS, "BOOL": np.bool_}.items()
}
_NAMES = {dtype: name for name, dtype in DTYPES.items()}


@dataclasses.dataclass(frozen=True)
class Entry:
    """A tensor's dtype, shape and place: it starts at byte `offset` of `file`."""

    file: Path
    dtype: np.dtype
    shape: tuple[int, ...]
    offset: int

    def read(self) -> np.ndarray:
        """Maps the tensor into memory: bytes are read only when they are used."""
        if not math.prod(self.shape):
            return np.zeros(self.shape, self.dtype)
        return np.memmap(self.file, self.dtype, "r", self.offset, self.shape)


def header(file: Path) -> dict[str, Entry]:
    """Reads the header of a file: the entry of each tensor.

    Raises:
      InputError: the file is damaged.
    """
    pointers.refuse(file)
    try:
        size = file.stat().st_size
        with open(file, "rb") as stream:
            length = int.from_bytes(stream.read(8), "little")
            if size < 8 or length > min(size - 8, _LONGEST_HEADER):
                raise ValueError(f"a header of {length:,} bytes in a file of {size:,}")
            tree = json.loads(stream.read(length))
        return {name: _entry(file, name, info, 8 + length, size) for name, info in tree.items() if name[:2] != "__"}
    except OSError as error:
        raise InputError(f"{file} cannot be read ({error.strerror}); download it again") from error
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise InputError(
            f"{file} is not a safetensors file or is damaged ({type(error).__name__}: {error}); download it again"
        ) from error


def _entry(file: Path, name: str, info: Mapping[str, Any], start: int, size: int) -> Entry:
    if info["dtype"] not in DTYPES:
        raise ValueError(f"tensor {name} is {info['dtype']}; supported are {', '.join(DTYPES)}")
    dtype, shape = DTYPES[info["dtype"]], tuple(int(axis) for axis in info["shape"])
    first, last = info["data_offsets"]
    if min((first, *shape)) < 0 or last - first != math.prod(shape) * dtype.itemsize or start + last > size:
        raise ValueError(f"tensor {name} of {info['dtype']}{list(shape)} is at bytes {first}..{last} of {size - start}")
    return Entry(file, dtype, shape, start + first)


def entries(directory: Path) -> dict[str, Entry]:
    """Reads the entries of a checkpoint, from one file or from shards.

    Raises:
      InputError: the checkpoint is missing, incomplete, or in a format that can run code when it is read.
    """
    index = directory / INDEX
    if (directory / SINGLE).is_file():
        return header(directory / SINGLE)
    if not index.is_file():
        if shards := _unindexed(directory):
            return {name: entry for file in shards for name, entry in header(file).items()}
        raise pickles.refusal(directory, SINGLE, INDEX)
    pointers.refuse(index)
    try:
        weight_map = {str(name): str(file) for name, file in json.loads(index.read_text())["weight_map"].items()}
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise InputError(f"{index} is damaged ({type(error).__name__}: {error}); download it again") from error
    files = sorted(set(weight_map.values()))
    # A name with a folder could point anywhere on the disk.
    if outside := [file for file in files if Path(file).name != file]:
        raise InputError(f"{index} names {outside[0]!r}, which is not a file beside it; download the checkpoint again")
    if absent := [file for file in files if not (directory / file).is_file()]:
        raise InputError(f"{directory} lacks {', '.join(absent)}, which {INDEX} names; download the missing files")
    shards = {file: header(directory / file) for file in files}
    if lost := [name for name, file in weight_map.items() if name not in shards[file]]:
        raise InputError(f"{directory / weight_map[lost[0]]} lacks {lost[0]}, which {INDEX} lists; download it again")
    return {name: shards[file][name] for name, file in weight_map.items()}


def _unindexed(directory: Path) -> list[Path]:
    """The shards of a directory without an index; empty unless all are there."""
    shards = {file: match for file in directory.glob("*.safetensors") if (match := _SHARD.fullmatch(file.name))}
    names, counts = ({match[group] for match in shards.values()} for group in (1, 3))
    numbers = sorted(int(match[2]) for match in shards.values())
    complete = len(names) == len(counts) == 1 and numbers == [*range(1, int(counts.pop()) + 1)]
    return sorted(shards) if complete else []


@dataclasses.dataclass(frozen=True)
class Tensor:
    """A tensor to write: `make` computes it, with this shape, when it is written; it is then cast to `dtype`."""

    name: str
    shape: tuple[int, ...]
    dtype: np.dtype
    make: Callable[[], np.ndarray]

    @property
    def size_bytes(self) -> int:
        """Bytes in the file."""
        return math.prod(self.shape) * self.dtype.itemsize


def write(directory: Path, tensors: Iterable[Tensor], largest: int = LARGEST_SHARD) -> list[Path]:
    """Writes a checkpoint as one file, or as shards and an index, with one tensor in memory at a time.

    Args:
      directory: created if it is missing.
      tensors: in the order of the file.
      largest: maximum size of a shard's tensors, in bytes; only a single larger tensor exceeds it.

    Returns:
      The safetensors files.

    Example:
      >>> import tempfile
      >>> from lm_jax.interop import safetensors
      >>> table = safetensors.Tensor("wte.weight", (4, 2), np.dtype("float32"), lambda: np.ones((4, 2)))
      >>> with tempfile.TemporaryDirectory() as folder:
      ...     [file.name for file in safetensors.write(Path(folder), [table])]
      ...     entry = safetensors.entries(Path(folder))["wte.weight"]
      ...     entry.shape, float(entry.read().sum())
      ['model.safetensors']
      ((4, 2), 8.0)
    """
    shards: list[list[Tensor]] = [[]]
    for tensor in tensors:
        if shards[-1] and sum(other.size_bytes for other in shards[-1]) + tensor.size_bytes > largest:
            shards.append([])
        shards[-1].append(tensor)
    directory.mkdir(parents=True, exist_ok=True)
    count = len(shards)
    names = [SINGLE] if count == 1 else [f"model-{at + 1:05}-of-{count:05}.safetensors" for at in range(count)]
    for name, shard in zip(names, shards, strict=True):
        write_file(directory / name, shard)
    if count > 1:
        weight_map = {tensor.name: name for name, shard in zip(names, shards, strict=True) for tensor in shard}
        total = sum(tensor.size_bytes for shard in shards for tensor in shard)
        index = {"metadata": {"total_size": total}, "weight_map": weight_map}
        replace(directory / INDEX, lambda partial: partial.write_text(json.dumps(index, indent=2) + "\n"))
    return [directory / name for name in names]


def write_file(file: Path, tensors: list[Tensor]) -> None:
    """Writes one file."""
    tree: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    at = 0
    for tensor in tensors:
        offsets = [at, at + tensor.size_bytes]
        tree[tensor.name] = {"dtype": _NAMES[tensor.dtype], "shape": list(tensor.shape), "data_offsets": offsets}
        at += tensor.size_bytes
    text = json.dumps(tree, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)  # aligns the tensors to 8 bytes

    def stream(partial: Path) -> None:
        with open(partial, "wb") as out:
            out.write(len(text).to_bytes(8, "little") + text)
            for tensor in tensors:
                array = np.asarray(tensor.make())
                if array.shape != tensor.shape:
                    raise ValueError(f"{tensor.name} has shape {array.shape}; {tensor.shape} was declared")
                out.write(np.ascontiguousarray(array.astype(tensor.dtype)).tobytes())
            out.flush()
            os.fsync(out.fileno())

    replace(file, stream)


def replace(file: Path, fill: Callable[[Path], Any]) -> None:
    """Replaces a file atomically: `fill` writes a temporary file beside it, which is then renamed."""
    partial = file.with_name(f"{file.name}.partial-{uuid.uuid4().hex}")
    try:
        fill(partial)
        os.replace(partial, file)
    finally:
        partial.unlink(missing_ok=True)
