"""What `config.data` names as prepared tokens: a store, columns, or the stores of a mixture under one tokenizer."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import json
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from lm_jax.core.config import InputError
from lm_jax.data import atomic, columns, mixture, order, several, store, texts, tokenizers
from lm_jax.data import rows as plans
from lm_jax.data.columns import Columns
from lm_jax.data.config import DataConfig
from lm_jax.data.mixture import Mixture, MixtureConfig
from lm_jax.data.parts import sampled
from lm_jax.data.rows import Request, Rows
from lm_jax.data.several import Several, naming
from lm_jax.data.store import Store


@dataclasses.dataclass(frozen=True)
class Stores(Several):
    """The token stores of a mixture; to those who only ask what there is, a store.

    Attributes:
      config: the mixture.
      stores: of every source by name, all with the same tokenizer.
    """

    config: MixtureConfig
    stores: Mapping[str, Store]

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
            start, stop = plans.span(each.tokens, "train", validation)
            sizes[name] = stop - start
            if not sizes[name]:
                raise InputError(f"{mixture.KEY}.sources.{name} has no token to train on; lower config.data.validation")
        return self.config.shares(sizes)

    def table(self, validation: float) -> str:
        """The sources, one a line: tokens, and what share of the rows they are."""
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
) -> Corpus:
    """The tokens of a configuration, cleaned and stored where that has not been done.

    Args:
      data: names the text and the tokenizer.
      progress: as of `store.prepare`.
      tokenizer: one to use instead.
      prefix: ids that every document begins with.

    Raises:
      InputError: as `store.prepare` and `columns.join`; or both a path and a mixture are named.
    """
    tokenizers.refuse_ids(data.tokenizer.path)
    root, texts_of = _root(data), _texts(data)
    options: dict[str, Any] = {"prefix": prefix, "workers": data.workers, "progress": progress}
    if texts_of is None:
        return store.prepare(root, data.source(), data.clean, tokenizer or data.tokenizer, **options)
    tokenizer = tokenizer or train_tokenizer(data, progress)[0]
    stores = texts_of(store.prepare, root, data.clean, tokenizer, **options)
    if not data.columns:
        return Stores(data.mixture, stores)
    named = columns.named(data.columns)
    return columns.join(root, named, data.source(), data.clean, stores, len(prefix))


def refuse_beyond(made: Corpus, rows: int) -> None:
    """Refuses text whose unknown pieces are an id that a table of `rows` has no row for.

    Raises:
      InputError: a token of the text is such an id.
    """
    tokenizer = made.tokenizer
    if tokenizer.unk is None or tokenizer.unk < rows:
        return
    for each in (made,) if isinstance(made, Store) else made.stores.values():
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
    root, texts_of = _root(data), _texts(data)
    cleaned: texts.Texts | Blend
    if texts_of is None:
        cleaned = texts.prepare(root, data.source(), data.clean, workers=data.workers, progress=progress)
    else:
        parts = texts_of(texts.prepare, root, data.clean, workers=data.workers, progress=progress)
        sizes = {name: part.bytes for name, part in parts.items()}
        even = {name: size / sum(sizes.values()) for name, size in sizes.items()}
        cleaned = Blend(parts, even if data.columns else data.mixture.shares(sizes), data.tokenizer)
    return store.find_tokenizer(root, data.tokenizer, cleaned, progress), cleaned


def _root(data: DataConfig) -> Path:
    """The root of prepared corpora, which can be written."""
    root = store.default_root(data.store)
    atomic.check_directory(root, "the place of prepared text (config.data.store, $LM_JAX_CACHE)")
    return root


def _texts(data: DataConfig) -> Callable[..., dict[str, Any]] | None:
    """`several.each` of the texts of columns or of a mixture; None where `config.data.path` is the text."""
    if data.columns:
        texts_of = {name: column for name, column in columns.named(data.columns).items() if column.kind == "text"}
        return functools.partial(several.each, columns.located(texts_of, data.source()), columns.KEY, aligned=True)
    sources = data.mixture.named()
    if sources and data.path != DataConfig.path:
        raise InputError(
            f"config.data.path is {data.path!r}, but config.data.mixture names sources too ({', '.join(sources)}); "
            "leave out one of them"
        )
    return functools.partial(several.each, sources, f"{mixture.KEY}.sources") if sources else None


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


def make_rows(corpus: Corpus, **settings: Any) -> Rows:
    """The rows of one part of a corpus, in a mixture those of each of its sources; settings as of `rows.Request`."""
    if not isinstance(corpus, Stores):
        return plans.make(Request(tokens=corpus, **settings))
    whole = Request(tokens=next(iter(corpus.stores.values())), **settings)
    if whole.plan == "streams":
        raise InputError(
            "config.data.rows.plan is streams, which follows one text, but config.data.mixture names several sources; "
            "name the files of all in config.data.path, or take another plan"
        )
    # From the name: another source beside it, or none, changes nothing about its own order.
    keys = {name: int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "little") for name in corpus.stores}
    made = {
        name: naming(f"{mixture.KEY}.sources.{name}", plans.make)(
            dataclasses.replace(whole, tokens=each, seed=order.key(whole.seed, keys[name]))
        )
        for name, each in corpus.stores.items()
    }
    shares = corpus.shares(whole.validation) if whole.split == "train" else {name: 1.0 for name in made}
    count = mixture.counts([shares[name] for name in made])
    return Mixture(tuple(made), tuple(made.values()), tuple(keys[name] for name in made), count)
