"""Models of Chinese, trained on histories in modern Chinese: one column of a table of sentence pairs.

The default suite trains a small decoder on a part of the table. The `slow` test trains the recipes `chinese` on all
rows and checks the text that the decoder generates; docs/claims.md records the results.
"""

import json
import lzma
import unicodedata

import numpy as np
import pytest

from lm_jax import experiment
from lm_jax.data import pipeline
from lm_jax.flags import Request
from lm_jax.models.heads import gather
from lm_jax.objectives.cross_entropy import cross_entropy
from lm_jax.verbs.runs import restore
from tests.baselines import Bigram, assert_below_unigram, unigram_loss
from tests.commands import lm_jax
from tests.commands import run as command
from tests.test_novels import compare_with_bigram


@pytest.fixture
def histories(shared_data):
    """Return the path of a table of sentences in classical and modern Chinese, in the order of the books."""
    return shared_data / "zh_classical_modern" / "pairs_dev.tsv.xz"


def test_models_of_chinese_fall_below_the_unigram_baseline(histories, tmp_path):
    part = tmp_path / "part.tsv"
    with lzma.open(histories, "rt", encoding="utf-8") as lines:
        part.write_text("".join(next(lines) for _ in range(4000)), encoding="utf-8")
    run = tmp_path / "run"
    flags = [
        f"--config.data.path={part}",
        "--config.data.field=modern",
        "--config.data.group=book",
        "--config.data.tokenizer.vocab=2560",
        "--config.data.tokenizer.character_coverage=0.98",
        f"--config.data.store={tmp_path / 'store'}",
        "--config.data.workers=1",
        "--config.train.steps=120",
        "--config.evaluate.every=0",
        "--config.evaluate.batches=30",
    ]

    assert lm_jax("train", "--config=gpt:tiny", f"--workdir={run}", *flags) == 0

    store = assert_below_unigram(run)
    # The store must find sentence borders at Chinese full stops.
    sentences = np.diff(store.sentence_starts)
    assert 10 < np.median(sentences) < 40


@pytest.mark.slow
@pytest.mark.parametrize("recipe", ["gpt", "bert"])
def test_chinese_recipes_fall_below_the_unigram_baseline_and_generate_chinese(recipe, histories, tmp_path, capsys):
    run = tmp_path / recipe
    flags = [
        f"--config=chinese:{recipe}",
        f"--config.data.path={histories}",
        "--config.data.field=modern",
        "--config.data.group=book",
        f"--config.data.store={tmp_path / 'store'}",
        f"--workdir={run}",
    ]
    assert command("train", *flags, timeout_s=3600).returncode == 0

    model, bigram, unigram, count = compare_with_bigram(run)
    prompt = "项羽" if recipe == "gpt" else "项羽率领军队[MASK]到河北。"
    generated = command(
        "generate", f"--workdir={run}", f"--prompt={prompt}", "--max_tokens=100", "--temperature=0.7", "--json"
    )

    with capsys.disabled():
        print(f"\n{recipe}: model {model:.4f}, bigram {bigram:.4f}, unigram {unigram:.4f} nats over {count:,} tokens")
        print(generated.stdout)
    assert model < unigram - 0.3
    if recipe == "gpt":
        text = json.loads(generated.stdout)["answers"][0]["text"]
        assert "\ufffd" not in text
        ideographs = [unicodedata.name(character, "").startswith("CJK") for character in text]
        assert np.mean(ideographs) > 0.7


@pytest.mark.slow
def test_whole_words_are_predicted_better_than_from_a_visible_left_neighbour_and_are_words(histories, tmp_path, capsys):
    rjieba = pytest.importorskip("rjieba")
    run = tmp_path / "run"
    columns = [f"--config.data.path={histories}", "--config.data.field=modern", "--config.data.group=book"]
    folders = [f"--config.data.store={tmp_path / 'store'}", f"--workdir={run}"]
    assert command("train", "--config=chinese:wwm", *columns, *folders, timeout_s=3600).returncode == 0

    model, baseline, filled = fill_words(run)

    longer = [word for word in filled if len(word) > 1]
    letters = "".join(np.random.default_rng(0).permutation(list("".join(longer))))
    ends = np.cumsum([*map(len, longer)]).tolist()
    shuffled = [letters[start:end] for start, end in zip([0, *ends[:-1]], ends, strict=True)]
    words, chance = (np.mean([rjieba.has_word(word) for word in each]) for each in (longer, shuffled))
    with capsys.disabled():
        print(f"\nmodel {model:.4f}, left neighbour or unigram {baseline:.4f} nats a token")
        print(f"{words:.3f} of {len(longer):,} filled words of several characters are in the dictionary")
        print(f"with their characters shuffled: {chance:.3f}")
    assert model < baseline
    assert words > 2 * chance


def fill_words(run, most_rows=2000):
    """Returns the mean loss of masked tokens, that of the baseline, and the likeliest filling of each masked word."""
    exp = experiment.prepare(experiment.load(run).config)
    _, weights = restore(Request(verb="evaluate", workdir=str(run)), exp)
    size, seed = exp.config.data.batch, exp.config.seed
    rows, objective = exp.feed.rows("validation"), exp.objective

    def answer(weights, batch):
        (model,) = exp.models.bind(weights.params, weights.frozen).values()
        hidden = gather(model(objective.inputs(batch)).hidden, batch["positions"])
        logits = model.readout(hidden)
        return cross_entropy(logits, batch["labels"]), logits.argmax(-1)

    losses, pairs, others, filled, answer = [], [], [], [], exp.layout.jit(answer)
    for batch in pipeline.ordered(rows, objective.features, batch=size, seed=seed, limit=most_rows // size):
        values, best = map(np.asarray, answer(weights, exp.put(batch)))
        for row, count in enumerate(batch["weights"].sum(1).astype(int)):
            at, labels, tokens = (batch[name][row] for name in ("positions", "labels", "tokens"))
            at, labels, original = at[:count], labels[:count], tokens.copy()
            original[at] = labels
            visible = ~np.isin(at - 1, at) & (at > 1)
            pairs.append(np.stack([original[at - 1], labels], 1)[visible])
            others.append(labels[~visible])
            losses.append(values[row, :count])
            masked, begins = tokens[at] == exp.tokenizer.mask, objective._chooser._begins(original, None)[at]
            # A word goes on where the next masked token follows and begins no other.
            starts = np.flatnonzero(begins | (np.diff(at, prepend=-1) != 1))
            words = np.split(np.arange(count), starts[1:])
            filled += [exp.tokenizer.decode(best[row, word]) for word in words if len(word) and masked[word].all()]
    train = exp.store.read(0, int(exp.store.tokens * (1 - exp.config.data.validation)))
    vocab, (left, right), alone = exp.tokenizer.vocab_size, np.concatenate(pairs).T, np.concatenate(others)
    total = Bigram(train, vocab).loss(left, right) * len(right) + unigram_loss(train, alone, vocab) * len(alone)
    return float(np.concatenate(losses).mean()), total / (len(right) + len(alone)), filled
