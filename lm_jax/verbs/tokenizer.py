"""`lm-jax tokenizer`: trains the recipe's tokenizer on its text; `train` then finds it, and `--output` keeps a copy."""

from __future__ import annotations

from pathlib import Path

from lm_jax.data import corpora, store
from lm_jax.flags import Request, need_config
from lm_jax.verbs import report


def run(request: Request) -> int:
    """Trains, and shows what a line of the text becomes."""
    data = need_config(request).data
    with report.Progress() as progress:
        tokenizer, texts = corpora.train_tokenizer(data, progress)
    line = next((line for text in texts for line in text.splitlines() if len(line.split()) > 4), "")[:80]
    pieces = [tokenizer.piece(int(token)) for token in tokenizer.encode(line)]
    if request.output:
        tokenizer.save(request.output)
    where = Path(request.output).resolve() if request.output else store.default_root(data.store)
    if request.json:
        report.document({"vocab": tokenizer.vocab_size, "fingerprint": tokenizer.fingerprint, "directory": str(where)})
        return 0
    report.say(f"{tokenizer.kind} tokenizer of {tokenizer.vocab_size:,} pieces from {data.name}, kept in {where}")
    report.say(f"  {line!r}")
    report.say(f"  {' '.join(pieces)}")
    return 0
