"""Training on English novels, against unigram and bigram baselines.

The default suite trains a small decoder on a few novels. The `slow` tests train the recipe `novels` of all three kinds
on all novels and compare with P(token | left neighbour in the original text) at the positions that the model predicts,
except sentinels, padding and EOS; docs/claims.md records the results.
"""

import functools
import json
import lzma

import numpy as np
import pytest

from lm_jax import experiment
from lm_jax.data import order, phrases, pipeline
from lm_jax.flags import Request
from lm_jax.models.heads import gather
from lm_jax.objectives.cross_entropy import cross_entropy
from lm_jax.verbs.runs import restore
from tests.baselines import Bigram, assert_below_unigram, unigram_loss
from tests.commands import lm_jax
from tests.commands import run as train

OBJECTIVES = ["albert", "bart", "electra", "ernie", "fim", "mcbert", "prefix", "roberta", "spanbert", "ul2", "xlnet"]
# At this rate, Muon leaves the plateau at the tokens' frequencies within hundreds of steps; AdamW takes thousands.
FAST = ["--config.optimizer.name=muon", "--config.optimizer.learning_rate=1e-2", "--config.data.batch=32"]


@pytest.fixture
def novels(shared_data):
    """The file of all novels, one a line."""
    return shared_data / "english_novels" / "novels_dev.jsonl.xz"


def test_a_decoder_falls_below_the_unigram_baseline_on_novels(novels, tmp_path):
    few = tmp_path / "novels.jsonl"
    with lzma.open(novels, "rt") as lines:
        few.write_text("".join(next(lines) for _ in range(3)))
    run, store = tmp_path / "run", tmp_path / "store"
    flags = [f"--config.data.path={few}", f"--config.data.store={store}", "--config.data.workers=1"]
    schedule = ["--config.train.steps=80", "--config.evaluate.every=0", "--config.evaluate.batches=40"]

    assert lm_jax("train", "--config=gpt:tiny", f"--workdir={run}", *flags, *schedule) == 0

    assert_below_unigram(run)


@pytest.mark.slow
@pytest.mark.parametrize("recipe", ["gpt", "bert", "t5"])
def test_every_kind_falls_below_the_bigram_baseline_at_the_positions_it_predicts(recipe, novels, tmp_path, capsys):
    run = tmp_path / recipe
    flags = [f"--config=novels:{recipe}", f"--config.data.path={novels}", f"--workdir={run}"]
    assert train("train", *flags, timeout_s=3600).returncode == 0

    model, bigram, unigram, count = compare_with_bigram(run)

    with capsys.disabled():
        print(f"\n{recipe}: model {model:.4f}, bigram {bigram:.4f}, unigram {unigram:.4f} nats over {count:,} tokens")
    assert model < bigram


@pytest.mark.slow
@pytest.mark.parametrize("recipe", OBJECTIVES)
def test_every_objective_falls_below_the_entropy_of_what_it_predicts(recipe, novels, tmp_path, capsys):
    run, data = tmp_path / recipe, [f"--config.data.path={novels}"]
    if recipe == "ernie":
        data = [f"--config.data.path={with_phrases(novels, tmp_path)}", "--config.data.field=text"]
    flags = [*data, *FAST, "--config.data.tokenizer.vocab_at_most=512", f"--workdir={run}"]
    schedule = ["--config.train.steps=1200", "--config.evaluate.every=600", "--config.evaluate.batches=50"]
    assert train("train", f"--config={recipe}:tiny", *flags, *schedule, timeout_s=3600).returncode == 0

    losses, baselines = without_reading(run)

    with capsys.disabled():
        print(f"\n{recipe}: " + ", ".join(f"{name} {losses[name]:.4f} < {baselines[name]:.4f}" for name in baselines))
    for name, most in baselines.items():
        assert losses[name] < most, name


def with_phrases(novels, folder):
    """Returns a file of the novels' paragraphs with the phrases found in them."""
    text = folder / "novels.txt"
    with lzma.open(novels, "rt") as lines:
        text.write_text("\n\n".join(json.loads(line)["text"] for line in lines))
    assert phrases.main([str(text), str(folder / "phrases.jsonl")]) == 0
    return folder / "phrases.jsonl"


def without_reading(run):
    """Returns the last validation metrics of a run, and by metric the loss of a model that knows only frequencies.

    For ELECTRA and MC-BERT these are the frequencies of answers: of replacements, and of each candidate.
    """
    exp = experiment.prepare(experiment.load(run).config)
    name, rows, size = exp.config.objective.name, exp.feed.rows, exp.config.data.batch
    features, seed = exp.objective.features, exp.config.seed
    ids = "labels" if "labels" in exp.objective.spec else "targets"
    before = (pipeline.batch_at(rows("train"), features, step, seed=seed, batch=size) for step in range(200))
    after = pipeline.ordered(rows("validation"), features, batch=size, seed=seed, limit=50)
    counted = [np.concatenate([batch[ids][batch["weights"] > 0] for batch in each]) for each in (before, after)]
    tokens = unigram_loss(*counted, exp.tokenizer.vocab_size)
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    last = {
        key.removeprefix("val/"): value for key, value in [line for line in lines if "val/loss" in line][-1].items()
    }
    if name not in ("replaced", "substituted"):
        losses = [key for key in ("masked_lm_loss", "boundary_loss") if key in last] or ["loss"]
        return last, dict.fromkeys(losses, tokens)
    replaced = last["replaced_share"]
    entropy = -replaced * np.log(replaced) - (1 - replaced) * np.log(1 - replaced)
    if name == "replaced":
        return last, {"generator_loss": tokens, "discriminator_loss": entropy}
    others = exp.config.objective.substituted.candidates - 1
    return last, {"generator_loss": tokens, "choice_loss": entropy + replaced * np.log(others)}


def compare_with_bigram(run, most_rows=2000):
    """Returns the mean losses of model, bigram and unigram on the same validation tokens, and the number of tokens."""
    exp = experiment.prepare(experiment.load(run).config)
    _, weights = restore(Request(verb="evaluate", workdir=str(run)), exp)
    vocab = exp.tokenizer.vocab_size
    border = int(exp.store.tokens * (1 - exp.config.data.validation))
    train = exp.store.read(0, border)
    baseline = Bigram(train, vocab)
    nll = exp.layout.jit(functools.partial(_nll, exp))
    rows, batch = exp.feed.rows("validation"), exp.config.data.batch
    losses, lefts, rights = [], [], []
    for number in range(min(len(rows), most_rows) // batch):
        examples = [_with_neighbours(exp, rows, number * batch + place) for place in range(batch)]
        stacked = pipeline._keyed([features for features, *_ in examples], np.zeros((batch, 2), np.uint32))
        values = np.asarray(nll(weights, exp.put(stacked)))
        for value, (_, left, right, counts) in zip(values, examples, strict=True):
            losses.append(value[: len(counts)][counts])
            lefts.append(left[counts])
            rights.append(right[counts])
    left, right = np.concatenate(lefts), np.concatenate(rights)
    model = float(np.concatenate(losses).mean())
    return model, baseline.loss(left, right), unigram_loss(train, right, vocab), len(right)


def _nll(exp, weights, batch):
    """Returns -log P of each predicted token, in nats."""
    (model,) = exp.models.bind(weights.params, weights.frozen).values()
    hidden = model(exp.objective.inputs(batch)).hidden
    if "positions" in batch:
        return cross_entropy(model.readout(gather(hidden, batch["positions"])), batch["labels"])
    return cross_entropy(model.readout(hidden), batch["targets"])


def _with_neighbours(exp, rows, index):
    """Returns the features of a row and, per prediction, left neighbour, token and whether it is counted."""
    rng = order.generator(exp.config.seed, 0, index)
    row = rows.row(index, 0, rng)
    features = exp.objective.features(row, rng)
    name = exp.config.objective.name
    if name == "causal":
        left, right = row["tokens"][:-1], row["tokens"][1:]
        return features, left, right, np.ones(len(right), bool) & (right != exp.tokenizer.eos)
    if name == "masked":
        cls, sep = exp.tokenizer.cls, exp.tokenizer.sep
        parts = [row["first"], row["second"]] if "first" in row else [row["tokens"]]
        original = np.concatenate([[cls], *(piece for part in parts for piece in (part, [sep]))])
        at = features["positions"][features["weights"] > 0]
        left, right = original[at - 1], original[at]
        # The first token of a segment has no left neighbour.
        return features, left, right, (left != cls) & (left != sep)
    return features, *_span_neighbours(exp, features)


def _span_neighbours(exp, features):
    """Restores the text from source and targets to find the left neighbour of every removed token."""
    sentinels, eos = {int(token) for token in exp.tokenizer.sentinels}, exp.tokenizer.eos
    targets = features["targets"][features["weights"] > 0]
    spans, current = {}, []
    for place, token in enumerate(targets):
        if int(token) in sentinels:
            current = spans.setdefault(int(token), [])
        else:
            current.append(place)
    left, counts, previous = np.zeros(len(targets), np.int64), np.zeros(len(targets), bool), -1
    for token in features["source"][features["source_segments"] > 0]:
        if int(token) not in sentinels:
            previous = int(token)
            continue
        for place in spans[int(token)]:
            left[place] = max(previous, 0)
            counts[place] = previous >= 0 and targets[place] != eos
            previous = int(targets[place])
    return left, targets, counts
