"""Several token stores under one tokenizer: how they are prepared, and what is asked of them as of one store."""

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
    """Token stores by name, all with the same tokenizer; to those who only ask what there is, a store."""

    stores: Mapping[str, Store]

    @property
    def tokens(self) -> int:
        """Tokens of all stores."""
        return sum(each.tokens for each in self.stores.values())

    @property
    def documents(self) -> int:
        """Documents of all stores."""
        return sum(each.documents for each in self.stores.values())

    @property
    def bytes(self) -> int:
        """UTF-8 bytes of all stores' cleaned text."""
        return sum(each.bytes for each in self.stores.values())

    @property
    def report(self) -> reports.Report:
        """What cleaning did to all of them."""
        return reports.total(each.report for each in self.stores.values())

    def warnings(self) -> list[str]:
        """What to say where next to nothing of a text is left in its tokens."""
        return [f"{name}: {line}" for name, each in self.stores.items() for line in each.warnings()]

    @property
    def directory(self) -> Path:
        """Where the stores lie."""
        return next(iter(self.stores.values())).directory.parent

    @property
    def tokenizer(self) -> tokenizers.Tokenizer:
        """The tokenizer of all of them."""
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
    """`texts.prepare` or `store.prepare` of every source of the tree `key`, by name."""
    return {
        name: naming(f"{key}.{name}", prepare)(root, source, *rest, progress=_told(name, progress), **options)
        for name, source in sources.items()
    }


def naming(key: str, function: Callable[..., Any]) -> Callable[..., Any]:
    """A function whose complaints say which entry of the configuration they are about."""

    def named(*args: Any, **options: Any) -> Any:
        try:
            return function(*args, **options)
        except InputError as error:
            raise InputError(f"{key}: {error}") from error

    return named


def _told(name: str, progress: texts.Progress | None) -> texts.Progress | None:
    """Progress that says which source it is about."""
    return progress and (lambda stage, done, whole: progress(f"{name}: {stage}", done, whole))
