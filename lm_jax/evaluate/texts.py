"""Metrics of texts: answers to questions, translations and summaries, in English and in Chinese."""

from __future__ import annotations

import functools
import re
import string
import unicodedata
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from lm_jax.core.config import InputError
from lm_jax.evaluate.additive import Additive, Metric, library, mean

_CHARACTERS = "\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff"
_CHINESE = re.compile(f"[{_CHARACTERS}]")
# A Chinese character, or a word of another script.
_WORD = re.compile(f"[{_CHARACTERS}]|[^\\W{_CHARACTERS}]+")
_ARTICLE = re.compile(r"\b(a|an|the)\b")
_PUNCTUATION = frozenset(string.punctuation)
_FULL_WIDTH = frozenset(chr(ord(character) + 0xFEE0) for character in string.punctuation)


def mostly_chinese(texts: Sequence[str]) -> bool:
    """Returns whether more than half of the letters are Chinese characters.

    Example:
      >>> mostly_chinese(["我喜欢听 jazz", "上海"]), mostly_chinese(["Shanghai (上海)"])
      (True, False)
    """
    letters = sum(character.isalpha() for text in texts for character in text)
    return 2 * sum(len(_CHINESE.findall(text)) for text in texts) > letters


def check_texts(references: Sequence[Sequence[str]]) -> None:
    """Raises InputError for a reference that is a text instead of a list of texts."""
    for row, reference in enumerate(references):
        if isinstance(reference, str):
            raise InputError(f"references[{row}] is the text {reference[:40]!r}; expected a list of texts")


def _is_punctuation(character: str, chinese: bool) -> bool:
    if character in _PUNCTUATION:
        return True
    return chinese and (character in _FULL_WIDTH or unicodedata.category(character)[0] == "P")


def answer_tokens(text: str, chinese: bool) -> list[str]:
    """Returns the words of an answer in lower case, without punctuation and English articles.

    A Chinese character is a word. In an English row, as in SQuAD's script, punctuation is ASCII's only.

    Args:
      text: an answer.
      chinese: there is a Chinese character in the row, so that full-width punctuation is removed too.

    Reference: Rajpurkar et al. 2016 (arXiv:1606.05250), section 6.1; Cui et al. 2019 (arXiv:1810.07366), section 4.

    Example:
      >>> answer_tokens("The end -- of an era!", chinese=False)
      ['end', 'of', 'era']
      >>> answer_tokens("《三国》, 1998年", chinese=True)
      ['三', '国', '1998', '年']
    """
    kept = "".join(character for character in text.lower() if not _is_punctuation(character, chinese))
    return _CHINESE.sub(r" \g<0> ", _ARTICLE.sub(" ", kept)).split()


def _exact(prediction: list[str], reference: list[str]) -> float:
    return float(prediction == reference)


def _overlap(prediction: list[str], reference: list[str]) -> float:
    """Returns the F1 of two bags of words; if one is empty, whether both are (Rajpurkar et al. 2018, SQuAD 2.0)."""
    if not prediction or not reference:
        return float(prediction == reference)
    return 2 * (Counter(prediction) & Counter(reference)).total() / (len(prediction) + len(reference))


def _best(compare: Callable[[list[str], list[str]], float], predictions: Any, references: Any) -> list[float]:
    """Returns for each row the best score over its acceptable answers; if there is none, "" is the answer."""
    check_texts(references)
    scores = []
    for prediction, answers in zip(predictions, references, strict=True):
        chinese = any(map(_CHINESE.search, (prediction, *answers)))
        ours, *true = (answer_tokens(text, chinese) for text in (prediction, *answers))
        scores.append(max(compare(ours, each) for each in [each for each in true if each] or [[]]))
    return scores


SPANS: dict[str, Metric] = {
    "exact_match": mean("exact_match", functools.partial(_best, _exact)),
    "answer_f1": mean("answer_f1", functools.partial(_best, _overlap)),
}


def _check_references(references: Sequence[Sequence[str]]) -> None:
    check_texts(references)
    for row, reference in enumerate(references):
        if not len(reference):
            raise InputError(f"references[{row}] is empty; expected at least one text")


def _flat(references: Sequence[Sequence[str]]) -> list[str]:
    return [text for reference in references for text in reference]


def _scorer(name: str, chinese: bool) -> Any:
    metrics = library("sacrebleu.metrics", "sacrebleu", name)
    # `force`: no warning about references that are tokenised already.
    return metrics.BLEU(tokenize="zh" if chinese else "13a", force=True) if name == "bleu" else metrics.CHRF()


def _streams(references: Sequence[Sequence[str]]) -> list[list[str | None]]:
    """Returns the first references of all rows, then the second ones, and so on; None where a row has no more."""
    longest = max(map(len, references))
    return [[row[index] if index < len(row) else None for row in references] for index in range(longest)]


def _corpus(name: str) -> Additive:
    """A metric of sacrebleu over a corpus.

    Its `corpus_score` computes the same two steps: statistics of each row, and a score of their sums.
    """

    def statistics(predictions: Sequence[Any], references: Sequence[Any], labels: Sequence[str]) -> np.ndarray:
        _check_references(references)
        scorer = _scorer(name, mostly_chinese(_flat(references)))
        return np.array(scorer._extract_corpus_statistics(list(predictions), _streams(references)), np.float64)

    def values(sums: np.ndarray) -> dict[str, float]:
        # The score of given statistics is that of any tokenizer.
        return {name: float(_scorer(name, chinese=False)._compute_score_from_stats(sums.astype(int).tolist()).score)}

    return Additive(statistics, values)


def signature(references: Sequence[Sequence[str]] = (("text",),)) -> dict[str, str]:
    """Returns sacrebleu's descriptions of `bleu` and `chrf` for these references, to be reported with their values."""
    _check_references(references)
    signatures, chinese = {}, mostly_chinese(_flat(references))
    for name in ("bleu", "chrf"):
        scorer = _scorer(name, chinese)
        scorer.corpus_score([row[0] for row in references], _streams(references))
        signatures[name] = str(scorer.get_signature())
    return signatures


class _Characters:
    """A tokenizer for rouge-score: Chinese characters, and words of other scripts in lower case."""

    def tokenize(self, text: str) -> list[str]:
        return _WORD.findall(text.lower())


def _rouge(name: str, predictions: Sequence[str], references: Sequence[Sequence[str]]) -> list[float]:
    """Returns ROUGE's F measure (Lin 2004) of each row, without stemming; the best one of several references.

    Words are runs of a to z and digits in lower case, as in ROUGE-1.5.5; other letters separate words. If
    the references are mostly Chinese, each Chinese character is a word.

    Raises:
      InputError: most letters are neither Chinese nor a to z, which are all that rouge-score's tokenizer keeps.
    """
    _check_references(references)
    scorer = library("rouge_score.rouge_scorer", "rouge-score", name)
    texts = _flat(references)
    chinese = mostly_chinese(texts)
    letters = [character for text in texts for character in text if character.isalpha()]
    if not chinese and 2 * sum(map(str.isascii, letters)) < len(letters):
        raise InputError(f"{name} reads the letters a to z and Chinese characters; use chrf for these references")
    rouge = scorer.RougeScorer([name], tokenizer=_Characters() if chinese else None)
    pairs = zip(predictions, references, strict=True)
    return [rouge.score_multi(list(reference), prediction)[name].fmeasure for prediction, reference in pairs]


def _equal(predictions: Sequence[str], references: Sequence[Sequence[str]]) -> list[float]:
    """Returns whether each prediction is one of its references, apart from surrounding white space."""
    _check_references(references)
    pairs = zip(predictions, references, strict=True)
    return [float(prediction.strip() in map(str.strip, reference)) for prediction, reference in pairs]


TEXT: dict[str, Metric] = {
    "bleu": _corpus("bleu"),
    "chrf": _corpus("chrf"),
    **{name: mean(name, functools.partial(_rouge, name)) for name in ("rouge1", "rouge2", "rougeL")},
    "exact_match": mean("exact_match", _equal),
}
