"""Sentencepiece models (Kudo and Richardson 2018, arXiv:1808.06226), trained here or published.

Models trained here have byte fallback and no normalisation, so they are lossless. Published models keep their ids,
their normalisation and their dummy prefix (the space added before a text).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Int

from lm_jax.core.config import InputError
from lm_jax.data.parts import PART, split, split_at_words
from lm_jax.data.tokenizers import simple
from lm_jax.data.tokenizers.base import SPECIALS, UNKNOWN, Encoded, Tokenizer, vocabulary

FILE = "spiece.model"
_BYTES = len(SPECIALS)  # Id of <0x00>, the first of the 256 byte pieces of models trained here.
# Types of pieces in sentencepiece_model.proto.
NORMAL, _UNKNOWN, _CONTROL, USER, _UNUSED, _BYTE = range(1, 7)
NAMED = (_UNKNOWN, _CONTROL)  # The types of special tokens.
MARK = "▁"  # Sentencepiece's mark for a space.
_CALL = 1_000  # Texts per call of the library.


def build_trained(kind: str, content: bytes, sentinels: int) -> Tokenizer:
    """Build the tokenizer of a unigram or BPE model trained here; `content` is the serialised model."""
    import sentencepiece

    model = sentencepiece.SentencePieceProcessor(model_proto=content)
    pieces = [model.id_to_piece(index) for index in range(model.get_piece_size())]
    texts = [piece.replace(MARK, " ").encode() for piece in pieces]
    texts[: _BYTES + 256] = [b""] * _BYTES + [bytes([byte]) for byte in range(256)]
    backend = _Trained(model, np.array([*map(len, texts)], np.int32))
    return simple.trained_tokenizer(kind, content, pieces, texts, sentinels, backend, FILE)


def build_published(kind: str, content: bytes, options: Mapping[str, Any]) -> Tokenizer:
    """Build the tokenizer of a published model; `options` as in `huggingface.build_tokenizer`."""
    import sentencepiece

    proto = parse(content)
    size = max([len(proto.pieces), *(token + 1 for token in options["added"].values())])
    names, kinds = [""] * size, np.full(size, _UNUSED)
    for index, piece in enumerate(proto.pieces):
        names[index], kinds[index] = piece.piece, piece.type
    for name, index in options["added"].items():
        names[index] = name
    texts = _texts(names, kinds.tolist())
    special = np.isin(kinds, (_UNKNOWN, _CONTROL, _UNUSED))
    # Decode [UNK] to U+FFFD, as all tokenizers here; sentencepiece's default, " ⁇ ", may occur in a text.
    proto.trainer_spec.unk_surface = UNKNOWN
    backend = _Published(sentencepiece.SentencePieceProcessor(model_proto=proto.SerializeToString()), proto)
    tables = vocabulary(names, texts, special=special, prefix_space=proto.normalizer_spec.add_dummy_prefix)
    roles, sentinels = options["roles"], options["sentinels"]
    return Tokenizer(
        kind, content, options, file=FILE, roles=roles, sentinels=sentinels, vocabulary=tables, backend=backend
    )


def parse(content: bytes) -> Any:
    """Return the protocol buffer of a serialised model.

    Raises:
      InputError: the bytes are not a sentencepiece model.
    """
    import sentencepiece
    from sentencepiece import sentencepiece_model_pb2

    proto = sentencepiece_model_pb2.ModelProto()  # type: ignore[attr-defined]
    try:
        proto.ParseFromString(content)
        sentencepiece.SentencePieceProcessor(model_proto=content)
    except Exception as error:
        raise InputError(f"it is not a sentencepiece model ({' '.join(str(error).split())[:120]})") from error
    return proto


def _texts(names: Sequence[str], kinds: Sequence[int]) -> list[bytes]:
    """Return the UTF-8 text of each piece; b"" for special and unused pieces."""
    text = lambda name, kind: name.replace(MARK, " ").encode() if kind in (NORMAL, USER) else b""
    return [
        bytes([int(name[3:5], 16)]) if kind == _BYTE else text(name, kind)
        for name, kind in zip(names, kinds, strict=True)
    ]


def _run(model: Any, chunks: list[str], firsts: list[int], marks: Sequence[int] = ()) -> Encoded:
    """Encode chunks; text i begins at chunk firsts[i], and each empty chunk at `marks` represents a "▁" in the text."""
    if not firsts:
        return Encoded(np.zeros(0, np.int32), np.zeros(0, np.int64))
    # Many chunks per call, because a call costs as much as encoding a short text; not all, so that Ctrl-C takes effect.
    arrays = []
    for start in range(0, len(chunks), _CALL):
        arrays += model.encode(chunks[start : start + _CALL], return_type="numpy", num_threads=1)
    for index in marks:
        arrays[index] = np.array([_BYTES + byte for byte in MARK.encode()], np.int32)
    lengths = np.fromiter(map(len, arrays), np.int64, len(arrays))
    return Encoded(np.concatenate(arrays), np.add.reduceat(lengths, firsts))


class _Trained:
    """A model trained here: without normalisation, so the text of a piece is known exactly."""

    lossless = True

    def __init__(self, model: Any, lengths: Int[np.ndarray, " vocab"]):
        self._model, self._lengths = model, lengths

    def encode(self, texts: Sequence[str]) -> Encoded:
        chunks, firsts, marks = [], [], []
        for text in texts:
            firsts.append(len(chunks))
            if len(text) <= PART and MARK not in text:
                chunks.append(text)
                continue
            # A "▁" in the text is spelled in bytes, because as a piece it would be decoded as a space.
            for number, stretch in enumerate(text.split(MARK)):
                if number:
                    marks.append(len(chunks))
                    chunks.append("")
                chunks += split(stretch)
            if firsts[-1] == len(chunks):
                chunks.append("")
        return _run(self._model, chunks, firsts, marks)

    def locate(self, texts: Sequence[str]) -> Encoded:
        return self.encode(texts).with_starts(self._lengths)

    def decode(self, ids: Int[np.ndarray, " tokens"]) -> str:
        return self._model.decode(ids.tolist()) if ids.size else ""


class _Published:
    """A published model, which may normalise text."""

    def __init__(self, model: Any, proto: Any):
        normaliser, trainer = proto.normalizer_spec, proto.trainer_spec
        self._model = model
        self._prefix = normaliser.add_dummy_prefix
        self._split = self._splitter(proto)
        # add_dummy_prefix loses nothing, because the model's decoder removes exactly that prefix.
        self.lossless = (
            not normaliser.precompiled_charsmap
            and not normaliser.remove_extra_whitespaces
            and trainer.byte_fallback
            and not trainer.treat_whitespace_as_suffix
        )

    def _splitter(self, proto: Any) -> Callable[[str], list[str]]:
        """Return a function that splits a long text into parts that together have the pieces of the text."""
        normaliser, trainer = proto.normalizer_spec, proto.trainer_spec
        crosses_words = any(MARK in piece.piece.lstrip(MARK) for piece in proto.pieces)
        loses_space = normaliser.remove_extra_whitespaces and not normaliser.add_dummy_prefix
        if crosses_words or loses_space or trainer.treat_whitespace_as_suffix or not normaliser.escape_whitespaces:
            return lambda text: [text]
        return split_at_words

    def encode(self, texts: Sequence[str]) -> Encoded:
        chunks, firsts, _ = self._chunks(texts)
        return _run(self._model, chunks, firsts)

    def locate(self, texts: Sequence[str]) -> Encoded:
        chunks, firsts, offsets = self._chunks(texts)
        if not chunks:
            return Encoded(np.zeros(0, np.int32), np.zeros(0, np.int64), np.zeros(0, np.int64))
        outputs = self._model.encode([chunk.encode() for chunk in chunks], return_type="offset_mapping", num_threads=1)
        lengths = np.fromiter((len(output["ids"]) for output in outputs), np.int64, len(outputs))
        tokens = np.array([token for output in outputs for token in output["ids"]], np.int32)
        starts = np.array([start for output in outputs for start, _ in output["offsets"]], np.int64)
        starts = np.maximum.accumulate(starts + np.repeat(np.array(offsets, np.int64), lengths))
        return Encoded(tokens, np.add.reduceat(lengths, firsts), starts)

    def _chunks(self, texts: Sequence[str]) -> tuple[list[str], list[int], list[int]]:
        """Return the chunks, the first chunk of each text, and the byte offset of each chunk in the joined texts."""
        chunks, firsts, offsets, offset = [], [], [], 0
        for text in texts:
            firsts.append(len(chunks))
            for number, part in enumerate(self._split(text) or [""]):
                # The dummy prefix that the library adds to every chunk replaces the space that the part begins with.
                dropped = number > 0 and self._prefix
                chunks.append(part[1:] if dropped else part)
                offsets.append(offset + dropped)
                offset += len(part.encode())
            offset += 1
        return chunks, firsts, offsets

    def decode(self, ids: Int[np.ndarray, " tokens"]) -> str:
        return self._model.decode(ids.tolist()) if ids.size else ""
