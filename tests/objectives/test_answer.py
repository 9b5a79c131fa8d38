"""Extractive question answering: rows, loss, best spans, and answers as parts of the original texts."""

import functools
import itertools
import json

import jax
import jax.numpy as jnp
import laws
import numpy as np
import pytest
import tiny

from lm_jax.core.config import InputError, Tree
from lm_jax.data import corpora, tokenizers
from lm_jax.data.config import DataConfig
from lm_jax.data.conventions import ConventionsConfig
from lm_jax.data.tokenizers import TokenizerConfig
from lm_jax.models.task import TaskHeadConfig
from lm_jax.objectives import vocabulary as vocabularies
from lm_jax.objectives.answer import EXCLUDED, Answer, AnswerConfig, best_spans
from lm_jax.objectives.base import Part, Vocabulary

setting = functools.cache(tiny.setting)
LENGTH = 24
CONFIG = AnswerConfig(overlap=6, question_length=8, longest=5)
CONTEXT = "  Die Cafe\u0301s in İzmir haben\r\n6½ Sterne 👩‍👩‍👧: 他在北京的家 – ÉCOLE Été 🎉 THE END\n"
# The words of the answers; the second record has two answers, the last one has none.
ASKED = [
    ("Wo?", ["İzmir"]),
    ("Was haben die?", ["6½ Sterne", "Sterne"]),
    ("谁？", ["北京"]),
    ("Quand ?", ["Été"]),
    ("Qui a une question très longue ?", ["Cafe\u0301s"]),
    ("Ha!", ["🎉"]),
    ("What?", ["👩‍👩‍👧"]),
    ("No?", []),
]


def asked(context=CONTEXT):
    spans = lambda words: [[context.index(word), context.index(word) + len(word), "answer"] for word in words]
    return [{"question": question, "context": context, "answers": spans(words)} for question, words in ASKED]


def corpus_of(path, tokenizer, rows=None):
    (path / "qa.jsonl").write_text("".join(json.dumps(record) + "\n" for record in rows or asked()))
    columns = Tree(question=Tree(), context=Tree(), answers=Tree(kind="spans", of="context"))
    tokenizer.save(path / "tokenizer")
    settings = TokenizerConfig(path=str(path / "tokenizer"))
    store = str(path / "store")
    data = DataConfig(path=str(path / "qa.jsonl"), columns=columns, tokenizer=settings, store=store, workers=1)
    return corpora.prepare(data), data


def prepared(path, kind="wordpiece", config=CONFIG, length=LENGTH):
    """The objective and the training rows of the questions above."""
    texts = [CONTEXT, *(question for question, _ in ASKED)]
    corpus, data = corpus_of(path, tokenizers.train(TokenizerConfig(kind=kind), texts))
    tokenizer = corpus.tokenizer
    vocabulary = vocabularies.of(tokenizer, tokenizer.vocab_size, "encoder", ConventionsConfig())
    objective = Answer(config, vocabulary, length)
    plan = corpora.make_rows(corpus, config=data.rows, split="train", reads=objective.reads, validation=0.0)
    return objective, plan


def rows_of(plan):
    return [plan.row(index, 0, np.random.default_rng(0)) for index in range(len(plan))]


def scored(objective, logits, batch):
    return tiny.run_once(lambda *arguments: objective.scored(*arguments), jnp.asarray(logits), batch)


def gold(objective, plan):
    """The outputs of a model that knows the answers, and the batch of all rows."""
    batch = tiny.stacked([objective.features(row, np.random.default_rng(0)) for row in rows_of(plan)])
    logits = 9.0 * jax.nn.one_hot(batch["answers"], objective.length, axis=1)
    return jax.device_get(scored(objective, logits, batch)), batch


def test_rows_hold_the_question_and_a_window_of_the_context(tmp_path):
    objective, plan = prepared(tmp_path)
    cls, sep = objective.vocabulary.require("answer", "cls", "sep")
    found = set()
    for index, row in enumerate(rows_of(plan)):
        features = objective.features(row, np.random.default_rng(0))
        question, context = row["question"], row["context"]
        used = int(features["segments"].sum())
        assert features["tokens"][:used].tolist() == [cls, *question, sep, *context, sep]
        assert features["types"][:used].tolist() == [0] * (len(question) + 2) + [1] * (len(context) + 1)
        assert len(question) <= 8 and not features["segments"][used:].any() and features["weights"] == 1
        first, stop = features["context"].tolist()
        assert np.array_equal(features["tokens"][first:stop], context)
        start, end = features["answers"].tolist()
        spans = row["answers"] - row["window"]
        if len(spans) and 0 <= spans[0, 0] and spans[0, 1] <= len(context):
            assert np.array_equal(features["tokens"][start : end + 1], context[spans[0, 0] : spans[0, 1]])
            assert first <= start <= end < stop
            found.add(int(plan.numbers[index]))
        else:
            # A window without the whole answer points at [CLS].
            assert (start, end) == (0, 0)
    assert found == {*range(7)} and len(plan) > 16
    # A new row has no answers.
    assert (
        objective.features({name: row[name] for name in ("question", "context")}, np.random.default_rng(0))["weights"]
        == 0
    )


@pytest.mark.parametrize("kind", ["bytes", "characters", "wordpiece", "byte_bpe"])
def test_answers_are_parts_of_the_original_texts(tmp_path, kind):
    config = AnswerConfig(overlap=32, question_length=20, longest=32, unanswerable=True)
    objective, plan = prepared(tmp_path, kind, config, length=72)
    outputs, _ = gold(objective, plan)

    answered = objective.answered(outputs, plan)

    assert [answer.text for answer in answered] == [words[0] if words else "" for _, words in ASKED]
    for answer in answered:
        assert CONTEXT[answer.start : answer.stop] == answer.text
        assert (answer.score, answer.null) == ((18.0, 0.0) if answer.text else (0.0, 18.0))
    assert objective.answers_of(outputs, plan) == [answer.text for answer in answered]
    assert objective.references(plan) == [words for _, words in ASKED]


def test_a_limited_evaluation_has_the_answers_to_its_records(tmp_path):
    objective, plan = prepared(tmp_path)
    outputs, _ = gold(objective, plan)
    for rows in (1, 4, len(plan) - 1, len(plan)):
        first, part = {name: array[:rows] for name, array in outputs.items()}, plan.part(0, rows)
        assert len(objective.answers_of(first, part)) == len(objective.references(part)) == len(part.records)
        assert part.records == sorted({*plan.numbers[:rows].tolist()})


def test_the_best_window_answers_a_record_and_a_threshold_decides_whether_there_is_an_answer(tmp_path):
    objective, plan = prepared(tmp_path)
    at = np.flatnonzero(plan.numbers == 0)
    rows = len(plan)
    scores, spans = np.full((rows, 3), -1e9), np.zeros((rows, 3, 2), int)
    null = np.full(rows, 4.0)
    # The second window has the best span, the first the lowest score of no answer.
    scores[at[0], :2], spans[at[0], :2] = [3.0, 2.0], [[0, 1], [0, 2]]
    scores[at[1], :2], spans[at[1], :2] = [3.5, 3.0], [[12, 14], [12, 13]]
    null[at[:2]] = [3.8, 7.0]
    outputs = {"scores": scores, "spans": spans, "null": null}
    words = plan.columns.located("context", 0)
    expected = words.text[slice(*words.span(12, 14))]

    def answers(**settings):
        config = AnswerConfig(overlap=6, question_length=8, **settings)
        return Answer(config, objective.vocabulary, LENGTH).answered(outputs, plan)

    assert answers()[0] == (expected, *words.span(12, 14), 3.5, 3.8)
    assert answers(unanswerable=True)[0] == ("", 0, 0, 3.5, 3.8)
    assert answers(unanswerable=True, null_threshold=0.5)[0].text == expected
    assert answers(unanswerable=True, null_threshold=0.1)[0].text == ""
    # A record without any span has no answer.
    assert answers()[1].text == "" and answers()[1].null == 4.0


def test_white_space_is_no_answer(tmp_path):
    tokenizer = tokenizers.train(TokenizerConfig(kind="bytes"), [])
    corpus, data = corpus_of(tmp_path, tokenizer, [{"question": "q", "context": "a  b", "answers": []}])
    vocabulary = Vocabulary(size=300, pad=0, eos=3, cls=4, sep=5, ordinary=(7, 263))
    objective = Answer(CONFIG, vocabulary, LENGTH)
    plan = corpora.make_rows(corpus, config=data.rows, split="train", reads=objective.reads, validation=0.0)
    outputs = {"scores": np.array([[5.0, 4.0]]), "spans": np.array([[[1, 3], [1, 4]]]), "null": np.array([9.0])}
    assert objective.answered(outputs, plan) == [("b", 3, 4, 4.0, 9.0)]


def test_best_spans_are_those_of_a_search_over_all(untyped):
    rng = np.random.default_rng(0)
    start, end = rng.standard_normal((2, 3, 11)).astype(np.float32)
    for longest in (1, 4, 30):
        scores, spans = jax.device_get(best_spans(jnp.asarray(start), jnp.asarray(end), longest))
        for row in range(3):
            pairs = [(a, b) for a, b in itertools.product(range(11), repeat=2) if a <= b < a + longest]
            ranked = sorted(pairs, key=lambda pair: -(start[row, pair[0]] + end[row, pair[1]]))
            count = min(20, len(ranked))
            assert [tuple(span) for span in spans[row, :count].tolist()] == ranked[:count]
            np.testing.assert_allclose(scores[row, :count], [start[row, a] + end[row, b] for a, b in ranked[:count]])
        # Outputs of batches of other lengths are joined: all have as many spans, and those that do not exist are last.
        assert scores.shape[1] == 20 and (scores[:, min(20, len(ranked)) :] < EXCLUDED / 2).all()


def test_the_best_spans_lie_in_the_context_and_are_counted_in_the_whole_of_it(tmp_path):
    objective, plan = prepared(tmp_path)
    batch = tiny.stacked([objective.features(row, np.random.default_rng(0)) for row in rows_of(plan)])
    logits = jnp.asarray(np.random.default_rng(1).standard_normal((len(plan), LENGTH, 2)), jnp.float32)
    outputs = jax.device_get(scored(objective, logits, batch))
    np.testing.assert_array_equal(outputs["null"], np.asarray(logits[:, 0].sum(-1)))
    for index, (row, candidates) in enumerate(zip(rows_of(plan), objective._candidates(outputs), strict=True)):
        window, size = int(row["window"]), len(row["context"])
        first = int(batch["context"][index, 0]) - window
        assert 0 < len(candidates.spans) <= 20
        for score, start, stop in candidates.spans:
            assert window <= start < stop <= window + size and stop - start <= 5
            assert score == pytest.approx(float(logits[index, first + start, 0] + logits[index, first + stop - 1, 1]))


def test_the_loss_is_that_of_the_tokens_of_a_row_whatever_its_padding():
    case = setting("answer")
    objective, batch = case.objective, dict(case.batch)
    logits = np.random.default_rng(2).standard_normal((8, objective.length, 2)).astype(np.float32)
    losses, weights = objective.losses(scored(objective, logits, batch), batch)
    for row in range(8):
        used = int(batch["segments"][row].sum())
        wide = logits[row, :used].astype(np.float64)
        log_softmax = wide - np.log(np.exp(wide).sum(0))
        expected = -sum(log_softmax[int(batch["answers"][row, side]), side] for side in (0, 1)) / 2
        assert float(losses[row]) == pytest.approx(expected, rel=1e-5)
    wider = {
        name: jnp.pad(array, ((0, 0), (0, 5))) if array.shape[1:] == (16,) else array for name, array in batch.items()
    }
    outputs = scored(objective, np.pad(logits, ((0, 0), (0, 5), (0, 0)), constant_values=7.0), wider)
    np.testing.assert_allclose(objective.losses(outputs, wider)[0], losses, rtol=1e-6)
    # A row of padding, as evaluation adds, has a finite loss.
    empty = {name: jnp.zeros_like(array) for name, array in batch.items()}
    outputs = scored(objective, logits, empty)
    assert np.isfinite(objective.losses(outputs, empty)[0]).all()
    assert objective._candidates(jax.device_get(outputs))[0].spans == []


@pytest.mark.slow
def test_it_keeps_the_laws_on_windows_of_a_file(tmp_path):
    objective, plan = prepared(tmp_path)
    rows = rows_of(plan)
    rows = [rows[index] for index in np.linspace(0, len(rows) - 1, 8).astype(int)]
    over = {**tiny.STILL, "embed.vocab": plan.columns.tokenizer.vocab_size, "embed.max_length": LENGTH}
    config = tiny.tasked(objective, tiny.config("bert", over=over))
    states = laws.check(laws.case(objective, {"model": config}, rows, rate=0.05), tmp_path)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(states[-1].params))


def test_a_batch_has_a_loss_and_outputs_of_fixed_shapes():
    case = setting("answer")
    part = Part(batch=case.batch, weights=case.objective.weights(case.batch))
    answer = lambda params: case.objective.answer(case.models.bind(params, {}), part)
    loss, outputs = jax.eval_shape(answer, case.params)
    assert set(loss.metrics) == {"loss", "accuracy"}
    assert outputs["spans"].shape == (8, 20, 2) and outputs["start_logits"].shape == (8, 16)


def test_the_head_scores_every_token():
    objective = setting("answer").objective
    head = objective.head(TaskHeadConfig(dense=True, activation="tanh", dropout=0.1))
    assert (head.classes, head.pool, head.dense, head.activation, head.dropout) == (2, "all", False, "", 0.1)
    # A released head of another form stays as it is.
    released = TaskHeadConfig(classes=2, pool="all", dense=True)
    assert objective.head(released) == released
    with pytest.raises(InputError, match="task.classes is 3, but the head scores the start and the end"):
        objective.head(TaskHeadConfig(classes=3, pool="all"))


def test_windows_longer_than_a_row_and_tokenizers_without_cls_are_refused():
    with pytest.raises(InputError, match="length 128 leaves 61 tokens .*overlap 128; increase the first"):
        Answer(AnswerConfig(), tiny.VOCABULARY, 128)
    with pytest.raises(InputError, match="needs the special tokens cls, sep"):
        Answer(CONFIG, Vocabulary(size=9, pad=0, eos=1, ordinary=(2, 9)), 24)
