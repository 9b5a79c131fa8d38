"""Tasks as data: the columns of well-known data sets, what is asked of them, and how answers are scored.

A recipe starts from an entry of `TASKS`; the keys of `config.data.columns` and `config.task` make another task of it:
`--config=classify --config.data.columns.text.field=review --config.data.columns.label.field=stars`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from lm_jax.core.config import lookup, setting


@dataclasses.dataclass(frozen=True, kw_only=True)
class TaskConfig:
    """How answers are scored; an objective that is no task ignores it.

    Attributes:
      metrics: names of metrics for the objective's kind of answers, such as "accuracy", "f1"; empty: those of `USUAL`.
        Metrics of texts need generation, so the objective seq2seq has none unless they are named.
      generated: the first rows of the held-out ones for which texts are generated; 0: all.
      answer_after: only what follows the last occurrence of it in a text is scored, such as "####"; empty: the text.
    """

    metrics: tuple[str, ...] = ()
    generated: int = setting(0, at_least=0)
    answer_after: str = ""


# The metrics of each kind of answers if a configuration names none.
USUAL: dict[str, tuple[str, ...]] = {
    "label": ("accuracy", "macro_f1"),
    "labels": ("micro_f1", "macro_f1"),
    "number": ("pearson", "spearman"),
    "tags": ("entity_f1",),
    "spans": ("exact_match", "answer_f1"),
    "ranking": ("recall_at_1", "mrr"),
    "text": ("bleu", "rougeL"),
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Entry:
    """A task on a data set.

    Attributes:
      objective: its name, a key of `config.objective`.
      columns: settings of `config.data.columns`.
      settings: of the objective.
      metrics: the first decides which checkpoint is the best.
      data: other settings of `config.data`.
      small: settings of the objective for short rows, as in `scratch`.
    """

    objective: str
    columns: Mapping[str, Mapping[str, Any]]
    settings: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    metrics: tuple[str, ...]
    data: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    small: Mapping[str, Any] = dataclasses.field(default_factory=dict)


def _field(name: str | int, **settings: Any) -> dict[str, Any]:
    """A column that is read from a field: a name, or in a table without names a number from 0; "": its own name."""
    return {"field": str(name), **settings}


def _label(name: str | int) -> dict[str, Any]:
    return _field(name, kind="label")


def _classify(text: str | int, label: str | int, *metrics: str, pair: str | int | None = None, **data: Any) -> Entry:
    columns = {"text": _field(text), "label": _label(label)}
    settings = {} if pair is None else {"pair": "pair"}
    columns |= {} if pair is None else {"pair": _field(pair)}
    return Entry(objective="classify", columns=columns, settings=settings, metrics=metrics or ("accuracy",), data=data)


def _tag(tags: int | str, text: int | str = 0, **data: Any) -> Entry:
    columns = {"text": _field(text), "tags": _field(tags, kind="tags")}
    return Entry(objective="tag", columns=columns, metrics=("entity_f1",), data={"format": "conll", **data})


def _number(text: str | int, pair: str | int, score: str | int, **data: Any) -> Entry:
    columns = {"text": _field(text), "pair": _field(pair), "label": _field(score, kind="number")}
    settings = {"pair": "pair", "answers": "number"}
    return Entry(objective="classify", columns=columns, settings=settings, metrics=("spearman", "pearson"), data=data)


def _choice(texts: tuple[str, ...], choices: tuple[str, ...]) -> Entry:
    columns = {**{name: {} for name in (*texts, *choices)}, "label": {"kind": "label"}}
    return Entry(
        objective="choice", columns=columns, settings={"texts": texts, "choices": choices}, metrics=("accuracy",)
    )


def _pattern(text: str | int, label: str | int, template: str, *words: str, **data: Any) -> Entry:
    return Entry(
        objective="pattern",
        columns={"text": _field(text), "label": _label(label)},
        settings={"template": template, "words": words},
        metrics=("accuracy", "macro_f1"),
        data=data,
    )


def _write(source: str, target: str, *metrics: str, before: str = "") -> Entry:
    columns = {"source": _field(source, template=before), "target": _field(target)}
    return Entry(objective="seq2seq", columns=columns, settings={"smoothing": 0.1}, metrics=metrics)


# The markers of a chat, each one token: who says what follows. A question that holds one is spelled.
USER, ASSISTANT = "<|user|>", "<|assistant|>"

# The labels of TNEWS and their words.
TNEWS = (
    *("news_story=故事", "news_culture=文化", "news_entertainment=娱乐", "news_sports=体育", "news_finance=财经"),
    *("news_house=房产", "news_car=汽车", "news_edu=教育", "news_tech=科技", "news_military=军事"),
    *("news_travel=旅游", "news_world=国际", "news_stock=股票", "news_agriculture=农业", "news_game=游戏"),
)

TASKS: dict[str, Entry] = {
    # Classification. `table` has the columns text and label.
    "table": _classify("", ""),
    "several": Entry(
        objective="classify",
        columns={"text": {}, "label": {"kind": "labels"}},
        settings={"answers": "labels"},
        metrics=("micro_f1", "macro_f1"),
    ),
    "rating": Entry(
        objective="classify",
        columns={"text": {}, "label": {"kind": "number"}},
        settings={"answers": "number"},
        metrics=("spearman", "pearson"),
    ),
    "sst2": _classify(0, 1, format="tsv"),
    "cola": _classify(3, 1, "matthews", format="tsv"),
    "trec": _classify("text", "label", format="labelled"),
    "snips_intent": _classify("", ""),
    "chnsenticorp": _classify("review", "label"),
    "thucnews": _classify(0, 1, format="tsv"),
    # Pairs.
    "pairs": _classify("", "", pair=""),
    "mrpc": _classify("#1 String", "Quality", "f1", "accuracy", pair="#2 String"),
    "rte": _classify("sentence1", "label", pair="sentence2"),
    "sick": _classify("sentence_A", "entailment_judgment", pair="sentence_B", format="tsv"),
    # Numbers.
    "scores": _number("", "", "score"),
    "stsb": _number("sentence1", "sentence2", "score"),
    # Tags; a file has the tags of a word in its last column.
    "words": _tag(-1),
    "conll2003": _tag(3),
    "snips_slots": _tag("", "", format="auto"),
    # Questions about a text, in SQuAD's format.
    "questions": Entry(
        objective="answer",
        columns={"question": {}, "context": {}, "answers": {"kind": "spans", "of": "context"}},
        metrics=("answer_f1", "exact_match"),
        data={"length": 384, "format": "squad"},
        small={"overlap": 16, "question_length": 16},
    ),
    # Choices.
    "choices": _choice(("text",), ("choice1", "choice2")),
    "copa": _choice(("premise", "asks"), ("choice1", "choice2")),
    "piqa": _choice(("goal",), ("sol1", "sol2")),
    # Labels as words in a pattern.
    "words_of_labels": _pattern("", "", "{text} {mask}"),
    # LM-BFF (Gao et al. 2021), table 1.
    "sst2_words": _pattern(0, 1, "{text} It was {mask}.", "0=terrible", "1=great", format="tsv"),
    # FewCLUE (Xu et al. 2021, arXiv:2107.07498); the patterns and words are ours.
    "eprstmt": _pattern("sentence", "label", "{mask}满意。{text}", "Negative=不", "Positive=很"),
    "tnews": _pattern("sentence", "label_desc", "这是{mask}新闻：{text}", *TNEWS),
    # Relations; the entities stand between <e1> </e1> and <e2> </e2> in the text.
    "relations": Entry(
        objective="classify",
        columns={"text": {}, "label": _label("")},
        settings={"markers": ("<e1>", "<e2>")},
        metrics=("macro_f1", "accuracy"),
        data={"tokenizer": {"add": ("<e1>", "</e1>", "<e2>", "</e2>")}},
    ),
    # Sentence embeddings.
    "together": Entry(objective="embed", columns={"text": {}, "pair": {}}, metrics=("mrr", "recall_at_1")),
    "similarity": Entry(
        objective="embed",
        columns={"text": {}, "pair": {}, "score": {"kind": "number"}},
        settings={"loss": "cosine", "score": "score", "highest": 5.0},
        metrics=("spearman", "pearson"),
    ),
    # Texts from texts.
    "translation": _write("", "", "bleu", "chrf"),
    "dialogsum": _write("dialogue", "summary", "rougeL", "rouge1"),
    "responses": _write("context", "response", "rougeL", "bleu"),
    "instructions": Entry(
        objective="seq2seq",
        columns={
            "source": _field("question", template=f"{USER}{{}}{ASSISTANT}"),
            "target": _field("answer"),
        },
        # The marker opens the answer.
        settings={"smoothing": 0.0, "closed": False},
        metrics=("exact_match", "rougeL"),
        data={"tokenizer": {"markers": (USER, ASSISTANT)}},
    ),
}
# Relations of SemEval-2010 task 8 (Hendrickx et al. 2010).
TASKS["semeval2010"] = dataclasses.replace(
    TASKS["relations"],
    columns={"text": _field(1), "label": _label(0)},
    metrics=("macro_f1", "relation_f1"),
    data={**TASKS["relations"].data, "format": "tsv"},
)


# A batch is padded to the smallest of these lengths that holds its longest row.
BUCKETS = (16, 32, 48, 64, 96, 128, 192, 256, 384)


def scratch(name: str) -> dict[str, Any]:
    """The settings of a recipe that trains a small model on a task from nothing, without the model; our numbers."""
    settings = tuning(name, epochs=0.0, learning_rate=1e-3)
    settings["data"] |= {"length": 64, "batch": 16, "buckets": ()}
    settings["objective"][settings["objective"]["name"]] |= TASKS[name].small
    settings["data"]["tokenizer"] = {**settings["data"].get("tokenizer", {}), "kind": "unigram", "vocab_at_most": 1024}
    return {**settings, "train": {**settings["train"], "steps": 200}}


def tuning(name: str, *, epochs: float = 3.0, learning_rate: float = 5e-5) -> dict[str, Any]:
    """The settings of a recipe that tunes a pretrained model on a task, without the model.

    Batches of 32 rows, AdamW with a warmup of a tenth of the steps and a linear decay to 0, as in BERT (Devlin et al.
    2019, section A.3), which varies the learning rate from 2e-5 to 5e-5 and takes two to four epochs.

    Raises:
      InputError: there is no such task.
    """
    entry = lookup(TASKS, name, "the name of a task")
    data = {
        "length": 128,
        "batch": 32,
        "buckets": BUCKETS,
        "columns": {key: dict(column) for key, column in entry.columns.items()},
    }
    return {
        "objective": {"name": entry.objective, entry.objective: dict(entry.settings)},
        "data": {**data, **entry.data},
        "task": {"metrics": entry.metrics},
        "optimizer": {
            "learning_rate": learning_rate,
            "schedule": {"name": "linear", "warmup": 0.1, "final": 0.0},
            "adamw": {"b2": 0.999, "weight_decay": 0.01},
        },
        "train": {"epochs": epochs, "generator": "hashed"},
        "evaluate": {"per_epoch": 1, "best": entry.metrics[0]},
        "checkpoint": {"every": 0, "keep": 1},
    }


def few_shot(name: str) -> dict[str, Any]:
    """The settings of a recipe that tunes a pretrained model on some tens of rows, without the model.

    250 steps of 16 rows at a rate of 1e-5, the defaults of PET's released code (Schick and Schuetze 2021). The last
    step counts, because so few rows leave none to choose a checkpoint with.
    """
    settings = tuning(name, epochs=0.0, learning_rate=1e-5)
    settings["data"] |= {"batch": 16}
    return {
        **settings,
        "train": {**settings["train"], "steps": 250},
        "evaluate": {"every": 250, "best": ""},
    }
