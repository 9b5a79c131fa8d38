"""`lm-jax VERB ...` and `python -m lm_jax.main VERB ...`: reads the command line, starts the hosts, runs the verb.

Nothing heavy is imported before the command line is known to be good.
"""

from __future__ import annotations

import errno
import importlib
import io
import os
import sys
import warnings
from collections.abc import Sequence

from lm_jax import flags
from lm_jax.core import host
from lm_jax.core.config import InputError

# Exit codes; 4 is the watchdog's (`lm_jax.train.watchdog`), and 130 what shells call the end by Ctrl-C.
DONE, FAILED, BAD_INPUT, NON_FINITE, NO_CHECKPOINT, PREEMPTED, INTERRUPTED = 0, 1, 2, 3, 5, 75, 130
# What the system says of places that the user chose and that cannot be used; of a disk with no room left.
UNUSABLE = (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.EISDIR, errno.EEXIST, errno.ENAMETOOLONG)
FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)

# Verb: module of lm_jax.verbs, and what it does.
VERBS = {
    "train": ("train", "train a model, or go on where a run stopped"),
    "evaluate": ("evaluate", "loss, perplexity, bits per byte and accuracy of a trained model"),
    "generate": ("generate", "continue prompts; fill masks (encoder); restore spans (encoder-decoder)"),
    "tokenizer": ("tokenizer", "train a tokenizer on your text"),
    "data": ("data", "clean and tokenise your text into a token store"),
    "import": ("importing", "a Hugging Face checkpoint as a run: generate, evaluate and train it further"),
    "export": ("exporting", "a run as a Hugging Face checkpoint, compared with the run before it is done"),
    "verify": ("verify", "compare what we compute with stored results of a reference implementation"),
    "inspect": ("inspect", "parameters and shardings of a recipe; what a preset costs; curves and results of runs"),
    "list": ("catalogue", "recipes, architectures, objectives and every other choice"),
    "doctor": ("doctor", "versions, devices and what to install"),
    "completion": ("completion", "a script that completes all of this in bash, zsh or fish"),
}

USAGE = """usage: lm-jax VERB [--config=RECIPE[:VARIANT]] [--config.KEY=VALUE ...] [--workdir=DIR] [flags]

{verbs}

  RECIPE is a Python file with get_config(variant), or the name of a shipped one (lm-jax list).

{flags}

examples:
  lm-jax train --config=gpt:tiny --config.data.path=my.txt --workdir=/tmp/run
  lm-jax generate --workdir=/tmp/run --prompt='Once upon a time'
"""


def main(argv: Sequence[str]) -> int:
    """Runs one verb; returns the exit code. `argv` starts with the program's name."""
    words = list(argv[1:])
    _print_anything()
    if not words or words[0] in ("help", "--help", "-h") or "--help" in words:
        asked = [word for word in words if word in VERBS][:1] or list(VERBS)
        verbs = "\n".join(f"  {name:10} {VERBS[name][1]}" for name in asked)
        print(USAGE.format(verbs=verbs, flags=flags.describe(asked[0] if len(asked) == 1 else None)))
        return DONE if words else BAD_INPUT
    try:
        if words[0] == "--version":
            from lm_jax import __version__

            print(f"lm_jax {__version__}")
            return DONE
        if words[0] not in VERBS:
            from lm_jax.core.config import nearest

            raise InputError(f"unknown verb {words[0]!r}{nearest(words[0], VERBS)}; lm-jax --help lists them")
        if words[0] == "completion":
            from lm_jax.verbs import completion

            return completion.run(words[1:], VERBS)
        host.keep_compiled_programs(host.cache_root())
        request = flags.parse(words[0], words[1:])
        return _run(VERBS[words[0]][0], request)
    except InputError as error:
        print(f"lm-jax {words[0]}: {_one_line(error)}", file=sys.stderr)
        return BAD_INPUT
    except BrokenPipeError:
        # The reader of our output left, as `head` does.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return DONE
    except OSError as error:
        if error.errno not in UNUSABLE + FULL:
            raise
        print(f"lm-jax {words[0]}: {_about(error)}", file=sys.stderr)
        return BAD_INPUT if error.errno in UNUSABLE else FAILED
    except KeyboardInterrupt:
        print(f"lm-jax {words[0]}: interrupted", file=sys.stderr)
        return INTERRUPTED


def _run(module: str, request: flags.Request) -> int:
    """Runs a verb of a good command line; ends of a run that have a code of their own get one line."""
    host.keep_freed_memory()
    # Without room for compiled programs the next start compiles again; that is no reason to fill the screen.
    warnings.filterwarnings("ignore", "Error (writing|reading) persistent compilation cache")
    _start_hosts(request)
    verb = importlib.import_module(f"lm_jax.verbs.{module}")
    from lm_jax.train.checkpoint import NoIntactCheckpoint
    from lm_jax.train.loop import NonFiniteLoss, Preempted

    codes = {NonFiniteLoss: NON_FINITE, NoIntactCheckpoint: NO_CHECKPOINT, Preempted: PREEMPTED}
    try:
        return verb.run(request) or DONE
    except tuple(codes) as end:
        print(f"lm-jax {module}: {_one_line(end)}", file=sys.stderr)
        return codes[type(end)]


def _start_hosts(request: flags.Request) -> None:
    """Joins the processes of a run over several hosts; on a TPU pod the environment says who they are."""
    if request.coordinator is None and not request.distributed:
        return
    import jax

    jax.distributed.initialize(request.coordinator, request.processes, request.process)


def _print_anything() -> None:
    """Has characters that a terminal's encoding lacks printed as escapes, instead of ending the program."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def _about(error: OSError) -> str:
    """What the system refused, where, and what to do."""
    place = error.filename2 or error.filename or "a file"
    advice = (
        "give another directory (--workdir, --output; prepared text and compiled programs: $LM_JAX_CACHE)"
        if error.errno in UNUSABLE
        else "make room, then run the same command: a run resumes from its last checkpoint"
    )
    return f"{place}: {(error.strerror or str(error)).lower()}; {advice}"


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split())


def cli() -> None:
    """The console script."""
    sys.exit(main(sys.argv))


if __name__ == "__main__":
    cli()
