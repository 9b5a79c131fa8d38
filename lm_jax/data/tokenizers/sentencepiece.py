"""Sentencepiece models (Kudo and Richardson 2018, arXiv:1808.06226): those trained here, and those from elsewhere.

Ours have no normalisation and byte fallback, so that any text comes back. Others keep their ids, normalisation and
dummy prefix.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Int

from lm_jax.core.config import InputError
from lm_jax.data.parts import PART, before_words, parts
from lm_jax.data.tokenizers import simple
from lm_jax.data.tokenizers.base import SPECIALS, UNKNOWN, Encoded, Tokenizer, by_length, vocabulary

FILE = "spiece.model"
_BYTES = len(SPECIALS)  # The first of our 256 byte pieces: <0x00>.
# Types of pieces in sentencepiece_model.proto.
NORMAL, _UNKNOWN, _CONTROL, USER, _UNUSED, _BYTE = range(1, 7)
NAMED = (_UNKNOWN, _CONTROL)  # Those that are special tokens.
MARK = "▁"  # Sentencepiece writes spaces so.
_CALL = 1_000


def own(kind: str, content: bytes, sentinels: int) -> Tokenizer:
    """A unigram or BPE model that was trained here; `content` is the serialised model."""
    import sentencepiece

    model = sentencepiece.SentencePieceProcessor(model_proto=content)
    pieces = [model.id_to_piece(index) for index in range(model.get_piece_size())]
    texts = [piece.replace(MARK, " ").encode() for piece in pieces]
    texts[: _BYTES + 256] = [b""] * _BYTES + [bytes([byte]) for byte in range(256)]
    backend = _Own(model, np.array([*map(len, texts)], np.int32))
    return simple.trained(kind, content, pieces, texts, sentinels, backend, FILE)


def foreign(kind: str, content: bytes, options: Mapping[str, Any]) -> Tokenizer:
    """A serialised model from elsewhere; `options` as of `huggingface.build_tokenizer`."""
    import sentencepiece

    proto = parsed(content)
    size = max([len(proto.pieces), *(token + 1 for token in options["added"].values())])
    names, kinds = [""] * size, np.full(size, _UNUSED)
    for index, piece in enumerate(proto.pieces):
        names[index], kinds[index] = piece.piece, piece.type
    for name, index in options["added"].items():
        names[index] = name
    texts = _texts(names, kinds.tolist())
    special = np.isin(kinds, (_UNKNOWN, _CONTROL, _UNUSED))
    # As everywhere here; sentencepiece's own is " ⁇ ", which a text may say.
    proto.trainer_spec.unk_surface = UNKNOWN
    backend = _Foreign(sentencepiece.SentencePieceProcessor(model_proto=proto.SerializeToString()), proto)
    known = vocabulary(names, texts, special=special, prefix_space=proto.normalizer_spec.add_dummy_prefix)
    roles, sentinels = options["roles"], options["sentinels"]
    return Tokenizer(
        kind, content, options, file=FILE, roles=roles, sentinels=sentinels, vocabulary=known, backend=backend
    )


def parsed(content: bytes) -> Any:
    """A model's protocol buffer.

    Raises:
      InputError: the bytes are none.
    """
    import sentencepiece
    from sentencepiece import sentencepiece_model_pb2

    proto = sentencepiece_model_pb2.ModelProto()  # type: ignore[attr-defined]
    try:
        proto.ParseFromString(content)
        sentencepiece.SentencePieceProcessor(model_proto=content)
    except Exception as error:
        raise InputError(f"it is no sentencepiece model ({' '.join(str(error).split())[:120]})") from error
    return proto


def _texts(names: Sequence[str], kinds: Sequence[int]) -> list[bytes]:
    """What pieces stand for."""
    texts = []
    for name, kind in zip(names, kinds, strict=True):
        if kind == _BYTE:
            texts.append(bytes([int(name[3:5], 16)]))
        else:
            texts.append(name.replace(MARK, " ").encode() if kind in (NORMAL, USER) else b"")
    return texts


def _run(model: Any, chunks: list[str], firsts: list[int], marks: Sequence[int] = ()) -> Encoded:
    """The ids of chunks; text i is those from firsts[i] on, and chunks at `marks` are sentencepiece's mark itself."""
    if not firsts:
        return Encoded(np.zeros(0, np.int32), np.zeros(0, np.int64))
    # Many in one call: for short texts a call of its own costs as much as encoding. Not all: it would hold off Ctrl-C.
    arrays = []
    for start in range(0, len(chunks), _CALL):
        arrays += model.encode(chunks[start : start + _CALL], return_type="numpy", num_threads=1)
    for index in marks:
        arrays[index] = np.array([_BYTES + byte for byte in MARK.encode()], np.int32)
    lengths = np.fromiter(map(len, arrays), np.int64, len(arrays))
    return Encoded(np.concatenate(arrays), np.add.reduceat(lengths, firsts))


class _Own:
    """A model without normalisation, whose pieces are exactly their text."""

    lossless = True

    def __init__(self, model: Any, lengths: Int[np.ndarray, " vocab"]):
        self._model, self._lengths = model, lengths

    def encode(self, texts: Sequence[str]) -> Encoded:
        chunks: list[str] = []
        firsts: list[int] = []
        marks: list[int] = []
        for text in texts:
            firsts.append(len(chunks))
            if len(text) <= PART and MARK not in text:
                chunks.append(text)
                continue
            # The mark in a text is spelled in bytes, or it would return as a space.
            for number, stretch in enumerate(text.split(MARK)):
                if number:
                    marks.append(len(chunks))
                    chunks.append("")
                chunks += parts(stretch)
            if firsts[-1] == len(chunks):
                chunks.append("")
        return _run(self._model, chunks, firsts, marks)

    def locate(self, texts: Sequence[str]) -> Encoded:
        made = self.encode(texts)
        return by_length(made.tokens, made.counts, self._lengths)

    def decode(self, ids: Int[np.ndarray, " tokens"]) -> str:
        return self._model.decode(ids.tolist()) if ids.size else ""


class _Foreign:
    """A model with a normalisation of its own."""

    def __init__(self, model: Any, proto: Any):
        normaliser, trainer = proto.normalizer_spec, proto.trainer_spec
        self._model = model
        self._prefix = normaliser.add_dummy_prefix
        self._cut = self._cutter(proto)
        # A space at the start of a text and one that is put there are told apart by the model's own decoder.
        self.lossless = (
            not normaliser.precompiled_charsmap
            and not normaliser.remove_extra_whitespaces
            and trainer.byte_fallback
            and not trainer.treat_whitespace_as_suffix
        )

    def _cutter(self, proto: Any) -> Callable[[str], list[str]]:
        """How long texts are cut so that the parts' pieces are those of the text."""
        normaliser, trainer = proto.normalizer_spec, proto.trainer_spec
        crosses = any(MARK in piece.piece.lstrip(MARK) for piece in proto.pieces)
        loses = normaliser.remove_extra_whitespaces and not normaliser.add_dummy_prefix
        if crosses or loses or trainer.treat_whitespace_as_suffix or not normaliser.escape_whitespaces:
            return lambda text: [text]
        return before_words

    def encode(self, texts: Sequence[str]) -> Encoded:
        chunks, firsts, _ = self._chunks(texts)
        return _run(self._model, chunks, firsts)

    def locate(self, texts: Sequence[str]) -> Encoded:
        chunks, firsts, places = self._chunks(texts)
        if not chunks:
            return Encoded(np.zeros(0, np.int32), np.zeros(0, np.int64), np.zeros(0, np.int64))
        found = self._model.encode([chunk.encode() for chunk in chunks], return_type="offset_mapping", num_threads=1)
        lengths = np.fromiter((len(one["ids"]) for one in found), np.int64, len(found))
        tokens = np.array([token for one in found for token in one["ids"]], np.int32)
        starts = np.array([start for one in found for start, _ in one["offsets"]], np.int64)
        starts = np.maximum.accumulate(starts + np.repeat(np.array(places, np.int64), lengths))
        return Encoded(tokens, np.add.reduceat(lengths, firsts), starts)

    def _chunks(self, texts: Sequence[str]) -> tuple[list[str], list[int], list[int]]:
        """Parts of texts, the first of each text, and the byte at which each starts in the joined texts."""
        chunks: list[str] = []
        firsts: list[int] = []
        places: list[int] = []
        at = 0
        for text in texts:
            firsts.append(len(chunks))
            for number, part in enumerate(self._cut(text) or [""]):
                # The prefix that every part gets is the space that it was cut before.
                dropped = number > 0 and self._prefix
                chunks.append(part[1:] if dropped else part)
                places.append(at + dropped)
                at += len(part.encode())
            at += 1
        return chunks, firsts, places

    def decode(self, ids: Int[np.ndarray, " tokens"]) -> str:
        return self._model.decode(ids.tolist()) if ids.size else ""
