"""`lm-jax data`: cleans and tokenises the recipe's text into a token store, in parallel; resumes where it stopped."""

from __future__ import annotations

from lm_jax import experiment
from lm_jax.data.clean import report as reports
from lm_jax.data.corpora import Stores
from lm_jax.flags import Request, need_config
from lm_jax.verbs import report


def run(request: Request) -> int:
    """Prepares the store; prints how many documents were kept, and how many were dropped for each reason."""
    config = need_config(request)
    with report.Progress() as progress:
        exp = experiment.prepare(config, progress)
    store = exp.tokens
    for line in store.warnings():
        report.warn(line)
    if request.json:
        facts = {"tokens": store.tokens, "documents": store.documents, "bytes": store.bytes}
        report.document({**facts, "fingerprint": store.fingerprint, "cleaning": store.report})
        return 0
    report.say(reports.table(store.report))
    report.say(
        f"{store.tokens:,} tokens from {store.bytes:,} bytes ({store.bytes / store.tokens:.2f} bytes per token), "
        f"vocabulary {exp.tokenizer.vocab_size:,}, in {store.directory}"
    )
    if isinstance(store, Stores):
        report.say(store.table(config.data.validation))
    return 0
