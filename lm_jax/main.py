"""The command line, `lm-jax VERB ...`: parses the flags, connects the hosts of the run and runs the verb.

Heavy modules are imported only after the command line has been checked, so that help and errors appear at once.
"""

from __future__ import annotations

import errno
import importlib
import io
import os
import shlex
import sys
import warnings
from collections.abc import Sequence

from lm_jax import __version__, flags
from lm_jax.core import host
from lm_jax.core.config import InputError, nearest

# Exit codes. The watchdog (`lm_jax.train.watchdog`) uses 4; 130 is the shells' code for Ctrl-C.
DONE, FAILED, BAD_INPUT, NON_FINITE, NO_CHECKPOINT, PREEMPTED, INTERRUPTED = 0, 1, 2, 3, 5, 75, 130
# OS errors: the path that the user chose cannot be used; the disk is full.
UNUSABLE = (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.EISDIR, errno.EEXIST, errno.ENAMETOOLONG)
FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)

# Verb: its module in lm_jax.verbs and its help text.
VERBS = {
    "train": ("train", "train a model, or resume a run where it stopped"),
    "evaluate": ("evaluate", "compute loss, perplexity, bits per byte and accuracy of a trained model"),
    "predict": ("predict", "answer new rows with a tuned run: labels, tags, spans of text, texts"),
    "features": ("features", "write vectors of texts: hidden states of any layer, per row or per token"),
    "generate": ("generate", "continue prompts (decoder), fill masks (encoder) or restore spans (encoder-decoder)"),
    "tokenizer": ("tokenizer", "train a tokenizer on your text"),
    "data": ("data", "clean and tokenise your text into a token store"),
    "import": ("importing", "convert a Hugging Face checkpoint to a run, to generate from, evaluate or train further"),
    "export": ("exporting", "convert a run to a Hugging Face checkpoint and check that both give the same outputs"),
    "verify": ("verify", "compare our outputs for a checkpoint with stored outputs of a reference implementation"),
    "inspect": ("inspect", "show a recipe's parameters and shardings, a preset's costs, or curves and results of runs"),
    "plan": ("plan", "compile a recipe's train step for TPUs that you do not have, and print what it will cost"),
    "list": ("catalogue", "list recipes, architectures, objectives and all other choices"),
    "doctor": ("doctor", "show versions and devices, and what to install"),
    "completion": ("completion", "print a script that completes verbs, flags and keys in bash, zsh or fish"),
}

USAGE = """usage: lm-jax VERB [--config=RECIPE[:VARIANT]] [--config.KEY=VALUE ...] [--workdir=DIR] [flags]

{verbs}

  RECIPE is a shipped recipe (lm-jax list shows them) or your own Python file that defines get_config(variant).
  KEY is any field of the configuration (lm-jax inspect --config=RECIPE shows them all).

{flags}

examples:
  lm-jax train --config=gpt:tiny --config.data.path=my.txt --workdir=/tmp/run
  lm-jax generate --workdir=/tmp/run --prompt='Once upon a time'
"""


def main(argv: Sequence[str]) -> int:
    """Runs one verb and returns the exit code; `argv[0]` is the program's name."""
    words = list(argv[1:])
    _escape_unprintable()
    if not words or words[0] in ("help", "--help", "-h") or "--help" in words:
        selected = [word for word in words if word in VERBS][:1] or list(VERBS)
        verbs = "\n".join(f"  {name:10} {VERBS[name][1]}" for name in selected)
        print(USAGE.format(verbs=verbs, flags=flags.describe(selected[0] if len(selected) == 1 else None)))
        return DONE if words else BAD_INPUT
    try:
        if words[0] == "--version":
            print(f"lm_jax {__version__}")
            return DONE
        if words[0] not in VERBS:
            raise InputError(f"unknown verb {words[0]!r}{nearest(words[0], VERBS)}; lm-jax --help lists the verbs")
        if words[0] == "completion":
            from lm_jax.verbs import completion

            return completion.run(words[1:], VERBS)
        host.cache_compiled_programs(host.cache_root())
        request = flags.parse(words[0], words[1:])
        return _run(VERBS[words[0]][0], request)
    except InputError as error:
        print(f"lm-jax {words[0]}: {_one_line(error)}", file=sys.stderr)
        return BAD_INPUT
    except BrokenPipeError:
        # The reader of the pipe stopped early, as `head` does.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return DONE
    except OSError as error:
        if error.errno not in UNUSABLE + FULL:
            raise
        print(f"lm-jax {words[0]}: {_describe(error)}", file=sys.stderr)
        return BAD_INPUT if error.errno in UNUSABLE else FAILED
    except KeyboardInterrupt:
        print(f"lm-jax {words[0]}: interrupted", file=sys.stderr)
        return INTERRUPTED


def command(line: str) -> None:
    """Runs a command in this process, as notebooks do: the arguments of `lm-jax` as one line, quoted as for a shell.

    Raises:
      RuntimeError: the command did not succeed; its message is on standard error.

    Example:
      >>> command("--version")
      lm_jax ...
    """
    if code := main(["lm-jax", *shlex.split(line)]):
        raise RuntimeError(f"lm-jax {line}: exit code {code}; the message above says why")


def _run(module: str, request: flags.Request) -> int:
    """Runs a verb; prints an error that has its own exit code in one line, without a traceback."""
    host.keep_freed_memory()
    # An unusable cache only makes the next start compile again, which needs no warning per program.
    warnings.filterwarnings("ignore", "Error (writing|reading) persistent compilation cache")
    _start_hosts(request)
    verb = importlib.import_module(f"lm_jax.verbs.{module}")
    from lm_jax.train.checkpoint import NoIntactCheckpoint
    from lm_jax.train.loop import NonFiniteLoss, Preempted

    codes = {NonFiniteLoss: NON_FINITE, NoIntactCheckpoint: NO_CHECKPOINT, Preempted: PREEMPTED}
    try:
        if "," not in (request.adapter or "") or os.path.exists(str(request.adapter)):
            return verb.run(request) or DONE
        from lm_jax.verbs import adapters

        return adapters.run_each(verb.run, request) or DONE
    except tuple(codes) as error:
        print(f"lm-jax {request.verb}: {_one_line(error)}", file=sys.stderr)
        return codes[type(error)]


def _start_hosts(request: flags.Request) -> None:
    """Connects the processes of a multi-host run; on a TPU pod, JAX reads their addresses from the environment."""
    if request.coordinator is not None or request.distributed:
        import jax

        jax.distributed.initialize(request.coordinator, request.processes, request.process)


def _escape_unprintable() -> None:
    """Makes the output streams escape characters that the terminal cannot encode, instead of raising an error."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def _describe(error: OSError) -> str:
    """Formats the path, the system's error and what to do."""
    path = error.filename2 or error.filename or "a file"
    advice = (
        "use another directory (--workdir or --output; for prepared text and compiled programs set LM_JAX_CACHE)"
        if error.errno in UNUSABLE
        else "free some space and run the same command again: a run resumes from its last checkpoint"
    )
    return f"{path}: {(error.strerror or str(error)).lower()}; {advice}"


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split())


def cli() -> None:
    """Entry point of the console script `lm-jax`."""
    sys.exit(main(sys.argv))


if __name__ == "__main__":
    cli()
