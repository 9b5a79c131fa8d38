"""Training tokenizers: sentencepiece's unigram and BPE, WordPiece, byte-level BPE, bytes, characters.

All have the same layout: seven special ids, the kind's own pieces, the sentinels of span corruption. Training is
deterministic.
"""

from __future__ import annotations

import collections
import dataclasses
import time
from collections.abc import Callable, Iterable, Iterator

from lm_jax.core.config import InputError, from_config_dict, lookup
from lm_jax.data import workers
from lm_jax.data.parts import sampled
from lm_jax.data.tokenizers import loading, simple
from lm_jax.data.tokenizers.base import SPECIALS, Tokenizer, TokenizerConfig
from lm_jax.data.tokenizers.estimates import LISTENERS
from lm_jax.data.tokenizers.extended import extend
from lm_jax.data.tokenizers.learners import LEARNERS, NO_TEXT

STAGE = "training the tokenizer"
# So many characters are learned from within two seconds, whatever they are; more in a process of its own, which Ctrl-C
# ends at once. To start that one takes half a second.
_IN_LINE = 50_000
_STEP = 1 << 20  # Characters that are counted in one call.
_QUIET_S = 2.0
# A share done is reported in thousandths.
_WHOLE = 1000

Progress = Callable[[str, int, int], None]


def train(
    config: TokenizerConfig, texts: Iterable[str], total_bytes: int = 0, progress: Progress | None = None
) -> Tokenizer:
    """A tokenizer trained on texts, or loaded where the config has a path.

    Args:
      config: kind and size.
      texts: cleaned documents.
      total_bytes: the size of all texts where it is known; more than `config.sample_bytes` is then sampled.
      progress: called with a stage, what is done and the whole (0 where unknown), where training takes a while.

    Raises:
      InputError: a setting is out of range, there is no text, or the vocabulary does not fit it.
    """
    # Checks the range of every setting.
    config = from_config_dict(TokenizerConfig, dataclasses.asdict(config), "config.data.tokenizer")
    if config.path:
        loaded = loading.load(config.path, sentinels=config.sentinels, lowercase=config.lowercase)
        return extend(loaded, config.add)
    trainer = lookup(KINDS, config.kind, "config.data.tokenizer.kind")
    lines = sampled(texts, config.sample_bytes, total_bytes)
    whole = min(config.sample_bytes, total_bytes)
    return extend(trainer(config, _told(lines, whole, progress), progress), config.add)


def _told(lines: Iterator[str], whole: int, progress: Progress | None) -> Iterator[str]:
    """The lines; reports how many are read where that takes a while, as of a corpus much larger than its sample."""
    done, next_s = 0, time.monotonic() + _QUIET_S
    for line in lines:
        yield line
        done += len(line.encode("utf-8", "surrogatepass")) + 1
        if progress is not None and time.monotonic() > next_s:
            progress("reading text for the tokenizer", done, max(done, whole) if whole else 0)
            next_s = time.monotonic() + 0.5


def _train_pieces(config: TokenizerConfig, lines: Iterator[str], progress: Progress | None) -> Tokenizer:
    kept = list(lines)
    if not kept:
        raise InputError(NO_TEXT)
    if sum(map(len, kept)) <= _IN_LINE:
        content, options = LEARNERS[config.kind](config, kept, False)
    else:
        content, options = workers.apart(learn, (config,), kept, _hearer(config, progress))
    return loading.BUILDERS[config.kind](config.kind, content, options)


def learn(config: TokenizerConfig, lines: list[str]) -> tuple[bytes, dict]:
    """What a kind learns, aloud; the worker's part."""
    return LEARNERS[config.kind](config, lines, True)


def _hearer(config: TokenizerConfig, progress: Progress | None) -> Callable[[bytes], None]:
    """Turns what a library says into progress, which never goes back."""
    share, done = LISTENERS[config.kind](config), 0

    def hear(line: bytes) -> None:
        nonlocal done
        heard = share(line)
        done = max(done, round(_WHOLE * heard) if heard is not None else 0)
        if progress is not None and (heard is not None or not line):
            progress(STAGE, done, _WHOLE)

    return hear


def _train_characters(config: TokenizerConfig, lines: Iterator[str], progress: Progress | None) -> Tokenizer:
    counts: collections.Counter[str] = collections.Counter()
    for line in lines:
        for start in range(0, len(line), _STEP):
            counts.update(line[start : start + _STEP])
    if not counts:
        raise InputError(NO_TEXT)
    counts["\n"] += 1
    room = config.target_size - len(SPECIALS) - config.sentinels
    if room < 1:
        raise InputError(
            f"{config.size_key} is {config.target_size}, but specials and sentinels alone take "
            f"{len(SPECIALS) + config.sentinels}; set {config.size_key} above that"
        )
    frequent = sorted(counts, key=lambda character: (-counts[character], character))[:room]
    return simple.characters_tokenizer("".join(sorted(frequent)).encode(), config.sentinels)


KINDS: dict[str, Callable[[TokenizerConfig, Iterator[str], Progress | None], Tokenizer]] = {
    **dict.fromkeys(LEARNERS, _train_pieces),
    "bytes": lambda config, lines, progress: simple.bytes_tokenizer(config.sentinels),
    "characters": _train_characters,
}
