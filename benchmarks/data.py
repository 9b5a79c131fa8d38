"""Tokens per second of the input pipeline on one core, and tokenising compared with sentencepiece alone.

`python -m benchmarks.data [path=FILE] [field=NAME] [length=128] [batch=64] [seconds=3] [recipes=gpt:tiny,...]` measures
the objective and the rows of every recipe's `tiny`, and translation. One thread builds the batches; each position of a
row counts as a token, as in a run's log. Rates are per CPU second, fair on a shared machine, and per wall second. The
unigram tokenizer of 8,192 pieces is trained on the text (without a path: Python's documentation).
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

# Limits the libraries below to one core.
for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
    os.environ.setdefault(name, "1")

from lm_jax import experiment, flags
from lm_jax.data import phrases, pipeline, store, texts
from lm_jax.data.clean.chain import CleanConfig
from lm_jax.data.parts import split
from lm_jax.data.sources import SourceConfig
from lm_jax.data.tokenizers import TokenizerConfig

PIECES, SENTINELS = 8192, 100


def recipes() -> list[str]:
    """Return the recipes to measure."""
    variants = {file.stem: flags.about_recipe(file)[1] for file in sorted(flags.recipe_folder().glob("*.py"))}
    return [*(f"{name}:tiny" for name in variants if "tiny" in variants[name]), "transformer:captions"]


def batches(recipe: str, settings: list[str], length: int, batch: int, seconds: float) -> dict[str, Any]:
    """Measure how fast the batches of a recipe with other `settings` are built."""
    config, _ = flags.configure(flags.load_recipe(recipe), settings)
    exp = experiment.prepare(experiment.parse(config))
    rows, objective = exp.feed.rows("train"), exp.objective

    def work(step: int) -> int:
        pipeline.batch_at(rows, objective.features, step, seed=0, batch=batch)
        return batch * length

    return {"objective": exp.config.objective.name, "rows": objective.reads.plan, "tokens": rate(work, seconds)}


def rate(work: Callable[[int], int], seconds: float) -> dict[str, Any]:
    """Measure units of `work(step)` per second, by CPU and by wall time, after one step that fills caches."""
    work(0)
    done, step = 0, 1
    cpu, wall = time.process_time(), time.perf_counter()
    while time.process_time() - cpu < seconds:
        done += work(step)
        step += 1
    return {
        "per_cpu_s": round(done / (time.process_time() - cpu)),
        "per_wall_s": round(done / (time.perf_counter() - wall)),
    }


def tokenising(tokens: store.Store, documents: list[str], seconds: float) -> dict[str, Any]:
    """Measure MB/s of tokenising (ids and sentence starts), and of sentencepiece called per text and for all texts."""
    import sentencepiece

    folder = tokens.directory / "tokenizer"
    model = sentencepiece.SentencePieceProcessor(model_file=str(next(folder.glob("*.model"))))
    pieces = [part for text in documents for part in split(text)]
    sizes = sum(len(text.encode()) for text in documents)
    work: dict[str, Callable[[], Any]] = {
        "stage": lambda: store._encode(tokens.tokenizer, (), documents),
        "sentencepiece": lambda: [model.encode_as_numpy(piece) for piece in pieces],
        "sentencepiece_in_one_call": lambda: model.encode(pieces, return_type="numpy", num_threads=1),
    }
    spent = dict.fromkeys(work, 0.0)
    rounds = 0
    while sum(spent.values()) < len(work) * seconds:
        for name, run in work.items():
            start = time.process_time()
            run()
            spent[name] += time.process_time() - start
        rounds += 1
    return {
        "MB_per_cpu_s": {name: round(rounds * sizes / time_s / 1e6, 2) for name, time_s in spent.items()},
        "share_of": {name: round(time_s / spent["stage"], 3) for name, time_s in spent.items() if name != "stage"},
    }


def files(folder: Path, source: SourceConfig) -> dict[str, list[str]]:
    """Write the texts of recipes that read columns; return their settings by recipe."""
    lines = folder / "lines.txt"
    documents = texts.prepare(folder, source, CleanConfig())
    lines.write_text("\n".join(line for text in documents for line in text.split("\n") if line.strip()))
    (folder / "paragraphs.txt").write_text(lines.read_text().replace("\n", "\n\n"))
    phrases.main([str(folder / "paragraphs.txt"), str(folder / "phrases.jsonl")])
    columns = "--config.data.columns"
    return {
        "ernie:tiny": [f"--config.data.path={folder / 'phrases.jsonl'}", "--config.data.field=text"],
        "transformer:captions": [f"{columns}.{name}.path={lines}" for name in ("source", "target")],
    }


def main() -> None:
    """Print one JSON line for each recipe, and one for tokenising."""
    args = dict(word.split("=", 1) for word in sys.argv[1:])
    length, batch, seconds = int(args.get("length", 128)), int(args.get("batch", 64)), float(args.get("seconds", 3))
    source = SourceConfig(path=args.get("path", SourceConfig.path), field=args.get("field", SourceConfig.field))
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        root = args.get("store", name)
        settings = TokenizerConfig(vocab=PIECES, sentinels=SENTINELS)
        tokens = store.prepare(root, source, CleanConfig(), settings, workers=0)
        common = [
            *(f"--config.data.path={source.path}", f"--config.data.field={source.field}"),
            *(f"--config.data.length={length}", f"--config.data.batch={batch}", f"--config.data.store={root}"),
            f"--config.data.tokenizer.path={tokens.directory / 'tokenizer'}",
        ]
        columns = files(folder, source)
        for recipe in args["recipes"].split(",") if "recipes" in args else recipes():
            measured = batches(recipe, [*common, *columns.get(recipe, ())], length, batch, seconds)
            print(json.dumps({"recipe": recipe, "length": length, "batch": batch, **measured}), flush=True)
        cleaned = texts.prepare(root, source, CleanConfig())
        documents, size = [], 0
        for text in cleaned:
            documents.append(text)
            size += len(text)
            if size > 2_000_000:
                break
        print(json.dumps({"tokenising": tokenising(tokens, documents, seconds)}), flush=True)


if __name__ == "__main__":
    main()
