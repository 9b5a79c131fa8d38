"""What the libraries learn from lines of text: sentencepiece's unigram and BPE, WordPiece, byte-level BPE.

A learner is a function of its arguments alone, so that it gives the same in any process. Where it is `aloud`, standard
error says how far it is; `estimates` reads that.
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
from lm_jax.data.parts import parts
from lm_jax.data.tokenizers import huggingface, simple
from lm_jax.data.tokenizers.base import BOS, CLS, EOS, PAD, ROLES, SPECIALS, UNK, UNKNOWN, TokenizerConfig

NO_TEXT = "there is no text to train a tokenizer on; check config.data.path and config.data.clean"
# Content and options of a tokenizer, as `loading.BUILDERS` takes them.
Learned = tuple[bytes, dict[str, Any]]

_LINE = 4_000
_UNBROKEN = 500_000
_BYTES = 256
# WordPiece and byte-level BPE join what was seen together at least so often.
_SEEN = 2
# Longer lines are normalised in parts: what the library notes of every character takes a hundred times the text.
_PART = 100_000


def sentencepiece_model(config: TokenizerConfig, lines: Sequence[str], aloud: bool) -> Learned:
    """Sentencepiece's unigram or BPE, without normalisation and with a piece for every byte."""
    fitting = [part for line in lines if "\0" not in line for part in parts(line, _LINE)]
    if config.kind == "unigram":
        fitting = _limited(fitting)
    if not fitting:
        raise InputError(NO_TEXT)
    size = config.target_size - config.sentinels
    if size < len(SPECIALS) + _BYTES:
        raise InputError(_too_small(config, "specials, sentinels and bytes", len(SPECIALS) + _BYTES))
    while True:
        try:
            return _sentencepiece(config, fitting, size, aloud), {"sentinels": config.sentinels}
        except RuntimeError as error:
            found = re.search(r"<= (\d+)", str(error))
            if config.vocab is not None or not found or int(found[1]) >= size:
                raise InputError(_explained(config, str(error))) from error
            # The library knows what the text allows only after it was trained.
            size = int(found[1])


def _limited(pieces: list[str]) -> list[str]:
    """Pieces of lines, of which those that had to be cut within a word are an even sample of `_UNBROKEN` characters.

    Unigram takes every substring that repeats for a candidate: in text without words, such as DNA, their number grows
    faster than the text.
    """
    unbroken = [number for number, piece in enumerate(pieces) if len(piece) == _LINE and " " not in piece]
    most = _UNBROKEN // _LINE
    if len(unbroken) <= most:
        return pieces
    left_out = set(unbroken) - {unbroken[index * len(unbroken) // most] for index in range(most)}
    return [piece for number, piece in enumerate(pieces) if number not in left_out]


def _sentencepiece(config: TokenizerConfig, lines: list[str], size: int, aloud: bool) -> bytes:
    import sentencepiece as library

    model, ids = io.BytesIO(), {"pad": PAD, "unk": UNK, "bos": BOS, "eos": EOS}
    pieces: dict[str, Any] = {f"{role}_piece": SPECIALS[token] for role, token in ids.items()}
    library.SentencePieceTrainer.train(
        sentence_iterator=_read(lines, aloud),
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
        # Control symbols are never found in text, unlike user-defined ones.
        control_symbols=list(SPECIALS[CLS:]),
        unk_surface=UNKNOWN,
        # Sums over threads are rounded in their order: the count is part of the result.
        num_threads=16,
        minloglevel=0 if aloud else 2,
    )
    return model.getvalue()


def _explained(config: TokenizerConfig, message: str) -> str:
    """What sentencepiece says about a vocabulary, in terms of the config."""
    if "character_coverage()" in message:
        return f"config.data.tokenizer.character_coverage is {config.character_coverage}; expected 0.98 to 1"
    if found := re.search(r"<= (\d+)", message):
        return _too_large(config, int(found[1]))
    if found := re.search(r"required_chars\. \d+ vs (\d+)", message):
        return _too_small(config, "specials, sentinels, bytes and the corpus's characters", int(found[1]))
    return f"{config.size_key} is {config.target_size}; sentencepiece cannot train it: {' '.join(message.split())}"


def wordpiece(config: TokenizerConfig, lines: Sequence[str], aloud: bool) -> Learned:
    """WordPiece by frequency of pairs, as the library has it (Google never published its own)."""
    import tokenizers

    options = {"lowercase": config.lowercase, "strip_accents": None, "chinese": True, "unk": SPECIALS[UNK]}
    tree = huggingface.wordpiece({SPECIALS[UNK]: 0}, **options)
    library = tokenizers.Tokenizer.from_str(json.dumps(tree))
    counts, texts = _words(library, lines, aloud)
    alphabet = _alphabet(config, counts)
    # The library gives pieces that continue words their ids in the order of a hash table that is new in every
    # process, and ids break ties. Named before, they have their place.
    split = library.pre_tokenizer.pre_tokenize_str
    inner = [huggingface.PREFIX + one for one in alphabet if len(split(f"a{one}")) == 1]
    least = len(SPECIALS) + len(alphabet) + len(inner)
    if config.target_size < least + config.sentinels:
        raise InputError(_too_small(config, "specials, sentinels and the corpus's characters", least))
    model = _merged(
        config,
        _read(texts, aloud),
        aloud,
        library,
        special_tokens=[*SPECIALS, *alphabet, *inner],
        initial_alphabet=alphabet,
        limit_alphabet=len(alphabet),
        continuing_subword_prefix=huggingface.PREFIX,
    )
    tree["model"]["vocab"] = model["vocab"]
    return _finished(tree, len(model["vocab"]), config.sentinels)


def _words(library: Any, lines: Sequence[str], aloud: bool) -> tuple[collections.Counter[str], list[str]]:
    """How often each normalised character occurs, and the text without words that are too long to be encoded."""
    counts: collections.Counter[str] = collections.Counter()
    texts = []
    for part in _read([part for line in lines for part in parts(line, _PART)], aloud, "Count characters"):
        text = library.normalizer.normalize_str(part)
        counts.update(text)
        if max(map(len, text.split()), default=0) <= huggingface.LONGEST_WORD:
            texts.append(part)
            continue
        words = (word for word, _ in library.pre_tokenizer.pre_tokenize_str(text))
        # Their time would grow with the square of their length, and what is learned from them is never used.
        texts.append(" ".join(word for word in words if len(word) <= huggingface.LONGEST_WORD))
    return counts, texts


def _alphabet(config: TokenizerConfig, counts: Mapping[str, int]) -> list[str]:
    """The characters of normalised text, the rarest left out: together 1 - coverage of it."""
    found = {character: count for character, count in counts.items() if not character.isspace()}
    if not found:
        raise InputError(NO_TEXT)
    wanted, covered, alphabet = config.character_coverage * sum(found.values()), 0, []
    for character in sorted(found, key=lambda character: (-found[character], character)):
        if covered >= wanted:
            break
        covered += found[character]
        alphabet.append(character)
    return sorted(alphabet)


def byte_bpe(config: TokenizerConfig, lines: Sequence[str], aloud: bool) -> Learned:
    """Byte-level BPE (Radford et al. 2019, section 2.2) with GPT-2's rule where words end."""
    import tokenizers

    if config.target_size < len(SPECIALS) + _BYTES + config.sentinels:
        raise InputError(_too_small(config, "specials, sentinels and bytes", len(SPECIALS) + _BYTES))
    library = tokenizers.Tokenizer.from_str(json.dumps(huggingface.byte_bpe({}, [], prefix_space=False)))
    model = _merged(
        config,
        # With their line breaks, which texts have.
        (f"{part}\n" for part in _read([part for line in lines for part in parts(line, _LINE)], aloud)),
        aloud,
        library,
        special_tokens=list(SPECIALS),
        initial_alphabet=sorted(tokenizers.pre_tokenizers.ByteLevel.alphabet()),
    )
    tree = huggingface.byte_bpe(model["vocab"], [tuple(pair) for pair in model["merges"]], prefix_space=False)
    return _finished(tree, len(model["vocab"]), config.sentinels)


def _merged(config: TokenizerConfig, texts: Iterator[str], aloud: bool, steps: Any, **options: Any) -> dict[str, Any]:
    """Vocabulary and merges of the pairs that are most frequent; WordPiece's trainer does the same in silence.

    `steps` is a tokenizer whose normalizer, if any, and pre-tokenizer come first.
    """
    import tokenizers

    library = tokenizers.Tokenizer(tokenizers.models.BPE())
    library.pre_tokenizer = steps.pre_tokenizer
    if steps.normalizer is not None:
        library.normalizer = steps.normalizer
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=config.target_size - config.sentinels,
        min_frequency=_SEEN,
        show_progress=aloud,
        # What it writes in JSON it writes whether progress is shown or not.
        progress_format="json" if aloud else "silent",
        **options,
    )
    library.train_from_iterator(texts, trainer)
    model = json.loads(library.to_str())["model"]
    if config.vocab is not None and len(model["vocab"]) + config.sentinels < config.vocab:
        raise InputError(_too_large(config, len(model["vocab"])))
    return model


def _read(texts: Sequence[str], aloud: bool, stage: str = "Read text") -> Iterator[str]:
    """The texts one by one; aloud, with lines about it as the tokenizers library writes them."""
    whole, done, step = sum(map(len, texts)), 0, 0
    for text in texts:
        yield text
        done += len(text)
        if aloud and 100 * done >= whole * step:
            step = 100 * done // max(1, whole) + 1
            print(json.dumps({"stage": stage, "current": done, "total": whole}), file=sys.stderr, flush=True)


def _too_large(config: TokenizerConfig, size: int) -> str:
    most = size + config.sentinels
    return (
        f"{config.size_key} is {config.target_size}, but this corpus allows at most {most}; "
        f"set {config.size_key}={most}, leave it unset for as many as the text allows, or add text"
    )


def _too_small(config: TokenizerConfig, what: str, size: int) -> str:
    least = size + config.sentinels
    advice = " or lower config.data.tokenizer.character_coverage" if "characters" in what else ""
    return (
        f"{config.size_key} is {config.target_size}, but {what} take {least}; set {config.size_key} above that{advice}"
    )


def _finished(tree: dict[str, Any], size: int, sentinels: int) -> Learned:
    """A trained tokenizer.json with its special tokens and sentinels."""
    behind = {name: size + index for index, name in enumerate(simple.sentinel_names(sentinels))}
    tree["added_tokens"] = huggingface.added({name: index for index, name in enumerate(SPECIALS)} | behind)
    roles = dict(zip(ROLES, range(len(ROLES)), strict=True))
    return huggingface.written(tree), {"roles": roles, "sentinels": list(behind.values()), "added": {}}


LEARNERS: dict[str, Callable[[TokenizerConfig, Sequence[str], bool], Learned]] = {
    "unigram": sentencepiece_model,
    "bpe": sentencepiece_model,
    "wordpiece": wordpiece,
    "byte_bpe": byte_bpe,
}
