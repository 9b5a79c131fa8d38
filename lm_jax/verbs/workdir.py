"""The work directory of a run: who may write it, what it holds, where it goes on, and how its configuration may change.

    config.json         the configuration, and under `history` every change that was made to it, with date and step
    environment.json    versions and devices of the process that started the run
    model_info.txt      every parameter: shape, axes, sharding
    tokenizer/          the tokenizer whose ids the parameters know
    checkpoints/        `lm_jax.train.checkpoint`
    lock                host and process of the one that trains; the system frees it when that process ends

Once there is a checkpoint, config.json is the only one of these files that a later run writes.
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

from lm_jax import experiment
from lm_jax.core import config as configs
from lm_jax.core.config import InputError
from lm_jax.core.trees import Params, named_leaves
from lm_jax.data import atomic
from lm_jax.experiment import Experiment, ExperimentConfig
from lm_jax.train import optimizers
from lm_jax.train.checkpoint import Checkpointer, agree
from lm_jax.train.state import TrainState
from lm_jax.verbs import report

# The folder of a run with what an export needs of the checkpoint that the run came from.
ORIGIN = "huggingface"
LOCK = "lock"
# What file systems without locks answer.
_NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.ENOTSUP, errno.EBADF)


def changes(config: ExperimentConfig, workdir: Path) -> list[str]:
    """What differs from the run that a work directory holds, one line `key: before -> after` each.

    Raises:
      InputError: a difference that changes the model, the order of the data or the objective.
    """
    before = experiment.saved(workdir)
    if before is None:
        return []
    # Through the dataclasses: settings that a run of an earlier version does not have are at their defaults.
    lines = configs.differences(experiment.as_json(experiment.parse(before)), experiment.as_json(config))
    free = configs.free_keys(ExperimentConfig)
    refused = [line for line in lines if not any(line.startswith((f"{key}.", f"{key}:")) for key in free)]
    if refused:
        raise InputError(
            f"{workdir} holds a run with another configuration ({'; '.join(refused[:4])}); use another --workdir, or "
            f"--fork={workdir} with a new --workdir to start from its parameters"
        )
    return lines


def check_writable(workdir: Path) -> None:
    """Refuses a directory that cannot be made or written, and one that another process is training in."""
    atomic.check_directory(workdir, "--workdir")
    if (workdir / LOCK).exists():
        with open(workdir / LOCK, "rb") as file:
            _lock(file, workdir)


@contextlib.contextmanager
def owned(workdir: Path) -> Iterator[None]:
    """Makes the directory and keeps other processes from training in it until the block ends.

    With several processes the first one takes the lock for all of them.

    Raises:
      InputError: another process has it; on every process.
    """
    with contextlib.ExitStack() as stack:
        refusal: InputError | None = None
        if jax.process_index() == 0:
            try:
                stack.enter_context(_holding(workdir))
            except InputError as error:
                refusal = error
        if agree(int(refusal is not None)):
            raise refusal or InputError(f"--workdir {workdir} is in use; process 0 says by whom")
        yield


@contextlib.contextmanager
def _holding(workdir: Path) -> Iterator[None]:
    made = not workdir.exists()
    workdir.mkdir(parents=True, exist_ok=True)
    path = workdir / LOCK
    while True:
        file = open(path, "a+b")  # noqa: SIM115 - closed below, whatever happens
        try:
            _lock(file, workdir)
            # A run that has just ended removed the file between opening and locking it: then it locks nothing.
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
            if made:
                # Only where nothing was written: a refused run leaves nothing behind.
                with contextlib.suppress(OSError):
                    workdir.rmdir()


def _lock(file: IO[bytes], workdir: Path) -> None:
    """Takes the lock of an open file; the system gives it back when the process ends, however that happens."""
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
    """Writes what a reader of a new run needs; config.json, without which no directory is a run, comes last."""
    if jax.process_index() != 0:
        return
    workdir.mkdir(parents=True, exist_ok=True)
    exp.tokenizer.save(workdir / "tokenizer")
    atomic.write_json(workdir / "environment.json", environment())
    atomic.write_bytes(workdir / "model_info.txt", report.parameters(report.described(exp), exp.layout).encode())
    atomic.write_json(workdir / experiment.SAVED, dataclasses.asdict(exp.config))


def first_state(
    exp: Experiment, workdir: Path, checkpointer: Checkpointer, inherited: Params | None, changed: Sequence[str]
) -> TrainState:
    """The newest intact state of the run, the inherited parameters, or freshly drawn ones.

    Only once the state is there are the files of the run written, or what has changed about it.
    """
    if checkpointer.steps():
        restored = _restored(exp, checkpointer)
        report.say(f"resuming from step {int(restored.step)}")
        for line in changed:
            report.say(f"  since changed: {line}")
        note_changes(exp, workdir, int(restored.step), changed)
        return restored
    first = exp.fresh_state()
    if inherited is not None:
        params, frozen = exp.models.split(inherited)
        averaged = None if first.averaged is None else jax.tree.map(jnp.copy, params)
        first = first.replace(params=params, frozen=frozen, averaged=averaged)  # type: ignore[attr-defined]
    write(exp, workdir)
    return first


def _restored(exp: Experiment, checkpointer: Checkpointer) -> TrainState:
    """The newest intact state of the run; the clipping of gradients may have been switched on or off since."""
    # Of the checkpoint, not of the directory: a run may be killed between noting a change and its next checkpoint.
    before = experiment.parse(checkpointer.extra()["config"]).optimizer
    clip = (before.clip, exp.config.optimizer.clip)
    clipped = dataclasses.replace(exp.config.optimizer, clip=before.clip)
    earlier = dataclasses.replace(exp, config=dataclasses.replace(exp.config, optimizer=clipped))
    restored = _read(checkpointer, earlier.state_like)
    opt_state = optimizers.reclipped(restored.opt_state, *clip)
    return restored.replace(opt_state=opt_state)  # type: ignore[attr-defined]


def _read(checkpointer: Checkpointer, like: TrainState) -> TrainState:
    """The newest state; moments of experts, which an earlier version joined otherwise under Adafactor, begin anew."""
    step, leaves = checkpointer.latest(), dict(named_leaves(like))
    there = {} if step is None else checkpointer.describe(step)
    moved = [path for path in leaves if re.match("opt_state/.*/experts_", path) and path not in there]
    if not moved:
        return checkpointer.restore(like)[0]
    report.warn("the optimizer's moments of experts are those of an earlier version, and begin anew")
    wanted = {path: leaf for path, leaf in leaves.items() if path not in moved}
    restored, _ = checkpointer.restore(wanted, step, where="|".join(map(re.escape, wanted)))
    empty = {path: jnp.zeros(leaves[path].shape, leaves[path].dtype, device=leaves[path].sharding) for path in moved}
    return jax.tree.unflatten(jax.tree.structure(like), [{**restored, **empty}[path] for path in leaves])


def note_changes(exp: Experiment, workdir: Path, step: int, lines: Sequence[str]) -> None:
    """Writes a run's changed configuration, and adds the changes to its history."""
    if jax.process_index() != 0 or not lines:
        return
    path = workdir / experiment.SAVED
    history = json.loads(path.read_text()).get(experiment.HISTORY, [])
    date = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
    history = [*history, {"date": date, "step": step, "changes": list(lines)}]
    atomic.write_json(path, {**dataclasses.asdict(exp.config), experiment.HISTORY: history})


def check_same_data(exp: Experiment, workdir: Path, step: int, extra: Mapping[str, Any]) -> None:
    """Refuses to go on with another tokenizer or another text than a checkpoint was trained with."""
    check_tokenizer(exp, workdir, step, extra)
    now = exp.store.fingerprint if exp.store else ""
    if extra["data_fingerprint"] != now:
        raise InputError(
            f"the text of {exp.config.data.name} is not the one that {workdir} was trained on up to step {step} "
            f"(fingerprint {extra['data_fingerprint'][:8] or 'none'}, now {now[:8]}); restore it, or start from its "
            f"parameters with --fork={workdir} and a new --workdir"
        )


def check_tokenizer(exp: Experiment, workdir: Path, step: int | None, extra: Mapping[str, Any]) -> None:
    """Refuses a tokenizer whose ids are not those that a checkpoint's parameters know."""
    before, now = extra["tokenizer_fingerprint"], exp.tokenizer.fingerprint
    if before != now:
        raise InputError(
            f"the tokenizer is not the one that step {step} of {workdir} was trained with (fingerprint {before[:8]}, "
            f"now {now[:8]}); restore {workdir / 'tokenizer'} and config.data.tokenizer.path"
        )


def inherit(fork: Path, workdir: Path) -> None:
    """Copies what a forked run knows of the checkpoint that it was imported from, so that it can be exported too."""
    origin, own = fork / ORIGIN, workdir / ORIGIN
    if jax.process_index() == 0 and origin.is_dir() and not own.exists():
        partial = own.with_name(f"{own.name}.partial-{uuid.uuid4().hex}")
        shutil.copytree(origin, partial)
        os.replace(partial, own)


def environment() -> dict[str, Any]:
    """Versions and devices of this process."""
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
