"""Checkpoints of the training state, with hashes that detect damage.

Orbax writes the arrays, which any mesh and any number of processes can read. It does not delete old steps: they are
deleted here, once a newer step is complete. Each step is a directory:

    checkpoints/300/state/...        Orbax: one array per leaf, under its slash-joined path
    checkpoints/300/extra/...        Orbax: JSON, such as the config and the fingerprints of data and tokenizer
    checkpoints/300/manifest.json    size and hash of every file above, shape and dtype of every leaf
    checkpoints/300.unfinished       marker, from before the first byte is written until after the manifest
    checkpoints/best.json            the step with the best evaluation, which is never deleted

A kill at any moment leaves a step either complete or marked unfinished.
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
    """The requested checkpoint, or every checkpoint of a directory, is damaged; a one-line message. Exit code 5."""


class Checkpointer:
    """Saves, verifies, deletes and restores the steps of one directory.

    As a context manager, it waits for the last save: Orbax would hang for minutes if the program ended during a save.
    Reading never changes the directory, so another process may evaluate a run while it trains.
    With several processes, all of them must call every method except `steps`, `best`, `describe` and `verify`.

    Example:
      >>> import tempfile
      >>> state = {"params": {"bias": jnp.arange(3.0)}}
      >>> with tempfile.TemporaryDirectory() as directory, Checkpointer(directory, asynchronous=False) as checkpointer:
      ...     saved = checkpointer.save(100, state, extra={"note": "example"})
      ...     restored, extra = checkpointer.restore(state)
      ...     checkpointer.steps(), restored["params"]["bias"].tolist(), extra
      ([100], [0.0, 1.0, 2.0], {'note': 'example'})
    """

    def __init__(self, directory: str | os.PathLike, *, keep: int = 2, asynchronous: bool = True):
        """Opens a directory, which need not exist yet.

        Args:
          directory: parent of the steps' directories, on a file system that all processes share.
          keep: number of newest steps to keep, besides the best.
          asynchronous: whether `save` returns as soon as the arrays are copied off the devices.
        """
        if keep < 1:
            raise InputError(f"checkpoints to keep: {keep}; expected at least 1")
        self.directory = epath.Path(directory)
        if "://" not in str(directory):
            self.directory = epath.Path(self.directory.expanduser().resolve())
        self.keep, self.asynchronous = keep, asynchronous
        self._orbax: Any = None  # created by the first save
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
        leaves = _validated(state)
        disk.check_room(self.directory, sum(leaf.nbytes for leaf in leaves.values()))
        if self._orbax is None:
            disk.silence_orbax()
            self._orbax = ocp.AsyncCheckpointer(
                ocp.CompositeCheckpointHandler(state=_state_handler(), extra=ocp.JsonCheckpointHandler())
            )
        if jax.process_index() == 0:
            self.directory.mkdir(parents=True, exist_ok=True)
            self._sweep()
            self._mark_unfinished(step)
        else:
            manifest.forget(self._path(step), jax.process_index())
        shapes = {path: {"shape": list(leaf.shape), "dtype": leaf.dtype.name} for path, leaf in leaves.items()}
        about = {"step": step, "leaves": shapes}
        arrays = {path: leaf for path, leaf in leaves.items() if leaf.size}  # Orbax cannot write an array of size 0
        items = ocp.args.Composite(state=ocp.args.PyTreeSave(arrays), extra=ocp.args.JsonSave(extra))
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
        """Returns the shape and dtype of every leaf of a step, by path, without reading the arrays."""
        try:
            leaves = manifest.read(self._path(step))["about"]["leaves"]
        except ValueError as error:
            raise NoIntactCheckpoint(f"checkpoint {self._path(step)} is damaged: {error}") from error
        return {path: jax.ShapeDtypeStruct(tuple(leaf["shape"]), leaf["dtype"]) for path, leaf in leaves.items()}

    def extra(self, step: int | None = None) -> dict[str, Any]:
        """Returns the JSON saved with a step, by default the newest intact one."""
        import orbax.checkpoint as ocp

        step = self._chosen(step)
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
        import orbax.checkpoint as ocp

        step = self._chosen(step)
        paths = dict(named_leaves(state_like))
        expected = {path: leaf for path, leaf in paths.items() if re.fullmatch(where, path)}
        saved = {path: leaf for path, leaf in self.describe(step).items() if re.fullmatch(where, path)}
        _compare(f"checkpoint {self._path(step)}", saved, expected)
        target = {path: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=_sharding(x)) for path, x in expected.items()}
        nonempty = {path: leaf for path, leaf in target.items() if leaf.size}
        zeros = lambda leaf: jax.device_put(np.zeros(leaf.shape, leaf.dtype), leaf.sharding)
        restored: dict[str, Any] = {path: zeros(leaf) for path, leaf in target.items() if not leaf.size}
        if nonempty:
            arguments = ocp.checkpoint_utils.construct_restore_args(nonempty)
            with ocp.PyTreeCheckpointer() as reader:
                arguments = ocp.args.PyTreeRestore(item=nonempty, restore_args=arguments, partial_restore=True)
                restored |= reader.restore(self._path(step) / "state", args=arguments)
        self._current = step
        leaves = [restored.get(path) for path in paths]
        return jax.tree.unflatten(jax.tree.structure(state_like), leaves), self.extra(step)

    def _path(self, step: int) -> epath.Path:
        return self.directory / str(step)

    def _manifest(self, step: int) -> epath.Path:
        return self._path(step) / manifest.NAME

    def _marker(self, step: int) -> epath.Path:
        return self.directory / f"{step}{UNFINISHED}"

    def _chosen(self, step: int | None) -> int:
        """Returns `step`, or the newest one if it is None, after verifying it."""
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
            summary = _shortened(problems or ["see process 0"])
            raise NoIntactCheckpoint(f"checkpoint {self._path(step)} is damaged: {summary}; choose another step")
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
        """Waits for Orbax, hashes, writes the manifest, and only then deletes older steps; runs in a thread."""
        try:
            self._orbax.wait_until_finished()
            rank, ranks = jax.process_index(), jax.process_count()
            manifest.write_together(self._path(step), about, writer=_writer, rank=rank, ranks=ranks)
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


def _shortened(problems: list[str]) -> str:
    return "; ".join(problems[:3]) + (f" (and {len(problems) - 3} more)" if len(problems) > 3 else "")


def _state_handler() -> Any:
    """Orbax's writer of arrays.

    By default, Orbax divides a replicated array among its devices, which compiles a program for every slice of every
    shape. Several processes write in parallel that way, but a single one would only lose the time.
    """
    import orbax.checkpoint as ocp

    if jax.process_count() > 1:
        return ocp.PyTreeCheckpointHandler()
    arrays = ocp.type_handlers.ArrayHandler(use_replica_parallel=False)
    registry = ocp.type_handlers.create_type_handler_registry((jax.Array, arrays))
    return ocp.PyTreeCheckpointHandler(type_handler_registry=registry)


def _validated(state: Any) -> dict[str, jax.Array]:
    leaves = named_leaves(state)
    for path, leaf in leaves:
        if not isinstance(leaf, jax.Array):
            raise TypeError(f"state leaf {path} is {type(leaf).__name__}; a checkpoint takes jax arrays only")
        if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
            raise TypeError(f"state leaf {path} is a random key; save its jax.random.key_data")
    if len(dict(leaves)) < len(leaves):
        raise ValueError("two leaves of the state have the same slash-joined path")
    return dict(leaves)


def _sharding(leaf: Any) -> jax.sharding.Sharding:
    sharding = getattr(leaf, "sharding", None)
    if sharding is None and jax.process_count() > 1:
        raise ValueError("with several processes, every leaf of `state_like` needs a sharding")
    return sharding or jax.sharding.SingleDeviceSharding(jax.local_devices()[0])


def _compare(name: str, saved: dict[str, Any], expected: dict[str, Any]) -> None:
    """Raises InputError if saved and expected leaves differ in path, shape or dtype."""
    problems = [f"has no {path}" for path in expected if path not in saved]
    problems += [f"has {path}, which the state lacks" for path in saved if path not in expected]
    for path, leaf in expected.items():
        stored = saved.get(path)
        if stored is not None and (stored.shape, stored.dtype) != (tuple(leaf.shape), leaf.dtype):
            shapes = [f"{each.dtype}{list(each.shape)}" for each in (stored, leaf)]
            problems.append(f"has {path} as {shapes[0]}, expected {shapes[1]}")
    if problems:
        raise InputError(f"{name} {_shortened(problems)}; use the config of the run that saved it")


def _writer(path: str) -> int:
    """Returns the rank of the process that wrote a file: Orbax has a directory per process."""
    match = re.match(r"state/ocdbt\.process_(\d+)/", path)
    return int(match[1]) if match else 0


def broadcast_from_first(value: int) -> int:
    """Returns process 0's value on every process; all of them must call it."""
    if jax.process_count() == 1:
        return value
    from jax.experimental import multihost_utils

    return int(multihost_utils.broadcast_one_to_all(np.int32(value)))
