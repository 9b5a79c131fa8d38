"""Entities and the metrics of tagged sentences.

The expected counts are what the original script printed: conlleval, version 2004-01-26 (E. F. Tjong Kim Sang). Its
input was the output of `draw`, one word a line: a word, the reference's tag and the predicted tag.
"""

import random

import pytest

from lm_jax.core.config import InputError
from lm_jax.evaluate.metrics import METRICS, compute, entities

PER_LOC = [f"{letter}-{kind}" for letter in "BI" for kind in ("PER", "LOC")]
ALPHABETS = {
    "iob": ["O", "O", *PER_LOC],
    "iob1": ["O", "O", "I-PER", "I-PER", "I-LOC", "B-PER"],
    "weibo": ["O", "O", "B-PER.NOM", "I-PER.NOM", "B-PER.NAM", "I-PER.NAM", "B-x-y", "I-x-y"],
    "ioe": ["O", "O", "I-PER", "E-PER", "I-LOC", "E-LOC"],
    "untyped": ["B", "I", "O"],
}


def draw(alphabet, seed, sentences=120, noise=0.3):
    """Random predictions and references, well-formed or not, from `random()`, whose values Python never changes."""
    uniform = random.Random(seed).random
    tag = lambda: alphabet[int(uniform() * len(alphabet))]
    references = [[tag() for _ in range(1 + int(uniform() * 12))] for _ in range(sentences)]
    predictions = [[tag() if uniform() < noise else each for each in sentence] for sentence in references]
    return predictions, references


def chunked(letters, seed, sentences=60):
    """Random references that obey a scheme, and predictions that lack some of their entities."""
    uniform = random.Random(seed).random
    first, inside, last, single = letters
    predictions, references = [], []
    for _ in range(sentences):
        true, ours = [], []
        for _ in range(1 + int(uniform() * 6)):
            kind, words = ("NAME", "ORG")[int(uniform() * 2)], int(uniform() * 5)
            middle = [f"{inside}-{kind}"] * (words - 2)
            tags = [["O"], [f"{single}-{kind}"]][words] if words < 2 else [f"{first}-{kind}", *middle, f"{last}-{kind}"]
            true += tags
            ours += tags if uniform() < 0.7 else ["O"] * len(tags)
        predictions, references = [*predictions, ours], [*references, true]
    return predictions, references


# Alphabet -> (words, true, predicted and correct entities), (accuracy, precision, recall, F1), F1 by type; in percent.
CONLLEVAL = {
    "iob": ((797, 448, 463, 317), (77.79, 68.47, 70.76, 69.59), {"LOC": 70.91, "PER": 68.37}),
    "iob1": ((723, 367, 361, 249), (79.94, 68.98, 67.85, 68.41), {"LOC": 67.61, "PER": 68.74}),
    "weibo": (
        (845, 558, 557, 390),
        (75.15, 70.02, 69.89, 69.96),
        {"PER.NAM": 68.10, "PER.NOM": 72.53, "x-y": 69.31},
    ),
    "ioe": ((798, 461, 452, 324), (78.32, 71.68, 70.28, 70.97), {"LOC": 70.64, "PER": 71.33}),
    "untyped": ((814, 389, 392, 283), (80.10, 72.19, 72.75, 72.47), {}),
}
# `chunked("BMES", seed=0)`, with M and E written as I and S as B, because conlleval knows no M and S.
CONLLEVAL_BMES = ((484, 184, 129, 129), (73.55, 100.00, 70.11, 82.43), {"NAME": 83.75, "ORG": 81.05})


def assert_equals_conlleval(predictions, references, expected):
    counts, percentages, kinds = expected
    correct, predicted, true = METRICS["tags"]["entity_f1"].statistics(predictions, references, []).sum(axis=0)
    assert (sum(map(len, references)), true, predicted, correct) == counts
    names = ["tag_accuracy", "entity_precision", "entity_recall", "entity_f1"]
    values = compute("tags", ["tag_accuracy", "entity_f1"], predictions, references, [])
    # It prints two decimals.
    assert [100 * values[name] for name in names] == pytest.approx(percentages, abs=0.00501)
    by_type = compute("tags", ["entities_by_type"], predictions, references, [])
    assert {name: 100 * value for name, value in by_type.items()} == pytest.approx(
        {f"{kind}_f1": value for kind, value in kinds.items()}, abs=0.00501
    )


@pytest.mark.parametrize("name", ALPHABETS)
def test_counts_are_those_of_conlleval(name):
    assert_equals_conlleval(*draw(ALPHABETS[name], seed=list(ALPHABETS).index(name)), CONLLEVAL[name])


@pytest.mark.parametrize("letters", ["BMES", "BIES", "BILU"])
def test_schemes_with_an_end_count_as_conlleval_counts_their_bio_form(letters):
    assert_equals_conlleval(*chunked(letters, seed=0), CONLLEVAL_BMES)


@pytest.mark.parametrize(
    "tags, expected",
    [
        ("", []),
        ("O O", []),
        ("B-NAME M-NAME E-NAME S-NAME", [(0, 3, "NAME"), (3, 4, "NAME")]),
        ("B-X E-X B-X E-X", [(0, 2, "X"), (2, 4, "X")]),
        ("U-X U-X B-X L-X", [(0, 1, "X"), (1, 2, "X"), (2, 4, "X")]),
        ("B-PER.NOM I-PER.NOM B-PER.NAM", [(0, 2, "PER.NOM"), (2, 3, "PER.NAM")]),
        # IOB1: B only between two entities of one type.
        ("I-X I-X B-X I-Y", [(0, 2, "X"), (2, 3, "X"), (3, 4, "Y")]),
        # An entity starts at an I after O, and where the type changes.
        ("O I-X I-Y E-Y I-Y", [(1, 2, "X"), (2, 4, "Y"), (4, 5, "Y")]),
        # Types without a position, also with a hyphen.
        ("PER PER O LOC PER", [(0, 2, "PER"), (3, 4, "LOC"), (4, 5, "PER")]),
        ("pre-head pre-head O", [(0, 2, "pre-head")]),
        # Word segmentation.
        ("B M E S B E", [(0, 3, ""), (3, 4, ""), (4, 6, "")]),
    ],
)
def test_entities_of_a_sentence(tags, expected):
    assert entities(tags.split()) == expected


def test_entities_in_equal_positions_of_different_sentences_are_different():
    values = compute("tags", ["entities_by_type", "entity_f1"], [["B-X"], ["O"]], [["O"], ["B-X"]], [])
    assert values == {"X_f1": 0.0, "entity_precision": 0.0, "entity_recall": 0.0, "entity_f1": 0.0}


def test_partial_credit_is_half_for_an_overlap_of_any_type():
    references = [["B-X", "I-X", "O", "B-Y", "O"], ["B-X", "O", "O", "O", "O"]]
    predictions = [["B-Y", "O", "O", "B-X", "O"], ["O", "O", "B-X", "O", "B-X"]]
    values = compute("tags", ["entity_partial"], predictions, references, [])
    # One overlap, one entity with the right borders; four predicted, three true.
    assert values == pytest.approx(
        {"entity_partial_precision": 1.5 / 4, "entity_partial_recall": 1.5 / 3, "entity_partial_f1": 3.0 / 7}
    )


def test_partial_values_are_those_of_nervaluate_over_all_sentences():
    import nervaluate

    predictions, references = draw(ALPHABETS["iob"], seed=7)
    theirs = nervaluate.Evaluator(references, predictions, tags=["PER", "LOC"], loader="list").evaluate()
    ours = compute("tags", ["entity_partial"], predictions, references, [])
    for name in ("precision", "recall", "f1"):
        assert ours[f"entity_partial_{name}"] == pytest.approx(getattr(theirs["overall"]["partial"], name))


def test_sentences_of_other_lengths_and_texts_are_refused():
    with pytest.raises(ValueError, match="sentence 1 has 1 predicted tags and 2 reference tags"):
        compute("tags", ["entity_f1"], [["O"], ["O"]], [["O"], ["O", "O"]], [])
    with pytest.raises(InputError, match="sentence 0 is a text; expected a list of tags"):
        compute("tags", ["tag_accuracy"], ["OO"], ["OO"], [])
    with pytest.raises(InputError, match="no words"):
        compute("tags", ["tag_accuracy"], [[], []], [[], []], [])
