"""Settings of a task's scores: `config.task`."""

from __future__ import annotations

import dataclasses


@dataclasses.dataclass(frozen=True, kw_only=True)
class TaskConfig:
    """How answers are scored; an objective that is no task ignores it.

    Attributes:
      metrics: names of metrics for the objective's kind of answers, such as "accuracy", "f1"; empty: those of `USUAL`.
    """

    metrics: tuple[str, ...] = ()


# The metrics of each kind of answers if a configuration names none.
USUAL: dict[str, tuple[str, ...]] = {
    "label": ("accuracy", "macro_f1"),
    "labels": ("micro_f1", "macro_f1"),
    "number": ("pearson", "spearman"),
    "tags": ("entity_f1",),
    "spans": ("exact_match", "answer_f1"),
    "text": ("bleu", "rougeL"),
}
