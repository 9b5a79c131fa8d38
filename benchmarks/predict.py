"""Predict: `lm-jax predict` with a classifier, from a file of texts to a file of labels and scores.

A unit is the whole command: reading the model and the texts, cleaning, tokenising, the forward passes and writing.
Neither starting the process nor compiling is timed, but tracing and reading the programs from jax's cache. The first
start tunes the encoder in `checkpoint=DIR` for two steps on `text=FILE`, a table of texts and labels like SST-2's, and
exports it for the others; all of them read `folder=DIR`, which has `rows=10000` texts:

python -m benchmarks predict folder=DIR checkpoint=DIR text=train.tsv.gz --rounds 7 --transformers PYTHON

Transformers sorts rows by length; for batches in the order of the file, add
--also unsorted='PYTHON -m benchmarks.peers predict folder=DIR order=file'.
"""

import contextlib
import gzip
import io
import itertools
import json
import os
import shutil
import sys
from pathlib import Path

from benchmarks import protocol

ROWS = 10_000


def prepare(folder: Path, options: dict[str, str]) -> None:
    """Write `rows.tsv`, the run `run`, and `exported`, a Hugging Face checkpoint of it, unless they exist."""
    if (folder / "exported").exists():
        return
    missing = [name for name in ("checkpoint", "text") if name not in options]
    if missing:
        sys.exit(f"predict needs {' and '.join(f'{name}=...' for name in missing)} to prepare {folder}")
    folder.mkdir(parents=True, exist_ok=True)
    with gzip.open(options["text"], "rt", encoding="utf-8") as file:
        texts = [line.rstrip("\n").rpartition("\t")[0] for line in file]
    rows = itertools.islice(itertools.cycle(texts), int(options.get("rows", ROWS)))
    (folder / "rows.tsv").write_text("".join(f"{text}\t0\n" for text in rows), encoding="utf-8")
    lm_jax("import", options["checkpoint"], f"--workdir={folder / 'imported'}")
    settings = {"data.path": options["text"], "data.store": folder / "store", "train.steps": 2, "evaluate.batches": 1}
    words = [f"--config.{name}={value}" for name, value in settings.items()]
    words += ["--config=classify:sst2", f"--fork={folder / 'imported'}", "--config.log.writers=jsonl"]
    lm_jax("train", f"--workdir={folder / 'run'}", *words)
    lm_jax("export", f"--workdir={folder / 'run'}", f"--output={folder / 'exported'}")


def lm_jax(*words: object) -> None:
    """Run a command in this process, without its messages."""
    from lm_jax.main import main

    said = io.StringIO()
    with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
        code = main(["lm-jax", *map(str, words)])
    if code:
        sys.exit(f"lm-jax {' '.join(map(str, words))}: {said.getvalue()}")


def main() -> None:
    """Serve predictions of all rows."""
    options = dict(word.split("=", 1) for word in sys.argv[1:])
    if "folder" not in options:
        sys.exit("predict needs a folder for its files: folder=DIR")
    folder = Path(options["folder"]).resolve()
    os.environ.setdefault("JAX_PLATFORMS", "cpu")
    os.environ.setdefault("LM_JAX_CACHE", str(folder / "cache"))
    prepare(folder, options)
    output = folder / "lm_jax.jsonl"

    def go(units: int) -> float:
        for _ in range(units):
            # The text of another file would not be prepared yet.
            shutil.rmtree(folder / "store", ignore_errors=True)
            output.unlink(missing_ok=True)
            files = [f"--workdir={folder / 'run'}", f"--input={folder / 'rows.tsv'}", f"--output={output}"]
            lm_jax("predict", *files, f"--config.data.store={folder / 'store'}")
        return mean_score(output)

    go(1)
    protocol.serve(go, rows=sum(1 for _ in open(folder / "rows.tsv", encoding="utf-8")))


def mean_score(path: Path) -> float:
    """The mean score of the label 1, by which the answers of workers are compared."""
    scores = [json.loads(line)["scores"]["1"] for line in path.read_text().splitlines()]
    return round(sum(scores) / len(scores), 5)


if __name__ == "__main__":
    main()
