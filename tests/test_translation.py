"""Training on translated image captions (Multi30k, Elliott et al. 2016), against baselines that see no source.

The baselines are a unigram and a bigram of the targets; docs/claims.md records the results.
"""

import json

import numpy as np
import pytest

from lm_jax import experiment
from tests.baselines import Bigram, unigram_loss
from tests.commands import run as train


@pytest.mark.slow
def test_an_encoder_decoder_translates_better_than_a_bigram_of_the_targets(shared_data, tmp_path, capsys):
    path = lambda language: ",".join(
        str(shared_data / "multi30k" / f"{split}.{language}.gz") for split in ("train", "val")
    )
    run = tmp_path / "run"
    files = [f"--config.data.columns.source.path={path('en')}", f"--config.data.columns.target.path={path('de')}"]
    assert train("train", "--config=transformer:captions", *files, f"--workdir={run}", timeout_s=3600).returncode == 0

    model, bigram, unigram, count = compare(run)

    with capsys.disabled():
        print(f"\nmodel {model:.4f}, bigram {bigram:.4f}, unigram {unigram:.4f} nats over {count:,} tokens")
    assert model < bigram < unigram


def compare(run):
    """Returns the mean losses of model, bigram and unigram on all validation targets, and the number of targets."""
    exp = experiment.prepare(experiment.load(run).config)
    metrics = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    model = [line["val/loss"] for line in metrics if "val/loss" in line][-1]
    before, after = (np.concatenate(list(targets(exp, split))) for split in ("train", "validation"))
    # EOS comes before every sentence, too.
    left = np.concatenate([[exp.tokenizer.eos], after[:-1]])
    vocab = exp.tokenizer.vocab_size
    return model, Bigram(before, vocab).loss(left, after), unigram_loss(before, after, vocab), len(after)


def targets(exp, split):
    """Yields the targets of each row, with EOS."""
    rows = exp.feed.rows(split)
    for index in range(len(rows)):
        row = exp.objective.features(rows.row(index, 0, np.random.default_rng(0)), np.random.default_rng(0))
        yield row["targets"][row["weights"] > 0]
