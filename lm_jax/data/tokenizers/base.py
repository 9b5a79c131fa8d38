"""What every tokenizer offers, whatever finds its pieces: named special ids, tables over the vocabulary, files.

A `Backend` turns text into ids and back; `Tokenizer` is a backend with names for its special ids. Special ids never
come from text: a document that says "[MASK]" is spelled out.
"""

from __future__ import annotations

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
from lm_jax.data.parts import encodable

# The layout of tokenizers that are trained here: these, the kind's own pieces, the sentinels.
SPECIALS = ("[PAD]", "[UNK]", "[BOS]", "[EOS]", "[CLS]", "[SEP]", "[MASK]")
PAD, UNK, BOS, EOS, CLS, SEP, MASK = range(len(SPECIALS))
ROLES = ("pad", "unk", "bos", "eos", "cls", "sep", "mask")
UNKNOWN = "\ufffd"
SENTINEL = re.compile(r"▁?<extra_id_(\d+)>")

SETTINGS = "lm_jax_tokenizer.json"


@dataclasses.dataclass(frozen=True, kw_only=True)
class TokenizerConfig:
    """Which tokenizer.

    Attributes:
      kind: "unigram", "bpe" (sentencepiece), "wordpiece", "byte_bpe", "bytes" or "characters". ("ids" is what a
        checkpoint without a tokenizer has.)
      vocab: the size of the vocabulary, specials and sentinels included; text that allows fewer pieces is refused.
        None takes as many as the text allows, at most `vocab_at_most`. "characters" takes both as an upper limit (rarer
        ones are unknown); "bytes" has 263 ids and the sentinels in any case.
      path: a tokenizer to load instead of training one: a directory written by `save`, one of Hugging Face
        (tokenizer.json, vocab.txt, vocab.json with merges.txt, or a sentencepiece model), or such a file.
      sentinels: ids for span corruption, the last of the vocabulary. A loaded tokenizer keeps its own; one from
        elsewhere that has none gets so many behind its vocabulary, the first one last as T5 has it.
      character_coverage: the share of characters that get a piece of their own; the rest is spelled in bytes or, in
        "wordpiece", unknown.
      split_digits: every digit is a piece ("unigram" and "bpe").
      lowercase: "wordpiece" lower-cases and drops accents, as BERT's uncased models; also for a vocab.txt whose
        tokenizer_config.json does not say.
      add: tokens behind the vocabulary that are found wherever a text has them, such as markers of a chat; the model's
        tables get a row for each.
      anew: with `--fork`: take this tokenizer, not the forked run's, and draw the tables of tokens anew.
      sample_bytes: at most about so much text is trained on, lines chosen evenly over the corpus.
      vocab_at_most: the largest vocabulary where `vocab` is None.
    """

    kind: str = "unigram"
    vocab: int | None = setting(None, at_least=1)
    path: str = setting("", free=True, local=True)
    sentinels: int = setting(0, at_least=0)
    character_coverage: float = setting(0.9995, above=0, at_most=1)
    split_digits: bool = False
    lowercase: bool = True
    add: tuple[str, ...] = ()
    anew: bool = False
    sample_bytes: int = setting(10_000_000, at_least=1)
    vocab_at_most: int = setting(8192, at_least=1)

    @property
    def target_size(self) -> int:
        """The size of the vocabulary where the text allows it."""
        return self.vocab_at_most if self.vocab is None else self.vocab

    @property
    def size_key(self) -> str:
        """The key of the setting that `target_size` comes from."""
        return "config.data.tokenizer.vocab_at_most" if self.vocab is None else "config.data.tokenizer.vocab"


class Encoded(NamedTuple):
    """Texts as one line of tokens: a few array operations for all of them instead of a few for each.

    Attributes:
      tokens: ids of all texts, int32 [tokens].
      counts: how many each text has, [texts].
      starts: [tokens] where `located` made it: the byte at which each token's text starts, not descending, in the
        UTF-8 of the texts joined by line breaks.
    """

    tokens: Int[np.ndarray, " tokens"]
    counts: Int[np.ndarray, " texts"]
    starts: Int[np.ndarray, " tokens"] | None = None

    def split(self) -> list[Int[np.ndarray, " tokens"]]:
        """The tokens of each text."""
        stops = np.cumsum(self.counts).tolist()
        return [self.tokens[start:stop] for start, stop in zip([0, *stops], stops, strict=False)]


class Backend(Protocol):
    """Finds pieces; knows nothing of roles.

    Attributes:
      lossless: whether any text comes back from its ids.
    """

    lossless: bool

    def encode(self, texts: Sequence[str]) -> Encoded:
        """Texts without lone surrogates as ids."""
        ...

    def locate(self, texts: Sequence[str]) -> Encoded:
        """The same, with `starts`."""
        ...

    def decode(self, ids: Int[np.ndarray, " tokens"]) -> str:
        """Text of ids that are pieces or unknown."""
        ...


@dataclasses.dataclass(frozen=True, kw_only=True)
class Vocabulary:
    """What is known of every id.

    Attributes:
      pieces: printable forms; "" of an id that stands for nothing.
      special: ids that are no piece of text, such as control symbols; roles and sentinels need not be among them.
      lengths: UTF-8 bytes of text that each id stands for; an estimate where the backend is not lossless.
      starts_word: ids that begin a word.
      carries_space: whether pieces begin with the space before their word.
      prefix_space: whether a space is put before every text.
    """

    pieces: Sequence[str]
    special: Bool[np.ndarray, " vocab"]
    lengths: Int[np.ndarray, " vocab"]
    starts_word: Bool[np.ndarray, " vocab"]
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
    """What the UTF-8 text of every id tells; b"" is no text.

    Special ids are None where roles and sentinels are all there is, those that begin a word where the texts show it.
    """
    return Vocabulary(
        pieces=pieces,
        special=np.zeros(len(pieces), bool) if special is None else special,
        lengths=np.array([*map(len, texts)], np.int32),
        starts_word=begin_words(texts) if starts_word is None else starts_word,
        carries_space=any(len(text) > 1 and text[:1] == b" " for text in texts),
        prefix_space=prefix_space,
    )


class Tokenizer:
    """Text to ids and back.

    Attributes:
      kind: which backend; see `TokenizerConfig.kind` and, for tokenizers from elsewhere, `loading`.
      vocab_size: ids are below this.
      pad, eos: ids; padding is [EOS] where there is no other (it is masked), and [EOS] is [SEP] in BERT's family. Of
        "ids" eos may be -1, which no text has, and padding then is the first id.
      unk, bos, cls, sep, mask: ids, or None where the tokenizer has none.
      sentinels: ids of <extra_id_0>, <extra_id_1>, ..., int32.
      special: bool [vocab], ids that are no piece of text.
      ordinary: the longest run of ids without a special one, [first, one past the last): what random tokens are
        drawn from.
      starts_word: bool [vocab], ids that begin a word: "▁the", "Ġthe", "the" but not "##the", white space, a
        Chinese character or what begins with one.
      lossless: whether `decode(encode(text)) == text` for any text.
      pieces, lengths, carries_space, prefix_space: see `Vocabulary`.
      backend: finds the pieces.
      fingerprint: equal for tokenizers that give the same ids.
    """

    def __init__(
        self,
        kind: str,
        content: bytes,
        options: Mapping[str, Any],
        *,
        file: str,
        roles: Mapping[str, int],
        sentinels: Sequence[int],
        vocabulary: Vocabulary,
        backend: Backend,
        trusted: bool = False,
        endless: bool = False,
    ):
        """A tokenizer from its parts; `trusted` backends cannot find a special id in text, `endless` ones end none."""
        self.kind, self.content, self.options, self.file = kind, content, dict(options), file
        self.backend, self.pieces, self.lengths = backend, list(vocabulary.pieces), vocabulary.lengths
        self.vocab_size = len(self.pieces)
        self.unk, self.bos, self.cls, self.sep, self.mask = (
            roles.get(name) for name in ("unk", "bos", "cls", "sep", "mask")
        )
        eos = roles.get("eos", -1 if endless else self.sep)
        if eos is None:
            raise InputError(
                "config.data.tokenizer.path: the tokenizer has no token that ends a text; name one as eos_token (or "
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
        self.carries_space, self.prefix_space = vocabulary.carries_space, vocabulary.prefix_space
        self.lossless = backend.lossless
        self.fingerprint = fingerprint(kind, content, options)
        self._hidden = self.special.copy()
        if self.unk is not None:
            self._hidden[self.unk] = False
        self._trusted = trusted

    def encode(self, text: str) -> Int[np.ndarray, " tokens"]:
        """Ids of a text, int32, without specials."""
        return self._made([encodable(text)], located=False).tokens

    def encode_batch(self, texts: Sequence[str]) -> list[Int[np.ndarray, " tokens"]]:
        """Ids of each text."""
        return self._made([encodable(text) for text in texts], located=False).split()

    def located(self, texts: Sequence[str]) -> Encoded:
        """Ids of all texts, and where in the texts they start."""
        return self._made([encodable(text) for text in texts], located=True)

    def decode(self, ids: Sequence[int] | Int[np.ndarray, " tokens"]) -> str:
        """Text of ids; specials, sentinels and ids beyond the vocabulary are skipped, the unknown one is U+FFFD."""
        ids = np.asarray(ids, np.int64).reshape(-1)
        ids = ids[(ids >= 0) & (ids < self.vocab_size)]
        return self.backend.decode(ids[~self._hidden[ids]])

    def piece(self, token: int) -> str:
        """One id in printable form."""
        if not 0 <= token < self.vocab_size:
            raise ValueError(f"id {token} is outside the vocabulary 0..{self.vocab_size - 1}")
        return self.pieces[token] or f"<no piece {token}>"

    def bytes_of_corpus(self, size_bytes: int, pieces: int) -> Float[np.ndarray, " vocab"]:
        """UTF-8 bytes of a corpus's original text that each id stands for.

        Where a tokenizer changes text (lower case, white space) its ids do not tell: every piece then counts as many
        bytes as the corpus has for each of its pieces on average.

        Args:
          size_bytes: of the corpus.
          pieces: how many it was cut into, without the [EOS] of its documents.
        """
        # What an alphabet does not know is as short as what it knows, to within a byte or two.
        if self.lossless or self.kind == "characters":
            return self.lengths.astype(float)
        return np.where(self._hidden, 0.0, size_bytes / max(1, pieces))

    def save(self, directory: Path | str) -> None:
        """Write the tokenizer to a directory, its pieces in the format that other programs read."""
        directory = Path(directory)
        directory.mkdir(parents=True, exist_ok=True)
        if self.content:
            atomic.write_bytes(directory / self.file, self.content)
        settings = {name: getattr(self, name) for name in ("kind", "file", "options", "vocab_size", "fingerprint")}
        # Last: a directory with this file is complete.
        atomic.write_json(directory / SETTINGS, settings)

    def _made(self, texts: list[str], *, located: bool) -> Encoded:
        run = self.backend.locate if located else self.backend.encode
        made = run(texts)
        if self._trusted or not self._hidden[made.tokens].any():
            return made
        # Rare: one of these texts spells a special token and the backend took it at its word.
        broken = [Encoded(*self._spelled(text, run)) for text in texts]
        shifts = np.cumsum([0, *(len(text.encode()) + 1 for text in texts)])
        starts = [part.starts + shift for part, shift in zip(broken, shifts, strict=False) if part.starts is not None]
        return Encoded(
            np.concatenate([part.tokens for part in broken]),
            np.concatenate([part.counts for part in broken]),
            np.concatenate(starts) if located else None,
        )

    def _spelled(self, text: str, run: Any) -> Encoded:
        """One text, every special token in it cut in two so that it is no special token."""
        made = run([text])
        if not self._hidden[made.tokens].any():
            return made
        names = {self.pieces[index].removeprefix("▁") for index in np.flatnonzero(self._hidden)} - {""}
        found = re.finditer("|".join(map(re.escape, sorted(names, key=len, reverse=True))), text)
        cuts = [0, *(match.start() + 1 for match in found), len(text)]
        tokens, starts, at = [], [], 0
        for start, stop in zip(cuts[:-1], cuts[1:], strict=True):
            part = run([text[start:stop]])
            tokens.append(part.tokens)
            starts.append(None if part.starts is None else part.starts + at)
            at += len(text[start:stop].encode())
        joined = np.concatenate(tokens)
        if self.unk is not None:
            joined = np.where(self._hidden[joined], np.int32(self.unk), joined)
        return Encoded(joined, np.array([len(joined)]), None if starts[0] is None else np.concatenate(starts))


def _longest_run(wanted: Bool[np.ndarray, " vocab"]) -> tuple[int, int]:
    edges = np.flatnonzero(np.diff(np.concatenate([[False], wanted, [False]])))
    if not len(edges):
        return 0, 0
    longest = int(np.argmax(edges[1::2] - edges[::2]))
    return int(edges[2 * longest]), int(edges[2 * longest + 1])


def fingerprint(kind: str, content: bytes, options: Mapping[str, Any]) -> str:
    """What tells two tokenizers apart."""
    if set(options) == {"sentinels"} and isinstance(options["sentinels"], int):
        described = ["tokenizer 1", kind, options["sentinels"]]
    else:
        described = ["tokenizer 2", kind, dict(options)]
    return hashlib.sha256(json.dumps(described, sort_keys=True).encode() + content).hexdigest()[:32]


def begin_words(texts: Sequence[bytes]) -> Bool[np.ndarray, " vocab"]:
    """Which pieces begin a word, by their UTF-8: white space comes before one, a Chinese character is one."""
    # E3..E9 lead U+3000..U+9FFF, F0 A0.. the ideographs beyond; a piece may be the first byte alone.
    return np.array(
        [text[:1] in (b" ", b"\n", b"\t", b"\r", b"\xf0") or b"\xe3" <= text[:1] <= b"\xe9" for text in texts]
    )


def by_length(
    tokens: Int[np.ndarray, " tokens"], counts: Int[np.ndarray, " texts"], lengths: Int[np.ndarray, " vocab"]
) -> Encoded:
    """Texts with the starts of tokens that stand for a fixed number of bytes each."""
    starts = np.zeros(len(tokens) + 1, np.int64 if len(tokens) > 1 << 24 else np.int32)
    np.cumsum(lengths[tokens], out=starts[1:])
    starts = starts[:-1]
    if len(counts) > 1:
        starts += np.repeat(np.arange(len(counts), dtype=starts.dtype), counts)
    return Encoded(tokens, counts, starts)
