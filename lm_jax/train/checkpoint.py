"""Checkpoints of the training state, with hashes that detect damage.

Orbax writes the arrays, which any mesh and any number of processes can read. It does not delete old steps: they are
deleted here, once a newer step is complete. Each step is a directory:

    checkpoints/300/state/...        Orbax: one array per leaf, under its slash-joined path
    checkpoints/300/extra/...        Orbax: JSON, such as the config and the fingerprints of data and tokenizer
    checkpoints/300/manifest.json    size and hash of every file above, shape and dtype of every leaf
    checkpoints/300.unfinished       marker, from before the first byte is written until after the manifest
    checkpoints/best.json            the step with the best evaluation, which is never deleted
    checkpoints/base.json            where the base of a tuned run is, which holds its frozen parameters (`train.base`)

A kill at any moment leaves a step either complete or marked unfinished.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import re
import threading
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
from etils import epath

from lm_jax.core.config import InputError
from lm_jax.core.trees import named_leaves
from lm_jax.train import arrays, disk, manifest
from lm_jax.train import base as bases
from lm_jax.train.base import Base

log = logging.getLogger(__name__)

BEST = "best.json"
UNFINISHED = ".unfinished"
NO_STEP, ALL_DAMAGED = -1, -2


class NoIntactCheckpoint(RuntimeError):
    """The requested checkpoint, or every checkpoint of a directory, is damaged; a one-line message. Exit code 5."""


class Checkpointer:
    """Saves, verifies, deletes and restores the steps of one directory.

    As a context manager, it waits for the last save: Orbax would hang for minutes if the program ended during a save.
    Reading never changes the directory, so another process may evaluate a run while it trains.
    With several processes, all of them must call every method except `steps`, `best`, `describe` and `verify`.

    Example:
      >>> import tempfile
      >>> import jax.numpy as jnp
      >>> state = {"params": {"bias": jnp.arange(3.0)}}
      >>> with tempfile.TemporaryDirectory() as directory, Checkpointer(directory, asynchronous=False) as checkpointer:
      ...     saved = checkpointer.save(100, state, extra={"note": "example"})
      ...     restored, extra = checkpointer.restore(state)
      ...     checkpointer.steps(), restored["params"]["bias"].tolist(), extra
      ([100], [0.0, 1.0, 2.0], {'note': 'example'})
    """

    def __init__(
        self, directory: str | os.PathLike, *, keep: int = 2, asynchronous: bool = True, store: str = "trained"
    ):
        """Opens a directory, which need not exist yet.

        Args:
          directory: parent of the steps' directories, on a file system that all processes share.
          keep: number of newest steps to keep, besides the best.
          asynchronous: whether `save` returns as soon as the arrays are copied off the devices.
          store: a key of `base.STORES`: what `save` stores of a run that has a base.
        """
        if keep < 1:
            raise InputError(f"checkpoints to keep: {keep}; expected at least 1")
        self.directory = epath.Path(directory)
        if "://" not in str(directory):
            self.directory = epath.Path(self.directory.expanduser().resolve())
        self.keep, self.asynchronous, self.store = keep, asynchronous, store
        self._orbax: Any = None  # created by the first save
        self._base: Base | None = None  # of a run that this process has begun
        self._thread: threading.Thread | None = None
        self._error: BaseException | None = None
        self._current: int | None = None  # the step last saved or restored
        self._intact: set[int] = set()  # steps that this process has verified or written; not hashed again

    def __enter__(self) -> Checkpointer:
        return self

    def __exit__(self, *_: Any) -> None:
        self.wait()

    def save(self, step: int, state: Any, extra: dict[str, Any]) -> bool:
        """Saves one step, after waiting for the previous save.

        Later steps, which exist if the run went back to an earlier checkpoint, are deleted once this one is complete.
        The arrays may be donated as soon as `save` returns.

        Args:
          step: number of finished training steps.
          state: a pytree of jax arrays; random keys as their `jax.random.key_data`.
          extra: everything else that a resumed run needs, as JSON.

        Returns:
          False if nothing was written, because this step was the last one saved or restored.

        Raises:
          OSError: the disk is full or not writable; or the previous save failed, and `wait` has not raised its error.
        """
        import orbax.checkpoint as ocp

        self.wait()
        if self._current == step and step in self._intact:
            return False
        leaves, base = arrays.validated(state), self.base if bases.STORES[self.store] else None
        stored = {path: leaf for path, leaf in leaves.items() if base is None or path not in base.places}
        disk.check_room(self.directory, sum(leaf.nbytes for leaf in stored.values()))
        if self._orbax is None:
            disk.silence_orbax()
            self._orbax = ocp.AsyncCheckpointer(
                ocp.CompositeCheckpointHandler(state=arrays.handler(), extra=ocp.JsonCheckpointHandler())
            )
        if jax.process_index() == 0:
            self.directory.mkdir(parents=True, exist_ok=True)
            self._sweep()
            self._mark_unfinished(step)
        else:
            manifest.forget(self._path(step), jax.process_index())
        shapes = {path: {"shape": list(leaf.shape), "dtype": leaf.dtype.name} for path, leaf in leaves.items()}
        for path in leaves.keys() - stored.keys():
            shapes[path][bases.OMITTED] = True
        about = {"step": step, "leaves": shapes}
        nonempty = {path: leaf for path, leaf in stored.items() if leaf.size}  # Orbax cannot write an array of size 0
        items = ocp.args.Composite(state=ocp.args.PyTreeSave(nonempty), extra=ocp.args.JsonSave(extra))
        try:
            self._orbax.save(self._path(step), args=items, force=True)
        except Exception as error:
            raise disk.as_os_error(error, self._path(step)) from None
        self._thread = threading.Thread(target=self._finish, args=(step, about), name=f"checkpoint {step}")
        self._thread.start()
        if not self.asynchronous:
            self.wait()
        return True

    def wait(self) -> None:
        """Waits until the last `save` is on disk and hashed; raises the error if it failed."""
        if self._thread is not None:
            self._thread.join()
            self._thread = None
        if self._error is not None:
            error, self._error = self._error, None
            raise error

    def mark_best(self, step: int, value: float, metric: str) -> None:
        """Records `step` as the best so far, which is never deleted, and the `value` of the metric that says so."""
        if jax.process_index() == 0:
            self.directory.mkdir(parents=True, exist_ok=True)
            manifest.write_json(self.directory / BEST, {"step": step, "value": float(value), "metric": metric})

    def steps(self) -> list[int]:
        """Returns the finished steps in ascending order, intact or damaged."""
        if not self.directory.exists():
            return []
        entries = {entry.name for entry in self.directory.iterdir()}
        steps = sorted(int(name) for name in entries if re.fullmatch(r"\d+", name))
        return [step for step in steps if f"{step}{UNFINISHED}" not in entries or self._manifest(step).exists()]

    def best(self) -> int | None:
        """Returns the step marked as the best, if it still exists."""
        step = self.best_mark().get("step")
        return step if step in self.steps() else None

    def best_mark(self) -> dict[str, Any]:
        """Returns step, value and (not in early versions) metric of the last `mark_best`, or an empty dictionary."""
        path = self.directory / BEST
        try:
            return json.loads(path.read_text()) if path.exists() else {}
        except ValueError:
            log.warning("%s is damaged and is ignored", path)
            return {}

    def verify(self, step: int) -> list[str]:
        """Hashes every file of a step; returns a line for each missing or changed file."""
        if not self._path(step).exists():
            return [f"{self._path(step)} does not exist"]
        problems = manifest.problems(self._path(step))
        (self._intact.discard if problems else self._intact.add)(step)
        return problems

    def latest(self) -> int | None:
        """Returns the newest step that process 0 finds intact, or None if there are no steps; warns of damaged ones.

        Raises:
          NoIntactCheckpoint: all steps are damaged.
        """
        self.wait()
        newest = broadcast_from_first(self._newest_intact() if jax.process_index() == 0 else NO_STEP)
        if newest == ALL_DAMAGED:
            steps = ", ".join(map(str, self.steps()))
            raise NoIntactCheckpoint(f"every checkpoint in {self.directory} is damaged (steps {steps}); use a backup")
        return None if newest == NO_STEP else newest

    def describe(self, step: int) -> dict[str, jax.ShapeDtypeStruct]:
        """Returns the shape and dtype of every leaf of a step, by path, without reading the arrays.

        They include the parameters that the base holds.
        """
        leaves = self._leaves(step).items()
        return {path: jax.ShapeDtypeStruct(tuple(leaf["shape"]), leaf["dtype"]) for path, leaf in leaves}

    @property
    def base(self) -> Base | None:
        """Where the parameters are that the checkpoints of a tuned run omit; None: they hold everything.

        Raises:
          InputError: its record is damaged.
        """
        return self._base or bases.read(self.directory / bases.NAME)

    def rest_on(self, base: Base | None) -> None:
        """Records the base of a run that has no checkpoint yet: `save` omits the parameters in `base.places`."""
        self._base = base
        if jax.process_index() == 0 and base is not None:
            self.directory.mkdir(parents=True, exist_ok=True)
            base.write()
        elif jax.process_index() == 0:
            (self.directory / bases.NAME).unlink(missing_ok=True)

    def extra(self, step: int | None = None) -> dict[str, Any]:
        """Returns the JSON saved with a step, by default the newest intact one."""
        import orbax.checkpoint as ocp

        step = self.chosen(step)
        with ocp.Checkpointer(ocp.JsonCheckpointHandler()) as reader:
            return reader.restore(self._path(step) / "extra", args=ocp.args.JsonRestore())

    def restore(self, state_like: Any, step: int | None = None, where: str = ".*") -> tuple[Any, dict[str, Any]]:
        """Reads a step into the shapes, dtypes and shardings of `state_like`, on any mesh.

        Orbax would silently cast leaves of another dtype and ignore leaves missing from the checkpoint. Here the leaves
        that `where` selects must have equal paths, shapes and dtypes in the checkpoint and in `state_like`.

        Args:
          state_like: the state, or a branch such as `{"params": ...}`, as arrays or objects of `jax.ShapeDtypeStruct`.
          step: by default the newest intact one.
          where: regular expression for the whole path, such as `params/.*`; other leaves are returned as None.

        Returns:
          The state in the structure of `state_like`, and the `extra` of `save`.

        Raises:
          InputError: no checkpoint, or a leaf is missing, unexpected or of another shape or dtype.
          NoIntactCheckpoint: the step, or every step, is damaged.
        """
        step = self.chosen(step)
        paths = dict(named_leaves(state_like))
        expected = {path: leaf for path, leaf in paths.items() if re.fullmatch(where, path)}
        saved = {path: leaf for path, leaf in self.describe(step).items() if re.fullmatch(where, path)}
        arrays.compare(f"checkpoint {self._path(step)}", saved, expected)
        restored = self.read(step, expected)
        self._current = step
        leaves = [restored.get(path) for path in paths]
        return jax.tree.unflatten(jax.tree.structure(state_like), leaves), self.extra(step)

    def read(self, step: int, expected: Mapping[str, Any]) -> dict[str, Any]:
        """Reads leaves of a verified step by path, from it or from its base; they have the shapes and dtypes there."""
        omitted = {path for path, leaf in self._leaves(step).items() if leaf.get(bases.OMITTED)} & {*expected}
        own = {path: arrays.target(leaf) for path, leaf in expected.items() if path not in omitted}
        leaves = arrays.read(self._path(step) / "state", own)
        return leaves | (self._read_base(step, {path: expected[path] for path in omitted}) if omitted else {})

    def _path(self, step: int) -> epath.Path:
        return self.directory / str(step)

    def _manifest(self, step: int) -> epath.Path:
        return self._path(step) / manifest.NAME

    def _marker(self, step: int) -> epath.Path:
        return self.directory / f"{step}{UNFINISHED}"

    def _leaves(self, step: int) -> dict[str, Any]:
        """The entries of a step's manifest by path of the leaf."""
        try:
            return manifest.read(self._path(step))["about"]["leaves"]
        except ValueError as error:
            raise NoIntactCheckpoint(f"checkpoint {self._path(step)} is damaged: {error}") from error

    def _read_base(self, step: int, expected: Mapping[str, Any]) -> dict[str, jax.Array]:
        base = self.base
        if base is None or not base.places.keys() >= expected.keys():
            file = self.directory / bases.NAME
            raise InputError(
                f"checkpoint {self._path(step)} omits {min(expected)}, and {file} does not say where it is"
            )
        other = Checkpointer(base.checkpoints)
        if not other.steps():
            raise base.error(f"is missing: {other.directory} has no checkpoint")
        try:
            there = other.chosen(base.step if base.step in other.steps() else None)
        except NoIntactCheckpoint as error:
            raise base.error(f"has changed: {error}") from error
        where = str(other._path(there))
        values = other.read(there, base.targets(where, other.describe(there), expected))
        return base.values(where, values, expected)

    def chosen(self, step: int | None) -> int:
        """Returns `step`, or the newest one if it is None, after verifying it.

        Raises:
          InputError: it does not exist.
          NoIntactCheckpoint: it is damaged.
        """
        if step is None:
            step = self.latest()
            if step is None:
                raise InputError(f"no checkpoint in {self.directory}; train there first, or use another directory")
            return step
        self.wait()
        steps = self.steps()
        if broadcast_from_first(step if step in steps else NO_STEP) == NO_STEP:
            existing = ", ".join(map(str, steps)) or "none"
            raise InputError(f"checkpoint {step} is not in {self.directory}; steps there: {existing}")
        problems = self.verify(step) if jax.process_index() == 0 and step not in self._intact else []
        if broadcast_from_first(len(problems)):
            summary = arrays.shortened(problems or ["see process 0"])
            raise NoIntactCheckpoint(f"checkpoint {self._path(step)} is damaged: {summary}; choose another step")
        return step

    def _newest_intact(self) -> int:
        steps = self.steps()
        for step in reversed(steps):
            problems = [] if step in self._intact else self.verify(step)
            if not problems:
                return step
            log.warning("checkpoint %s is damaged and skipped: %s", self._path(step), arrays.shortened(problems))
        return ALL_DAMAGED if steps else NO_STEP

    def _finish(self, step: int, about: dict[str, Any]) -> None:
        """Waits for Orbax, hashes, writes the manifest, and only then deletes older steps; runs in a thread."""
        try:
            self._orbax.wait_until_finished()
            rank, ranks = jax.process_index(), jax.process_count()
            manifest.write_together(self._path(step), about, writer=arrays.writer, rank=rank, ranks=ranks)
            self._intact.add(step)
            self._current = step
            if rank == 0:
                self._marker(step).unlink()
                self._retain(step)
        except BaseException as error:  # raised by the next wait(), in the caller's thread
            self._error = disk.as_os_error(error, self._path(step))
            if jax.process_index() == 0:
                # Not left to the next save, because the incomplete step may have filled the disk.
                with contextlib.suppress(OSError):
                    self._sweep()

    def _retain(self, newest: int) -> None:
        """Deletes the steps after `newest`, and all others but the `keep` newest complete ones and the best."""
        steps = self.steps()
        complete = [step for step in steps if step <= newest and self._manifest(step).exists()]
        retained = {*complete[-self.keep :], self.best()}
        for step in steps:
            if step > newest or step not in retained:
                self._delete(step)

    def _delete(self, step: int) -> None:
        self._mark_unfinished(step)
        if self._path(step).exists():
            self._path(step).rmtree()
        self._marker(step).unlink()

    def _mark_unfinished(self, step: int) -> None:
        """Marks a step and removes its manifest, so that after a kill it counts as unfinished, not as damaged."""
        self._marker(step).write_text("")
        self._manifest(step).unlink(missing_ok=True)
        self._intact.discard(step)

    def _sweep(self) -> None:
        """Deletes what killed processes left: unfinished steps, Orbax's temporary directories, files of hashes."""
        finished = self.steps()
        for entry in list(self.directory.iterdir()):
            if match := re.fullmatch(rf"(\d+){re.escape(UNFINISHED)}", entry.name):
                step = int(match[1])
                entry.unlink() if step in finished else self._delete(step)
            elif re.match(r"\d+\.orbax-checkpoint-tmp", entry.name):
                entry.rmtree()
            elif re.match(r"\d+\.hashes-", entry.name):
                entry.unlink()


def broadcast_from_first(value: int) -> int:
    """Returns process 0's value on every process; all of them must call it."""
    if jax.process_count() == 1:
        return value
    from jax.experimental import multihost_utils

    return int(multihost_utils.broadcast_one_to_all(np.int32(value)))
