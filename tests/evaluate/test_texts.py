"""Metrics of answers, translations and summaries."""

import sys

import pytest
import sacrebleu
from rouge_score import rouge_scorer

from lm_jax.core.config import InputError
from lm_jax.evaluate.metrics import compute, signature, standard_error
from lm_jax.evaluate.texts import answer_tokens, mostly_chinese

ENGLISH = ["A dog runs across the green field.", "Two men are sitting on a bench.", "The child eats an apple."]
OTHER = ["A dog is running over the green grass.", "Two men sit on the bench.", "A child is eating an apple."]
CHINESE = ["今天上海的天气很好。", "他在北京大学学习 Python 语言。", "我喜欢吃苹果。"]
OTHER_CHINESE = ["今天上海天气真好。", "他在北京大学学 Python。", "我爱吃苹果。"]


def one(kind, name, predictions, references):
    return compute(kind, [name], predictions, references, [])[name]


def lists(texts):
    return [[text] for text in texts]


@pytest.mark.parametrize(
    "prediction, answers, exact, f1",
    [
        ("The Eiffel Tower!", ["eiffel tower"], 1, 1),
        ("Eiffel", ["the Eiffel Tower", "Paris"], 0, 2 / 3),
        ("Gustave  Eiffel", ["Tower", "Gustave Eiffel"], 1, 1),
        # Bags of words: "a b b" has no article inside of a word, and shares two of three words with "b b c".
        ("ab b b", ["b b c"], 0, 2 / 3),
        ("1,000", ["1000"], 1, 1),
        # In English rows punctuation is ASCII's, as in SQuAD's script.
        ("O’Brien", ["OBrien"], 0, 0),
        # No answer, also if only articles and punctuation are left.
        ("", [], 1, 1),
        ("The.", [], 1, 1),
        ("Paris", [], 0, 0),
        ("", ["Paris"], 0, 0),
        ("", ["a", "Paris"], 0, 0),
        ("", ["the"], 1, 1),
        # Chinese characters are words; their punctuation does not count.
        ("《三国演义》", ["三国演义"], 1, 1),
        ("三国", ["三国演义"], 0, 2 / 3),
        ("公元1998年", ["1998年"], 0, 2 * 2 / (4 + 2)),
        ("麦特琳（ASL）", ["麦特琳 asl"], 1, 1),
        ("１", ["一。"], 0, 0),
    ],
)
def test_answers_by_hand(prediction, answers, exact, f1):
    assert one("spans", "exact_match", [prediction], [answers]) == exact
    assert one("spans", "answer_f1", [prediction], [answers]) == pytest.approx(f1)


def test_answers_are_averaged_over_questions():
    values = compute("spans", ["exact_match", "answer_f1"], ["yes", "no way", ""], [["Yes"], ["no"], ["maybe"]], [])
    assert values == pytest.approx({"exact_match": 1 / 3, "answer_f1": (1 + 2 / 3) / 3})


def test_articles_within_words_stay():
    assert answer_tokens("Athena thaws an ant", chinese=False) == ["athena", "thaws", "ant"]


@pytest.mark.parametrize(
    "texts, expected",
    [
        (CHINESE, True),
        (ENGLISH, False),
        (["上海 Shanghai"], False),
        (["123 。"], False),
        ([""], False),
        (["カタカナと漢字です"], False),
    ],
)
def test_texts_that_are_mostly_chinese(texts, expected):
    assert mostly_chinese(texts) is expected


@pytest.mark.parametrize("tokenizer, ours, true", [("13a", OTHER, ENGLISH), ("zh", OTHER_CHINESE, CHINESE)])
def test_bleu_and_chrf_are_those_of_sacrebleu(tokenizer, ours, true):
    values = compute("text", ["bleu", "chrf"], ours, lists(true), [])
    assert values["bleu"] == pytest.approx(sacrebleu.corpus_bleu(ours, [true], tokenize=tokenizer).score, rel=1e-12)
    assert values["chrf"] == pytest.approx(sacrebleu.corpus_chrf(ours, [true]).score, rel=1e-12)
    assert 5 < values["bleu"] < 80 and f"tok:{tokenizer}|" in signature(lists(true))["bleu"]


def test_rows_may_have_different_numbers_of_references():
    references = [[ENGLISH[0], OTHER[0]], [ENGLISH[1]], [ENGLISH[2]]]
    values = compute("text", ["bleu", "chrf", "rouge1", "exact_match"], OTHER, references, [])
    streams = [ENGLISH, [OTHER[0], None, None]]
    assert values["bleu"] == pytest.approx(sacrebleu.corpus_bleu(OTHER, streams).score, rel=1e-12)
    assert values["chrf"] == pytest.approx(sacrebleu.corpus_chrf(OTHER, streams).score, rel=1e-12)
    assert values["exact_match"] == pytest.approx(1 / 3)
    assert values["rouge1"] > one("text", "rouge1", OTHER, lists(ENGLISH))


def test_equal_texts_have_bleu_and_chrf_100():
    assert compute("text", ["bleu", "chrf"], ENGLISH, lists(ENGLISH), []) == pytest.approx({"bleu": 100, "chrf": 100})
    assert compute("text", ["bleu", "chrf"], ["", "", ""], lists(ENGLISH), []) == {"bleu": 0.0, "chrf": 0.0}


def test_rouge_by_hand():
    # Unigrams: 2 of 3 and 2 of 4; bigrams: 1 of 2 and 1 of 3; longest common subsequence: the cat.
    values = compute("text", ["rouge1", "rouge2", "rougeL"], ["the cat ran"], [["the cat sat down"]], [])
    assert values == pytest.approx({"rouge1": 4 / 7, "rouge2": 2 / 5, "rougeL": 4 / 7})


def test_rouge_is_the_mean_of_rouge_score():
    names = ["rouge1", "rouge2", "rougeL"]
    scorer = rouge_scorer.RougeScorer(names)
    scores = [scorer.score(true, ours) for true, ours in zip(ENGLISH, OTHER, strict=True)]
    values = compute("text", names, OTHER, lists(ENGLISH), [])
    assert values == pytest.approx({name: sum(each[name].fmeasure for each in scores) / 3 for name in names})


def test_rouge_of_chinese_is_over_characters():
    # Characters and words: 我 爱 吃 苹 果 in 我 喜 欢 吃 苹 果, 4 of 5 and 4 of 6; bigrams: 吃苹 and 苹果.
    values = compute("text", ["rouge1", "rouge2", "rougeL"], ["我爱吃苹果。"], [["我喜欢吃苹果"]], [])
    assert values == pytest.approx({"rouge1": 8 / 11, "rouge2": 4 / 9, "rougeL": 8 / 11})
    # A word of another script is one word, in lower case: 学 and python of 学 习 了 python.
    assert one("text", "rouge1", ["学 Python", "无"], [["学习了python"], ["上海是一个城市"]]) == pytest.approx(
        2 / 3 / 2
    )


def test_rouge_refuses_scripts_whose_letters_it_would_drop():
    with pytest.raises(InputError, match="rouge1 reads the letters a to z and Chinese characters; use chrf"):
        one("text", "rouge1", ["кошка"], [["собака"]])


def test_exact_match_of_texts_ignores_white_space_around_them():
    assert one("text", "exact_match", ["42\n", "Yes", " no"], [["41", "42"], ["yes"], ["no "]]) == pytest.approx(2 / 3)


@pytest.mark.parametrize("kind, name", [("spans", "answer_f1"), ("text", "bleu"), ("text", "rouge1")])
def test_a_text_in_place_of_a_list_of_references_is_refused(kind, name):
    with pytest.raises(InputError, match=r"references\[1\] is the text 'b'; expected a list of texts"):
        one(kind, name, ["a", "b"], [["a"], "b"])


@pytest.mark.parametrize("name", ["bleu", "chrf", "rougeL", "exact_match"])
def test_rows_without_references_are_refused(name):
    with pytest.raises(InputError, match=r"references\[1\] is empty; expected at least one text"):
        one("text", name, ["a", "b"], [["a"], []])


def test_standard_errors_of_bleu_come_from_scores_of_samples():
    predictions, references = OTHER * 4, lists(ENGLISH * 4)
    error = standard_error("text", "bleu", predictions, references, [], samples=20)
    assert 0.5 < error < 20


@pytest.mark.parametrize(
    "module, package, name",
    [("sacrebleu.metrics", "sacrebleu", "bleu"), ("rouge_score.rouge_scorer", "rouge-score", "rouge1")],
)
def test_missing_libraries_are_named(module, package, name, monkeypatch):
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(InputError, match=rf"{name} needs {package}; pip install 'lm_jax\[tasks\]'"):
        one("text", name, ["a"], [["a"]])
