"""Text to ids and back, exactly: `decode(encode(text)) == text` for any Unicode text.

Every kind has the same layout: seven special ids, then the kind's own pieces, then the sentinels of span corruption.
Special ids never come from text: a document that says "[MASK]" is spelled out. Unigram and BPE are sentencepiece
models (Kudo and Richardson 2018, arXiv:1808.06226) without normalisation and with byte fallback.
"""

from __future__ import annotations

import collections
import dataclasses
import hashlib
import json
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Int

from lm_jax.core.config import InputError, lookup
from lm_jax.data import atomic
from lm_jax.data.parts import PART, encodable, parts, sampled

SPECIALS = ("[PAD]", "[UNK]", "[BOS]", "[EOS]", "[CLS]", "[SEP]", "[MASK]")
PAD, UNK, BOS, EOS, CLS, SEP, MASK = range(len(SPECIALS))
_BYTES = len(SPECIALS)  # The first of 256 byte pieces: <0x00>.
_UNKNOWN = "\ufffd"

_TRAINING_LINE = 4_000


@dataclasses.dataclass(frozen=True, kw_only=True)
class TokenizerConfig:
    """Which tokenizer.

    Attributes:
      kind: "unigram", "bpe", "bytes" or "characters".
      vocab: the whole vocabulary, specials and sentinels included. For "characters" an upper limit (rarer ones are
        unknown); "bytes" has 263 ids and the sentinels whatever is asked.
      path: a directory written by `save`, to load instead of training.
      sentinels: ids for span corruption, the last of the vocabulary.
      character_coverage: the share of characters that get a piece of their own; the rest is spelled in bytes.
      split_digits: every digit is a piece.
      sample_bytes: at most about so much text is trained on, lines chosen evenly over the corpus.
    """

    kind: str = "unigram"
    vocab: int = 8192
    path: str = ""
    sentinels: int = 0
    character_coverage: float = 0.9995
    split_digits: bool = False
    sample_bytes: int = 10_000_000


@runtime_checkable
class Tokenizer(Protocol):
    """What every tokenizer offers."""

    vocab_size: int
    pad: int
    unk: int
    bos: int
    eos: int
    cls: int
    sep: int
    mask: int
    sentinels: Int[np.ndarray, " sentinels"]
    fingerprint: str

    def encode(self, text: str) -> Int[np.ndarray, " tokens"]:
        """Ids of a text, int32, without specials."""
        ...

    def encode_batch(self, texts: Sequence[str]) -> list[Int[np.ndarray, " tokens"]]:
        """Ids of each text."""
        ...

    def decode(self, ids: Sequence[int] | Int[np.ndarray, " tokens"]) -> str:
        """Text of ids; specials, sentinels and ids beyond the vocabulary are skipped, [UNK] is U+FFFD."""
        ...

    def piece(self, token: int) -> str:
        """One id in printable form."""
        ...

    def byte_lengths(self, ids: Int[np.ndarray, " tokens"]) -> Int[np.ndarray, " tokens"]:
        """UTF-8 bytes of text that each id stands for; 0 for specials."""
        ...

    def byte_offsets(self, data: bytes, ids: Int[np.ndarray, " tokens"]) -> Int[np.ndarray, " tokens"]:
        """Where in the UTF-8 text each of its tokens begins; [EOS] stands for a line break between documents."""
        ...

    def save(self, directory: Path | str) -> None:
        """Write the tokenizer to a directory."""
        ...


class _Base:
    """The layout that all kinds share."""

    pad, unk, bos, eos, cls, sep, mask = PAD, UNK, BOS, EOS, CLS, SEP, MASK

    def __init__(self, kind: str, content: bytes, pieces: list[str], lengths: list[int], sentinels: int):
        self.kind, self.content = kind, content
        self._pieces = [*pieces, *(f"<extra_id_{index}>" for index in range(sentinels))]
        self._lengths = np.array([*lengths, *[0] * sentinels], np.int32)
        self.vocab_size = len(self._pieces)
        self.sentinels = np.arange(len(pieces), self.vocab_size, dtype=np.int32)
        self.fingerprint = _fingerprint(kind, content, sentinels)

    def piece(self, token: int) -> str:
        if not 0 <= token < self.vocab_size:
            raise ValueError(f"id {token} is outside the vocabulary 0..{self.vocab_size - 1}")
        return self._pieces[token]

    def byte_lengths(self, ids: Int[np.ndarray, " tokens"]) -> Int[np.ndarray, " tokens"]:
        return self._lengths[ids]

    def byte_offsets(self, data: bytes, ids: Int[np.ndarray, " tokens"]) -> Int[np.ndarray, " tokens"]:
        lengths = self._lengths[ids] + (ids == EOS)
        return np.cumsum(lengths, dtype=np.int64) - lengths

    def encode(self, text: str) -> Int[np.ndarray, " tokens"]:
        return self.encode_batch([text])[0]

    def encode_batch(self, texts: Sequence[str]) -> list[Int[np.ndarray, " tokens"]]:
        return [self._encode(encodable(text)) for text in texts]

    def decode(self, ids: Sequence[int] | Int[np.ndarray, " tokens"]) -> str:
        ids = np.asarray(ids, np.int64).reshape(-1)
        text = (ids == UNK) | ((ids >= len(SPECIALS)) & (ids < self.vocab_size - len(self.sentinels)))
        return self._decode(ids[text])

    def save(self, directory: Path | str) -> None:
        directory = Path(directory)
        directory.mkdir(parents=True, exist_ok=True)
        atomic.write_bytes(directory / "pieces", self.content)
        settings = {
            "kind": self.kind,
            "sentinels": len(self.sentinels),
            "vocab_size": self.vocab_size,
            "fingerprint": self.fingerprint,
        }
        # Last: a directory with this file is complete.
        atomic.write_json(directory / "tokenizer.json", settings)

    def _encode(self, text: str) -> np.ndarray:
        raise NotImplementedError

    def _decode(self, ids: np.ndarray) -> str:
        raise NotImplementedError


class SentencePieceTokenizer(_Base):
    """A unigram or BPE model; `content` is the serialised sentencepiece model."""

    def __init__(self, kind: str, content: bytes, sentinels: int):
        import sentencepiece

        self._model = sentencepiece.SentencePieceProcessor(model_proto=content)
        size = self._model.get_piece_size()
        pieces = [self._model.id_to_piece(index) for index in range(size)]
        lengths = [len(piece.replace("▁", " ").encode()) for piece in pieces]
        lengths[: _BYTES + 256] = [0] * _BYTES + [1] * 256
        super().__init__(kind, content, pieces, lengths, sentinels)

    def _encode(self, text: str) -> np.ndarray:
        # sentencepiece writes spaces as U+2581: one in the text is spelled in bytes, or it would return as a space.
        if len(text) <= PART and "▁" not in text:
            return self._model.encode_as_numpy(text)
        arrays: list[np.ndarray] = []
        for index, stretch in enumerate(text.split("▁")):
            if index:
                arrays.append(np.array([_BYTES + byte for byte in "▁".encode()], np.int32))
            arrays += [self._model.encode_as_numpy(part) for part in parts(stretch)]
        return np.concatenate([*arrays, np.zeros(0, np.int32)])

    def _decode(self, ids: np.ndarray) -> str:
        return self._model.decode(ids.tolist()) if ids.size else ""


class BytesTokenizer(_Base):
    """UTF-8 bytes as tokens (Xue et al. 2022, arXiv:2105.13626)."""

    def __init__(self, sentinels: int):
        pieces = [*SPECIALS, *(f"<0x{byte:02X}>" for byte in range(256))]
        super().__init__("bytes", b"", pieces, [0] * _BYTES + [1] * 256, sentinels)

    def _encode(self, text: str) -> np.ndarray:
        return np.frombuffer(text.encode(), np.uint8).astype(np.int32) + np.int32(_BYTES)

    def _decode(self, ids: np.ndarray) -> str:
        known = b"".join(_UNKNOWN.encode() if token == UNK else bytes([token - _BYTES]) for token in ids.tolist())
        return known.decode("utf-8", "replace")


class CharactersTokenizer(_Base):
    """The characters of a corpus as tokens; others are [UNK]. `content` is the alphabet in UTF-8."""

    def __init__(self, content: bytes, sentinels: int):
        alphabet = content.decode()
        lengths = [0, len(_UNKNOWN.encode()), *[0] * (_BYTES - 2), *(len(character.encode()) for character in alphabet)]
        super().__init__("characters", content, [*SPECIALS, *alphabet], lengths, sentinels)
        self._codes = np.array([0, ord(_UNKNOWN), *[0] * (_BYTES - 2), *map(ord, alphabet)], "<u4")
        self._ids = np.full(0x110000, UNK, np.int32)
        self._ids[self._codes[_BYTES:]] = np.arange(_BYTES, len(self._codes))

    def byte_offsets(self, data: bytes, ids: Int[np.ndarray, " tokens"]) -> Int[np.ndarray, " tokens"]:
        """Where in the UTF-8 text each of its tokens begins; [EOS] stands for a line break between documents."""
        # One token a character, known or not: every byte that continues none begins one.
        return np.flatnonzero((np.frombuffer(data, np.uint8) & 0xC0) != 0x80)

    def _encode(self, text: str) -> np.ndarray:
        return self._ids[np.frombuffer(text.encode("utf-32-le"), "<u4")]

    def _decode(self, ids: np.ndarray) -> str:
        return self._codes[ids].tobytes().decode("utf-32-le")


KINDS = {
    "unigram": lambda content, sentinels: SentencePieceTokenizer("unigram", content, sentinels),
    "bpe": lambda content, sentinels: SentencePieceTokenizer("bpe", content, sentinels),
    "bytes": lambda content, sentinels: BytesTokenizer(sentinels),
    "characters": CharactersTokenizer,
}


def load(directory: Path | str) -> Tokenizer:
    """A tokenizer that `save` wrote.

    Raises:
      InputError: there is none, or its files are not those that were written.
    """
    directory = Path(directory).expanduser()
    try:
        settings = json.loads((directory / "tokenizer.json").read_bytes())
        content = (directory / "pieces").read_bytes()
    except (OSError, ValueError) as error:
        raise InputError(
            f"config.data.tokenizer.path: {directory} holds no tokenizer ({type(error).__name__}); give a directory "
            "with tokenizer.json and pieces, or leave it empty to train one"
        ) from error
    kind = lookup(KINDS, settings.get("kind", ""), f"kind in {directory}/tokenizer.json")
    # Before sentencepiece, whose complaint about a damaged model names no file.
    if _fingerprint(settings["kind"], content, settings["sentinels"]) != settings["fingerprint"]:
        raise InputError(f"config.data.tokenizer.path: {directory} is damaged; its pieces do not match its fingerprint")
    return kind(content, settings["sentinels"])


def _fingerprint(kind: str, content: bytes, sentinels: int) -> str:
    described = json.dumps(["tokenizer 1", kind, sentinels]).encode()
    return hashlib.sha256(described + content).hexdigest()[:32]


def train(config: TokenizerConfig, texts: Iterable[str], total_bytes: int = 0) -> Tokenizer:
    """A tokenizer trained on texts, or loaded where the config has a path.

    Args:
      config: kind and size.
      texts: cleaned documents.
      total_bytes: the size of all texts where it is known; more than `config.sample_bytes` is then sampled.

    Raises:
      InputError: there is no text, or the vocabulary does not fit it.
    """
    if config.path:
        return load(config.path)
    trainer = lookup(_TRAINERS, config.kind, "config.data.tokenizer.kind")
    if config.sentinels < 0:
        raise InputError(f"config.data.tokenizer.sentinels is {config.sentinels}; expected 0 or more")
    return trainer(config, sampled(texts, config.sample_bytes, total_bytes))


def _train_sentencepiece(config: TokenizerConfig, lines: Iterator[str]) -> Tokenizer:
    import io

    import sentencepiece

    fitting = (part for line in lines if "\0" not in line for part in parts(line, _TRAINING_LINE))
    first = next(fitting, None)
    if first is None:
        raise InputError("there is no text to train a tokenizer on; check config.data.path and config.data.clean")
    model = io.BytesIO()
    try:
        sentencepiece.SentencePieceTrainer.train(
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
            unk_surface=_UNKNOWN,
            # Sums over threads are rounded in their order: the count is part of the result.
            num_threads=16,
            minloglevel=2,
        )
    except RuntimeError as error:
        raise InputError(_explained(config, str(error))) from error
    return SentencePieceTokenizer(config.kind, model.getvalue(), config.sentinels)


def _explained(config: TokenizerConfig, message: str) -> str:
    """What sentencepiece says about a vocabulary, in terms of the config."""
    import re

    said = f"config.data.tokenizer.vocab is {config.vocab}"
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
    return BytesTokenizer(config.sentinels)


def _train_characters(config: TokenizerConfig, lines: Iterator[str]) -> Tokenizer:
    counts: collections.Counter[str] = collections.Counter()
    for line in lines:
        counts.update(line)
    if not counts:
        raise InputError("there is no text to train a tokenizer on; check config.data.path and config.data.clean")
    counts["\n"] += 1
    room = config.vocab - len(SPECIALS) - config.sentinels
    if room < 1:
        raise InputError(
            f"config.data.tokenizer.vocab is {config.vocab}; specials and sentinels alone take "
            f"{len(SPECIALS) + config.sentinels}"
        )
    frequent = sorted(counts, key=lambda character: (-counts[character], character))[:room]
    return CharactersTokenizer("".join(sorted(frequent)).encode(), config.sentinels)


_TRAINERS: dict[str, Any] = {
    "unigram": _train_sentencepiece,
    "bpe": _train_sentencepiece,
    "bytes": _train_bytes,
    "characters": _train_characters,
}


def _chain(first: str, rest: Iterator[str]) -> Iterator[str]:
    yield first
    yield from rest
