"""Checkpoints: the state of a run, enough to rebuild everything else, and the proof that both are intact.

Orbax writes the arrays (any mesh and any number of processes may read them back); its own retention is not used,
because an older step may go only when a newer one is known to be whole. One step is one directory:

    checkpoints/300/state/...        Orbax: one array for every leaf, by its slash-joined path
    checkpoints/300/extra/...        Orbax: JSON, such as the config and the fingerprints of data and tokenizer
    checkpoints/300/manifest.json    size and hash of every file above, the shape and dtype of every leaf
    checkpoints/300.unfinished       there from before the first byte until after the manifest
    checkpoints/best.json            the step with the best evaluation, which retention spares

A kill at any moment leaves either a whole step or one that is marked unfinished, never one that only looks whole.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import re
import threading
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from etils import epath

from lm_jax.core.config import InputError
from lm_jax.core.trees import named_leaves
from lm_jax.train import disk, manifest

log = logging.getLogger(__name__)

BEST = "best.json"
UNFINISHED = ".unfinished"
NO_STEP, ALL_DAMAGED = -1, -2


class NoIntactCheckpoint(RuntimeError):
    """Every step of a directory is damaged; the message is one line that names what is wrong. Exit code 5."""


class Checkpointer:
    """Saves, checks, keeps and restores the steps of one directory.

    A context manager: a save that the end of the program overtakes would hang in Orbax for minutes, so `with` waits.
    Reading never changes the directory, so a run may be evaluated from another process while it trains.
    With several processes every method but `steps`, `best`, `describe` and `verify` is called by all of them.
    """

    def __init__(self, directory: str | os.PathLike, *, keep: int = 2, asynchronous: bool = True):
        """Opens a directory, which need not exist yet.

        Args:
          directory: where the steps are, on a file system that every process sees.
          keep: how many of the newest steps stay, beside the best one.
          asynchronous: `save` returns as soon as the arrays are copied off the devices.
        """
        if keep < 1:
            raise InputError(f"checkpoints to keep: {keep}; expected at least 1")
        self.directory = epath.Path(directory)
        if "://" not in str(directory):
            self.directory = epath.Path(self.directory.expanduser().resolve())
        self.keep = keep
        self.asynchronous = asynchronous
        self._orbax: Any = None  # made by the first save
        self._thread: threading.Thread | None = None
        self._error: BaseException | None = None
        self._current: int | None = None  # the step that the run has just written or come from
        self._intact: set[int] = set()  # verified or written by this process: not hashed again

    def __enter__(self) -> Checkpointer:
        return self

    def __exit__(self, *_: Any) -> None:
        self.wait()

    # Writing

    def save(self, step: int, state: Any, extra: dict[str, Any]) -> bool:
        """Writes one step; waits first for the step before it.

        Steps after `step` belong to a course of the run that was given up (it went back to an earlier step); they go
        once this one is whole. The arrays may be donated as soon as this returns.

        Args:
          step: the number of finished steps.
          state: a pytree of jax arrays; random keys as their `jax.random.key_data`.
          extra: what is needed to rebuild the rest, as JSON.

        Returns:
          False if this very step was just written or restored, so that nothing was to be done.

        Raises:
          Whatever went wrong with the step before, if that was not waited for.
        """
        import orbax.checkpoint as ocp

        self.wait()
        if self._current == step and step in self._intact:
            return False
        leaves = _checked(state)
        disk.check_room(self.directory, sum(leaf.nbytes for leaf in leaves.values()))
        if self._orbax is None:
            disk.silence_orbax()
            self._orbax = ocp.AsyncCheckpointer(ocp.CompositeCheckpointHandler())
        if jax.process_index() == 0:
            self.directory.mkdir(parents=True, exist_ok=True)
            self._sweep()
            self._unmake(step)
        else:
            manifest.forget(self._path(step), jax.process_index())
        described = {path: {"shape": list(leaf.shape), "dtype": leaf.dtype.name} for path, leaf in leaves.items()}
        about = {"step": step, "leaves": described}
        arrays = {path: leaf for path, leaf in leaves.items() if leaf.size}  # Orbax cannot write an array of size 0
        items = ocp.args.Composite(state=ocp.args.StandardSave(arrays), extra=ocp.args.JsonSave(extra))
        try:
            self._orbax.save(self._path(step), args=items, force=True)
        except Exception as error:
            raise disk.of_the_system(error, self._path(step)) from None
        self._thread = threading.Thread(target=self._finish, args=(step, about), name=f"checkpoint {step}")
        self._thread.start()
        if not self.asynchronous:
            self.wait()
        return True

    def wait(self) -> None:
        """Returns when the last `save` is on disk, hashed and safe; raises what went wrong with it."""
        if self._thread is not None:
            self._thread.join()
            self._thread = None
        if self._error is not None:
            error, self._error = self._error, None
            raise error

    def mark_best(self, step: int, value: float) -> None:
        """Remembers `step` as the best so far, by whatever the caller compares; retention spares it from now on."""
        if jax.process_index() == 0:
            self.directory.mkdir(parents=True, exist_ok=True)
            manifest.write_json(self.directory / BEST, {"step": step, "value": float(value)})

    # Looking

    def steps(self) -> list[int]:
        """The finished steps in rising order, intact or damaged; unfinished ones are none."""
        if not self.directory.exists():
            return []
        entries = {entry.name for entry in self.directory.iterdir()}
        named = sorted(int(name) for name in entries if re.fullmatch(r"\d+", name))
        return [step for step in named if f"{step}{UNFINISHED}" not in entries or self._manifest(step).exists()]

    def best(self) -> int | None:
        """The step that was marked the best, if it is still there."""
        step = self.best_mark().get("step")
        return step if step in self.steps() else None

    def best_mark(self) -> dict[str, Any]:
        """`{"step": ..., "value": ...}` of the last `mark_best`, or nothing."""
        path = self.directory / BEST
        try:
            return json.loads(path.read_text()) if path.exists() else {}
        except ValueError:
            log.warning("%s is damaged and is ignored", path)
            return {}

    def verify(self, step: int) -> list[str]:
        """Reads every file of a step again and names what is missing or changed; an intact step has no problems."""
        if not self._path(step).exists():
            return [f"{self._path(step)} is not there"]
        problems = manifest.problems(self._path(step))
        (self._intact.discard if problems else self._intact.add)(step)
        return problems

    def latest(self) -> int | None:
        """The newest intact step, or None where nothing was saved yet; every damaged one it skips is named.

        Process 0 looks and all processes get its answer.

        Raises:
          NoIntactCheckpoint: there are steps and all of them are damaged.
        """
        self.wait()
        found = agree(self._newest_intact() if jax.process_index() == 0 else NO_STEP)
        if found == ALL_DAMAGED:
            damaged = ", ".join(map(str, self.steps()))
            raise NoIntactCheckpoint(f"no intact checkpoint in {self.directory}: damaged are {damaged}; use a backup")
        return None if found == NO_STEP else found

    def describe(self, step: int) -> dict[str, jax.ShapeDtypeStruct]:
        """The shape and dtype of every leaf of a step by its path, without reading any."""
        try:
            leaves = manifest.read(self._path(step))["about"]["leaves"]
        except ValueError as error:
            raise NoIntactCheckpoint(f"checkpoint {self._path(step)} is damaged: {error}") from error
        return {path: jax.ShapeDtypeStruct(tuple(it["shape"]), it["dtype"]) for path, it in leaves.items()}

    # Reading

    def extra(self, step: int | None = None) -> dict[str, Any]:
        """The JSON that was saved with a step (by default the newest intact one)."""
        import orbax.checkpoint as ocp

        step = self._chosen(step)
        with ocp.Checkpointer(ocp.JsonCheckpointHandler()) as reader:
            return reader.restore(self._path(step) / "extra", args=ocp.args.JsonRestore())

    def restore(self, state_like: Any, step: int | None = None, where: str = ".*") -> tuple[Any, dict[str, Any]]:
        """Reads a step into the shapes, dtypes and shardings of `state_like`; the mesh may be another than saved.

        Orbax would cast a leaf of another dtype and hand back a leaf that is not there, both in silence; here the
        leaves that `where` selects have to be the same on both sides.

        Args:
          state_like: the state, or a part of it from the root, as arrays or `jax.ShapeDtypeStruct`s with shardings.
          step: which one; by default the newest intact one.
          where: a regular expression of whole slash-joined paths, such as `params/.*`. Other leaves are not read and
            come back as None.

        Returns:
          The state in the structure of `state_like`, and the `extra` of `save`.

        Raises:
          InputError: nothing is saved, or a leaf is missing, superfluous or of another shape or dtype.
          NoIntactCheckpoint: the step, or every step, is damaged.
        """
        import orbax.checkpoint as ocp

        step = self._chosen(step)
        named = dict(named_leaves(state_like))
        wanted = {path: leaf for path, leaf in named.items() if re.fullmatch(where, path)}
        saved = {path: leaf for path, leaf in self.describe(step).items() if re.fullmatch(where, path)}
        _compare(f"checkpoint {self._path(step)}", saved, wanted)
        target = {path: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=_sharding(x)) for path, x in wanted.items()}
        read = {path: leaf for path, leaf in target.items() if leaf.size}
        restored: dict[str, Any] = {
            path: jax.device_put(np.zeros(leaf.shape, leaf.dtype), leaf.sharding)
            for path, leaf in target.items()
            if not leaf.size
        }
        if read:
            arguments = ocp.checkpoint_utils.construct_restore_args(read)
            with ocp.PyTreeCheckpointer() as reader:
                arguments = ocp.args.PyTreeRestore(item=read, restore_args=arguments, partial_restore=True)
                restored |= reader.restore(self._path(step) / "state", args=arguments)
        self._current = step
        leaves = [restored.get(path) for path in named]
        return jax.tree.unflatten(jax.tree.structure(state_like), leaves), self.extra(step)

    # Behind the scenes

    def _path(self, step: int) -> epath.Path:
        return self.directory / str(step)

    def _manifest(self, step: int) -> epath.Path:
        return self._path(step) / manifest.NAME

    def _marker(self, step: int) -> epath.Path:
        return self.directory / f"{step}{UNFINISHED}"

    def _chosen(self, step: int | None) -> int:
        """The step to read, known to be intact."""
        if step is None:
            step = self.latest()
            if step is None:
                raise InputError(f"no checkpoint in {self.directory}; train there first or name another directory")
            return step
        self.wait()
        steps = self.steps()
        if agree(step if step in steps else NO_STEP) == NO_STEP:
            there = ", ".join(map(str, steps)) or "none"
            raise InputError(f"checkpoint {step} is not in {self.directory}; steps there: {there}")
        problems = self.verify(step) if jax.process_index() == 0 and step not in self._intact else []
        if agree(len(problems)):
            what = _shortened(problems or ["see process 0"])
            raise NoIntactCheckpoint(f"checkpoint {self._path(step)} is damaged: {what}; choose another step")
        return step

    def _newest_intact(self) -> int:
        steps = self.steps()
        for step in reversed(steps):
            problems = [] if step in self._intact else self.verify(step)
            if not problems:
                return step
            log.warning("checkpoint %s is damaged and skipped: %s", self._path(step), _shortened(problems))
        return ALL_DAMAGED if steps else NO_STEP

    def _finish(self, step: int, about: dict[str, Any]) -> None:
        """Runs in a thread of its own: waits for Orbax, hashes, writes the manifest, and only then deletes."""
        try:
            self._orbax.wait_until_finished()
            rank, ranks = jax.process_index(), jax.process_count()
            manifest.write_together(self._path(step), about, writer=_writer, rank=rank, ranks=ranks)
            self._intact.add(step)
            self._current = step
            if rank == 0:
                self._marker(step).unlink()
                self._retain(step)
        except BaseException as error:  # handed to the next wait(), in the thread of the caller
            self._error = disk.of_the_system(error, self._path(step))
            if jax.process_index() == 0:
                # What was written of it may be what fills the disk; the next save would remove it too.
                with contextlib.suppress(OSError):
                    self._sweep()

    def _retain(self, newest: int) -> None:
        """Deletes what is no longer needed, now that `newest` is whole."""
        steps = self.steps()
        good = [step for step in steps if step <= newest and self._manifest(step).exists()]
        spared = {*good[-self.keep :], self.best()}
        for step in steps:
            if step > newest or step not in spared:
                self._delete(step)

    def _delete(self, step: int) -> None:
        self._unmake(step)
        if self._path(step).exists():
            self._path(step).rmtree()
        self._marker(step).unlink()

    def _unmake(self, step: int) -> None:
        """Marks a step unfinished, so that a kill half-way leaves nothing that looks like a damaged one."""
        self._marker(step).write_text("")
        self._manifest(step).unlink(missing_ok=True)
        self._intact.discard(step)

    def _sweep(self) -> None:
        """Removes what killed processes left: unfinished steps and Orbax's temporary directories."""
        finished = self.steps()
        for entry in list(self.directory.iterdir()):
            if found := re.fullmatch(rf"(\d+){re.escape(UNFINISHED)}", entry.name):
                step = int(found[1])
                entry.unlink() if step in finished else self._delete(step)
            elif re.match(r"\d+\.orbax-checkpoint-tmp", entry.name):
                entry.rmtree()
            elif re.match(r"\d+\.hashes-", entry.name):
                entry.unlink()


def _shortened(problems: list[str]) -> str:
    return "; ".join(problems[:3]) + (f" (and {len(problems) - 3} more)" if len(problems) > 3 else "")


def _checked(state: Any) -> dict[str, jax.Array]:
    named = named_leaves(state)
    for path, leaf in named:
        if not isinstance(leaf, jax.Array):
            raise TypeError(f"state leaf {path} is {type(leaf).__name__}; a checkpoint holds jax arrays only")
        if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
            raise TypeError(f"state leaf {path} is a random key; save its jax.random.key_data")
    if len(dict(named)) < len(named):
        raise ValueError("two leaves of the state have the same slash-joined path")
    return dict(named)


def _sharding(leaf: Any) -> jax.sharding.Sharding:
    sharding = getattr(leaf, "sharding", None)
    if sharding is None and jax.process_count() > 1:
        raise ValueError("with several processes every leaf to restore needs a sharding")
    return sharding or jax.sharding.SingleDeviceSharding(jax.local_devices()[0])


def _compare(name: str, saved: dict[str, Any], wanted: dict[str, Any]) -> None:
    """Raises one line when what is saved is not what is wanted."""
    problems = [f"has no {path}" for path in wanted if path not in saved]
    problems += [f"holds {path}, which the state has not" for path in saved if path not in wanted]
    for path, leaf in wanted.items():
        there = saved.get(path)
        if there is not None and (there.shape, there.dtype) != (tuple(leaf.shape), leaf.dtype):
            shapes = [f"{it.dtype}{list(it.shape)}" for it in (there, leaf)]
            problems.append(f"holds {path} as {shapes[0]}, expected {shapes[1]}")
    if problems:
        raise InputError(f"{name} {_shortened(problems)}; use the config that it was trained with")


def _writer(path: str) -> int:
    """Which process wrote a file and so hashes it: Orbax's per-process directories are their owner's."""
    found = re.match(r"state/ocdbt\.process_(\d+)/", path)
    return int(found[1]) if found else 0


def agree(value: int) -> int:
    """Process 0's value on every process; all of them call it."""
    if jax.process_count() == 1:
        return value
    from jax.experimental import multihost_utils

    return int(multihost_utils.broadcast_one_to_all(np.int32(value)))
