"""Train steps on one GPU, in turns with Transformers on torch: `python -m benchmarks.gpu [WORK ...] [--tiny]`.

Works are BERT base, GPT-2 small and T5 1.1 base in bfloat16 with float32 parameters, AdamW, clipped gradients and no
dropout. lm_jax runs its recipe's own step (`Experiment.train_step`); torch runs Transformers' model under autocast with
scaled dot product attention where the model has it and fused AdamW, eager and compiled (`gpu_peers.py`). All read the
same number of random tokens and predict the same number of positions, on one fixed batch.

Every worker is a process. All are started and compiled first; then the workers of a work take turns, so that they see
the same machine. A turn begins with a step that is not timed. torch returns its cached memory after a turn. Ratios are
medians over rounds. `--tiny` has small models, for any machine.
"""

from __future__ import annotations

import argparse
import concurrent.futures
import dataclasses
import gc
import json
import os
import resource
import signal
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

from benchmarks import protocol
from benchmarks.__main__ import Worker

GIB = 1 << 30


@dataclasses.dataclass(frozen=True, kw_only=True)
class Work:
    """The sizes of one model and its batch.

    Attributes:
      recipe: the recipe whose settings lm_jax uses, apart from `settings`.
      settings: overrides of the recipe, without `config.`, that only this work needs.
      rows, length: shape of the batch; of an encoder-decoder's source.
      vocab: rows of the embedding table.
      scored: predicted positions of a row, in the target for an encoder-decoder.
      depth, width, heads, mlp: sizes of torch's model, which are those of the recipe; `depth` counts one side's layers.
    """

    recipe: str
    settings: tuple[str, ...] = ()
    rows: int
    length: int
    vocab: int
    scored: int
    depth: int = 12
    width: int = 768
    heads: int = 12
    mlp: int = 3072

    @property
    def tokens(self) -> int:
        """Tokens that a step reads: inputs and, for an encoder-decoder, targets."""
        return self.rows * (self.length + (self.scored if self.recipe.startswith("t5") else 0))


DROPOUT = ("model.embed.dropout=0", "model.stack.block.dropout=0", "model.stack.block.attention.dropout=0")
BERT = ("objective.masked.next_sentence=false", "model.pair_classes=0", *DROPOUT)
SPAN = ("optimizer.name=adamw", "data.tokenizer.sentinels=100")
WORKS = {
    "bert": Work(recipe="bert:base_512", settings=BERT, rows=32, length=512, vocab=30_592, scored=77),
    "gpt": Work(recipe="gpt:small", rows=16, length=1024, vocab=50_304, scored=1024),
    "t5": Work(recipe="t5:base", settings=SPAN, rows=32, length=512, vocab=32_128, scored=114, mlp=2048),
}
SMALL: dict[str, Any] = dict(rows=4, length=64, vocab=1024, depth=2, width=64, heads=2)
TINY = {
    "bert": Work(recipe="bert:tiny", settings=BERT, scored=10, mlp=256, **SMALL),
    "gpt": Work(recipe="gpt:tiny", scored=64, mlp=256, **SMALL),
    "t5": Work(recipe="t5:tiny", settings=SPAN, scored=15, mlp=128, **SMALL),
}
# Settings of lm_jax that all works share.
SHARED = (
    "model.dtype=bfloat16",
    "optimizer.learning_rate=1e-4",
    "optimizer.schedule.name=constant",
    "optimizer.clip=1.0",
)
WORKERS = ("lm_jax", "torch", "compiled")


def turns(step: Callable[[], Any], value: Callable[[Any], float], peak: Callable[[], int], rest: Callable[[], Any]):
    """Return a `go` for `protocol.serve`: one untimed step and `units` timed ones, then the loss and peak memory.

    Args:
      step: starts a step and returns its results, which the device may still be computing.
      value: waits for the results of a step and returns the loss.
      peak: the largest number of bytes in use on the device so far.
      rest: ends a turn.
    """

    def go(units: int) -> dict[str, float]:
        value(step())
        start = time.perf_counter()
        for _ in range(units):
            results = step()
        loss, seconds = value(results), time.perf_counter() - start
        rest()
        return {"s": seconds, "loss": round(loss, 3), "peak_gib": round(peak() / GIB, 2)}

    return go


def resident() -> int:
    """Return this process's peak memory, for a worker without a GPU."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


class RandomRows:
    """An endless corpus of random ordinary tokens."""

    def __init__(self, length: int, ordinary: tuple[int, int]):
        from lm_jax.data import rows

        self.length, self.ordinary = length, ordinary
        self.filling = lambda slots, seed: rows.permuted(self, slots, seed)  # pyright: ignore[reportArgumentType]

    def __len__(self) -> int:
        return 1 << 20

    def row(self, index: int, epoch: int, rng: Any) -> dict[str, Any]:
        """Return a row of tokens."""
        return {"tokens": rng.integers(*self.ordinary, self.length, dtype="int32")}


def placeholder(ids: int, sentinels: int) -> Any:
    """Return a tokenizer of `ids` ids, with trained ones' special ids, that no text is encoded with."""
    from lm_jax.data.tokenizers import base, simple

    pieces = [*base.SPECIALS, *map(str, range(ids - len(base.SPECIALS) - sentinels))]
    texts, backend = [b""] * len(pieces), simple.bytes_tokenizer(0).backend
    return simple.trained_tokenizer("bytes", b"", pieces, texts, sentinels, backend)


def lm_jax(work: Work, words: list[str]) -> None:
    """Serve lm_jax's train step; `words` are further settings."""
    # The workers share the card.
    os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
    import jax

    from lm_jax import experiment, flags
    from lm_jax.data import pipeline
    from lm_jax.train import throughput

    shape = (f"data.batch={work.rows}", f"data.length={work.length}", f"model.embed.vocab={work.vocab}")
    settings = [f"--config.{word}" for word in (*SHARED, *work.settings, *shape, *words)]
    config = experiment.parse(flags.configure(flags.load_recipe(work.recipe), settings)[0])
    tokenizer = placeholder(work.vocab, config.data.tokenizer.sentinels)
    exp = experiment.Experiment(config, tokenizer, devices=jax.devices()[:1])
    scored = exp.batch_like["weights"].shape[1]
    if scored != work.scored:
        sys.exit(f"{work.recipe} predicts {scored} positions of a row, but the work says {work.scored}")
    rows = RandomRows(exp.objective.reads.length, exp.vocabulary.ordinary)
    batch = exp.put(pipeline.batch_at(rows, exp.objective.features, 0, seed=0, batch=work.rows))
    state = exp.fresh_state()
    start = time.perf_counter()
    program = exp.train_step().lower(state, batch).compile()
    device = jax.devices()[0]
    info = {
        "compile_s": time.perf_counter() - start,
        "temp_gib": round(program.memory_analysis().temp_size_in_bytes / GIB, 2),
        "flops": exp.flops() * work.rows,
        "peak_flops": throughput.peak(device).flops,
        "version": jax.__version__,
        "device": device.device_kind,
    }

    def step() -> Any:
        nonlocal state
        state, sums = program(state, batch)
        return sums

    term = exp.objective.terms[0]
    peak = lambda: device.memory_stats()["peak_bytes_in_use"] if device.memory_stats() else resident()
    signal.alarm(0)
    protocol.serve(turns(step, lambda sums: float(sums[term].mean()), peak, gc.collect), **info)


def start(command: str, name: str) -> Worker | str:
    """Return a started worker, or the end of what it printed if it failed."""
    try:
        return Worker(name, command)
    except RuntimeError as error:
        return str(error)


def commands(args: argparse.Namespace) -> Iterator[tuple[str, str, str]]:
    """Yield the work, the name and the command of each worker."""
    variants = dict(variant.split("=", 1) for variant in args.also)
    shared = f"--start_s={args.start_s} {'--tiny' if args.tiny else ''}"
    for work in args.works:
        for name in (*args.workers, *variants):
            python = args.transformers if name in WORKERS[1:] else sys.executable
            serve = f"--serve={'lm_jax' if name in variants else name} --settings={variants.get(name, '')}"
            yield work, name, f"{python} -m benchmarks.gpu {work} {serve} {shared}"


def measure(workers: dict[str, Worker], rounds: int, seconds: float) -> dict[str, list[dict[str, float]]]:
    """Return what each worker answered in each round; one that fails is left out from then on."""
    results: dict[str, list[dict[str, float]]] = {name: [] for name in workers}
    units: dict[str, int] = {}
    for number in range(-1, rounds):
        for name, worker in list(workers.items()):
            try:
                # The first turn finds out how many steps a turn of `seconds` has.
                worker.go(units.get(name, 2))
            except (RuntimeError, OSError) as error:
                print(f"{name} failed: {error}", flush=True)
                del workers[name]
                continue
            answer = worker.last["out"] | {"n": worker.last["n"]}
            if number < 0:
                units[name] = max(1, int(seconds * answer["n"] / answer["s"]))
            else:
                results[name].append(answer)
    return results


def report(name: str, work: Work, workers: dict[str, Worker], results: dict[str, list[dict[str, float]]]) -> list[str]:
    """Print one JSON line for each worker and return the rows of the table."""
    table, first = [], results.get("lm_jax", [])
    info = workers["lm_jax"].info if "lm_jax" in workers else {}
    for worker, answers in results.items():
        if not answers:
            continue
        spent = [answer["s"] / answer["n"] for answer in answers]
        per_step = statistics.median(spent)
        ours = [answer["s"] / answer["n"] for answer in first]
        speed = statistics.median([theirs / mine for mine, theirs in zip(ours, spent, strict=False)] or [float("nan")])
        mfu = info.get("flops", 0) / per_step / info.get("peak_flops", float("inf"))
        line = {
            "work": name,
            "worker": worker,
            "tokens_per_s": round(work.tokens / per_step),
            "ms_per_step": round(1e3 * per_step, 2),
            "ms_of_rounds": [round(1e3 * seconds, 2) for seconds in spent],
            "lm_jax_speed_over_its": round(speed, 3),
            "mfu": round(mfu, 3),
            "peak_gib": answers[-1]["peak_gib"],
            "losses": [answers[0]["loss"], answers[-1]["loss"]],
            **(workers[worker].info if worker in workers else {}),
        }
        print(json.dumps(line), flush=True)
        cells = [line[key] for key in ("work", "worker", "tokens_per_s", "ms_per_step", "lm_jax_speed_over_its")]
        cells += [line["mfu"], line["peak_gib"], round(line.get("compile_s", 0), 1)]
        table.append("| " + " | ".join(map(str, cells)) + " |")
    return table


def compare(args: argparse.Namespace) -> None:
    """Start all workers, time them by work and print the table."""
    works = TINY if args.tiny else WORKS
    # Few of lm_jax at a time: XLA chooses kernels by timing them.
    pool = concurrent.futures.ThreadPoolExecutor
    with pool(args.starts) as ours, pool(2 * len(args.works)) as theirs:
        started = [
            (work, name, (theirs if name in WORKERS[1:] else ours).submit(start, command, name))
            for work, name, command in commands(args)
        ]
    table = [
        "| work | worker | tokens/s | ms/step | speed of lm_jax over its | MFU | peak GiB | compile s |",
        "|---" * 8 + "|",
    ]
    try:
        for work in args.works:
            workers = {}
            for name, worker in [(name, future.result()) for each, name, future in started if each == work]:
                if isinstance(worker, Worker):
                    workers[name] = worker
                else:
                    print(f"{work}: {worker}", flush=True)
            table += report(work, works[work], workers, measure(workers, args.rounds, args.seconds))
            for worker in workers.values():
                worker.close()
    finally:
        print("\n".join(table), flush=True)


def main() -> None:
    """Compare, or serve as one worker."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu", description=__doc__)
    parser.add_argument("works", nargs="*", default=[*WORKS], metavar="WORK", help=f"any of {', '.join(WORKS)}")
    parser.add_argument("--tiny", action="store_true", help="small models, to try the benchmark itself")
    parser.add_argument("--workers", nargs="+", choices=WORKERS, default=[*WORKERS])
    parser.add_argument("--transformers", default=sys.executable, metavar="PYTHON", help="a Python with torch")
    parser.add_argument("--also", action="append", default=[], metavar="NAME=SETTINGS", help="lm_jax with settings")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=1.0, help="length of a turn")
    parser.add_argument("--start_s", type=int, default=150, help="seconds in which a worker must have compiled")
    parser.add_argument("--starts", type=int, default=1, help="number of lm_jax workers that compile at once")
    parser.add_argument("--serve", choices=WORKERS, help=argparse.SUPPRESS)
    parser.add_argument("--settings", default="", help=argparse.SUPPRESS)
    args = parser.parse_args()
    unknown = set(args.works) - set(WORKS)
    if unknown:
        parser.error(f"unknown works {', '.join(sorted(unknown))}; known: {', '.join(WORKS)}")
    if not args.serve:
        compare(args)
        return
    # Ends the process unless it is ready in time.
    signal.alarm(args.start_s)
    work = (TINY if args.tiny else WORKS)[args.works[0]]
    if args.serve == "lm_jax":
        lm_jax(work, [word for word in args.settings.split(",") if word])
    else:
        from benchmarks import gpu_peers

        gpu_peers.serve(args.works[0], work, compiled=args.serve == "compiled")


if __name__ == "__main__":
    main()
