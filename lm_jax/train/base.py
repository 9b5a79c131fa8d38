"""The base of a tuned run: another run, whose checkpoint has the parameters that the tuned run left frozen.

The checkpoints of the tuned run omit these parameters. `checkpoints/base.json` says where they are:

    directories    the directory of the base, relative to the run's and absolute; the first that exists is read
    step           the checkpoint that the run started from; if it is gone, the newest one is read
    leaves         by path of the parameter: its path in that checkpoint, and the hash of its value

The values are compared with the hashes whenever they are read. So the directories may be edited.
"""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import xxhash
from etils import epath

from lm_jax.core.config import InputError
from lm_jax.train import manifest
from lm_jax.train.arrays import Shapes, target

NAME, CHECKPOINTS = "base.json", "checkpoints"
# Marks a leaf in the manifest of a checkpoint that does not hold it.
OMITTED = "omitted"
# `config.checkpoint.store`, and whether checkpoints omit the frozen parameters that the base has.
STORES = {"trained": True, "all": False}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Place:
    """Where the base has a parameter, and the hash of its value, or of its first rows if it has more."""

    path: str
    hash: str


@dataclasses.dataclass(frozen=True, kw_only=True)
class Base:
    """The base of a run.

    Attributes:
      file: its base.json.
      directories: where the base may be; relative paths begin at the run.
      step: of the base's checkpoint.
      places: where the base has the parameters that the run does not store, by path.
    """

    file: epath.Path
    directories: tuple[str, ...]
    step: int
    places: Mapping[str, Place]

    @property
    def checkpoints(self) -> epath.Path:
        """The checkpoints of the first of the directories that is a run.

        Raises:
          InputError: none is.
        """
        run = self.file.parent.parent
        folders = [epath.Path(os.path.normpath(run / directory)) for directory in self.directories]
        folder = next((each / CHECKPOINTS for each in folders if (each / CHECKPOINTS).exists()), None)
        if folder is None:
            raise self.error(f"is missing: there is no run in {' or '.join(map(str, dict.fromkeys(folders)))}")
        return folder

    def error(self, problem: str) -> InputError:
        """What is wrong with the base, and what to do."""
        return InputError(
            f"the base of {self.file.parent.parent} {problem}; expected the {len(self.places)} frozen parameters of "
            f'its step {self.step}: put it back, or write its directory into "directories" of {self.file}'
        )

    def targets(self, where: str, saved: Shapes, expected: Mapping[str, Any]) -> dict[str, jax.ShapeDtypeStruct]:
        """What to read from a checkpoint of the base, by its paths there.

        Args:
          where: the checkpoint, for messages.
          saved: its leaves.
          expected: shapes, dtypes and shardings of the run's parameters by path.

        Raises:
          InputError: the checkpoint lacks a parameter, or has another shape or dtype.
        """
        targets = {}
        for path, leaf in expected.items():
            name, like = self.places[path].path, target(leaf)
            if name not in saved or not may_hold(saved[name], like):
                stands = f"{saved[name].dtype}{list(saved[name].shape)}" if name in saved else "missing"
                raise self.error(f"has changed: in {where}, {name} is {stands}, not {like.dtype}{list(like.shape)}")
            targets[name] = jax.ShapeDtypeStruct(saved[name].shape, like.dtype, sharding=like.sharding)
        return targets

    def values(self, where: str, arrays: Mapping[str, jax.Array], expected: Mapping[str, Any]) -> dict[str, jax.Array]:
        """The run's parameters by path, from the arrays of `targets`.

        Raises:
          InputError: a value has changed.
        """
        values, used = {}, set()
        for path, leaf in expected.items():
            place = self.places[path]
            value = first_rows(arrays[place.path], leaf)
            if digest(value) != place.hash:
                raise self.error(f"has changed: in {where}, {place.path} has another value")
            # The train step donates every leaf, so each needs a buffer of its own.
            values[path] = jnp.copy(value) if place.path in used else value
            used.add(place.path)
        return values

    def write(self) -> None:
        """Writes base.json."""
        places = {path: dataclasses.asdict(place) for path, place in self.places.items()}
        manifest.write_json(self.file, {"directories": self.directories, "step": self.step, "leaves": places})


def read(file: epath.Path) -> Base | None:
    """Reads base.json; None: the run has no base.

    Raises:
      InputError: the file is damaged.
    """
    if not file.exists():
        return None
    try:
        record = json.loads(file.read_text())
        places = {path: Place(**place) for path, place in record["leaves"].items()}
        directories = [record["directories"]] if isinstance(record["directories"], str) else record["directories"]
        return Base(file=file, directories=tuple(map(str, directories)), step=int(record["step"]), places=places)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError(f"{file} is damaged ({error}); restore it") from error


def may_hold(stored: Any, leaf: Any) -> bool:
    """Whether a parameter may be a stored one, or its first rows: a run may train only the last layers."""
    if stored.dtype != leaf.dtype or len(stored.shape) != len(leaf.shape):
        return False
    return stored.shape == leaf.shape or (stored.shape[1:] == leaf.shape[1:] and stored.shape[0] > leaf.shape[0] > 0)


def first_rows(array: jax.Array, like: Any) -> jax.Array:
    """As many rows of an array as another has."""
    return array if array.shape == like.shape else jax.device_put(array[: like.shape[0]], array.sharding)


def digest(array: jax.Array) -> str:
    """A hash of the bytes of an array, whatever its sharding; it detects changes, not tampering."""
    if not array.is_fully_addressable:
        from jax.experimental import multihost_utils

        array = multihost_utils.process_allgather(array, tiled=True)
    data: Any = np.ascontiguousarray(jax.device_get(array)).reshape(-1).view(np.uint8)
    return xxhash.xxh3_128(data).hexdigest()
