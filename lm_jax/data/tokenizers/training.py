"""Training tokenizers: sentencepiece's unigram and BPE, WordPiece, byte-level BPE, bytes, characters.

All have the same layout: seven special ids, the kind's own pieces, the sentinels of span corruption. Training is
deterministic.
"""

from __future__ import annotations

import collections
import json
from collections.abc import Callable, Iterable, Iterator

from lm_jax.core.config import InputError, lookup
from lm_jax.data.parts import parts, sampled
from lm_jax.data.tokenizers import huggingface, loading, sentencepiece, simple
from lm_jax.data.tokenizers.base import BOS, CLS, EOS, PAD, ROLES, SPECIALS, UNK, UNKNOWN, Tokenizer, TokenizerConfig

_TRAINING_LINE = 4_000
# WordPiece and byte-level BPE join what was seen together at least so often.
_SEEN = 2
_NO_TEXT = "there is no text to train a tokenizer on; check config.data.path and config.data.clean"


def train(config: TokenizerConfig, texts: Iterable[str], total_bytes: int = 0) -> Tokenizer:
    """A tokenizer trained on texts, or loaded where the config has a path.

    Args:
      config: kind and size.
      texts: cleaned documents.
      total_bytes: the size of all texts where it is known; more than `config.sample_bytes` is then sampled.

    Raises:
      InputError: there is no text, or the vocabulary does not fit it.
    """
    if config.sentinels < 0:
        raise InputError(f"config.data.tokenizer.sentinels is {config.sentinels}; expected 0 or more")
    if config.path:
        return loading.load(config.path, sentinels=config.sentinels, lowercase=config.lowercase)
    trainer = lookup(KINDS, config.kind, "config.data.tokenizer.kind")
    return trainer(config, sampled(texts, config.sample_bytes, total_bytes))


def _train_sentencepiece(config: TokenizerConfig, lines: Iterator[str]) -> Tokenizer:
    import io

    import sentencepiece as library

    fitting = (part for line in lines if "\0" not in line for part in parts(line, _TRAINING_LINE))
    first = next(fitting, None)
    if first is None:
        raise InputError(_NO_TEXT)
    model = io.BytesIO()
    try:
        library.SentencePieceTrainer.train(
            sentence_iterator=_chain(first, fitting),
            model_writer=model,
            model_type=config.kind,
            vocab_size=config.vocab - config.sentinels,
            character_coverage=config.character_coverage,
            split_digits=config.split_digits,
            normalization_rule_name="identity",
            remove_extra_whitespaces=False,
            add_dummy_prefix=False,
            allow_whitespace_only_pieces=True,
            byte_fallback=True,
            max_sentence_length=4 * _TRAINING_LINE,
            pad_id=PAD,
            unk_id=UNK,
            bos_id=BOS,
            eos_id=EOS,
            pad_piece=SPECIALS[PAD],
            unk_piece=SPECIALS[UNK],
            bos_piece=SPECIALS[BOS],
            eos_piece=SPECIALS[EOS],
            # Control symbols are never found in text, unlike user-defined ones.
            control_symbols=list(SPECIALS[CLS:]),
            unk_surface=UNKNOWN,
            # Sums over threads are rounded in their order: the count is part of the result.
            num_threads=16,
            minloglevel=2,
        )
    except RuntimeError as error:
        raise InputError(_explained(config, str(error))) from error
    return sentencepiece.own(config.kind, model.getvalue(), config.sentinels)


def _explained(config: TokenizerConfig, message: str) -> str:
    """What sentencepiece says about a vocabulary, in terms of the config."""
    import re

    said = f"config.data.tokenizer.vocab is {config.vocab}"
    if "character_coverage()" in message:
        return f"config.data.tokenizer.character_coverage is {config.character_coverage}; expected 0.98 to 1"
    if found := re.search(r"<= (\d+)", message):
        most = int(found[1]) + config.sentinels
        return f"{said}, but this corpus allows at most {most}; set config.data.tokenizer.vocab={most} or add text"
    if found := re.search(r"required_chars\. \d+ vs (\d+)", message):
        least = int(found[1]) + config.sentinels
        return (
            f"{said}, but specials, bytes and the corpus's characters take {least}; set config.data.tokenizer.vocab "
            "above that or lower config.data.tokenizer.character_coverage"
        )
    return f"{said}; sentencepiece cannot train it: {' '.join(message.split())}"


def _train_bytes(config: TokenizerConfig, lines: Iterator[str]) -> Tokenizer:
    return simple.bytes_tokenizer(config.sentinels)


def _train_characters(config: TokenizerConfig, lines: Iterator[str]) -> Tokenizer:
    counts: collections.Counter[str] = collections.Counter()
    for line in lines:
        counts.update(line)
    if not counts:
        raise InputError(_NO_TEXT)
    counts["\n"] += 1
    room = _room(config)
    if room < 1:
        raise InputError(
            f"config.data.tokenizer.vocab is {config.vocab}; specials and sentinels alone take "
            f"{len(SPECIALS) + config.sentinels}"
        )
    frequent = sorted(counts, key=lambda character: (-counts[character], character))[:room]
    return simple.characters_tokenizer("".join(sorted(frequent)).encode(), config.sentinels)


def _train_wordpiece(config: TokenizerConfig, lines: Iterator[str]) -> Tokenizer:
    """WordPiece by frequency of pairs, as the library has it (Google never published its own)."""
    import tokenizers

    make = huggingface.wordpiece
    tree = make({SPECIALS[UNK]: 0}, lowercase=config.lowercase, strip_accents=None, chinese=True, unk=SPECIALS[UNK])
    library = tokenizers.Tokenizer.from_str(json.dumps(tree))
    kept = list(lines)
    alphabet = _alphabet(config, library.normalizer, kept)
    # The library gives pieces that continue words their ids in the order of a hash table that is new in every
    # process, and ids break ties. Named before, they have their place.
    split = library.pre_tokenizer.pre_tokenize_str
    inner = [huggingface.PREFIX + one for one in alphabet if len(split(f"a{one}")) == 1]
    least = len(SPECIALS) + len(alphabet) + len(inner) + config.sentinels
    if config.vocab < least:
        raise InputError(
            f"config.data.tokenizer.vocab is {config.vocab}, but specials, sentinels and the corpus's characters take "
            f"{least}; set config.data.tokenizer.vocab={least} or more, or lower "
            "config.data.tokenizer.character_coverage"
        )
    trainer = tokenizers.trainers.WordPieceTrainer(
        vocab_size=config.vocab - config.sentinels,
        min_frequency=_SEEN,
        special_tokens=[*SPECIALS, *alphabet, *inner],
        initial_alphabet=alphabet,
        limit_alphabet=len(alphabet),
        continuing_subword_prefix=huggingface.PREFIX,
        show_progress=False,
    )
    library.train_from_iterator(kept, trainer)
    pieces = json.loads(library.to_str())["model"]["vocab"]
    _check_filled(config, len(pieces))
    tree = make(pieces, lowercase=config.lowercase, strip_accents=None, chinese=True, unk=SPECIALS[UNK])
    return _finished("wordpiece", tree, len(pieces), config.sentinels)


def _train_byte_bpe(config: TokenizerConfig, lines: Iterator[str]) -> Tokenizer:
    """Byte-level BPE (Radford et al. 2019, section 2.2) with GPT-2's rule where words end."""
    import tokenizers

    library = tokenizers.Tokenizer.from_str(json.dumps(huggingface.byte_bpe({}, [], prefix_space=False)))
    least = len(SPECIALS) + 256 + config.sentinels
    if config.vocab < least:
        raise InputError(
            f"config.data.tokenizer.vocab is {config.vocab}, but specials, sentinels and bytes take {least}; set "
            f"config.data.tokenizer.vocab={least} or more"
        )
    first = next(lines, None)
    if first is None:
        raise InputError(_NO_TEXT)
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=config.vocab - config.sentinels,
        min_frequency=_SEEN,
        special_tokens=list(SPECIALS),
        initial_alphabet=sorted(tokenizers.pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    # With their line breaks, which texts have.
    library.train_from_iterator(
        (f"{part}\n" for line in _chain(first, lines) for part in parts(line, _TRAINING_LINE)), trainer
    )
    model = json.loads(library.to_str())["model"]
    _check_filled(config, len(model["vocab"]))
    tree = huggingface.byte_bpe(model["vocab"], [tuple(pair) for pair in model["merges"]], prefix_space=False)
    return _finished("byte_bpe", tree, len(model["vocab"]), config.sentinels)


def _alphabet(config: TokenizerConfig, normaliser, lines: list[str]) -> list[str]:
    """The characters of normalised text, the rarest left out: together 1 - coverage of it."""
    counts: collections.Counter[str] = collections.Counter()
    for line in lines:
        counts.update(normaliser.normalize_str(line))
    found = {character: count for character, count in counts.items() if not character.isspace()}
    if not found:
        raise InputError(_NO_TEXT)
    wanted, covered, alphabet = config.character_coverage * sum(found.values()), 0, []
    for character in sorted(found, key=lambda character: (-found[character], character)):
        if covered >= wanted:
            break
        covered += found[character]
        alphabet.append(character)
    return sorted(alphabet)


def _check_filled(config: TokenizerConfig, pieces: int) -> None:
    most = pieces + config.sentinels
    if most < config.vocab:
        raise InputError(
            f"config.data.tokenizer.vocab is {config.vocab}, but this corpus allows at most {most}; set "
            f"config.data.tokenizer.vocab={most} or add text"
        )


def _finished(kind: str, tree: dict, size: int, sentinels: int) -> Tokenizer:
    """A trained tokenizer.json with its special tokens and sentinels."""
    behind = {name: size + index for index, name in enumerate(simple.sentinel_names(sentinels))}
    tree["added_tokens"] = huggingface.added({name: index for index, name in enumerate(SPECIALS)} | behind)
    roles = dict(zip(ROLES, range(len(ROLES)), strict=True))
    options = {"roles": roles, "sentinels": list(behind.values()), "added": {}}
    return huggingface.build(kind, huggingface.written(tree), options)


def _room(config: TokenizerConfig) -> int:
    return config.vocab - len(SPECIALS) - config.sentinels


KINDS: dict[str, Callable[[TokenizerConfig, Iterator[str]], Tokenizer]] = {
    "unigram": _train_sentencepiece,
    "bpe": _train_sentencepiece,
    "wordpiece": _train_wordpiece,
    "byte_bpe": _train_byte_bpe,
    "bytes": _train_bytes,
    "characters": _train_characters,
}


def _chain(first: str, rest: Iterator[str]) -> Iterator[str]:
    yield first
    yield from rest
