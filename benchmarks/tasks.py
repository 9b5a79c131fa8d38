"""Tunes a pretrained encoder on the tasks of a table, and compares the scores with those of Transformers.

python -m benchmarks.tasks model=RUN data=FOLDER output=FOLDER [only=sst2,mrpc] [variant=mean] [seeds=1,2] [parallel=4]
    [config.KEY=VALUE ...]

RUN is an imported checkpoint (`lm-jax import`) or another run, in which {seed} stands for the seed; FOLDER holds the
data sets. Every row of the table is one `lm-jax train` command, which is printed; finished rows are not repeated. The
reference scores are those that Transformers on torch reached with the same weights, files, batches of 32, three epochs
and learning rates, one seed; the rows without one run if `only` names them.
"""

from __future__ import annotations

import concurrent.futures
import gzip
import itertools
import json
import math
import os
import re
import shlex
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import NamedTuple


class Row(NamedTuple):
    """A task: the recipe, the files of training and held-out rows, the score and Transformers' value of it.

    `held` is a file, or the number of the last rows; `most` limits the sentences of the training file; `settings` are
    further flags; `edit` changes each line of the files.
    """

    recipe: str
    train: str
    held: str | int
    score: str
    reference: float | None = None
    most: int = 0
    settings: tuple[str, ...] = ()
    edit: Callable[[str], str] | None = None


# A small encoder learns at a higher rate than MiniLM; by number of epochs.
SMALL = {count: ("--config.optimizer.learning_rate=1e-3", f"--config.train.epochs={count}") for count in (1, 2, 8)}


SUMMARIES = ("--config.data.length=512", "--config.objective.seq2seq.target_length=96")
TABLE = {
    "sst2": Row("classify:sst2", "sst2/train.tsv.gz", "sst2/dev.tsv.gz", "accuracy", 0.873),
    "cola": Row("classify:cola", "cola/in_domain_train.tsv.gz", "cola/in_domain_dev.tsv", "matthews", 0.318),
    "mrpc": Row("pair:mrpc", "mrpc/msr-para-train.tsv.gz", "mrpc/msr-para-val.tsv.gz", "f1", 0.851),
    "rte": Row("pair:rte", "rte/train.tsv.gz", 374, "accuracy", 0.572),
    "stsb": Row("sts:stsb", "stsb/train.tsv.gz", 848, "spearman", 0.817),
    "sick": Row("pair:sick", "sick/SICK_train.txt.gz", "sick/SICK_trial.txt", "accuracy", 0.844),
    "trec": Row("classify:trec", "trec/train.txt.gz", 545, "accuracy", 0.939),
    "conll2003": Row("tag:conll2003", "conll2003/train.txt.gz", "conll2003/valid.txt.gz", "entity_f1", 0.842, 4000),
    "snips_intent": Row("classify:snips", "snips/train", "snips/dev", "accuracy", 0.984, 4000),
    "snips_slots": Row("tag:snips", "snips/train", "snips/dev", "entity_f1", 0.770, 4000),
    "semeval2010": Row("relation:semeval2010", "semeval2010_task8/train.tsv.gz", 800, "macro_f1", 0.494),
    # The questions of the last 48 of 240 paragraphs.
    "xquad": Row("qa:squad", "xquad/xquad.en.json.gz", 210, "answer_f1"),
    # The last 50 dialogues.
    "dialogsum": Row("summarise:dialogsum", "dialogsum/dialogsum.dev.jsonl.gz", 50, "rougeL", settings=SUMMARIES),
    "copa": Row("choice:copa", "copa/dev.jsonl.gz", 100, "accuracy"),
    "piqa": Row("choice:piqa", "piqa/valid.jsonl.gz", 368, "accuracy"),
    "chnsenticorp": Row("classify:chnsenticorp", "chnsenticorp/train.tsv.gz", 1000, "accuracy", settings=SMALL[2]),
    "thucnews": Row("classify:thucnews", "thucnews_titles/dev.txt.gz", 1000, "accuracy", settings=SMALL[2]),
    # A space stands for the character in one of its lines.
    "resume": Row(
        "tag:table",
        "resume_ner/train.char.bmes.gz",
        "resume_ner/dev.char.bmes.gz",
        "entity_f1",
        settings=(*SMALL[1], "--config.data.bad_rows=skip"),
    ),
    # A character is followed by its place in the word.
    "weibo": Row(
        "tag:table",
        "weibo_ner/train.conll.gz",
        "weibo_ner/dev.conll.gz",
        "entity_f1",
        settings=SMALL[8],
        edit=lambda line: re.sub(r"^(\S+)\d\s", r"\1\t", line),
    ),
}
# Files of the columns of SNIPS, which has one file per column.
SNIPS = {"text": "seq.in", "label": "label", "tags": "seq.out"}
# What tuning allows beyond the reference's settings: for tasks of texts, and for tags.
MEAN = ("--config.model.task.pool=mean", "--config.model.task.dense=false", "--config.model.task.activation=")
VARIANTS = {
    "same": ((), ()),
    "mean": (MEAN, ()),
    "better": (
        (*MEAN, "--config.train.epochs=5", "--config.optimizer.learning_rate=1e-4"),
        ("--config.train.epochs=6", "--config.optimizer.learning_rate=3e-4"),
    ),
}


def command(name: str, row: Row, options: dict[str, str], seed: int) -> list[str]:
    """The `lm-jax train` command of a row."""
    data, output = Path(options["data"]), Path(options["output"])
    variant = options["variant"]
    words = [
        f"--config={row.recipe}",
        f"--fork={options['model'].format(seed=seed)}",
        *_files(row, data, output),
        *row.settings,
        *(f"--{key}={value}" for key, value in options.items() if key.startswith("config.")),
        *VARIANTS[variant][row.recipe.startswith("tag")],
    ]
    workdir = output / f"{name}-{variant}-{seed}"
    return ["lm-jax", "train", *words, f"--config.seed={seed}", f"--workdir={workdir}"]


def _files(row: Row, data: Path, output: Path) -> list[str]:
    if row.recipe.endswith("snips"):
        columns = ("text", "tags") if row.recipe.startswith("tag") else ("text", "label")
        flags = []
        for column in columns:
            train = next(data.glob(f"{row.train}.{SNIPS[column]}*"))
            key = f"--config.data.columns.{column}"
            flags += [f"{key}.path={_copy(train, row, output)}", f"{key}.dev={data / row.held}.{SNIPS[column]}"]
        return flags
    flags = [f"--config.data.path={_copy(data / row.train, row, output)}"]
    if isinstance(row.held, int):
        return [*flags, f"--config.data.validation={row.held}"]
    return [*flags, f"--config.data.dev={_copy(data / row.held, row._replace(most=0), output)}"]


def _copy(path: Path, row: Row, output: Path) -> Path:
    """The file, or an edited copy of its first sentences, which empty lines or, in files of lines, lines separate."""
    if not row.most and not row.edit:
        return path
    opened = gzip.open if path.suffix == ".gz" else open
    with opened(path, "rt", encoding="utf-8") as file:
        lines = [line for line in file if not line.startswith("-DOCSTART-")]
    lines = [row.edit(line) if row.edit and line.strip() else line for line in lines]
    most = row.most or len(lines)
    copy = output / f"{path.parent.name}-{path.name.removesuffix('.gz')}"
    if any(not line.strip() for line in lines):
        sentences = [[*group] for full, group in itertools.groupby(lines, lambda line: bool(line.strip())) if full]
        copy.write_text("\n".join("".join(sentence) for sentence in sentences[:most]), encoding="utf-8")
    else:
        copy.write_text("".join(lines[:most]), encoding="utf-8")
    return copy


def score(row: Row, words: list[str]) -> tuple[float, float]:
    """Runs a command; returns its last score and the seconds that it took."""
    workdir, start = Path(words[-1].partition("=")[2]), time.monotonic()
    environment = {**os.environ, "LM_JAX_CACHE": os.environ.get("LM_JAX_CACHE", str(workdir.parent / "cache"))}
    result = subprocess.run(
        [sys.executable, "-m", "lm_jax.main", *words[1:]], env=environment, capture_output=True, text=True, check=False
    )
    if result.returncode:
        print(result.stderr[-2000:], file=sys.stderr)
        return float("nan"), time.monotonic() - start
    lines = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    values = [line[f"val/{row.score}"] for line in lines if f"val/{row.score}" in line]
    print(f"{workdir.name}: {row.score} {values[-1]:.4f}, by evaluation {values}", flush=True)
    return values[-1], time.monotonic() - start


def main(words: Iterable[str]) -> None:
    """Prints a line for each task."""
    options = {
        "variant": "same",
        "seeds": "1",
        "parallel": "1",
        "only": ",".join(name for name, row in TABLE.items() if row.reference is not None),
        **dict(word.split("=", 1) for word in words),
    }
    output = Path(options["output"])
    output.mkdir(parents=True, exist_ok=True)
    seeds = [int(seed) for seed in options["seeds"].split(",")]
    names = options["only"].split(",")
    commands = {(name, seed): command(name, TABLE[name], options, seed) for name in names for seed in seeds}
    for each in commands.values():
        print(shlex.join(each), flush=True)
    with concurrent.futures.ThreadPoolExecutor(int(options["parallel"])) as pool:
        results = {key: pool.submit(score, TABLE[key[0]], each) for key, each in commands.items()}
    print("| task | score | Transformers | lm_jax | deviation | seconds |\n|---|---|---|---|---|---|")
    for name in names:
        values, seconds = zip(*(results[name, seed].result() for seed in seeds), strict=True)
        scored = len(values) > 1 and all(map(math.isfinite, values))
        deviation = f"{100 * statistics.stdev(values):.1f}" if scored else ""
        row = TABLE[name]
        reference = "" if row.reference is None else f"{100 * row.reference:.1f}"
        mean = f"{100 * statistics.fmean(values):.1f} | {deviation} | {statistics.fmean(seconds):.0f}"
        print(f"| {name} | {row.score} | {reference} | {mean} |")


if __name__ == "__main__":
    main(sys.argv[1:])
