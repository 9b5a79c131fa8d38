"""Finds the frozen parameters of a new run that another run has with the same bits, so that they need not be stored."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from pathlib import Path

import jax

from lm_jax.train import base as bases
from lm_jax.train.arrays import Shapes
from lm_jax.train.base import Base, Place
from lm_jax.train.checkpoint import Checkpointer

# Parameters of the base that are in memory together, beside those of the new run.
PART_BYTES = 1 << 30


def link(
    checkpointer: Checkpointer, run: Path, names: Mapping[str, str], leaves: Mapping[str, jax.Array]
) -> Base | None:
    """The base of a new run.

    Values are compared, because a fork may have changed parameters that keep their names: those of new tokens, and
    kernels that a low-rank product was folded into.

    Args:
      checkpointer: of the new run.
      run: the work directory of the other run.
      names: paths in the newest checkpoint of the other run by path of the leaf.
      leaves: the frozen parameters of the new run by path.

    Returns:
      The base, or None if it has none of these leaves.
    """
    other, places = Checkpointer(run / bases.CHECKPOINTS), dict[str, Place]()
    step = other.chosen(None)
    for part in _parts(other.describe(step), names, leaves):
        values = other.read(step, {names[path]: leaf for path, leaf in part.items()})
        for path in part:
            value = bases.digest(bases.first_rows(values[names[path]], leaves[path]))
            if value == bases.digest(leaves[path]):
                places[path] = Place(path=names[path], hash=value)
    own, absolute = checkpointer.directory.parent, os.path.abspath(run)
    directories = os.path.relpath(os.path.realpath(absolute), os.path.realpath(own)), absolute
    file = checkpointer.directory / bases.NAME
    return Base(file=file, directories=directories, step=step, places=places) if places else None


def _parts(
    saved: Shapes, names: Mapping[str, str], leaves: Mapping[str, jax.Array]
) -> Iterator[dict[str, jax.ShapeDtypeStruct]]:
    """Yields what to read from the other run, by path of the leaf: those that it may have, `PART_BYTES` at a time."""
    part, size = {}, 0
    for path, leaf in leaves.items():
        stored = saved.get(names.get(path, ""))
        if stored is None or not bases.may_hold(stored, leaf):
            continue
        if part and size + leaf.nbytes > PART_BYTES:
            yield part
            part, size = {}, 0
        part[path] = jax.ShapeDtypeStruct(stored.shape, stored.dtype, sharding=leaf.sharding)
        size += leaf.nbytes
    if part:
        yield part
