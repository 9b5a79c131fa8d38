"""The work directory of a run: its files, its lock, its first state, and changes to its configuration.

    config.json         the configuration, and under `history` its changes with date and step
    labels.json         the names of the labels of each column, if there are any
    environment.json    package versions and devices of the process that started the run
    model_info.txt      every parameter: shape, axes, sharding
    tokenizer/          the tokenizer that the parameters were trained with
    checkpoints/        `lm_jax.train.checkpoint`
    lock                host and process id of the training process; the system releases it when the process ends

Once there is a checkpoint, later runs change only config.json among the first five.
"""

from __future__ import annotations

import contextlib
import dataclasses
import datetime
import errno
import fcntl
import json
import os
import platform
import re
import shutil
import socket
import uuid
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO, Any

import jax
import jax.numpy as jnp
from ml_collections import ConfigDict

from lm_jax import experiment
from lm_jax.core import config as configs
from lm_jax.core.config import InputError
from lm_jax.core.trees import Params, named_leaves
from lm_jax.data import atomic
from lm_jax.experiment import Experiment, ExperimentConfig
from lm_jax.train import optimizers
from lm_jax.train.checkpoint import Checkpointer, broadcast_from_first
from lm_jax.train.state import TrainState
from lm_jax.verbs import report

ORIGIN = "huggingface"  # Directory of those files of an imported checkpoint that an export needs.
LOCK = "lock"
_NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.ENOTSUP, errno.EBADF)  # Errors of file systems without locks.


def changes(config: ExperimentConfig, workdir: Path) -> list[str]:
    """Returns a line `key: before -> after` for each difference from the configuration saved in a work directory.

    Raises:
      InputError: the model, the objective or the order of the data differs.
    """
    before = experiment.saved(workdir)
    if before is None:
        return []
    # With the defaults of keys that an earlier version did not save, in entries such as columns too.
    completed = experiment.parse(experiment.complete(ConfigDict(before)))
    lines = configs.differences(experiment.as_json(completed), experiment.as_json(config))
    if config.train.epochs:
        # Computed from the epochs once the rows are known.
        lines = [line for line in lines if not line.startswith("config.train.steps:")]
    if config.mesh.auto:
        # Chosen for the devices.
        lines = [line for line in lines if not re.match(r"config\.(train\.accumulate|model\S*\.remat):", line)]
    free = configs.free_keys(ExperimentConfig)
    refused = [line for line in lines if not any(line.startswith((f"{key}.", f"{key}:")) for key in free)]
    if refused:
        raise InputError(
            f"{workdir} contains a run with another configuration ({'; '.join(refused[:4])}); use another --workdir, "
            f"or --fork={workdir} with a new --workdir to start from its parameters"
        )
    return lines


def check_writable(workdir: Path) -> None:
    """Refuses a directory that cannot be created or written, or that another training process has locked."""
    atomic.check_directory(workdir, "--workdir")
    if (workdir / LOCK).exists():
        with open(workdir / LOCK, "rb") as file:
            _lock(file, workdir)


@contextlib.contextmanager
def owned(workdir: Path) -> Iterator[None]:
    """Creates the directory and locks it against other training processes until the block ends.

    In a multi-host run, process 0 takes the lock for all processes.

    Raises:
      InputError: another process has the lock; raised on every process.
    """
    with contextlib.ExitStack() as stack:
        refusal: InputError | None = None
        if jax.process_index() == 0:
            try:
                stack.enter_context(_locked(workdir))
            except InputError as error:
                refusal = error
        if broadcast_from_first(int(refusal is not None)):
            raise refusal or InputError(f"--workdir {workdir} is in use; process 0 names the process that uses it")
        yield


@contextlib.contextmanager
def _locked(workdir: Path) -> Iterator[None]:
    created = not workdir.exists()
    workdir.mkdir(parents=True, exist_ok=True)
    path = workdir / LOCK
    while True:
        file = open(path, "a+b")  # noqa: SIM115 - closed below in every case
        try:
            _lock(file, workdir)
            # If another run removed the file between opening and locking, this lock protects nothing.
            if path.exists() and os.path.samestat(os.fstat(file.fileno()), path.stat()):
                break
        except BaseException:
            file.close()
            raise
        file.close()
    with file:
        file.truncate(0)
        file.write(f"process {os.getpid()} on {socket.gethostname()}".encode())
        file.flush()
        try:
            yield
        finally:
            path.unlink(missing_ok=True)
            if created:
                # A refused run leaves no directory behind; rmdir fails if there are files.
                with contextlib.suppress(OSError):
                    workdir.rmdir()


def _lock(file: IO[bytes], workdir: Path) -> None:
    """Locks an open file; the system releases the lock when the process ends, even if it is killed."""
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        file.seek(0)
        owner = file.read(200).decode(errors="replace") or "another process"
        raise InputError(
            f"--workdir {workdir} is in use by {owner}; wait for it, stop it, or give another --workdir"
        ) from error
    except OSError as error:
        if error.errno not in _NO_LOCKS:
            raise


def write(exp: Experiment, workdir: Path) -> None:
    """Writes the files of a new run; config.json comes last, because it makes the directory a run."""
    if jax.process_index() != 0:
        return
    workdir.mkdir(parents=True, exist_ok=True)
    exp.tokenizer.save(workdir / "tokenizer")
    atomic.write_json(workdir / "environment.json", environment())
    about = report.parameters(report.models_of(exp), exp.layout) + "".join(f"{line}\n" for line in report.trained(exp))
    atomic.write_bytes(workdir / "model_info.txt", about.encode())
    if exp.labels:
        atomic.write_json(workdir / experiment.LABELS, dict(exp.labels))
    atomic.write_json(workdir / experiment.SAVED, dataclasses.asdict(exp.config))


def first_state(
    exp: Experiment, workdir: Path, checkpointer: Checkpointer, inherited: Params | None, changed: Sequence[str]
) -> TrainState:
    """Returns the newest intact state of the run, or else an initial state with the inherited parameters, if any.

    The files of a new run, or the changes to the configuration, are written only after the state exists.
    """
    if checkpointer.steps():
        restored = _restore(exp, checkpointer)
        report.say(f"resuming from step {int(restored.step)}")
        for line in changed:
            report.say(f"  changed since then: {line}")
        note_changes(exp, workdir, int(restored.step), changed)
        return restored
    state = exp.fresh_state()
    if inherited is not None:
        params, frozen = exp.models.split(inherited)
        averaged = None if state.averaged is None else jax.tree.map(jnp.copy, params)
        state = state.replace(params=params, frozen=frozen, averaged=averaged)  # type: ignore[attr-defined]
    write(exp, workdir)
    return state


def _restore(exp: Experiment, checkpointer: Checkpointer) -> TrainState:
    """Restores the newest intact state; gradient clipping may have been switched on or off since it was saved."""
    # Not from config.json: a run may be killed after it records a change and before its next checkpoint.
    before = experiment.parse(checkpointer.extra()["config"]).optimizer
    clip = (before.clip, exp.config.optimizer.clip)
    clipped = dataclasses.replace(exp.config.optimizer, clip=before.clip)
    earlier = dataclasses.replace(exp, config=dataclasses.replace(exp.config, optimizer=clipped))
    restored = _restore_state(checkpointer, earlier.state_like)
    opt_state = optimizers.adapt_clipping(restored.opt_state, *clip)
    return restored.replace(opt_state=opt_state)  # type: ignore[attr-defined]


def _restore_state(checkpointer: Checkpointer, like: TrainState) -> TrainState:
    """Restores the newest state; Adafactor's moments of experts saved in an earlier layout are replaced by zeros."""
    step, leaves = checkpointer.latest(), dict(named_leaves(like))
    saved = {} if step is None else checkpointer.describe(step)
    moved = [path for path in leaves if re.match("opt_state/.*/experts_", path) and path not in saved]
    if not moved:
        return checkpointer.restore(like)[0]
    report.warn("an earlier version saved the optimizer's moments of experts in another layout; they start at zero")
    targets = {path: leaf for path, leaf in leaves.items() if path not in moved}
    restored, _ = checkpointer.restore(targets, step, where="|".join(map(re.escape, targets)))
    zeros = {path: jnp.zeros(leaves[path].shape, leaves[path].dtype, device=leaves[path].sharding) for path in moved}
    return jax.tree.unflatten(jax.tree.structure(like), [{**restored, **zeros}[path] for path in leaves])


def note_changes(exp: Experiment, workdir: Path, step: int, lines: Sequence[str]) -> None:
    """Writes the changed configuration of a run, and adds the changes to its history."""
    if jax.process_index() != 0 or not lines:
        return
    path = workdir / experiment.SAVED
    history = json.loads(path.read_text()).get(experiment.HISTORY, [])
    date = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
    history = [*history, {"date": date, "step": step, "changes": list(lines)}]
    atomic.write_json(path, {**dataclasses.asdict(exp.config), experiment.HISTORY: history})


def check_same_data(exp: Experiment, workdir: Path, step: int, extra: Mapping[str, Any]) -> None:
    """Refuses to resume with another tokenizer or text than the checkpoint was trained with."""
    check_tokenizer(exp, workdir, step, extra)
    now, data = exp.data_fingerprint, exp.config.data
    name = f"{data.name}{data.dev_name and f' or of {data.dev_name}'}"
    if extra["data_fingerprint"] != now:
        raise InputError(
            f"the text of {name} is not the one that {workdir} was trained on up to step {step} "
            f"(fingerprint {extra['data_fingerprint'][:8] or 'none'}, now {now[:8]}); restore it, or start from its "
            f"parameters with --fork={workdir} and a new --workdir"
        )


def check_tokenizer(exp: Experiment, workdir: Path, step: int | None, extra: Mapping[str, Any]) -> None:
    """Refuses a tokenizer that a checkpoint was not trained with."""
    before, now = extra["tokenizer_fingerprint"], exp.tokenizer.fingerprint
    if before != now:
        raise InputError(
            f"the tokenizer is not the one that step {step} of {workdir} was trained with (fingerprint {before[:8]}, "
            f"now {now[:8]}); restore {workdir / 'tokenizer'} and config.data.tokenizer.path"
        )


def inherit(fork: Path, workdir: Path) -> None:
    """Copies the imported checkpoint's files from the forked run, so that the new run can be exported too."""
    origin, target = fork / ORIGIN, workdir / ORIGIN
    if jax.process_index() == 0 and origin.is_dir() and not target.exists():
        partial = target.with_name(f"{target.name}.partial-{uuid.uuid4().hex}")
        shutil.copytree(origin, partial)
        os.replace(partial, target)


def environment() -> dict[str, Any]:
    """Returns the versions and devices of this process."""
    import flax
    import optax
    import orbax.checkpoint

    import lm_jax

    packages = {"lm_jax": lm_jax, "jax": jax, "flax": flax, "optax": optax, "orbax-checkpoint": orbax.checkpoint}
    return {
        "python": platform.python_version(),
        "platform": platform.platform(),
        "versions": {name: module.__version__ for name, module in packages.items()},
        "devices": [f"{device.platform} {device.device_kind}" for device in jax.devices()],
        "processes": jax.process_count(),
    }
