"""Trains vocabularies on lines of text: sentencepiece's unigram and BPE, WordPiece, byte-level BPE.

A learner is a pure function, so its result is the same in every process. With `verbose` it writes its progress to
standard error, which `estimates` reads.
"""

from __future__ import annotations

import collections
import io
import json
import re
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from lm_jax.core.config import InputError
from lm_jax.data.parts import split
from lm_jax.data.tokenizers import huggingface, simple
from lm_jax.data.tokenizers.base import BOS, CLS, EOS, PAD, SPECIALS, TRAINED_ROLES, UNK, UNKNOWN, TokenizerConfig

NO_TEXT = "there is no text to train a tokenizer on; check config.data.path and config.data.clean"
# Content and options of a tokenizer, the arguments of `loading.BUILDERS`.
Learned = tuple[bytes, dict[str, Any]]

# Special tokens and characters of a text that is not alphabetic.
_MANY_CHARACTERS = 1_500
_LINE = 4_000  # Longer lines are split; in characters.
_UNBROKEN = 500_000
_BYTES = 256
# WordPiece and byte-level BPE merge pairs that occur at least this often.
_MIN_FREQUENCY = 2
# Longer lines are normalised in parts: the library's records of every character take a hundred times the text's memory.
_PART = 100_000


def sentencepiece_model(config: TokenizerConfig, lines: Sequence[str], verbose: bool) -> Learned:
    """Train sentencepiece's unigram or BPE, without normalisation and with a piece for every byte."""
    chunks = [part for line in lines if "\0" not in line for part in split(line, _LINE)]
    if config.kind == "unigram":
        chunks = _limit_unbroken(chunks)
    if not chunks:
        raise InputError(NO_TEXT)
    size = config.target_size - config.sentinels
    if size < len(SPECIALS) + _BYTES:
        raise InputError(_too_small(config, "specials, sentinels and bytes", len(SPECIALS) + _BYTES))
    while True:
        try:
            return _sentencepiece(config, chunks, size, verbose), {"sentinels": config.sentinels}
        except RuntimeError as error:
            match = re.search(r"<= (\d+)", str(error))
            if config.vocab is not None or not match or int(match[1]) >= size:
                raise InputError(_explain(config, str(error))) from error
            # The library reports the size that the text allows only after training.
            size = int(match[1])


def _limit_unbroken(chunks: list[str]) -> list[str]:
    """Reduce the chunks of lines that were split within a word to an even sample of `_UNBROKEN` characters.

    Unigram's candidates are all repeated substrings: in text without words, such as DNA, their number grows faster than
    the text.
    """
    unbroken = [number for number, chunk in enumerate(chunks) if len(chunk) == _LINE and " " not in chunk]
    most = _UNBROKEN // _LINE
    if len(unbroken) <= most:
        return chunks
    dropped = set(unbroken) - {unbroken[index * len(unbroken) // most] for index in range(most)}
    return [chunk for number, chunk in enumerate(chunks) if number not in dropped]


def _sentencepiece(config: TokenizerConfig, lines: list[str], size: int, verbose: bool) -> bytes:
    import sentencepiece as library

    model, ids = io.BytesIO(), {"pad": PAD, "unk": UNK, "bos": BOS, "eos": EOS}
    # The piece of a space, which other texts have; without it the tokenizer has no form as tokenizer.json.
    spaceless: dict[str, Any] = {} if any(" " in line for line in lines) else {"required_chars": "\u2581"}
    pieces: dict[str, Any] = {f"{role}_piece": SPECIALS[token] for role, token in ids.items()}
    library.SentencePieceTrainer.train(
        sentence_iterator=_read(lines, verbose),
        model_writer=model,
        model_type=config.kind,
        vocab_size=size,
        character_coverage=config.character_coverage,
        split_digits=config.split_digits,
        normalization_rule_name="identity",
        remove_extra_whitespaces=False,
        add_dummy_prefix=False,
        allow_whitespace_only_pieces=True,
        byte_fallback=True,
        max_sentence_length=4 * _LINE,
        **{f"{role}_id": token for role, token in ids.items()},
        **pieces,
        **spaceless,
        # Unlike user-defined symbols, control symbols never match in text.
        control_symbols=list(SPECIALS[CLS:]),
        unk_surface=UNKNOWN,
        # Sums over threads are rounded in the order of threads, so their number affects the result.
        num_threads=16,
        minloglevel=0 if verbose else 2,
    )
    return model.getvalue()


def _explain(config: TokenizerConfig, message: str) -> str:
    """Translate sentencepiece's error message to config keys."""
    if "character_coverage()" in message:
        return f"config.data.tokenizer.character_coverage is {config.character_coverage}; expected 0.98 to 1"
    if match := re.search(r"<= (\d+)", message):
        return _too_large(config, int(match[1]))
    if match := re.search(r"required_chars\. \d+ vs (\d+)", message):
        return _too_small(config, "specials, sentinels, bytes and the corpus's characters", int(match[1]))
    return f"{config.size_key} is {config.target_size}; sentencepiece cannot train it: {' '.join(message.split())}"


def wordpiece(config: TokenizerConfig, lines: Sequence[str], verbose: bool) -> Learned:
    """Train WordPiece by pair frequency, as the library does (Google never published its trainer)."""
    import tokenizers

    options = {"lowercase": config.lowercase, "strip_accents": None, "chinese": True, "unk": SPECIALS[UNK]}
    tree = huggingface.wordpiece({SPECIALS[UNK]: 0}, **options)
    library = tokenizers.Tokenizer.from_str(json.dumps(tree))
    counts, texts = _count_characters(library, lines, verbose)
    alphabet = _alphabet(config, counts)
    # The library numbers the pieces that continue words in the order of a hash table, which differs between processes,
    # and ids break ties between pairs. Pieces listed as special tokens have fixed ids.
    split = library.pre_tokenizer.pre_tokenize_str
    inner = [huggingface.PREFIX + character for character in alphabet if len(split(f"a{character}")) == 1]
    least = len(SPECIALS) + len(alphabet) + len(inner)
    if config.target_size < least + config.sentinels:
        raise InputError(_too_small(config, "specials, sentinels and the corpus's characters", least))
    model = _merge_pairs(
        config,
        _read(texts, verbose),
        verbose,
        library,
        special_tokens=[*SPECIALS, *alphabet, *inner],
        initial_alphabet=alphabet,
        limit_alphabet=len(alphabet),
        continuing_subword_prefix=huggingface.PREFIX,
    )
    tree["model"]["vocab"] = model["vocab"]
    return _finish(tree, len(model["vocab"]), config.sentinels)


def _count_characters(library: Any, lines: Sequence[str], verbose: bool) -> tuple[collections.Counter[str], list[str]]:
    """Return counts of the normalised characters, and the texts without words that are too long to encode."""
    counts: collections.Counter[str] = collections.Counter()
    texts = []
    for part in _read([part for line in lines for part in split(line, _PART)], verbose, "Count characters"):
        text = library.normalizer.normalize_str(part)
        counts.update(text)
        if max(map(len, text.split()), default=0) <= huggingface.LONGEST_WORD:
            texts.append(part)
            continue
        words = (word for word, _ in library.pre_tokenizer.pre_tokenize_str(text))
        # Training takes time quadratic in the length of a word, and a longer word is encoded as [UNK] anyway.
        texts.append(" ".join(word for word in words if len(word) <= huggingface.LONGEST_WORD))
    return counts, texts


def _alphabet(config: TokenizerConfig, counts: Mapping[str, int]) -> list[str]:
    """Return the most frequent characters that together make up `character_coverage` of the normalised text."""
    visible = {character: count for character, count in counts.items() if not character.isspace()}
    if not visible:
        raise InputError(NO_TEXT)
    target, covered, alphabet = config.character_coverage * sum(visible.values()), 0, []
    for character in sorted(visible, key=lambda character: (-visible[character], character)):
        if covered >= target:
            break
        covered += visible[character]
        alphabet.append(character)
    return sorted(alphabet)


def byte_bpe(config: TokenizerConfig, lines: Sequence[str], verbose: bool) -> Learned:
    """Train byte-level BPE (Radford et al. 2019, section 2.2) with GPT-2's pre-tokenizer."""
    import tokenizers

    if config.target_size < len(SPECIALS) + _BYTES + config.sentinels:
        raise InputError(_too_small(config, "specials, sentinels and bytes", len(SPECIALS) + _BYTES))
    library = tokenizers.Tokenizer.from_str(json.dumps(huggingface.byte_bpe({}, [], prefix_space=False)))
    model = _merge_pairs(
        config,
        # With the line breaks that `lines` lack, because texts to encode contain them.
        (f"{part}\n" for part in _read([part for line in lines for part in split(line, _LINE)], verbose)),
        verbose,
        library,
        special_tokens=list(SPECIALS),
        initial_alphabet=sorted(tokenizers.pre_tokenizers.ByteLevel.alphabet()),
    )
    tree = huggingface.byte_bpe(model["vocab"], [tuple(pair) for pair in model["merges"]], prefix_space=False)
    return _finish(tree, len(model["vocab"]), config.sentinels)


def _merge_pairs(config: TokenizerConfig, texts: Iterator[str], verbose: bool, pipeline: Any, **options: Any) -> dict:
    """Return vocabulary and merges of the most frequent pairs; WordPiece's trainer does the same but shows no progress.

    `pipeline`: a tokenizer whose normalizer, if any, and pre-tokenizer prepare the text.
    """
    import tokenizers

    library = tokenizers.Tokenizer(tokenizers.models.BPE())
    library.pre_tokenizer = pipeline.pre_tokenizer
    if pipeline.normalizer is not None:
        library.normalizer = pipeline.normalizer
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=config.target_size - config.sentinels,
        min_frequency=_MIN_FREQUENCY,
        show_progress=verbose,
        # In the format "json" the library writes progress even if show_progress is False.
        progress_format="json" if verbose else "silent",
        **options,
    )
    library.train_from_iterator(texts, trainer)
    model = json.loads(library.to_str())["model"]
    if config.vocab is not None and len(model["vocab"]) + config.sentinels < config.vocab:
        raise InputError(_too_large(config, len(model["vocab"])))
    return model


def _read(texts: Sequence[str], verbose: bool, stage: str = "Read text") -> Iterator[str]:
    """Yield the texts; with `verbose`, write progress in the format of the tokenizers library."""
    total, done, step = sum(map(len, texts)), 0, 0
    for text in texts:
        yield text
        done += len(text)
        if verbose and 100 * done >= total * step:
            step = 100 * done // max(1, total) + 1
            print(json.dumps({"stage": stage, "current": done, "total": total}), file=sys.stderr, flush=True)


def _too_large(config: TokenizerConfig, size: int) -> str:
    most = size + config.sentinels
    return (
        f"{config.size_key} is {config.target_size}, but this corpus allows at most {most}; "
        f"set {config.size_key}={most}, leave it unset for the largest size that the text allows, or add text"
    )


def _too_small(config: TokenizerConfig, parts: str, size: int) -> str:
    least = size + config.sentinels
    advice = " or lower config.data.tokenizer.character_coverage" if "characters" in parts else ""
    if advice and least > _MANY_CHARACTERS:
        advice += "; for Chinese, start from --config=chinese:gpt or chinese:bert"
    return (
        f"{config.size_key} is {config.target_size}, but {parts} take {least}; set {config.size_key} above that{advice}"
    )


def _finish(tree: dict[str, Any], size: int, sentinels: int) -> Learned:
    """Add special tokens and sentinels to a trained tokenizer.json."""
    last = {name: size + index for index, name in enumerate(simple.sentinel_names(sentinels))}
    tree["added_tokens"] = huggingface.added_tokens({name: index for index, name in enumerate(SPECIALS)} | last)
    return huggingface.serialise(tree), {"roles": {**TRAINED_ROLES}, "sentinels": [*last.values()], "added": {}}


LEARNERS: dict[str, Callable[[TokenizerConfig, Sequence[str], bool], Learned]] = {
    "unigram": sentencepiece_model,
    "bpe": sentencepiece_model,
    "wordpiece": wordpiece,
    "byte_bpe": byte_bpe,
}
