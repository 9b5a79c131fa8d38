"""Scores of the texts that a model writes for held-out rows, such as translations."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Iterator
from typing import Any

from lm_jax.data.tables import Records
from lm_jax.data.tasks import TaskConfig
from lm_jax.evaluate import metrics
from lm_jax.evaluate.language_modelling import LanguageModelling

KIND = "text"


@dataclasses.dataclass(frozen=True)
class TextScores:
    """Evaluates the loss of the targets of held-out rows, and the texts that the model writes instead of them.

    Attributes:
      likelihood: evaluates the loss.
      task: the metrics, and what of a text they score.
      sides: what the template of the targets puts before and after a text, which is not scored.
      write: (weights, rows) -> the text of each row.
      original: (rows) -> the target of each row, as its file has it.
      rows: the rows for which texts are written.
    """

    likelihood: LanguageModelling
    task: TaskConfig
    sides: tuple[str, str]
    write: Callable[[Any, Records], list[str]]
    original: Callable[[Records], list[str]]
    rows: Records

    def run(self, weights: Any) -> Iterator[tuple[str, float]]:
        """Yields the values of `likelihood`, and then the metrics of the texts."""
        yield from self.likelihood.run(weights)
        before, after = (side.strip() for side in self.sides)
        written = [text.strip().removeprefix(before).removesuffix(after) for text in self.write(weights, self.rows)]
        texts = [scored(text, self.task.answer_after) for text in written]
        yield from metrics.compute(KIND, self.task.metrics, texts, self._references, ()).items()

    def values(self, weights: Any, batch: Any) -> tuple[str, ...]:
        """The names of what `run` yields, from the shapes of the weights and of a batch."""
        return (*self.likelihood.values(weights, batch), *metrics.values_of(KIND, self.task.metrics, ()))

    @functools.cached_property
    def _references(self) -> list[list[str]]:
        return [[scored(text, self.task.answer_after)] for text in self.original(self.rows)]


def scored(text: str, after: str) -> str:
    r"""The part of a text that is scored: what follows the last occurrence of `after`, without white space around it.

    Example:
      >>> scored("3 + 4 = 7\n#### 7", "####"), scored(" so", ""), scored("7", "####")
      ('7', 'so', '7')
    """
    return (text.rpartition(after)[2] if after else text).strip()
