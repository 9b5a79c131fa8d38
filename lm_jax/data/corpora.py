"""Corpora, the prepared tokens of `config.data`: one store, columns, or the stores of a mixture."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from lm_jax.core.config import InputError
from lm_jax.data import atomic, columns, mixture, order, plans, rows, several, store, texts, tokenizers
from lm_jax.data.columns import Columns
from lm_jax.data.config import DataConfig
from lm_jax.data.mixture import Mixture, MixtureConfig
from lm_jax.data.parts import sample_lines
from lm_jax.data.rows import Request, Rows
from lm_jax.data.several import Several, naming
from lm_jax.data.store import Store


@dataclasses.dataclass(frozen=True)
class Stores(Several):
    """The token stores of a mixture by source, all with the same tokenizer."""

    config: MixtureConfig
    stores: Mapping[str, Store]

    @functools.cached_property
    def fingerprint(self) -> str:
        """Hash of the sources' names and tokens, and of their weights and the temperature."""
        weights = {name: source.weight for name, source in self.config.by_name().items()}
        described = [{name: each.fingerprint for name, each in self.stores.items()}, weights, self.config.temperature]
        return hashlib.sha256(json.dumps(["mixture 1", mixture.PERIOD, *described]).encode()).hexdigest()[:32]

    def shares(self, validation: float) -> dict[str, float]:
        """Return the share of the training rows of each source."""
        sizes = {}
        for name, each in self.stores.items():
            start, stop = rows.span(each.tokens, "train", validation)
            sizes[name] = stop - start
            if not sizes[name]:
                raise InputError(f"{mixture.KEY}.sources.{name} has no token to train on; lower config.data.validation")
        return self.config.shares(sizes)

    def table(self, validation: float) -> str:
        """Return a line for each source: its tokens and its share of the rows."""
        return "\n".join(
            f"  {name:<20}{self.stores[name].tokens:>16,} tokens {share:>9.3%} of the rows"
            for name, share in self.shares(validation).items()
        )


Corpus = Store | Stores | Columns


def prepare(
    data: DataConfig,
    progress: texts.Progress | None = None,
    tokenizer: tokenizers.Tokenizer | None = None,
    prefix: tuple[int, ...] = (),
    names: Mapping[str, Sequence[str]] | None = None,
) -> Corpus:
    """Return the tokens of a configuration; text that is not stored yet is cleaned, tokenised and stored.

    `tokenizer` replaces that of `data`; the ids `prefix` start every document; for `names` see `columns.join`.

    Raises:
      InputError: see `store.prepare` and `columns.join`; also if `data` names both a path and a mixture.
    """
    tokenizers.refuse_ids(data.tokenizer.path)
    root, prepare_each = _root(data), _for_each_text(data)
    options: dict[str, Any] = {"prefix": prefix, "workers": data.workers, "progress": progress}
    if prepare_each is None:
        return store.prepare(root, data.source(), data.clean, tokenizer or data.tokenizer, **options)
    tokenizer = tokenizer or train_tokenizer(data, progress)[0]
    stores = prepare_each(store.prepare, root, data.clean, tokenizer, **options)
    if not data.columns:
        return Stores(data.mixture, stores)
    return columns.join(root, columns.parse(data.columns), data.source(), data.clean, stores, len(prefix), names)


def prepare_dev(
    data: DataConfig, corpus: Corpus, progress: texts.Progress | None = None, prefix: tuple[int, ...] = ()
) -> Corpus | None:
    """Return the files to validate on, with the tokenizer and the labels of the training `corpus`; None without any.

    Raises:
      InputError: as in `prepare`, or a label is not in the training corpus.
    """
    held_out = data.held_out()
    if held_out is None:
        return None
    names = corpus.names if isinstance(corpus, Columns) else None
    reported = progress and (lambda stage, done, total: progress(f"dev: {stage}", done, total))
    return naming("config.data.dev", prepare)(held_out, reported, corpus.tokenizer, prefix, names)


def check_unknown_id(corpus: Corpus, rows: int) -> None:
    """Raise InputError if the text has [UNK] tokens, but an embedding table of `rows` rows has no row for [UNK]."""
    tokenizer = corpus.tokenizer
    if tokenizer.unk is None or tokenizer.unk < rows:
        return
    for each in (corpus,) if isinstance(corpus, Store) else corpus.stores.values():
        for start in range(0, each.tokens, store.RECORD_TOKENS):
            if (each.read(start, min(start + store.RECORD_TOKENS, each.tokens)) >= rows).any():
                raise InputError(
                    f"the text has pieces unknown to the tokenizer, which become id {tokenizer.unk}, but the model's "
                    f"embedding table has ids 0..{rows - 1} only; use a text without them, or another tokenizer"
                )


def train_tokenizer(
    data: DataConfig, progress: texts.Progress | None = None
) -> tuple[tokenizers.Tokenizer, texts.Texts | Blend]:
    """Return the tokenizer of `prepare`, trained if it is not stored yet, and the cleaned text."""
    root, prepare_each = _root(data), _for_each_text(data)
    cleaned: texts.Texts | Blend
    if prepare_each is None:
        cleaned = texts.prepare(root, data.source(), data.clean, workers=data.workers, progress=progress)
    else:
        parts = prepare_each(texts.prepare, root, data.clean, workers=data.workers, progress=progress)
        sizes = {name: part.bytes for name, part in parts.items()}
        by_size = {name: size / sum(sizes.values()) for name, size in sizes.items()}
        cleaned = Blend(parts, by_size if data.columns else data.mixture.shares(sizes), data.tokenizer)
    return store.find_tokenizer(root, data.tokenizer, cleaned, progress), cleaned


def _root(data: DataConfig) -> Path:
    root = store.default_root(data.store)
    atomic.check_directory(root, "the directory of prepared text (config.data.store, $LM_JAX_CACHE)")
    return root


def _for_each_text(data: DataConfig) -> Callable[..., dict[str, Any]] | None:
    """Return `several.each` bound to the text columns or the mixture; None if `config.data.path` is the only text."""
    if data.columns:
        text_columns = {name: column for name, column in columns.parse(data.columns).items() if column.kind == "text"}
        return functools.partial(several.each, columns.locate(text_columns, data.source()), columns.KEY, aligned=True)
    sources = data.mixture.by_name()
    if sources and data.path != DataConfig.path:
        raise InputError(
            f"config.data.path is {data.path!r}, but config.data.mixture names sources too ({', '.join(sources)}); "
            "leave out one of them"
        )
    return functools.partial(several.each, sources, f"{mixture.KEY}.sources") if sources else None


@dataclasses.dataclass(frozen=True)
class Blend:
    """Text to train a tokenizer on, mixed from the cleaned text of each source so that small sources get pieces too.

    The shares count bytes, because there are no tokens yet; `config.sample_bytes` limits the size.
    """

    parts: Mapping[str, texts.Texts]
    shares: Mapping[str, float]
    config: tokenizers.TokenizerConfig

    bytes = None  # unknown; training uses the whole blend, which is already a sample

    @property
    def fingerprint(self) -> str:
        """Hash of the texts and their shares."""
        described = [[name, part.fingerprint, self.shares[name]] for name, part in self.parts.items()]
        return hashlib.sha256(json.dumps(["blend 1", *described]).encode()).hexdigest()[:32]

    def __iter__(self) -> Iterator[str]:
        """Yield lines of every source: evenly chosen lines of a large source, repeated passes over a small one."""
        total = min(self.config.sample_bytes, sum(part.bytes for part in self.parts.values()))
        for name, part in self.parts.items():
            passes, rest = divmod(max(1, round(self.shares[name] * total)), part.bytes)
            for _ in range(passes):
                yield from part
            yield from sample_lines(part, rest, part.bytes)


def make_rows(corpus: Corpus, **settings: Any) -> Rows:
    """Return the rows of one split of a corpus; the settings are those of `rows.Request`."""
    if not isinstance(corpus, Stores):
        return plans.make(Request(tokens=corpus, **settings))
    request = Request(tokens=next(iter(corpus.stores.values())), **settings)
    if not request.reads.parts and request.plan == "streams":
        raise InputError(
            "config.data.rows.plan is streams, which follows one text, but config.data.mixture names several sources; "
            "name the files of all of them in config.data.path, or choose another plan"
        )
    keys = mixture.names_to_keys(list(corpus.stores))
    parts = {
        name: naming(f"{mixture.KEY}.sources.{name}", plans.make)(
            dataclasses.replace(request, tokens=each, seed=order.key(request.seed, keys[name]))
        )
        for name, each in corpus.stores.items()
    }
    shares = corpus.shares(request.validation) if request.split == "train" else {name: 1.0 for name in parts}
    count = mixture.counts([shares[name] for name in parts])
    return Mixture(tuple(parts), tuple(parts.values()), tuple(keys[name] for name in parts), count)
