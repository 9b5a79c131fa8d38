"""What a recipe says about its data, under `config.data`."""

from __future__ import annotations

import dataclasses

from lm_jax.core.config import InputError, Tree, setting
from lm_jax.data import columns
from lm_jax.data.clean.chain import CleanConfig
from lm_jax.data.columns import ColumnConfig
from lm_jax.data.mixture import MixtureConfig
from lm_jax.data.rows import RowsConfig
from lm_jax.data.sources import SourceConfig
from lm_jax.data.tokenizers import TokenizerConfig


@dataclasses.dataclass(frozen=True, kw_only=True)
class DataConfig:
    """Where the text comes from and how it becomes batches.

    Attributes:
      path, format, bad_rows, field, group, document, part, split, datasets: see `SourceConfig`.
      mixture: several sources instead of one path.
      columns: `ColumnConfig`s by names of your own, where a record has several parts: `{"text": {}, "score": {"kind":
        "number"}}`. Their order does not matter.
      length: tokens of a row, before the objective asks for more.
      batch: rows of the global batch.
      validation: the share of the corpus, at its end, that is never trained on.
      workers: processes that clean and tokenise; 0 takes every core.
      threads: threads that build batches ahead of the device; 0 builds them in line.
      prefetch: batches that may be ready ahead of the device.
      store: the root of prepared corpora; empty for $LM_JAX_CACHE, else ~/.cache/lm_jax.
    """

    path: str = setting(SourceConfig.path, free=True, local=True)
    format: str = SourceConfig.format
    bad_rows: str = SourceConfig.bad_rows
    field: str = SourceConfig.field
    group: str = SourceConfig.group
    document: str = SourceConfig.document
    part: str = SourceConfig.part
    split: str = SourceConfig.split
    datasets: str = setting(SourceConfig.datasets, free=True, local=True)
    mixture: MixtureConfig = MixtureConfig()
    columns: Tree = Tree()
    clean: CleanConfig = CleanConfig()
    tokenizer: TokenizerConfig = TokenizerConfig()
    rows: RowsConfig = RowsConfig()
    length: int = setting(128, at_least=1)
    batch: int = setting(16, at_least=1)
    validation: float = setting(0.1, at_least=0, at_most=1)
    workers: int = setting(0, free=True, at_least=0)
    threads: int = setting(1, free=True, at_least=0)
    prefetch: int = setting(4, free=True, at_least=0)
    store: str = setting("", free=True, local=True)

    def __post_init__(self):
        if columns.named(self.columns) and self.mixture.sources:
            raise InputError(f"{columns.KEY} and config.data.mixture are both set; leave out one of them")

    def source(self) -> SourceConfig:
        """The part of these settings that names the text."""
        names = [field.name for field in dataclasses.fields(SourceConfig) if field.name != "weight"]
        return SourceConfig(**{name: getattr(self, name) for name in names})

    @property
    def name(self) -> str:
        """The text in a few words, for messages."""
        return ", ".join(sorted(self.mixture.sources or self.columns)) or self.path


# Trees whose entries the user names, and what an entry is: every field of one can be set on the command line.
ENTRIES = {"config.data.mixture.sources": SourceConfig, columns.KEY: ColumnConfig}
