"""Several token stores with one tokenizer: their preparation and their totals."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Protocol

from lm_jax.core.config import InputError
from lm_jax.data import texts, tokenizers
from lm_jax.data.clean import report as reports
from lm_jax.data.sources import SourceConfig
from lm_jax.data.store import Store


class Several(Protocol):
    """Token stores by name, all with the same tokenizer; the totals have the same names as in `Store`."""

    stores: Mapping[str, Store]

    @property
    def tokens(self) -> int:
        """Number of tokens of all stores."""
        return sum(each.tokens for each in self.stores.values())

    @property
    def documents(self) -> int:
        """Number of documents of all stores."""
        return sum(each.documents for each in self.stores.values())

    @property
    def bytes(self) -> int:
        """UTF-8 bytes of the cleaned text of all stores."""
        return sum(each.bytes for each in self.stores.values())

    @property
    def report(self) -> reports.Report:
        """Counts of documents of all texts that cleaning read, kept, dropped and changed."""
        return reports.total(each.report for each in self.stores.values())

    def warnings(self) -> list[str]:
        """Return a line for each text of few or mostly unknown tokens."""
        return [f"{name}: {line}" for name, each in self.stores.items() for line in each.warnings()]

    @property
    def directory(self) -> Path:
        """The directory of the stores."""
        return next(iter(self.stores.values())).directory.parent

    @property
    def tokenizer(self) -> tokenizers.Tokenizer:
        """The tokenizer of all stores."""
        return next(iter(self.stores.values())).tokenizer


def each(
    sources: Mapping[str, SourceConfig],
    key: str,
    prepare: Callable[..., Any],
    root: Path,
    *rest: Any,
    progress: texts.Progress | None,
    **options: Any,
) -> dict[str, Any]:
    """Apply `texts.prepare` or `store.prepare` to the sources of the configuration `key`; return results by name."""
    return {
        name: naming(f"{key}.{name}", prepare)(root, source, *rest, progress=_prefixed(name, progress), **options)
        for name, source in sources.items()
    }


def naming(key: str, function: Callable[..., Any]) -> Callable[..., Any]:
    """Wrap a function so that its InputErrors start with the name of the setting, `key`."""

    def wrapped(*args: Any, **options: Any) -> Any:
        try:
            return function(*args, **options)
        except InputError as error:
            raise InputError(f"{key}: {error}") from error

    return wrapped


def _prefixed(name: str, progress: texts.Progress | None) -> texts.Progress | None:
    return progress and (lambda stage, done, total: progress(f"{name}: {stage}", done, total))
