"""Files of vectors, written part by part: .npz and .parquet."""

from __future__ import annotations

import dataclasses
import zipfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from lm_jax.data import atomic


class Chunk(NamedTuple):
    """The vectors of neighbouring records.

    Attributes:
      values: the vector of each record, or without pooling the vectors of all their tokens [tokens width].
      lengths: the tokens of each record.
      tokens: all tokens, in order.
    """

    values: np.ndarray
    lengths: np.ndarray
    tokens: np.ndarray


@dataclasses.dataclass(frozen=True)
class Table:
    """What a file will hold.

    Attributes:
      shape: of all vectors together: rows, and the width.
      dtype: of the vectors.
      ragged: whether there is a vector for each token instead of each record.
      ids: of the records; empty: they have none.
    """

    shape: tuple[int, int]
    dtype: np.dtype
    ragged: bool
    ids: Sequence[str]


def _npz(path: Path, table: Table, chunks: Iterator[Chunk]) -> None:
    """Writes `vectors`, or `values`, `offsets` and `tokens`; record r has the values offsets[r]..offsets[r + 1] - 1."""
    lengths, tokens = [np.zeros(1, np.int64)], [np.zeros(0, np.int32)]
    with zipfile.ZipFile(path, "w") as archive:
        with archive.open("values.npy" if table.ragged else "vectors.npy", "w", force_zip64=True) as file:
            header = {"descr": np.lib.format.dtype_to_descr(table.dtype), "fortran_order": False, "shape": table.shape}
            np.lib.format.write_array_header_2_0(file, header)
            for chunk in chunks:
                file.write(np.ascontiguousarray(chunk.values).data)
                if table.ragged:
                    lengths.append(chunk.lengths)
                    tokens.append(chunk.tokens)
        others = (
            {"offsets": np.cumsum(np.concatenate(lengths)), "tokens": np.concatenate(tokens)} if table.ragged else {}
        )
        others |= {"ids": np.array(table.ids)} if table.ids else {}
        for name, array in others.items():
            with archive.open(f"{name}.npy", "w", force_zip64=True) as file:
                np.lib.format.write_array(file, array, allow_pickle=False)


def _parquet(path: Path, table: Table, chunks: Iterator[Chunk]) -> None:
    """Writes a row group for each chunk, with the columns `vector`, or `vectors` and `tokens`, and `id`."""
    import pyarrow
    import pyarrow.parquet

    vector = pyarrow.list_(pyarrow.from_numpy_dtype(table.dtype), table.shape[1])
    fields = [("vectors", pyarrow.list_(vector)), ("tokens", pyarrow.list_(pyarrow.int32()))]
    fields = [*([("id", pyarrow.string())] if table.ids else []), *(fields if table.ragged else [("vector", vector)])]
    first = 0
    with pyarrow.parquet.ParquetWriter(path, pyarrow.schema(fields)) as writer:
        for chunk in chunks:
            flat = pyarrow.FixedSizeListArray.from_arrays(pyarrow.array(chunk.values.reshape(-1)), type=vector)
            arrays: list[Any] = [pyarrow.array(table.ids[first : first + len(chunk.lengths)])] if table.ids else []
            if table.ragged:
                offsets = pyarrow.array(np.cumsum([0, *chunk.lengths]), pyarrow.int32())
                parts = (flat, pyarrow.array(chunk.tokens, pyarrow.int32()))
                arrays += [pyarrow.ListArray.from_arrays(offsets, part) for part in parts]
            else:
                arrays.append(flat)
            writer.write_table(pyarrow.Table.from_arrays(arrays, schema=writer.schema))
            first += len(chunk.lengths)


# By the end of the file's name.
FORMATS: dict[str, Callable[[Path, Table, Iterator[Chunk]], None]] = {".npz": _npz, ".parquet": _parquet}


def write(path: Path, table: Table, chunks: Iterator[Chunk]) -> None:
    """Writes a file, whose name decides its format; it is complete or absent, and memory holds one chunk at a time."""
    with atomic.replace_atomically(path) as partial:
        FORMATS[path.suffix](partial, table, chunks)
