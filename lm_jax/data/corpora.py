"""What `config.data` names as prepared tokens: one store, or the stores of a mixture under one tokenizer."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import json
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from lm_jax.core.config import InputError
from lm_jax.data import atomic, mixture, order, store, texts, tokenizers
from lm_jax.data import rows as plans
from lm_jax.data.clean import report as reports
from lm_jax.data.config import DataConfig
from lm_jax.data.mixture import Mixture, MixtureConfig
from lm_jax.data.parts import sampled
from lm_jax.data.rows import Rows, RowsConfig
from lm_jax.data.sources import SourceConfig
from lm_jax.data.store import Store


@dataclasses.dataclass(frozen=True)
class Stores:
    """The token stores of a mixture; to those who only ask what there is, a store.

    Attributes:
      config: the mixture.
      stores: of every source by name, all with the same tokenizer.
    """

    config: MixtureConfig
    stores: Mapping[str, Store]

    @property
    def tokens(self) -> int:
        """Tokens of all sources."""
        return sum(each.tokens for each in self.stores.values())

    @property
    def documents(self) -> int:
        """Documents of all sources."""
        return sum(each.documents for each in self.stores.values())

    @property
    def bytes(self) -> int:
        """UTF-8 bytes of all sources' cleaned text."""
        return sum(each.bytes for each in self.stores.values())

    @property
    def report(self) -> reports.Report:
        """What cleaning did to all of them."""
        return reports.total(each.report for each in self.stores.values())

    def warnings(self) -> list[str]:
        """What to say where next to nothing of a source's text is left in its tokens."""
        return [f"{name}: {line}" for name, each in self.stores.items() for line in each.warnings()]

    @property
    def directory(self) -> Path:
        """Where the stores lie."""
        return next(iter(self.stores.values())).directory.parent

    @property
    def tokenizer(self) -> tokenizers.Tokenizer:
        """The tokenizer of all of them."""
        return next(iter(self.stores.values())).tokenizer

    @functools.cached_property
    def fingerprint(self) -> str:
        """Of the sources' tokens and names and of how they are mixed."""
        weights = {name: source.weight for name, source in self.config.named().items()}
        described = [{name: each.fingerprint for name, each in self.stores.items()}, weights, self.config.temperature]
        return hashlib.sha256(json.dumps(["mixture 1", mixture.PERIOD, *described]).encode()).hexdigest()[:32]

    def shares(self, validation: float) -> dict[str, float]:
        """How much of the training rows each source is."""
        sizes = {}
        for name, each in self.stores.items():
            start, stop = plans.span(each, "train", validation)
            sizes[name] = stop - start
            if not sizes[name]:
                raise InputError(f"{mixture.KEY}.sources.{name} has no token to train on; lower config.data.validation")
        return self.config.shares(sizes)

    def table(self, validation: float) -> str:
        """The sources, one a line: tokens, and what share of the rows they are."""
        lines = [
            f"  {name:<20}{self.stores[name].tokens:>16,} tokens {share:>9.3%} of the rows"
            for name, share in self.shares(validation).items()
        ]
        return "\n".join(lines)


def prepare(
    data: DataConfig,
    progress: texts.Progress | None = None,
    tokenizer: tokenizers.Tokenizer | None = None,
    prefix: tuple[int, ...] = (),
) -> Store | Stores:
    """The tokens of a configuration, cleaned and stored where that has not been done.

    Args:
      data: names the text and the tokenizer.
      progress: as of `store.prepare`.
      tokenizer: one to use instead.
      prefix: ids that every document begins with.

    Raises:
      InputError: as `store.prepare`; or both a path and a mixture are named.
    """
    tokenizers.refuse_ids(data.tokenizer.path)
    root, sources = _root(data), _sources(data)
    if not sources:
        return store.prepare(
            root,
            data.source(),
            data.clean,
            tokenizer or data.tokenizer,
            prefix=prefix,
            workers=data.workers,
            progress=progress,
        )
    tokenizer = tokenizer or train_tokenizer(data, progress)[0]
    stores = {
        name: _naming(name, store.prepare)(
            root, source, data.clean, tokenizer, prefix=prefix, workers=data.workers, progress=_told(name, progress)
        )
        for name, source in sources.items()
    }
    return Stores(data.mixture, stores)


def refuse_beyond(made: Store | Stores, rows: int) -> None:
    """Refuses text whose unknown pieces are an id that a table of `rows` has no row for.

    Raises:
      InputError: a token of the text is such an id.
    """
    tokenizer = made.tokenizer
    if tokenizer.unk is None or tokenizer.unk < rows:
        return
    for each in made.stores.values() if isinstance(made, Stores) else (made,):
        for start in range(0, each.tokens, store.RECORD_TOKENS):
            if (each.read(start, min(start + store.RECORD_TOKENS, each.tokens)) >= rows).any():
                raise InputError(
                    f"the text has pieces that the tokenizer does not know, which are id {tokenizer.unk}, and the "
                    f"model's table has the ids 0..{rows - 1}; use a text without them, or another tokenizer"
                )


def train_tokenizer(
    data: DataConfig, progress: texts.Progress | None = None
) -> tuple[tokenizers.Tokenizer, texts.Texts | Blend]:
    """The tokenizer that `prepare` uses, and the cleaned text that it is trained on."""
    root, sources = _root(data), _sources(data)
    cleaned: texts.Texts | Blend
    if sources:
        parts = {
            name: _naming(name, texts.prepare)(
                root, source, data.clean, workers=data.workers, progress=_told(name, progress)
            )
            for name, source in sources.items()
        }
        cleaned = Blend(parts, data.mixture.shares({name: part.bytes for name, part in parts.items()}), data.tokenizer)
    else:
        cleaned = texts.prepare(root, data.source(), data.clean, workers=data.workers, progress=progress)
    return store.find_tokenizer(root, data.tokenizer, cleaned, progress), cleaned


def _root(data: DataConfig) -> Path:
    """The root of prepared corpora, which can be written."""
    root = store.default_root(data.store)
    atomic.check_directory(root, "the place of prepared text (config.data.store, $LM_JAX_CACHE)")
    return root


def _sources(data: DataConfig) -> dict[str, SourceConfig]:
    """The sources of a mixture by name; none where `config.data.path` is the text."""
    sources = data.mixture.named()
    if sources and data.path != DataConfig.path:
        raise InputError(
            f"config.data.path is {data.path!r}, but config.data.mixture names sources too ({', '.join(sources)}); "
            "leave out one of them"
        )
    return sources


@dataclasses.dataclass(frozen=True)
class Blend:
    """Text of several sources in their shares: what their tokenizer is trained on, so that small ones have pieces.

    The shares are those of the mixture by bytes of cleaned text: tokens do not exist yet.

    Attributes:
      parts: cleaned texts by name.
      shares: of each.
      config: says how much text is wanted.
    """

    parts: Mapping[str, texts.Texts]
    shares: Mapping[str, float]
    config: tokenizers.TokenizerConfig

    # 0: the whole is trained on, because it is a sample already.
    bytes = 0

    @property
    def fingerprint(self) -> str:
        """Of the texts and their shares."""
        described = [[name, part.fingerprint, self.shares[name]] for name, part in self.parts.items()]
        return hashlib.sha256(json.dumps(["blend 1", *described]).encode()).hexdigest()[:32]

    def __iter__(self) -> Iterator[str]:
        """Lines of every source: an even part of a large one, a small one again and again."""
        total = min(self.config.sample_bytes, sum(part.bytes for part in self.parts.values()))
        for name, part in self.parts.items():
            wanted = max(1, round(self.shares[name] * total))
            whole, rest = divmod(wanted, part.bytes)
            for _ in range(whole):
                yield from part
            yield from sampled(part, rest, part.bytes)


def make_rows(found: Store | Stores, config: RowsConfig, split: str, *, seed: int, **settings: Any) -> Rows:
    """The rows of one part of a store or of each of several; arguments as of `rows.make`."""
    if isinstance(found, Store):
        return plans.make(found, config, split, seed=seed, **settings)
    # From the name: another source beside it, or none, changes nothing about its own order.
    keys = {name: int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "little") for name in found.stores}
    made = {
        name: _naming(name, plans.make)(each, config, split, seed=order.key(seed, keys[name]), **settings)
        for name, each in found.stores.items()
    }
    shares = found.shares(settings["validation"]) if split == "train" else {name: 1.0 for name in made}
    count = mixture.counts([shares[name] for name in made])
    return Mixture(tuple(made), tuple(made.values()), tuple(keys[name] for name in made), count)


def _naming(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
    """A function whose complaints say which source they are about."""

    def named(*args: Any, **options: Any) -> Any:
        try:
            return function(*args, **options)
        except InputError as error:
            raise InputError(f"{mixture.KEY}.sources.{name}: {error}") from error

    return named


def _told(name: str, progress: texts.Progress | None) -> texts.Progress | None:
    """Progress that says which source it is about."""
    return progress and (lambda stage, done, whole: progress(f"{name}: {stage}", done, whole))
