"""Tasks in Hugging Face Transformers on torch: its classes, tokenizer and losses, and torch's AdamW.

Each case reads its file by itself, so that nothing of lm_jax lies between the text and torch's loss.
"""

import gzip
import itertools
import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

# The label of tokens without a loss.
IGNORED = -100
OVERLAP = 128


class Case(NamedTuple):
    """A recipe of lm_jax and what corresponds to it in Transformers.

    Attributes:
      recipe: the recipe and its variant.
      path: its file below the reference data.
      suffix: of the class.
      read: the records of the file.
      encode: the arguments of the class for a record, without padding: (tokenizer, record, number of its window).
      length: tokens of the longest row.
      batch: rows of a batch.
      rate: the peak of the learning rate.
      steps: of a run.
      tolerance: of a loss, absolute.
      apart: whether torch reads row by row, because its loss of a row depends on the padding.
      buckets: lengths to which lm_jax cuts batches; empty: as the recipe has it.
    """

    recipe: str
    path: str
    suffix: str
    read: Callable[[Path], list[Any]]
    encode: Callable[[Any, Any, int], dict[str, Any]]
    length: int = 128
    batch: int = 32
    rate: float = 5e-5
    steps: int = 20
    tolerance: float = 1e-4
    apart: bool = False
    buckets: str = ""


def lines(path: Path) -> Iterator[str]:
    """Lines of a compressed file, without their ends."""
    with gzip.open(path, "rt", encoding="utf-8", newline="\n") as file:
        for line in file:
            yield line.rstrip("\n")


def sst2(path: Path) -> list[Any]:
    """Sentences and labels."""
    return [(text, int(label)) for text, label in (line.split("\t") for line in lines(path))]


def stsb(path: Path) -> list[Any]:
    """Pairs of sentences and scores, of a table with names."""
    rows = [line.split("\t") for line in lines(path)]
    return [(first, second, float(score)) for _, _, score, first, second in rows[1:]]


def conll2003(path: Path) -> list[Any]:
    """Words and ids of tags of each sentence; the names of the tags are sorted."""
    words = [line.split() if line and not line.startswith("-DOCSTART-") else [] for line in lines(path)]
    sentences = [[*group] for full, group in itertools.groupby(words, bool) if full]
    names = sorted({word[3] for sentence in sentences for word in sentence})
    return [([word[0] for word in rows], [names.index(word[3]) for word in rows]) for rows in sentences]


def xquad(path: Path) -> list[Any]:
    """Questions, contexts, and the characters of their first answer."""
    records = []
    for paragraph in (each for title in json.loads("\n".join(lines(path)))["data"] for each in title["paragraphs"]):
        for question in paragraph["qas"]:
            answer = question["answers"][0]
            span = (answer["answer_start"], answer["answer_start"] + len(answer["text"]))
            records.append((question["question"], paragraph["context"], span))
    return records


def copa(path: Path) -> list[Any]:
    """Two texts as one, the choices, and the right one."""
    rows = [json.loads(line) for line in lines(path)]
    return [(f"{row['premise']} [SEP] {row['asks']}", [row["choice1"], row["choice2"]], row["label"]) for row in rows]


def piqa(path: Path) -> list[Any]:
    """A text, the choices, and the right one."""
    return [(row["goal"], [row["sol1"], row["sol2"]], row["label"]) for row in map(json.loads, lines(path))]


def classified(tokenizer: Any, record: Any, window: int) -> dict[str, Any]:
    """One or two texts and a label or a number."""
    *texts, label = record
    return {**tokenizer(*texts, truncation=True, max_length=128), "labels": label}


def tagged(tokenizer: Any, record: Any, window: int) -> dict[str, Any]:
    """Words, whose first tokens have their tags."""
    words, tags = record
    encoded = tokenizer(words, is_split_into_words=True, truncation=True, max_length=128)
    of_tokens = encoded.word_ids()
    pairs = zip([None, *of_tokens], of_tokens, strict=False)
    labels = [IGNORED if word is None or word == before else tags[word] for before, word in pairs]
    return {**encoded, "labels": labels}


def asked(tokenizer: Any, record: Any, window: int) -> dict[str, Any]:
    """A question and a window of its context; an answer that is not wholly in the window is at [CLS]."""
    question, context, (start, stop) = record
    options = {"truncation": "only_second", "max_length": 384, "stride": OVERLAP, "return_overflowing_tokens": True}
    encoded = tokenizer(question, context, **options)
    names = ("input_ids", "token_type_ids", "attention_mask")
    ends = [encoded.char_to_token(window, at, sequence_index=1) for at in (start, stop - 1)]
    first, last = (0, 0) if None in ends else ends
    return {**{name: encoded[name][window] for name in names}, "start_positions": first, "end_positions": last}


def chosen(tokenizer: Any, record: Any, window: int) -> dict[str, Any]:
    """A text with each choice."""
    text, choices, label = record
    return {**tokenizer([text] * len(choices), choices, truncation=True, max_length=128), "labels": label}


SEQUENCES, CHOICES = "ForSequenceClassification", "ForMultipleChoice"
CASES = {
    "sst2": Case("classify:sst2", "sst2/train.tsv.gz", SEQUENCES, sst2, classified, buckets="32,64"),
    "stsb": Case("sts:stsb", "stsb/train.tsv.gz", SEQUENCES, stsb, classified, buckets="48,96"),
    "conll2003": Case(
        *("tag:conll2003", "conll2003/train.txt.gz", "ForTokenClassification", conll2003, tagged),
        rate=1e-4,
        buckets="48,96",
    ),
    "xquad": Case(
        *("qa:squad", "xquad/xquad.en.json.gz", "ForQuestionAnswering", xquad, asked),
        length=384,
        batch=8,
        apart=True,
        buckets="256",
    ),
    # The loss of one batch.
    "copa": Case("choice:copa", "copa/dev.jsonl.gz", CHOICES, copa, chosen, steps=1, tolerance=1e-5),
    "piqa": Case("choice:piqa", "piqa/valid.jsonl.gz", CHOICES, piqa, chosen, steps=1, tolerance=1e-5),
}
# Settings of the classes with labels: the names are those that the recipes find in the data.
LABELS: dict[str, dict[str, Any]] = {
    "sst2": {"id2label": {0: "0", 1: "1"}},
    "stsb": {"num_labels": 1},
    "conll2003": {"num_labels": 9},
}


def build(name: str, weights: Path, folder: Path) -> tuple[Any, Any]:
    """The model of a case without dropout, with a random head, saved with its tokenizer to `folder`; and both."""
    import torch
    import transformers

    torch.manual_seed(0)
    off = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    settings = {**off, **LABELS.get(name, {})}
    model = getattr(transformers, f"Bert{CASES[name].suffix}").from_pretrained(weights, **settings)
    tokenizer = transformers.AutoTokenizer.from_pretrained(weights)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return model, tokenizer


def collate(rows: Sequence[dict[str, Any]]) -> dict[str, np.ndarray]:
    """A batch of rows, padded to the longest."""
    batch = {}
    for name, first in rows[0].items():
        values = [row[name] for row in rows]
        if isinstance(first, list):
            fill, nested = IGNORED if name == "labels" else 0, isinstance(first[0], list)
            flat = [each for value in values for each in value] if nested else values
            width = max(map(len, flat))
            array = np.array([[*each, *[fill] * (width - len(each))] for each in flat])
            values = array.reshape(len(values), -1, width) if nested else array
        batch[name] = np.array(values)
    return batch


def scores(model: Any, tokenizer: Any, records: Sequence[Any]) -> np.ndarray:
    """The probability of the last label for each text."""
    import torch

    with torch.no_grad():
        rows = (model(**tokenizer(text, return_tensors="pt", truncation=True, max_length=128)) for text, _ in records)
        return np.array([torch.softmax(row.logits, -1)[0, -1].item() for row in rows])


def losses(model: Any, case: Case, batches: Sequence[Sequence[dict[str, Any]]]) -> list[float]:
    """The loss of each batch of rows, before the step that it determines."""
    import torch

    tensor = lambda array: torch.tensor(array, dtype=torch.float32 if array.dtype.kind == "f" else torch.long)
    plain = lambda name: name.endswith("bias") or "LayerNorm" in name
    groups = [
        {"params": [each for name, each in model.named_parameters() if plain(name) == undecayed], "weight_decay": decay}
        for undecayed, decay in ((False, 0.01), (True, 0.0))
    ]
    optimizer = torch.optim.AdamW(groups, lr=case.rate, betas=(0.9, 0.999), eps=1e-8)
    # A tenth of the steps is warmup. Its first rate is above 0, unlike in transformers' own schedule.
    warmup, steps = round(0.1 * case.steps), case.steps
    shape = lambda step: min((step + 1) / (warmup + 1), (steps - step) / (steps - warmup))
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, shape)
    model.train()
    values = []
    for rows in batches:
        parts = [[row] for row in rows] if case.apart else [rows]
        optimizer.zero_grad()
        total = 0.0
        for part in parts:
            loss = model(**{name: tensor(array) for name, array in collate(part).items()}).loss / len(parts)
            loss.backward()
            total += loss.item()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        values.append(total)
    return values
