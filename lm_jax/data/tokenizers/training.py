"""Trains tokenizers: sentencepiece's unigram and BPE, WordPiece, byte-level BPE, bytes, characters.

All have the same vocabulary layout: seven special tokens, ordinary pieces, sentinels of span corruption. Training is
deterministic.
"""

from __future__ import annotations

import collections
import dataclasses
import time
from collections.abc import Callable, Iterable, Iterator

from lm_jax.core.config import InputError, from_config_dict, lookup
from lm_jax.data import workers
from lm_jax.data.parts import sample_lines
from lm_jax.data.tokenizers import loading, simple
from lm_jax.data.tokenizers.base import SPECIALS, Tokenizer, TokenizerConfig
from lm_jax.data.tokenizers.estimates import LISTENERS
from lm_jax.data.tokenizers.extended import extend
from lm_jax.data.tokenizers.learners import LEARNERS, NO_TEXT

STAGE = "training the tokenizer"
# Up to this number of characters, training takes at most two seconds on any text. More text is trained on in a separate
# process, which takes half a second to start and which Ctrl-C ends at once.
_IN_LINE = 50_000
_STEP = 1 << 20  # Characters counted in one call.
_QUIET_S = 2.0  # Reading that takes less is not reported.
_TOTAL = 1000  # Progress is reported in thousandths.

Progress = Callable[[str, int, int], None]


def train(
    config: TokenizerConfig, texts: Iterable[str], total_bytes: int | None = None, progress: Progress | None = None
) -> Tokenizer:
    """Train a tokenizer on texts, or load it if the config has a path.

    Args:
      config: kind and size.
      texts: cleaned documents.
      total_bytes: size of all texts; lines are sampled if it exceeds `config.sample_bytes`. None: unknown, no sampling.
      progress: called with a stage, the amount done and the total (0 if unknown), unless training is quick.

    Raises:
      InputError: a setting is out of range, there is no text, or the vocabulary size does not fit the text.

    Example:
      >>> tokenizer = train(TokenizerConfig(kind="wordpiece"), ["low lower lowest slow"] * 4)
      >>> [tokenizer.piece(int(token)) for token in tokenizer.encode("Lower slows")]
      ['lower', 'slow', '##s']
    """
    # Building the config again checks the range of every setting.
    config = from_config_dict(TokenizerConfig, dataclasses.asdict(config), "config.data.tokenizer")
    if config.path:
        loaded = loading.load(config.path, sentinels=config.sentinels, lowercase=config.lowercase)
        return extend(loaded, config.added, config.markers)
    trainer = lookup(KINDS, config.kind, "config.data.tokenizer.kind")
    lines = sample_lines(texts, config.sample_bytes, total_bytes)
    total = 0 if total_bytes is None else min(config.sample_bytes, total_bytes)
    return extend(trainer(config, _report_reading(lines, total, progress), progress), config.added, config.markers)


def _report_reading(lines: Iterator[str], total: int, progress: Progress | None) -> Iterator[str]:
    """Yield the lines and report progress if reading is slow, as for a corpus much larger than its sample."""
    done, next_s = 0, time.monotonic() + _QUIET_S
    for line in lines:
        yield line
        done += len(line.encode("utf-8", "surrogatepass")) + 1
        if progress is not None and time.monotonic() > next_s:
            progress("reading text for the tokenizer", done, max(done, total) if total else 0)
            next_s = time.monotonic() + 0.5


def _train_pieces(config: TokenizerConfig, lines: Iterator[str], progress: Progress | None) -> Tokenizer:
    sample = list(lines)
    if not sample:
        raise InputError(NO_TEXT)
    if sum(map(len, sample)) <= _IN_LINE:
        content, options = LEARNERS[config.kind](config, sample, False)
    else:
        content, options = workers.run_isolated(learn, (config,), sample, _listener(config, progress))
    return loading.BUILDERS[config.kind](config.kind, content, options)


def learn(config: TokenizerConfig, lines: list[str]) -> tuple[bytes, dict]:
    """Run the learner of the config's kind, with progress on standard error; called in a worker process."""
    return LEARNERS[config.kind](config, lines, True)


def _listener(config: TokenizerConfig, progress: Progress | None) -> Callable[[bytes], None]:
    """Return a function that reports progress, which never decreases, from a library's lines."""
    share_of, done = LISTENERS[config.kind](config), 0

    def listen(line: bytes) -> None:
        nonlocal done
        share = share_of(line)
        done = max(done, round(_TOTAL * share) if share is not None else 0)
        if progress is not None and (share is not None or not line):
            progress(STAGE, done, _TOTAL)

    return listen


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
