"""Tokens per second of the input pipeline on one core, and tokenising compared with sentencepiece alone.

`python -m benchmarks.data [path=FILE] [field=NAME] [length=128] [batch=64] [seconds=3]`. One thread builds the batches;
each position of a row counts as a token, as in a run's log. Rates are per CPU second, fair on a shared machine, and
per wall second. The unigram tokenizer of 8,192 pieces is trained on the text (without a path: Python's documentation).
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
import time
from collections.abc import Callable
from typing import Any

# Limits the libraries below to one core.
for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
    os.environ.setdefault(name, "1")

from benchmarks.worker import vocabulary
from lm_jax.data import pipeline, plans, store, texts
from lm_jax.data.clean.chain import CleanConfig
from lm_jax.data.parts import split
from lm_jax.data.rows import Request, RowsConfig
from lm_jax.data.sources import SourceConfig
from lm_jax.data.tokenizers import TokenizerConfig
from lm_jax.objectives.base import Objective, Vocabulary
from lm_jax.objectives.causal import Causal, CausalConfig
from lm_jax.objectives.masked import Masked, MaskedConfig
from lm_jax.objectives.span import Span, SpanConfig

PIECES, SENTINELS = 8192, 100


def objectives(length: int) -> dict[str, Objective]:
    """Return the objectives to measure, by name."""
    plain = vocabulary(PIECES)
    first = PIECES - SENTINELS
    spans = Vocabulary(
        **{**vars(plain), "sentinels": tuple(range(first, PIECES)), "ordinary": (plain.ordinary[0], first)}
    )
    return {
        "packed causal": Causal(CausalConfig(), plain, length),
        "masked pairs": Masked(MaskedConfig(), plain, length),
        "masked packed": Masked(MaskedConfig(next_sentence=False), plain, length),
        "masked consecutive": Masked(MaskedConfig(next_sentence=False, sentence_order=True), plain, length),
        "masked sentences": Masked(MaskedConfig(next_sentence=False, full_sentences=True), plain, length),
        "span": Span(SpanConfig(), spans, length),
    }


def batches(tokens: store.Store, objective: Objective, length: int, batch: int, seconds: float) -> dict[str, Any]:
    """Measure how fast the batches of a run are built."""
    plan = plans.make(Request(tokens=tokens, config=RowsConfig(), split="train", reads=objective.reads, validation=0.1))

    def work(step: int) -> int:
        pipeline.batch_at(plan, objective.features, step, seed=0, batch=batch)
        return batch * length

    return rate(work, seconds)


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


def main() -> None:
    """Print one JSON line for each kind of row, and one for tokenising."""
    args = dict(word.split("=", 1) for word in sys.argv[1:])
    length, batch, seconds = int(args.get("length", 128)), int(args.get("batch", 64)), float(args.get("seconds", 3))
    source = SourceConfig(path=args.get("path", SourceConfig.path), field=args.get("field", SourceConfig.field))
    settings = TokenizerConfig(vocab=PIECES, sentinels=SENTINELS)
    with tempfile.TemporaryDirectory() as folder:
        root = args.get("store", folder)
        tokens = store.prepare(root, source, CleanConfig(), settings, workers=0)
        for name, objective in objectives(length).items():
            measured = batches(tokens, objective, length, batch, seconds)
            print(json.dumps({"rows": name, "length": length, "batch": batch, "tokens": measured}), flush=True)
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
