"""The interface of all tokenizers: special ids by role, tables over the vocabulary, saving to files.

A `Backend` encodes text to ids and decodes ids to text; `Tokenizer` adds the roles of special ids. Encoding
returns no special id but [UNK]: a "[MASK]" in a document is spelled in ordinary pieces.
"""

from __future__ import annotations

import copy
import dataclasses
import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np
from jaxtyping import Bool, Float, Int

from lm_jax.core.config import InputError, setting
from lm_jax.data import atomic
from lm_jax.data.parts import replace_surrogates

# The vocabulary of tokenizers trained here: these special tokens, then ordinary pieces, then sentinels.
SPECIALS = ("[PAD]", "[UNK]", "[BOS]", "[EOS]", "[CLS]", "[SEP]", "[MASK]")
PAD, UNK, BOS, EOS, CLS, SEP, MASK = range(len(SPECIALS))
ROLES = ("pad", "unk", "bos", "eos", "cls", "sep", "mask")
TRAINED_ROLES: dict[str, int] = dict(zip(ROLES, range(len(ROLES)), strict=True))
UNKNOWN = "\ufffd"
SENTINEL = re.compile(r"▁?<extra_id_(\d+)>")
SETTINGS = "lm_jax_tokenizer.json"


@dataclasses.dataclass(frozen=True, kw_only=True)
class TokenizerConfig:
    """Settings of a tokenizer.

    Attributes:
      kind: "unigram" or "bpe" (both sentencepiece), "wordpiece", "byte_bpe", "bytes" or "characters". (A checkpoint
        imported without a tokenizer has the kind "ids".)
      vocab: vocabulary size with special tokens and sentinels; training fails if the text allows fewer pieces. None:
        as many as the text allows, at most `vocab_at_most`. For "characters" `vocab` is only an upper limit (the rarest
        characters become unknown); "bytes" always has 263 ids plus the sentinels.
      path: tokenizer to load instead of training one: a directory written by `save`, a Hugging Face directory
        (tokenizer.json, vocab.txt, vocab.json with merges.txt, or a sentencepiece model), or one of these files.
      sentinels: number of sentinel ids for span corruption, at the end of the vocabulary. A loaded tokenizer keeps its
        sentinels; a published one without any gets this many after its vocabulary, in reverse order as in T5.
      character_coverage: share of the text's characters with a piece; others are spelled in bytes ("wordpiece": [UNK]).
      split_digits: make every digit a piece ("unigram" and "bpe").
      lowercase: lower-case and strip accents in "wordpiece", like BERT's uncased models, and in a loaded vocab.txt
        whose tokenizer_config.json does not set it.
      add: tokens to find in text, such as markers of entities; a new one gets the next id and an embedding row.
      markers: the same, but to find in templates alone (`config.data.columns.NAME.template`), such as the markers of a
        chat: in a text they are spelled. Special tokens of the tokenizer may be markers too.
      anew: with `--fork`: use this tokenizer instead of the forked run's and initialise the token embeddings anew.
      sample_bytes: approximate limit of the text to train on; lines are sampled evenly from the corpus.
      vocab_at_most: largest vocabulary if `vocab` is None.

    Example:
      >>> TokenizerConfig(vocab=32_000).target_size, TokenizerConfig().target_size
      (32000, 8192)
    """

    kind: str = "unigram"
    vocab: int | None = setting(None, at_least=1)
    path: str = setting("", free=True, local=True)
    sentinels: int = setting(0, at_least=0)
    character_coverage: float = setting(0.9995, above=0, at_most=1)
    split_digits: bool = False
    lowercase: bool = True
    add: tuple[str, ...] = ()
    markers: tuple[str, ...] = ()
    anew: bool = False
    sample_bytes: int = setting(10_000_000, at_least=1)
    vocab_at_most: int = setting(8192, at_least=1)

    @property
    def target_size(self) -> int:
        """The vocabulary size to train, if the text allows it."""
        return self.vocab_at_most if self.vocab is None else self.vocab

    @property
    def added(self) -> tuple[str, ...]:
        """The tokens to add, markers included."""
        return (*self.add, *self.markers)

    @property
    def size_key(self) -> str:
        """The config key that sets `target_size`."""
        return "config.data.tokenizer.vocab_at_most" if self.vocab is None else "config.data.tokenizer.vocab"


class Encoded(NamedTuple):
    """Token ids of several texts in one flat array, which needs fewer array operations than an array per text.

    Attributes:
      tokens: ids of all texts, int32 [tokens].
      counts: number of tokens of each text, [texts].
      starts: only from `encode_with_starts`, [tokens]: byte offset of the start of each token in the UTF-8 of the texts
        joined by line breaks; never decreasing.
    """

    tokens: Int[np.ndarray, " tokens"]
    counts: Int[np.ndarray, " texts"]
    starts: Int[np.ndarray, " tokens"] | None = None

    def split(self) -> list[Int[np.ndarray, " tokens"]]:
        """Return the tokens of each text."""
        stops = np.cumsum(self.counts).tolist()
        return [self.tokens[start:stop] for start, stop in zip([0, *stops], stops, strict=False)]

    def with_starts(self, lengths: Int[np.ndarray, " vocab"]) -> Encoded:
        """Return a copy with `starts`, summed from `lengths`, the number of bytes of each id's text."""
        starts = np.zeros(len(self.tokens) + 1, np.int64 if len(self.tokens) > 1 << 24 else np.int32)
        np.cumsum(lengths[self.tokens], out=starts[1:])
        starts = starts[:-1]
        if len(self.counts) > 1:
            starts += np.repeat(np.arange(len(self.counts), dtype=starts.dtype), self.counts)
        return self._replace(starts=starts)


class Backend(Protocol):
    """Encodes text to ids and decodes ids to text; does not know the roles of special ids.

    Attributes:
      lossless: whether `decode(encode([text]).tokens) == text` for any text.
    """

    lossless: bool

    def encode(self, texts: Sequence[str]) -> Encoded:
        """Encode texts, which contain no lone surrogates."""
        ...

    def locate(self, texts: Sequence[str]) -> Encoded:
        """Encode like `encode`, and fill in `starts`."""
        ...

    def decode(self, ids: Int[np.ndarray, " tokens"]) -> str:
        """Decode ids of ordinary pieces and of the unknown token."""
        ...


@dataclasses.dataclass(frozen=True, kw_only=True)
class Vocabulary:
    """Tables over the ids of a vocabulary.

    Attributes:
      pieces: printable pieces; "" for an unused id.
      special: mask of ids that are not text, such as control symbols; `Tokenizer` adds its roles and sentinels.
      lengths: UTF-8 bytes of the text of each id; an estimate unless the backend is lossless.
      starts_word: mask of ids that begin a word.
      texts: UTF-8 text of each id, perhaps a part of a character; b"" for an id without text.
      carries_space: whether the pieces that begin a word include the space before it.
      prefix_space: whether encoding puts a space before every text.
    """

    pieces: Sequence[str]
    special: Bool[np.ndarray, " vocab"]
    lengths: Int[np.ndarray, " vocab"]
    starts_word: Bool[np.ndarray, " vocab"]
    texts: Sequence[bytes]
    carries_space: bool = False
    prefix_space: bool = False


def vocabulary(
    pieces: Sequence[str],
    texts: Sequence[bytes],
    *,
    special: Bool[np.ndarray, " vocab"] | None = None,
    starts_word: Bool[np.ndarray, " vocab"] | None = None,
    prefix_space: bool = False,
) -> Vocabulary:
    """Build the tables from the pieces and the UTF-8 text of every id (b"" for an id without text).

    `special=None`: only roles and sentinels are special. `starts_word=None`: derived from `texts` by `begin_words`.
    """
    return Vocabulary(
        pieces=pieces,
        special=np.zeros(len(pieces), bool) if special is None else special,
        lengths=np.array([*map(len, texts)], np.int32),
        starts_word=begin_words(texts) if starts_word is None else starts_word,
        texts=texts,
        carries_space=any(len(text) > 1 and text[:1] == b" " for text in texts),
        prefix_space=prefix_space,
    )


class Tokenizer:
    """Encodes text to ids and decodes ids to text.

    Attributes:
      kind: kind of backend; a key of `loading.BUILDERS`.
      vocab_size: number of ids.
      pad, eos: ids. Without a padding token pad equals eos (padding is masked); in BERT's family eos is [SEP]. In a
        tokenizer of kind "ids" eos may be -1, which occurs in no text, and pad is then 0.
      unk, bos, cls, sep, mask: ids, or None if the tokenizer has no such token.
      sentinels: ids of <extra_id_0>, <extra_id_1>, ..., int32.
      special: bool [vocab], ids that are not text.
      ordinary: longest run of ids without a special id, [first, last + 1); random tokens are drawn from it.
      starts_word: bool [vocab], ids that begin a word: "▁the", "Ġthe", "the", not "##the"; white space; Chinese.
      texts: UTF-8 text of each id, perhaps a part of a character, b"" if special; in "wordpiece" without spaces.
      lossless: whether `decode(encode(text)) == text` for any text.
      pieces, lengths, carries_space, prefix_space: see `Vocabulary`.
      backend: splits text into pieces.
      fingerprint: hash of kind, content and options; equal fingerprints mean equal ids.

    Example:
      >>> from lm_jax.data import tokenizers
      >>> tokenizer = tokenizers.train(TokenizerConfig(kind="bytes"), [])
      >>> tokenizer.encode("Hi!").tolist()
      [79, 112, 40]
      >>> tokenizer.decode([79, 112, 40]), tokenizer.piece(79)
      ('Hi!', '<0x48>')
    """

    def __init__(
        self,
        kind: str,
        content: bytes,
        options: Mapping[str, Any],
        *,
        file: str = "",
        roles: Mapping[str, int],
        sentinels: Sequence[int],
        vocabulary: Vocabulary,
        backend: Backend,
        trusted: bool = False,
        no_eos: bool = False,
    ):
        """Build a tokenizer; a `trusted` backend never returns special ids for text, and `no_eos` allows eos = -1."""
        self.kind, self.content, self.options, self.file = kind, content, dict(options), file
        self.backend, self.pieces, self.lengths = backend, list(vocabulary.pieces), vocabulary.lengths
        self.vocab_size = len(self.pieces)
        self.unk, self.bos, self.cls, self.sep, self.mask = map(roles.get, ("unk", "bos", "cls", "sep", "mask"))
        eos = roles.get("eos", -1 if no_eos else self.sep)
        if eos is None:
            raise InputError(
                "config.data.tokenizer.path: the tokenizer has no end-of-text token; name one as eos_token (or "
                "sep_token) in a tokenizer_config.json beside it"
            )
        self.eos: int = eos
        self.pad: int = roles.get("pad", max(eos, 0))
        self.sentinels = np.array(sentinels, np.int32)
        self.special = vocabulary.special.copy()
        self.special[np.array([*roles.values(), *sentinels], int)] = True
        self.special |= np.array([not piece for piece in self.pieces])
        self.ordinary = _longest_run(~self.special)
        self.starts_word = vocabulary.starts_word | self.special
        self.texts = [b"" if hidden else text for text, hidden in zip(vocabulary.texts, self.special, strict=True)]
        self.carries_space, self.prefix_space = vocabulary.carries_space, vocabulary.prefix_space
        self.lossless = backend.lossless
        self.fingerprint = fingerprint(kind, content, options)
        self._hidden = self.special.copy()
        if self.unk is not None:
            self._hidden[self.unk] = False
        self._trusted = trusted

    def encode(self, text: str) -> Int[np.ndarray, " tokens"]:
        """Return the ids of a text, int32, without special ids."""
        return self._encode([replace_surrogates(text)], located=False).tokens

    def encode_batch(self, texts: Sequence[str]) -> list[Int[np.ndarray, " tokens"]]:
        """Return the ids of each text."""
        return self._encode([replace_surrogates(text) for text in texts], located=False).split()

    def encode_parts(self, texts: Sequence[str]) -> list[Int[np.ndarray, " tokens"]]:
        """Return the ids of the parts of one text between which other ids go, such as those of masks.

        Where pieces include the space before a word, the space at the end of a part belongs to what follows.
        """
        if self.carries_space:
            # In training, no space came before a mask.
            texts = [*(text.removesuffix(" ") for text in texts[:-1]), texts[-1]]
        if self.prefix_space:
            # Encoding adds this space itself.
            texts = [texts[0], *(text.removeprefix(" ") for text in texts[1:])]
        return self.encode_batch(texts)

    def encode_with_starts(self, texts: Sequence[str]) -> Encoded:
        """Return the ids of all texts, with the byte offset at which each token starts."""
        return self._encode([replace_surrogates(text) for text in texts], located=True)

    def decode(self, ids: Sequence[int] | Int[np.ndarray, " tokens"]) -> str:
        """Return the text of ids; skips specials, sentinels and ids out of range, and decodes [UNK] to U+FFFD."""
        ids = np.asarray(ids, np.int64).reshape(-1)
        ids = ids[(ids >= 0) & (ids < self.vocab_size)]
        return self.backend.decode(ids[~self._hidden[ids]])

    def piece(self, token: int) -> str:
        """Return the printable piece of an id."""
        if not 0 <= token < self.vocab_size:
            raise ValueError(f"id {token} is outside the vocabulary 0..{self.vocab_size - 1}")
        return self.pieces[token] or f"<no piece {token}>"

    def bytes_per_id(self, size_bytes: int, tokens: int) -> Float[np.ndarray, " vocab"]:
        """Return how many UTF-8 bytes of the original text each id represents.

        If the tokenizer changes text (lower case, white space), the exact number is unknown; every id that is text
        then represents the corpus's average number of bytes per token.

        Args:
          size_bytes: size of the corpus.
          tokens: number of its tokens, without the [EOS] of its documents.
        """
        # "characters": an unknown character has a byte or two more or less than `lengths` has for [UNK].
        if self.lossless or self.kind == "characters":
            return self.lengths.astype(float)
        return np.where(self._hidden, 0.0, size_bytes / max(1, tokens))

    def encoding_with(self, backend: Backend) -> Tokenizer:
        """Return a copy with another backend, whose special ids are kept: it writes them only where they are wanted."""
        other = copy.copy(self)
        other.backend, other._trusted = backend, True
        return other

    def save(self, directory: Path | str) -> None:
        """Write the tokenizer to a directory: the vocabulary in its library's format, and our settings."""
        directory = Path(directory)
        directory.mkdir(parents=True, exist_ok=True)
        if self.content:
            atomic.write_bytes(directory / self.file, self.content)
        settings = {name: getattr(self, name) for name in ("kind", "file", "options", "vocab_size", "fingerprint")}
        # Written last: a directory with this file is complete.
        atomic.write_json(directory / SETTINGS, settings)

    def _encode(self, texts: list[str], *, located: bool) -> Encoded:
        run = self.backend.locate if located else self.backend.encode
        batch = run(texts)
        if self._trusted or not self._hidden[batch.tokens].any():
            return batch
        # Rare: a text contains the name of a special token, and the backend returned the special id.
        encoded = [Encoded(*self._encode_spelled(text, run)) for text in texts]
        shifts = np.cumsum([0, *(len(text.encode()) + 1 for text in texts)])
        starts = [each.starts + shift for each, shift in zip(encoded, shifts, strict=False) if each.starts is not None]
        return Encoded(
            np.concatenate([each.tokens for each in encoded]),
            np.concatenate([each.counts for each in encoded]),
            np.concatenate(starts) if located else None,
        )

    def _encode_spelled(self, text: str, run: Any) -> Encoded:
        """Encode one text, splitting the names of special tokens after their first character."""
        encoded = run([text])
        if not self._hidden[encoded.tokens].any():
            return encoded
        names = {self.pieces[index].removeprefix("▁") for index in np.flatnonzero(self._hidden)} - {""}
        matches = re.finditer("|".join(map(re.escape, sorted(names, key=len, reverse=True))), text)
        cuts = [0, *(match.start() + 1 for match in matches), len(text)]
        tokens, starts, offset = [], [], 0
        for start, stop in zip(cuts[:-1], cuts[1:], strict=True):
            part = run([text[start:stop]])
            tokens.append(part.tokens)
            starts.append(None if part.starts is None else part.starts + offset)
            offset += len(text[start:stop].encode())
        joined = np.concatenate(tokens)
        if self.unk is not None:
            joined = np.where(self._hidden[joined], np.int32(self.unk), joined)
        return Encoded(joined, np.array([len(joined)]), None if starts[0] is None else np.concatenate(starts))


def _longest_run(mask: Bool[np.ndarray, " vocab"]) -> tuple[int, int]:
    edges = np.flatnonzero(np.diff(np.concatenate([[False], mask, [False]])))
    if not len(edges):
        return 0, 0
    longest = int(np.argmax(edges[1::2] - edges[::2]))
    return int(edges[2 * longest]), int(edges[2 * longest + 1])


def fingerprint(kind: str, content: bytes, options: Mapping[str, Any]) -> str:
    """Return a hash that identifies a tokenizer."""
    if set(options) == {"sentinels"} and isinstance(options["sentinels"], int):
        described = ["tokenizer 1", kind, options["sentinels"]]
    else:
        described = ["tokenizer 2", kind, dict(options)]
    return hashlib.sha256(json.dumps(described, sort_keys=True).encode() + content).hexdigest()[:32]


def begin_words(texts: Sequence[bytes]) -> Bool[np.ndarray, " vocab"]:
    """Return a mask of the texts, in UTF-8, that begin a word: with white space or a Chinese character."""
    # E3..E9 are the first bytes of U+3000..U+9FFF, F0 A0.. of later ideographs; a piece may be the first byte alone.
    return np.array(
        [text[:1] in (b" ", b"\n", b"\t", b"\r", b"\xf0") or b"\xe3" <= text[:1] <= b"\xe9" for text in texts]
    )
