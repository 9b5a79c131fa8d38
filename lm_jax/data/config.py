"""What a recipe says about its data, under `config.data`."""

from __future__ import annotations

import dataclasses

from lm_jax.data.clean.chain import CleanConfig
from lm_jax.data.rows import RowsConfig
from lm_jax.data.sources import SourceConfig
from lm_jax.data.tokenizers import TokenizerConfig


@dataclasses.dataclass(frozen=True, kw_only=True)
class DataConfig:
    """Where the text comes from and how it becomes batches.

    Attributes:
      path, field, document, part: see `SourceConfig`.
      length: tokens of a row, before the objective asks for more.
      batch: rows of the global batch.
      validation: the share of the corpus, at its end, that is never trained on.
      workers: processes that clean and tokenise; 0 takes every core.
      threads: threads that build batches ahead of the device; 0 builds them in line.
      prefetch: batches that may be ready ahead of the device.
      store: the root of prepared corpora; empty for $LM_JAX_CACHE, else ~/.cache/lm_jax.
    """

    path: str = SourceConfig.path
    field: str = SourceConfig.field
    document: str = SourceConfig.document
    part: str = SourceConfig.part
    clean: CleanConfig = CleanConfig()
    tokenizer: TokenizerConfig = TokenizerConfig()
    rows: RowsConfig = RowsConfig()
    length: int = 128
    batch: int = 16
    validation: float = 0.1
    workers: int = 0
    threads: int = 1
    prefetch: int = 4
    store: str = ""

    def source(self) -> SourceConfig:
        """The part of these settings that names the text."""
        return SourceConfig(path=self.path, field=self.field, document=self.document, part=self.part)
