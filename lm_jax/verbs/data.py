"""`lm-jax data`: cleans and tokenises the recipe's text into a token store, in parallel; resumes where it stopped."""

from __future__ import annotations

from pathlib import Path

from lm_jax import experiment
from lm_jax.data.clean import report as reports
from lm_jax.data.corpora import Stores
from lm_jax.flags import Request, need_config
from lm_jax.verbs import forking, report


def run(request: Request) -> int:
    """Prepares the store; prints how many documents were kept, and how many were dropped for each reason."""
    config = need_config(request)
    with report.Progress() as progress:
        tokenizer = None if request.fork is None else forking.tokenizer(config.data.tokenizer, Path(request.fork))
        exp = experiment.prepare(config, progress, tokenizer)
    store = exp.tokens
    for line in exp.warnings():
        report.warn(line)
    if request.json:
        facts = {"tokens": store.tokens, "documents": store.documents, "bytes": store.bytes}
        dev = {} if exp.dev is None else {"dev": {"tokens": exp.dev.tokens, "documents": exp.dev.documents}}
        report.document({**facts, "fingerprint": store.fingerprint, "cleaning": store.report, **dev})
        return 0
    report.say(reports.table(store.report))
    report.say(
        f"{store.tokens:,} tokens from {store.bytes:,} bytes ({store.bytes / store.tokens:.2f} bytes per token), "
        f"vocabulary {exp.tokenizer.vocab_size:,}, in {store.directory}"
    )
    if exp.dev is not None:
        report.say(f"{exp.dev.tokens:,} tokens to validate on, from {exp.dev.bytes:,} bytes of {config.data.dev_name}")
    if isinstance(store, Stores):
        report.say(store.table(config.data.validation))
    return 0
