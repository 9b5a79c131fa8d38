"""Compares ways of tuning a pretrained model: quality, trained share, time and memory of a step, and what is forgotten.

python -m benchmarks.adaptation model=RUN data=FOLDER output=FOLDER [tasks=sst2,conll2003] [methods=lora,bias]
    [epochs=2] [rows=2000] [seeds=1,2,3] [pretraining='--config=novels:gpt --config.data.path=novels.jsonl.xz']

RUN is an imported checkpoint or another run, FOLDER holds the data sets, as for `benchmarks.tasks`. Every line of the
table is one `lm-jax train` command on the first `rows` rows and one `lm-jax predict` command on the held-out ones; what
has been measured is kept in `output`/runs.jsonl and not repeated. The table is written to table.md, table.csv and
table.png. With `pretraining`, the flags of the recipe that RUN was pretrained with, each tuned run is forked with a
learning rate of nearly zero, and its loss on held-out text is given beside RUN's.
"""

from __future__ import annotations

import csv
import dataclasses
import gzip
import json
import math
import os
import re
import shlex
import statistics
import subprocess
import sys
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from benchmarks import tasks

SEEDS = (1, 2, 3)


@dataclasses.dataclass(frozen=True)
class Way:
    """A way of tuning: its settings below `config.`, and its seeds.

    Attributes:
      rates: learning rates for texts, for tags, and for what a small model writes.
    """

    settings: Mapping[str, Any]
    rates: tuple[float, float, float]
    seeds: tuple[int, ...] = (1,)


def _method(name: str, rate: float, seeds: tuple[int, ...] = (1,), **settings: Any) -> Way:
    settings = {f"adapt.{key}": value for key, value in settings.items()}
    return Way({"adapt.method": name, **settings}, (rate, 2 * rate, 3 * rate), seeds)


WAYS = {
    "full": Way({}, (5e-5, 1e-4, 1e-3), SEEDS),
    "head": _method("head", 1e-2, SEEDS),
    "bias": _method("bias", 3e-3, SEEDS),
    # On all matrices; and on those of its paper.
    "lora": _method("lora", 1e-3, SEEDS, targets="attention,feedforward"),
    "lora_qv": _method("lora", 1e-3, SEEDS),
    "norms": _method("norms", 3e-3),
    "last": _method("last", 2e-4, layers=2),
    "feedforward": _method("feedforward", 1e-4),
    "attention": _method("attention", 1e-4),
    "layer_decay": Way({"optimizer.layer_decay": 0.8}, (1e-4, 2e-4, 2e-3)),
    "rslora": _method("rslora", 5e-4),
    "dora": _method("dora", 1e-3),
    "nf4": _method("lora", 1e-3, base="nf4"),
    "int8": _method("lora", 1e-3, base="int8"),
    "ia3": _method("ia3", 1e-2),
    "houlsby": _method("houlsby", 1e-3),
    "pfeiffer": _method("pfeiffer", 1e-3),
    "prompt": _method("prompt", 1e-2),
    "prefix": _method("prefix", 1e-2),
}
# The learning rate of each kind of recipe in `Way.rates`; 0 for others.
KINDS = {"tag": 1, "summarise": 2}
# Sentences of similar length share a batch: without it, most of a batch of tagged ones is padding.
SORTED = {"tag": {"data.rows.window": 50}}
# Ways whose answers are compared row by row.
PAIRED = ("full", "lora")
COLUMNS = ("task", "method", "rate", "score", "deviation", "seeds", "trained", "seconds", "memory_mb", "loss")


def measure(task: str, name: str, seed: int, options: Mapping[str, str]) -> dict[str, Any]:
    """Trains once and answers the held-out rows; returns what is kept of it."""
    way, row = WAYS[name], tasks.TABLE[task]._replace(most=int(options["rows"]))
    recipe = row.recipe.partition(":")[0]
    rate = way.rates[KINDS.get(recipe, 0)]
    folder = Path(options["output"]) / name
    folder.mkdir(parents=True, exist_ok=True)
    settings = {
        **way.settings,
        **SORTED.get(recipe, {}),
        "optimizer.learning_rate": rate,
        "train.epochs": options["epochs"],
    }
    flags = {f"config.{key}": str(value) for key, value in settings.items()}
    common = {"model": options["model"], "data": options["data"], "output": str(folder), "variant": "same"}
    words = tasks.command(task, row, {**common, **flags}, seed)
    workdir = Path(words[-1].partition("=")[2])
    print(" ".join(words), flush=True)
    peak = _run(words[1:], workdir)
    lines = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    values = [line[f"val/{row.score}"] for line in lines if f"val/{row.score}" in line]
    answers = ""
    if name in PAIRED and isinstance(row.held, str):
        held, answers = Path(options["data"]) / row.held, str(workdir / "answers.jsonl")
        _run(["predict", f"--workdir={workdir}", f"--input={held}", f"--output={answers}", "--checkpoint"], workdir)
    share = re.search(r"trained .* parameters, ([\d.]+)%", (workdir / "model_info.txt").read_text())
    return {
        "task": task,
        "method": name,
        "seed": seed,
        "rate": rate,
        "score": values[-1],
        "trained": float(share.group(1)) if share else 100.0,
        "seconds": _seconds(lines),
        "memory_mb": peak / 1024,
        "answers": answers,
        "loss": forgetting(workdir, folder / f"{workdir.name}-forked", options),
    }


def forgetting(run: Path, workdir: Path, options: Mapping[str, str]) -> float | None:
    """The loss of a run on held-out text of `pretraining`; None without, or for what cannot be folded into its base."""
    method = json.loads((run / "config.json").read_text()).get("adapt", {}).get("method", "full")
    if not options["pretraining"] or method in ("houlsby", "pfeiffer", "prompt", "prefix"):
        return None
    flags = ["train.steps=1", "optimizer.learning_rate=1e-12", "evaluate.every=1"]
    words = [*shlex.split(options["pretraining"]), *(f"--config.{flag}" for flag in flags)]
    _run(["train", *words, f"--fork={run}", f"--workdir={workdir}"], workdir)
    lines = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    return next(line["val/loss"] for line in lines if "val/loss" in line)


def _run(words: list[str], workdir: Path) -> int:
    """Runs `lm-jax`; returns its peak memory in KiB. Ends the program with its last words if it fails."""
    environment = {**os.environ, "LM_JAX_CACHE": os.environ.get("LM_JAX_CACHE", str(workdir.parent / "cache"))}
    with open(workdir.parent / f"{workdir.name}-{words[0]}.log", "w+", encoding="utf-8") as log:
        child = subprocess.Popen(
            [sys.executable, "-m", "lm_jax.main", *words], env=environment, stdout=log, stderr=subprocess.STDOUT
        )
        _, status, usage = os.wait4(child.pid, 0)
        if status:
            log.seek(0)
            sys.exit(log.read()[-2000:])
    return usage.ru_maxrss


def _seconds(lines: list[dict[str, Any]]) -> float:
    """The median time of a step between two lines of the metrics."""
    rates = [line for line in lines if "train/tokens_per_second" in line]
    steps = [
        (after["train/tokens"] - before["train/tokens"])
        / after["train/tokens_per_second"]
        / (after["step"] - before["step"])
        for before, after in zip(rates, rates[1:], strict=False)
    ]
    return statistics.median(steps) if steps else math.nan


def table(runs: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """A line for each task and method, in the order of `WAYS`."""
    lines = []
    for task in dict.fromkeys(run["task"] for run in runs):
        for name in WAYS:
            own = [run for run in runs if (run["task"], run["method"]) == (task, name)]
            if not own:
                continue
            scores = [100 * run["score"] for run in own]
            mean = {key: statistics.fmean(run[key] for run in own) for key in ("memory_mb", "trained")}
            # Other programs only make a step slower.
            mean["seconds"] = min(run["seconds"] for run in own)
            losses = [run["loss"] for run in own if run.get("loss") is not None]
            mean["loss"] = statistics.fmean(losses) if losses else math.nan
            line = {"task": task, "method": name, "rate": own[0]["rate"], "score": statistics.fmean(scores)}
            deviation = statistics.stdev(scores) if len(scores) > 1 else ""
            lines.append({**line, **mean, "deviation": deviation, "seeds": len(own)})
    return lines


def paired(task: str, runs: list[dict[str, Any]], options: Mapping[str, str]) -> str:
    """The mean difference between LoRA and full tuning over rows and seeds, with its standard error over the rows."""
    with gzip.open(Path(options["data"]) / str(tasks.TABLE[task].held), "rt", encoding="utf-8") as file:
        held = [line.rstrip("\n").rpartition("\t")[2] for line in file]
    by_seed: dict[str, dict[int, list[float]]] = {name: {} for name in PAIRED}
    for run in runs:
        if run["task"] == task and run["method"] in by_seed:
            answers = [json.loads(line)["label"] for line in Path(run["answers"]).read_text().splitlines()]
            right = [float(str(answer) == label) for answer, label in zip(answers, held, strict=True)]
            by_seed[run["method"]][run["seed"]] = right
    seeds = by_seed["full"].keys() & by_seed["lora"].keys()
    if not seeds:
        return ""
    rows = [
        statistics.fmean(by_seed["lora"][seed][index] - by_seed["full"][seed][index] for seed in seeds)
        for index in range(len(held))
    ]
    error = statistics.stdev(rows) / math.sqrt(len(rows))
    return f"{task}: LoRA over full {100 * statistics.fmean(rows):+.2f}, standard error {100 * error:.2f}"


def write(lines: list[dict[str, Any]], output: Path) -> None:
    """Writes table.md, table.csv and table.png."""
    from matplotlib.figure import Figure

    with open(output / "table.csv", "w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, COLUMNS)
        writer.writeheader()
        writer.writerows(lines)
    text = [
        "| task | method | rate | score | trained, % | seconds a step | peak memory, MB | loss on its text |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for line in lines:
        deviation = f" ({line['deviation']:.1f})" if line["seeds"] > 1 else ""
        text.append(
            f"| {line['task']} | {line['method']} | {line['rate']:g} | {line['score']:.1f}{deviation} "
            f"| {line['trained']:.2f} | {line['seconds']:.2f} | {line['memory_mb']:,.0f} |"
            + (f" {line['loss']:.3f} |" if math.isfinite(line["loss"]) else "  |")
        )
    (output / "table.md").write_text("\n".join(text) + "\n", encoding="utf-8")
    print("\n".join(text))
    names = list(dict.fromkeys(line["task"] for line in lines))
    figure = Figure(figsize=(6 * len(names), 4), layout="constrained")
    for axis, task in zip(figure.subplots(1, len(names), squeeze=False)[0], names, strict=True):
        for line in (line for line in lines if line["task"] == task):
            axis.plot(max(line["trained"], 1e-3), line["score"], "o", color="tab:blue")
            axis.annotate(line["method"], (max(line["trained"], 1e-3), line["score"]), fontsize=8)
        axis.set(xscale="log", xlabel="trained parameters, %", ylabel=tasks.TABLE[task].score, title=task)
    figure.savefig(output / "table.png", dpi=120)


def main(words: Iterable[str]) -> None:
    """Measures what is missing and writes the table."""
    options = {
        "tasks": "sst2,conll2003",
        "methods": ",".join(WAYS),
        "epochs": "2",
        "rows": "2000",
        "seeds": "1,2,3",
        "pretraining": "",
    }
    options |= dict(word.split("=", 1) for word in words)
    output = Path(options["output"])
    output.mkdir(parents=True, exist_ok=True)
    kept = output / "runs.jsonl"
    runs = [json.loads(line) for line in kept.read_text().splitlines()] if kept.exists() else []
    done = {(run["task"], run["method"], run["seed"]) for run in runs}
    for seed in map(int, options["seeds"].split(",")):
        for name in options["methods"].split(","):
            for task in options["tasks"].split(","):
                if seed in WAYS[name].seeds and (task, name, seed) not in done:
                    start = time.monotonic()
                    runs.append(measure(task, name, seed, options))
                    print(f"{runs[-1]}, {time.monotonic() - start:.0f} s", flush=True)
                    with kept.open("a", encoding="utf-8") as file:
                        file.write(json.dumps(runs[-1]) + "\n")
    if options["pretraining"]:
        before = forgetting(Path(options["model"]), output / "model-forked", options)
        print(f"loss of {options['model']} on its own text: {before:.3f}")
    write(table(runs), output)
    if "sst2" in options["tasks"]:
        print(paired("sst2", runs, options))


if __name__ == "__main__":
    main(sys.argv[1:])
