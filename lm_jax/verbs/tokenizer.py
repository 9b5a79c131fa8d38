"""`lm-jax tokenizer`: trains the recipe's tokenizer on its text; `train` reuses it, and `--output` saves a copy."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import numpy as np

from lm_jax.data import atomic, corpora, store, tokenizers
from lm_jax.data.tokenizers import coverage
from lm_jax.flags import Request, need_config
from lm_jax.verbs import report

_SAMPLE = 1_000_000  # Characters.


def run(request: Request) -> int:
    """Trains the tokenizer; prints the pieces of one line of the text, and warnings if the tokenizer fits it badly."""
    data = need_config(request).data
    if request.output:
        atomic.check_directory(Path(request.output), "--output")
    with report.Progress() as progress:
        tokenizer, texts = corpora.train_tokenizer(data, progress)
    sample = _sample(texts)
    lines = [line for text in sample for line in text.splitlines() if line.strip()]
    line = next((line for line in lines if len(line.split()) > 4), lines[0] if lines else "")[:80]
    pieces = [tokenizer.piece(int(token)) for token in tokenizer.encode(line)]
    if request.output:
        tokenizer.save(request.output)
    for warning in _warnings(tokenizer, sample):
        report.warn(warning)
    directory = Path(request.output).resolve() if request.output else store.default_root(data.store)
    if request.json:
        report.document(
            {"vocab": tokenizer.vocab_size, "fingerprint": tokenizer.fingerprint, "directory": str(directory)}
        )
        return 0
    where = f"saved in {directory}" if request.output else f"kept for train in {directory}; --output=DIR saves a copy"
    report.say(f"{tokenizer.kind} tokenizer of {tokenizer.vocab_size:,} pieces from {data.name}, {where}")
    report.say(f"  {line!r}\n  {' '.join(pieces)}")
    return 0


def _sample(texts: Iterable[str]) -> list[str]:
    sample: list[str] = []
    remaining = _SAMPLE
    for text in texts:
        sample.append(text[:remaining])
        remaining -= len(text)
        if remaining <= 0:
            break
    return sample


def _warnings(tokenizer: tokenizers.Tokenizer, sample: list[str]) -> list[str]:
    ids = np.concatenate([np.zeros(0, np.int32), *tokenizer.encode_batch(sample)])
    unknown = 0 if tokenizer.unk is None else int(np.count_nonzero(ids == tokenizer.unk))
    size = sum(len(text.encode()) for text in sample)
    return coverage.warnings(tokenizer, tokens=len(ids), unknown=unknown, size_bytes=size)
