"""Metrics of tagged sentences: entities as conlleval counts them (Tjong Kim Sang and De Meulder 2003, section 2.4).

A prediction, as well as its reference, is the list of the names of the tags of a sentence.
"""

from __future__ import annotations

import functools
import operator
from collections.abc import Sequence

import numpy as np
from jaxtyping import Float

from lm_jax.core.config import InputError
from lm_jax.evaluate.additive import Additive, Metric, library, precision_recall_f1, ratio

# First word, word after the last, type.
Entity = tuple[int, int, str]
Sentences = Sequence[Sequence[str]]

# M (BMES) is inside; L and U (BILOU) are the last word and the only word, like E and S (BIOES).
_LETTERS = {"O": "O", "B": "B", "I": "I", "M": "I", "E": "E", "L": "E", "S": "S", "U": "S"}


@functools.cache
def _split(tag: str) -> tuple[str, str]:
    """Returns the position in the entity (O, B, I, E or S) and the type, which may contain hyphens."""
    letter, _, kind = tag.partition("-")
    return (_LETTERS[letter], kind) if letter in _LETTERS else ("I", tag)


def entities(tags: Sequence[str]) -> list[Entity]:
    """Returns the entities of a sentence: (first word, word after the last, type).

    The tags are IOB1, IOB2 (BIO), IOE, BIOES, BMES, BILOU, or types without a position; neighbours of one such type are
    one entity. Sequences that a scheme forbids are read as by conlleval: an entity starts at a B, after an O or E, and
    where the type changes. Two rules are added, because conlleval does not know BIOES: an entity also starts at a B
    after an E of the same type, and an S is a whole entity.

    Reference: Tjong Kim Sang and Veenstra 1999 (cs.CL/9907006), for the schemes.

    Example:
      >>> entities(["B-PER", "I-PER", "O", "I-LOC", "B-LOC"])
      [(0, 2, 'PER'), (3, 4, 'LOC'), (4, 5, 'LOC')]
      >>> entities(["B-NAME", "M-NAME", "E-NAME", "S-NAME"])
      [(0, 3, 'NAME'), (3, 4, 'NAME')]
    """
    chunks: list[Entity] = []
    first, kind, ended = -1, "", True
    for word, tag in enumerate(tags):
        letter, own = _split(tag)
        starts = letter != "O" and (first < 0 or ended or letter in "BS" or own != kind)
        if first >= 0 and (starts or letter == "O"):
            chunks.append((first, word, kind))
            first = -1
        if starts:
            first, kind = word, own
        ended = letter in "ES"
    if first >= 0:
        chunks.append((first, len(tags), kind))
    return chunks


def check_sentences(predictions: Sentences, references: Sentences) -> None:
    """Checks that every word has one predicted tag and one reference tag.

    Raises:
      InputError: there is no word at all, or a sentence is a text.
      ValueError: a prediction and its reference have different lengths.
    """
    for row, (prediction, reference) in enumerate(zip(predictions, references, strict=True)):
        if isinstance(prediction, str) or isinstance(reference, str):
            raise InputError(f"sentence {row} is a text; expected a list of tags, such as ['B-PER', 'O']")
        if len(prediction) != len(reference):
            raise ValueError(f"sentence {row} has {len(prediction)} predicted tags and {len(reference)} reference tags")
    if not any(map(len, references)):
        raise InputError("the sentences have no words; expected at least one tag")


def _counts(predictions: Sentences, references: Sentences, labels: Sequence[str]) -> Float[np.ndarray, "rows 3"]:
    """Returns for each sentence the numbers of correct, predicted and true entities."""
    check_sentences(predictions, references)
    counts = []
    for prediction, reference in zip(predictions, references, strict=True):
        found, true = set(entities(prediction)), set(entities(reference))
        counts.append([len(found & true), len(found), len(true)])
    return np.array(counts, np.float64)


def _scores(name: str, correct: float, predicted: float, true: float) -> dict[str, float]:
    precision, recall, f1 = precision_recall_f1(correct, predicted, true)
    return {f"{name}_precision": precision, f"{name}_recall": recall, f"{name}_f1": f1}


def by_type(predictions: Sentences, references: Sentences, labels: Sequence[str]) -> dict[str, float]:
    """Returns the F1 of each type of entity of the predictions or the references, as `TYPE_f1`, sorted by type.

    Tags without types, such as B and I, have no values here.
    """
    check_sentences(predictions, references)
    found = {(row, *entity) for row, tags in enumerate(predictions) for entity in entities(tags)}
    true = {(row, *entity) for row, tags in enumerate(references) for entity in entities(tags)}
    values = {}
    for kind in sorted({entity[-1] for entity in found | true if entity[-1]}):
        ours, theirs = ({entity for entity in each if entity[-1] == kind} for each in (found, true))
        values[f"{kind}_f1"] = precision_recall_f1(len(ours & theirs), len(ours), len(theirs))[2]
    return values


def _equal_tags(predictions: Sentences, references: Sentences, labels: Sequence[str]) -> Float[np.ndarray, "rows 2"]:
    check_sentences(predictions, references)
    pairs = zip(predictions, references, strict=True)
    return np.array([[sum(map(operator.eq, ours, true)), len(true)] for ours, true in pairs], np.float64)


def _partial_counts(predictions: Sentences, references: Sentences, labels: Sequence[str]) -> np.ndarray:
    """Returns for each sentence the credit, the predicted and the true entities of SemEval-2013 task 9.1's "partial".

    An entity with the right borders has credit 1 and one that overlaps a true entity has 1/2, whatever their types.
    """
    check_sentences(predictions, references)
    records = library("nervaluate.entities", "nervaluate", "entity_partial")
    strategy = library("nervaluate.strategies", "nervaluate", "entity_partial").PartialEvaluation()
    counts = []
    for pair in zip(predictions, references, strict=True):
        # Its borders include the last word.
        ours, true = ([records.Entity(kind, first, end - 1) for first, end, kind in entities(tags)] for tags in pair)
        result, _ = strategy.evaluate(true, ours, [])
        counts.append([result.correct + 0.5 * result.partial, result.actual, result.possible])
    return np.array(counts, np.float64)


METRICS: dict[str, Metric] = {
    "entity_f1": Additive(_counts, lambda sums: _scores("entity", *sums)),
    "entities_by_type": by_type,
    "entity_partial": Additive(_partial_counts, lambda sums: _scores("entity_partial", *sums)),
    "tag_accuracy": Additive(_equal_tags, lambda sums: {"tag_accuracy": ratio(*sums)}),
}
