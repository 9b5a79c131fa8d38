"""Tokenizers in Hugging Face's tokenizer.json: WordPiece with BERT's normalisation, byte-level BPE, and others.

A vocab.txt (Devlin et al. 2019, arXiv:1810.04805) and a vocab.json with merges.txt (Radford et al. 2019) are converted
to this format, so all of them are run and saved in one way.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Int

from lm_jax.core.config import InputError
from lm_jax.data.parts import split_at_words
from lm_jax.data.tokenizers.base import UNKNOWN, Encoded, Tokenizer, begin_words, vocabulary

FILE = "tokenizer.json"
PREFIX = "##"  # WordPiece: begins a piece that continues a word.
LONGEST_WORD = 100  # WordPiece: a longer word becomes one [UNK].
# A decoder with byte fallback that joins pieces without adding spaces.
SPELLED = {"type": "Sequence", "decoders": [{"type": "ByteFallback"}, {"type": "Fuse"}]}
_BYTE = re.compile("<0x[0-9A-F]{2}>")
# Long texts are split, because the library's records of every token take a hundred times the memory of the text.
_PART = 100_000
_ATTACHED, _OPENING = (re.escape(marks) for marks in (".,!?;:)]}%'’”…，。！？；：、」』）》", "([{'‘“「『（《"))
# Scripts written without spaces.
_WIDE = "\u2e80-\u9fff\uff00-\uffef\U00020000-\U0010ffff"
# Spaces between decoded words that ordinary text does not have.
JOINTS = f" (?=[{_ATTACHED}])|(?<=[{_OPENING}]) |(?<=[{_WIDE}]) (?=[{_WIDE}])"


def wordpiece(
    vocab: Mapping[str, int], *, lowercase: bool, strip_accents: bool | None, chinese: bool, unk: str
) -> dict:
    """Return the tokenizer.json of BERT's tokenizer for a vocabulary."""
    accents = {"strip_accents": strip_accents, "lowercase": lowercase}
    model = {"type": "WordPiece", "unk_token": unk, "continuing_subword_prefix": PREFIX}
    return {
        **frame(),
        "normalizer": {"type": "BertNormalizer", "clean_text": True, "handle_chinese_chars": chinese, **accents},
        "pre_tokenizer": {"type": "BertPreTokenizer"},
        "decoder": {"type": "WordPiece", "prefix": PREFIX, "cleanup": True},
        "model": {**model, "max_input_chars_per_word": LONGEST_WORD, "vocab": dict(vocab)},
    }


def byte_bpe(vocab: Mapping[str, int], merges: Sequence[Sequence[str]], *, prefix_space: bool) -> dict:
    """Return the tokenizer.json of GPT-2's tokenizer for a vocabulary and merges."""
    level = {"type": "ByteLevel", "add_prefix_space": prefix_space, "trim_offsets": True, "use_regex": True}
    return {**frame(), "pre_tokenizer": level, "decoder": level, "model": bpe(vocab, merges)}


def bpe(vocab: Mapping[str, int], merges: Iterable[Sequence[str]]) -> dict[str, Any]:
    """Return the `model` entry of a tokenizer.json for byte-pair encoding."""
    unset = dict.fromkeys(("dropout", "unk_token", "continuing_subword_prefix", "end_of_word_suffix"))
    model = {"type": "BPE", **unset, "fuse_unk": False, "byte_fallback": False}
    return {**model, "vocab": dict(vocab), "merges": [[*pair] for pair in merges]}


def frame() -> dict[str, Any]:
    """Return a tokenizer.json without a model, processing steps or special tokens."""
    return dict(version="1.0", truncation=None, padding=None, added_tokens=[], normalizer=None, post_processor=None)


def added_tokens(tokens: Mapping[str, int]) -> list[dict[str, Any]]:
    """Return the entries of `added_tokens` for special tokens."""
    shape = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
    return [{"id": token, "content": name, **shape} for name, token in sorted(tokens.items(), key=lambda item: item[1])]


def serialise(tree: Mapping[str, Any]) -> bytes:
    """Return the bytes of a tokenizer.json."""
    return json.dumps(tree, ensure_ascii=False).encode()


def build_tokenizer(kind: str, content: bytes, options: Mapping[str, Any]) -> Tokenizer:
    """Build a tokenizer from a tokenizer.json.

    Args:
      kind: "wordpiece", "byte_bpe" or "huggingface".
      content: the file's bytes.
      options: `roles` (ids by role), `sentinels` (ids), and `added` (ids by name of tokens that the file lacks).
    """
    tree = json.loads(content)
    library = library_tokenizer(content)
    listed = {**library.get_vocab(with_added_tokens=True), **options["added"]}
    names = [""] * (1 + max(listed.values(), default=-1))
    for name, index in listed.items():
        names[index] = name
    special = np.zeros(len(names), bool)
    special[[*(entry["id"] for entry in tree.get("added_tokens") or () if entry["special"])]] = True
    special[[*options["added"].values()]] = True
    byte_level, words = _step(tree, "ByteLevel"), _is_wordpiece(tree)
    plain = {entry["content"] for entry in tree.get("added_tokens") or ()} | set(options["added"])
    fallback = bool(tree["model"].get("byte_fallback"))
    texts = _texts(names, special.tolist(), plain if byte_level else None, words, fallback)
    starts_word = None
    if words:
        starts_word = np.array([not name.startswith(PREFIX) for name in names])
    elif byte_level is None and not begin_words(texts).any():
        # Pieces are entire words without a mark for spaces, as in WordLevel.
        starts_word = np.ones(len(names), bool)
    prefix = _step(tree, "Metaspace") or byte_level or {}
    prefix_space = bool(prefix.get("add_prefix_space", prefix.get("prepend_scheme", "never") != "never"))
    roles, sentinels = options["roles"], options["sentinels"]
    split = words or (byte_level is not None and not byte_level["add_prefix_space"])
    backend = _Pipeline(library, names, unk=roles.get("unk"), words=words, split=split, lossless=_is_lossless(tree))
    tables = vocabulary(names, texts, special=special, starts_word=starts_word, prefix_space=prefix_space)
    return Tokenizer(
        kind, content, options, file=FILE, roles=roles, sentinels=sentinels, vocabulary=tables, backend=backend
    )


def library_tokenizer(content: bytes) -> Any:
    """Return the library's tokenizer, without truncation and padding; names of special tokens in text are text.

    Raises:
      InputError: the library cannot read the file.
    """
    import tokenizers

    try:
        library = tokenizers.Tokenizer.from_str(content.decode())
    except Exception as error:
        raise InputError(f"the tokenizers library cannot read it ({' '.join(str(error).split())[:120]})") from error
    library.no_truncation()
    library.no_padding()
    library.encode_special_tokens = True
    return library


def kind_of(tree: Mapping[str, Any]) -> str:
    """Return the `Tokenizer.kind` of a tokenizer.json."""
    if _is_wordpiece(tree):
        return "wordpiece"
    return "byte_bpe" if _step(tree, "ByteLevel") and "merges" in tree["model"] else "huggingface"


def _is_wordpiece(tree: Mapping[str, Any]) -> bool:
    model = tree["model"]
    return model.get("type") == "WordPiece" or ("max_input_chars_per_word" in model and "merges" not in model)


def _step(tree: Mapping[str, Any], kind: str) -> dict[str, Any] | None:
    """Return the pre-tokenizer of a type, also if it is part of a sequence, or None."""
    step = tree.get("pre_tokenizer") or {}
    steps = step.get("pretokenizers", [step])
    return next((each for each in steps if each.get("type") == kind), None)


def _is_lossless(tree: Mapping[str, Any]) -> bool:
    """Return whether pieces are bytes, or equal their text and byte fallback spells all other text."""
    step, byte_level = tree.get("pre_tokenizer") or {}, _step(tree, "ByteLevel")
    if tree.get("normalizer") is not None:
        return False
    if byte_level is not None:
        return not byte_level["add_prefix_space"]
    steps = step.get("pretokenizers", [step] if step else [])
    isolated = all(each.get("type") == "Split" and each.get("behavior") == "Isolated" for each in steps)
    return isolated and bool(tree["model"].get("byte_fallback")) and tree.get("decoder") == SPELLED


def _texts(
    names: Sequence[str], special: Sequence[bool], plain: set[str] | None, words: bool, byte_fallback: bool
) -> list[bytes]:
    """Return the UTF-8 text of each piece; `words`: of WordPiece, without the space before a word.

    `plain`: the pieces that are text; all others are bytes in GPT-2's alphabet (None: all pieces are text).
    `byte_fallback`: <0x00> to <0xFF> are bytes.
    """
    texts = []
    for name, hidden in zip(names, special, strict=True):
        if hidden:
            texts.append(b"")
        elif plain is not None and name not in plain and BYTES.keys() >= set(name):
            texts.append(bytes([BYTES[character] for character in name]))
        elif byte_fallback and _BYTE.fullmatch(name):
            texts.append(bytes([int(name[3:5], 16)]))
        else:
            texts.append((name.removeprefix(PREFIX) if words else name.replace("▁", " ")).encode())
    return texts


def _byte_alphabet() -> dict[str, int]:
    """Return bytes by their characters in GPT-2's alphabet: printable Latin-1 as it is, the others from U+0100 on."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in printable]
    return {chr(byte): byte for byte in printable} | {chr(0x100 + index): byte for index, byte in enumerate(others)}


BYTES = _byte_alphabet()


class _Pipeline:
    """The pipeline of a tokenizer.json, run by the `tokenizers` library."""

    def __init__(self, library: Any, names: list[str], *, unk: int | None, words: bool, split: bool, lossless: bool):
        self._library, self._names, self._unk, self._words = library, names, unk, words
        self._split = (lambda text: split_at_words(text, _PART)) if split else (lambda text: [text])
        self.lossless = lossless

    def encode(self, texts: Sequence[str]) -> Encoded:
        ids: list[int] = []
        counts = []
        for text in texts:
            before = len(ids)
            for part in self._split(text):
                ids += self._library.encode(part, add_special_tokens=False).ids
            counts.append(len(ids) - before)
        return Encoded(np.array(ids, np.int32), np.array(counts, np.int64))

    def locate(self, texts: Sequence[str]) -> Encoded:
        arrays, starts, counts, offset = [np.zeros(0, np.int32)], [np.zeros(0, np.int64)], [], 0
        for text in texts:
            counts.append(0)
            for part in self._split(text):
                encoded = self._library.encode(part, add_special_tokens=False)
                arrays.append(np.array(encoded.ids, np.int32))
                characters = np.array(encoded.offsets, np.int64).reshape(-1, 2)[:, 0]
                starts.append(_byte_offsets(part, characters) + offset)
                counts[-1] += len(arrays[-1])
                offset += len(part.encode())
            offset += 1
        # Offsets are binary-searched later, but a normalizer that moves characters may report them out of order.
        ordered = np.maximum.accumulate(np.concatenate(starts))
        return Encoded(np.concatenate(arrays), np.array(counts, np.int64), ordered)

    def decode(self, ids: Int[np.ndarray, " tokens"]) -> str:
        tokens = ids.tolist()
        if self._words:
            return _sentence([UNKNOWN if token == self._unk else self._names[token] for token in tokens])
        text, unk = self._library.decode(tokens, skip_special_tokens=False), self._unk
        return text if unk is None or unk not in tokens else text.replace(self._names[unk], UNKNOWN)


def _byte_offsets(text: str, offsets: Int[np.ndarray, " tokens"]) -> Int[np.ndarray, " tokens"]:
    """Convert offsets in characters to offsets in UTF-8 bytes."""
    if text.isascii():
        return offsets
    leads = np.flatnonzero((np.frombuffer(text.encode(), np.uint8) & 0xC0) != 0x80)
    return np.append(leads, len(text.encode()))[offsets]


def _sentence(pieces: Sequence[str]) -> str:
    """Join WordPiece pieces: spaces between words, except between Chinese characters and next to punctuation."""
    continues = lambda piece: piece.startswith(PREFIX) and len(piece) > len(PREFIX)
    text = "".join(piece.removeprefix(PREFIX) if continues(piece) else f" {piece}" for piece in pieces)
    return re.sub(JOINTS, "", text.removeprefix(" "))
