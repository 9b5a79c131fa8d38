"""Tags of sentences of any length, from a file to the answers."""

import json

import numpy as np
import pytest

from lm_jax.core.config import Tree
from lm_jax.data import corpora
from lm_jax.data.config import DataConfig
from lm_jax.data.rows import Request, RowsConfig
from lm_jax.data.tables import of_columns
from lm_jax.data.tokenizers import TokenizerConfig
from lm_jax.evaluate import metrics
from lm_jax.objectives.base import Vocabulary
from lm_jax.objectives.tag import Tag, TagConfig

# Words of one to eight letters, and so of tokens; a byte order mark has none.
LONG = "a bcd efghijkl m nop qrstuvwx y z abc \ufeff defgh i".split(" ")
SENTENCES = [LONG, ["one", "two"], LONG * 3]
TAGS = ("B-X", "O")


def tagged(tmp_path, length, sentences=SENTENCES, **settings):
    """The objective, and the rows of a file whose words are tagged by whether they have more than two letters."""
    rows = [{"text": words, "tags": [TAGS[len(word) < 3] for word in words]} for words in sentences]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    columns = Tree(text=Tree(), tags=Tree(kind="tags"))
    settings_of_data = dict(columns=columns, tokenizer=TokenizerConfig(kind="bytes"), store=str(tmp_path), workers=1)
    corpus = corpora.prepare(DataConfig(path=str(tmp_path / "rows.jsonl"), **settings_of_data))
    vocabulary = Vocabulary(
        size=corpus.tokenizer.vocab_size, pad=0, eos=3, cls=4, sep=5, ordinary=(7, 263), labels=Tree(tags=TAGS)
    )
    objective = Tag(TagConfig(**settings), vocabulary, length)
    request = Request(tokens=corpus, config=RowsConfig(), split="validation", reads=objective.reads, validation=1.0)
    return objective, of_columns(request)


def outputs_of(objective, plan):
    """The logits of a model that knows the tags, and that is the surer the more context a token has."""
    logits = np.zeros((len(plan), objective.length, 2), np.float32)
    for row in range(len(plan)):
        features = objective.features(plan.row(row, 0, np.random.default_rng(0)), np.random.default_rng(0))
        tokens, real = features["tokens"], int(features["segments"].sum())
        spaces = np.flatnonzero(~np.isin(tokens, np.arange(7 + 97, 7 + 123)))
        for at in range(1, real - 1):
            # The length of the word that begins here, up to the next space or to the end of the row.
            size = int(spaces[spaces > at][0]) - at
            logits[row, at, int(size < 3)] = 1 + 0.1 * min(at, real - 1 - at)
    return {"logits": logits}


@pytest.mark.parametrize("overlap", [0.0, 0.25, 0.5])
@pytest.mark.parametrize("length", [12, 18, 64, 400])
def test_every_word_is_tagged_in_a_row_that_holds_it_whole(tmp_path, length, overlap):
    objective, plan = tagged(tmp_path, length, overlap=overlap)
    generator = np.random.default_rng(0)

    counts = [np.zeros(len(words)) for words in SENTENCES]
    for index in range(len(plan)):
        row, record = plan.row(index, 0, generator), int(plan.numbers[index])
        features = objective.features(row, generator)
        words, window, size = row["tags"], int(row["window"]), len(row["text"])
        assert features["segments"].sum() == size + 2 <= length and plan.lengths()[index] == size + 2
        # A window begins and ends with whole words.
        assert window in {0, *words[:, 0]} and window + size in {*words[:, 1], int(plan.stops[index])}
        for at in np.flatnonzero(features["weights"]):
            (word,) = np.flatnonzero((words[:, 0] == window + at - 1) & (words[:, 0] < words[:, 1]))
            assert words[word, 1] <= window + size and features["answers"][at] == words[word, 2]
            counts[record][word] += 1

    for words, count in zip(SENTENCES, counts, strict=True):
        assert count.tolist() == [float(word != "\ufeff") for word in words]
    answers = objective.answers_of(outputs_of(objective, plan), plan)
    # A byte order mark leaves no token.
    assert answers == objective.references(plan) == [[TAGS[len(word) < 3] for word in words] for words in SENTENCES]


def test_a_word_is_answered_where_it_has_the_most_context(tmp_path):
    objective, plan = tagged(tmp_path, 18, overlap=0.5)
    described = objective.described(outputs_of(objective, plan), plan)

    contexts = {}
    for row, record in enumerate(plan.numbers.tolist()):
        start, stop = int(plan.starts[row]), int(plan.stops[row])
        for word, (first, last, _) in enumerate(plan.entry("tags", record)):
            if start <= first < last <= stop:
                context = min(first - start, stop - 1 - first)
                contexts.setdefault((record, word), []).append(context)
    assert max(map(len, contexts.values())) > 1
    for (record, word), found in contexts.items():
        score = described[record]["scores"][word]
        margin = 1 + 0.1 * (max(found) + 1)
        assert score == pytest.approx(1 / (1 + np.exp(-margin)), abs=1e-5)


def test_a_word_that_is_longer_than_a_row_is_cut_and_those_after_it_are_not_lost(tmp_path):
    sentence = ["ab", "c" * 40, "d", "efg"]
    objective, plan = tagged(tmp_path, 12, [sentence], overlap=0.25)
    answers = objective.described(outputs_of(objective, plan), plan)[0]
    assert len(answers["tags"]) == 4 and all(score > 0.5 for score in answers["scores"])


def test_an_entity_that_no_row_predicts_is_missed(tmp_path):
    objective, plan = tagged(tmp_path, 18)
    outputs = {"logits": np.tile(np.array([0.0, 1.0], np.float32), (len(plan), 18, 1))}
    values = metrics.compute("tags", ["entity_f1"], objective.answers_of(outputs, plan), objective.references(plan), ())
    assert values["entity_recall"] == 0
    right = objective.answers_of(outputs_of(objective, plan), plan)
    # Half of the rows: some of a record's rows would be no answer.
    some = plan.first(len(plan) - 1)
    assert some.records == [0, 1] and len(plan.first(1)) == int((plan.numbers == 0).sum())
    assert objective.references(some) == right[:2] and plan.first(len(plan)) is plan
