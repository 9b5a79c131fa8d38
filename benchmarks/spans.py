"""Answers of a run beside the best span at a fixed position: `python -m benchmarks.spans FILE HELD ANSWERS.jsonl`.

FILE is gzipped and in SQuAD's format (Rajpurkar et al. 2016, arXiv:1606.05250), its last HELD questions are held out,
and ANSWERS is what `lm-jax predict` wrote for FILE. The span is the one of at most eight words, anywhere in the first
forty words of a context, with the highest F1 over the other questions.
"""

from __future__ import annotations

import gzip
import itertools
import json
import sys
from collections.abc import Sequence
from pathlib import Path

from lm_jax.evaluate import metrics

WORDS, LONGEST = 40, 8
Question = tuple[list[str], list[str]]


def main(path: str, held: str, answers: str) -> None:
    """Print the F1 of both with its standard error."""
    with gzip.open(path, "rt", encoding="utf-8") as file:
        paragraphs = [each for article in json.load(file)["data"] for each in article["paragraphs"]]
    questions: list[Question] = [
        (each["context"].split(), [answer["text"] for answer in one["answers"]])
        for each in paragraphs
        for one in each["qas"]
    ]
    trained, tested = questions[: -int(held)], questions[-int(held) :]
    best = max(
        itertools.product(range(WORDS), range(1, LONGEST + 1)), key=lambda span: score(at(span, trained), trained)
    )
    lines = Path(answers).read_text(encoding="utf-8").splitlines()[-int(held) :]
    texts = {
        f"words {best[0]} to {sum(best)}": at(best, tested),
        answers: [json.loads(line)["answer"] for line in lines],
    }
    for name, predictions in texts.items():
        error = metrics.standard_error("spans", "answer_f1", predictions, references(tested), [])
        print(f"{name}: F1 {100 * score(predictions, tested):.1f}, standard error {100 * error:.1f}")


def at(span: tuple[int, int], questions: Sequence[Question]) -> list[str]:
    """The words of each context from the first number on, as many as the second."""
    return [" ".join(words[span[0] : sum(span)]) for words, _ in questions]


def references(questions: Sequence[Question]) -> list[list[str]]:
    """The true answers of each question."""
    return [texts for _, texts in questions]


def score(predictions: Sequence[str], questions: Sequence[Question]) -> float:
    """The F1 of SQuAD."""
    return metrics.compute("spans", ["answer_f1"], predictions, references(questions), [])["answer_f1"]


if __name__ == "__main__":
    main(*sys.argv[1:])
