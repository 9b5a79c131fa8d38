"""`lm-jax predict`: the answers of a tuned run to new rows, one JSON object per line, in the order of the rows.

The rows are a table or JSON with the columns that the run was trained on; the column of the answers is not read. A run
with the objective seq2seq writes a text for each row. Until all rows are answered, the answers are in a file named
`OUTPUT.HASH.partial`, where the hash is of the checkpoint, the rows and the settings, so that an interrupted command is
continued by the same command only.
"""

from __future__ import annotations

import dataclasses
import glob
import hashlib
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any, cast

import numpy as np

from lm_jax import experiment
from lm_jax.core.config import InputError, Tree
from lm_jax.data import atomic, lengths
from lm_jax.data.columns import Columns, parse
from lm_jax.decode.sampling import SamplingConfig
from lm_jax.evaluate.tasks import Answering
from lm_jax.experiment import Experiment, writing
from lm_jax.experiment.writing import Writing
from lm_jax.flags import Request, need_workdir
from lm_jax.objectives.seq2seq import Seq2Seq
from lm_jax.objectives.task import Task
from lm_jax.train import manifest
from lm_jax.verbs import adapters, report
from lm_jax.verbs.runs import open_run, restore

# The number of records of the greatest length that are answered and written together; of shorter records, as many as
# take the same time. An interrupted command repeats at most so many.
CHUNK = 1024
# Formats without names of columns, and files that have them.
ANNOTATED, TABLES = ("conll", "labelled", "squad"), (".tsv", ".csv", ".jsonl", ".json")
# The same for texts, which take longer; at least a batch.
TEXTS = 128
# Flags of decoding, and their values if they are not given.
DECODING = {"max_tokens": None, "temperature": None, "top_k": 0, "top_p": 1.0, "seed": None}


def run(request: Request) -> int:
    """Writes `--output`, or prints the answers without it."""
    if not request.input:
        raise InputError("predict needs --input=ROWS, a .tsv, .csv or .jsonl file with the columns of the run")
    output = Path(request.output) if request.output else None
    if output is not None:
        atomic.check_file(output, "--output")
    exp = with_rows(open_run(request), request.input)
    step, weights = restore(request, exp)
    answering = _answering(request, exp)
    chunk = chunk_of(exp) if isinstance(answering, Answering) else max(TEXTS, answering.batch)
    rows, records = answering.rows, cast(Columns, exp.store).records
    partial = None if output is None else partial_file(request, exp, step, output)
    done = 0 if partial is None else keep_chunks(partial, chunk)
    if done:
        report.say(f"{partial} has the answers to {done:,} of {records:,} rows; the others follow")

    def lines() -> Iterator[list[dict[str, Any]]]:
        for start in range(done, records, chunk):
            stop = min(start + chunk, records)
            first, last = np.searchsorted(rows.numbers, [start, stop])
            answers: list[dict[str, Any]] = [{} for _ in range(start, stop)]
            part = rows.part(int(first), int(last))
            described = answering.described(weights, part) if len(part) else []
            for record, answer in zip(part.records, described, strict=True):
                answers[record - start] = answer
            yield answers

    if partial is None or output is None:
        for answers in lines():
            for answer in answers:
                report.document(answer)
        return 0
    with open(partial, "ab") as file:
        for answers in lines():
            _append(file, answers)
    os.replace(partial, output)
    empty = records - len(rows.records)
    report.say(f"step {step} of {request.workdir}: {records:,} answers in {output}")
    if empty:
        report.warn(f"{empty:,} of them are {{}}, because a column of the row is empty")
    return 0


def with_rows(exp: Experiment, path: str) -> Experiment:
    """The experiment with the rows of a file, which lack the answers, as its validation split.

    Raises:
      InputError: the run's objective gives no answers, or the file lacks a column.
    """
    data, objective = exp.config.data.without_dev(), exp.objective
    if not isinstance(objective, (Task, Seq2Seq)):
        raise InputError(
            f"the run has the objective {exp.config.objective.name!r}, which gives no answers; predict reads runs of "
            "tasks, and lm-jax generate continues texts"
        )
    stand_ins = objective.stand_ins if isinstance(objective, Task) else {}
    unread = tuple(name for name in objective.answer_columns if name not in stand_ins)
    # A table has the names of the columns, unless the run was trained on tables.
    tabled = data.format in ANNOTATED and Path(path).suffix.lower() in TABLES
    over = {"path": "", "dev": "", **({"field": ""} if tabled else {})}
    columns = {name: {**column, **over} for name, column in data.columns.items() if name not in unread}
    for name, kind in stand_ins.items():
        of = parse(data.columns)[name].of
        columns[name] = {"kind": kind, "of": of}
    form = "auto" if tabled else data.format
    data = dataclasses.replace(data, path=path, format=form, columns=Tree(columns), dev="", validation=1.0)
    prepared = experiment.prepare(dataclasses.replace(exp.config, data=data), tokenizer=exp.tokenizer)
    prepared = dataclasses.replace(prepared, saved_labels=exp.labels, unread=unread)
    return _cut(prepared) if isinstance(objective, Task) else prepared


def chunk_of(exp: Experiment) -> int:
    """The number of records that are answered together: the more, the less padding their sorted rows have."""
    sizes = lengths.of(exp.feed.rows("validation"))
    return CHUNK * exp.config.data.length // max(int(sizes.max()), 1) if len(sizes) else CHUNK


def _cut(exp: Experiment) -> Experiment:
    """The experiment with lengths to which batches of its rows are cut, because most may be short.

    Lengths that are divided over devices stay as they are.
    """
    data = exp.config.data
    if exp.layout.divisor("length") > 1 or exp.layout.divisor("stream") > 1:
        return exp
    buckets = lengths.economical(lengths.of(exp.feed.rows("validation")), data.length)
    return dataclasses.replace(
        exp, config=dataclasses.replace(exp.config, data=dataclasses.replace(data, buckets=buckets))
    )


def _answering(request: Request, exp: Experiment) -> Answering | Writing:
    """What answers the rows.

    Raises:
      InputError: a flag of decoding that has no effect.
    """
    given = [name for name, default in DECODING.items() if getattr(request, name) != default]
    if isinstance(exp.objective, Task):
        if given:
            raise InputError(
                f"--{given[0]} is for runs that write texts, and this one has the objective "
                f"{exp.config.objective.name!r}; leave it out"
            )
        return exp.answering()
    temperature = request.temperature or 0.0
    if not temperature and (drawn := [name for name in given if name in ("top_k", "top_p", "seed")]):
        raise InputError(
            f"--{drawn[0]} is for sampling, but predict is greedy; set --temperature=1 too, or leave it out"
        )
    sampling = SamplingConfig(temperature=temperature, top_k=request.top_k, top_p=request.top_p)
    return writing.of(exp, sampling, request.max_tokens, request.seed or 0)


def partial_file(request: Request, exp: Experiment, step: int | None, output: Path) -> Path:
    """Where the answers of a command are kept until all rows are answered.

    Raises:
      InputError: there are the answers of another command.
    """
    config, folder = experiment.as_json(exp.config), Path(need_workdir(request)) / "checkpoints"
    described = {
        "checkpoint": manifest.read(folder / str(step))["files"],
        "rows": exp.data_fingerprint,
        "settings": {name: config[name] for name in ("model", "models", "objective", "conventions", "adapt")},
        "adapter": adapters.digest(Path(request.adapter)) if request.adapter else "",
        "length": exp.config.data.length,
        "flags": {name: getattr(request, name) for name in DECODING},
    }
    digest = hashlib.sha256(json.dumps(described, sort_keys=True).encode()).hexdigest()[:8]
    partial = output.with_name(f"{output.name}.{digest}.partial")
    pattern = f"{glob.escape(output.name)}.{'[0-9a-f]' * len(digest)}.partial"
    if others := sorted(path for path in output.parent.glob(pattern) if path != partial):
        raise InputError(
            f"{others[0]} has answers of another command: of another checkpoint or version, to other rows, or "
            "with other settings; repeat that command to finish it, delete the file, or give another --output"
        )
    return partial


def keep_chunks(path: Path, chunk: int) -> int:
    """Cuts off what follows the last whole chunk of lines, and returns the number of lines.

    A killed command left the rest. Its rows are answered again, in the batches of an uninterrupted command, so that
    every answer has the same bits.
    """
    if not path.exists():
        return 0
    with open(path, "rb+") as file:
        lines = [line for line in file if line.endswith(b"\n")]
        kept = lines[: len(lines) // chunk * chunk]
        file.truncate(sum(map(len, kept)))
    return len(kept)


def _append(file: IO[bytes], answers: list[dict[str, Any]]) -> None:
    file.write("".join(json.dumps(answer, ensure_ascii=False) + "\n" for answer in answers).encode())
    file.flush()
    os.fsync(file.fileno())
