"""Settings of a recipe's data: `config.data`."""

from __future__ import annotations

import dataclasses

from lm_jax.core.config import InputError, Tree, setting
from lm_jax.data import columns
from lm_jax.data.clean.chain import CleanConfig
from lm_jax.data.mixture import MixtureConfig
from lm_jax.data.rows import RowsConfig
from lm_jax.data.sources import SourceConfig
from lm_jax.data.tokenizers import TokenizerConfig


@dataclasses.dataclass(frozen=True, kw_only=True)
class DataConfig:
    """The text and how it becomes batches.

    Example:
      >>> data = DataConfig(path="a.txt,b/*.jsonl", length=512, batch=64)
      >>> data.source().document, data.rows.plan, data.name
      ('file', 'auto', 'a.txt,b/*.jsonl')

    Attributes:
      path, format, bad_rows, field, group, document, part, split, datasets: see `SourceConfig`.
      mixture: several sources instead of `path`.
      columns: for records of several fields, `ColumnConfig`s by names of your choice, in any order:
        `{"text": {}, "score": {"kind": "number"}}`.
      length: tokens of a row; an objective may add to it.
      batch: rows of the global batch.
      dev: files to validate on, in the format of `path`, all of which is then read for training; empty: `validation`.
      validation: the share of the corpus, at its end, that is held out from training; above 1, a number of tokens, of
        columns of records. Ignored if there are `dev` files.
      buckets: lengths to which batches are cut: a batch is padded to the smallest that holds its longest row, not to
        `length`; for rows of `columns`; longer ones are ignored; empty: every batch is padded to `length`.
      workers: processes that clean and tokenise; 0: one per core.
      threads: threads that build batches ahead of the device; 0: each batch is built when it is needed.
      prefetch: maximum number of batches that are built ahead of the device.
      store: the root of prepared corpora; empty: $LM_JAX_CACHE, else ~/.cache/lm_jax.
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
    buckets: tuple[int, ...] = setting((), at_least=1)
    dev: str = setting("", free=True, local=True)
    validation: float = setting(0.1, at_least=0)
    workers: int = setting(0, free=True, at_least=0)
    threads: int = setting(1, free=True, at_least=0)
    prefetch: int = setting(4, free=True, at_least=0)
    store: str = setting("", free=True, local=True)

    def __post_init__(self):
        if columns.parse(self.columns) and self.mixture.sources:
            raise InputError(f"{columns.KEY} and config.data.mixture are both set; leave out one of them")
        if self.dev and self.mixture.sources:
            raise InputError(
                f"config.data.dev is {self.dev!r}, but the sources of config.data.mixture have no dev files; leave it "
                "out and hold out the end of every source with config.data.validation"
            )
        if self.validation > 1 and self.validation != int(self.validation):
            raise InputError(
                f"config.data.validation is {self.validation:g}; expected a share from 0 to 1, or a whole number of "
                "records or tokens"
            )

    def source(self) -> SourceConfig:
        """Return the settings of the source."""
        names = [each.name for each in dataclasses.fields(SourceConfig) if each.name not in ("template", "weight")]
        return SourceConfig(**{name: getattr(self, name) for name in names})

    def held_out(self) -> DataConfig | None:
        """Return the settings of the files to validate on, or None if there are none.

        Raises:
          InputError: some columns have such files, and others do not.
        """
        by_name = columns.parse(self.columns)
        if not self.dev and not any(column.dev for column in by_name.values()):
            return None
        entries = {}
        for name, column in by_name.items():
            if not column.dev and (column.path or not self.dev):
                raise InputError(
                    f"{columns.KEY}.{name} has no files to validate on, but other columns have; set "
                    f"{columns.KEY}.{name}.dev"
                )
            entries[name] = Tree({**self.columns[name], "path": column.dev, "dev": ""})
        return dataclasses.replace(self, path=self.dev or SourceConfig.path, dev="", columns=Tree(entries))

    def without_dev(self) -> DataConfig:
        """Return the settings without files to validate on."""
        entries = {name: Tree({**column, "dev": ""}) for name, column in self.columns.items()}
        return dataclasses.replace(self, dev="", columns=Tree(entries))

    @property
    def name(self) -> str:
        """A short name of the text, for messages."""
        return ", ".join(sorted(self.mixture.sources or self.columns)) or self.path

    @property
    def dev_name(self) -> str:
        """A short name of the files to validate on, for messages; empty if there are none."""
        return ", ".join(filter(None, (self.dev, *(column.dev for column in columns.parse(self.columns).values()))))
