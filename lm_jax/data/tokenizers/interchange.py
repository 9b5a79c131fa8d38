"""Exports a tokenizer to Hugging Face's tokenizer.json and tokenizer_config.json, with the same ids.

Sentencepiece models trained here do not normalise, so their pieces are written with spaces in place of "▁"; a "▁" in a
text is then a character without a piece, spelled in bytes. Remaining differences: the library finds special tokens in
text unless `split_special_tokens` is set, decoding an incomplete UTF-8 character loses the whole run of bytes around
it, and `caveat` lists runs that may be segmented in another order.
"""

from __future__ import annotations

import base64
import collections
import json
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from lm_jax.core.config import InputError, lookup
from lm_jax.data.parts import PART
from lm_jax.data.tokenizers import huggingface, sentencepiece
from lm_jax.data.tokenizers.base import ROLES, SPECIALS, UNK, UNKNOWN, Tokenizer
from lm_jax.data.tokenizers.extended import Extended
from lm_jax.data.tokenizers.template import Template

CONFIG = "tokenizer_config.json"
_MARK = sentencepiece.MARK


def files(
    tokenizer: Tokenizer,
    kind: str,
    *,
    types: bool = False,
    longest: int | None = None,
    around: Template | None = None,
    padding: str = "",
) -> dict[str, bytes]:
    """Return the contents of tokenizer.json and tokenizer_config.json by file name.

    Args:
      tokenizer: a tokenizer of any kind in `TREES`.
      kind: "decoder", "encoder" or "encoder_decoder"; determines the special tokens around a text.
      types: whether the model has token types for the two texts of a pair.
      longest: maximum number of tokens of the model; None for no limit.
      around: special ids around a text and between two; None: those that `kind` determines.
      padding: the side on which rows are padded, "left" or "right"; empty: left for a decoder, which continues texts.

    Raises:
      InputError: tokenizer.json cannot express the tokenizer.
    """
    tree = lookup(TREES, tokenizer.kind, "the kind of the tokenizer")(tokenizer)
    tree["added_tokens"] = [*(tree.get("added_tokens") or ()), *_extended(tokenizer)]
    frame = _frame(tokenizer, kind)
    if around is not None:
        before, after, between = ([tokenizer.piece(int(token)) for token in ids] for ids in around)
        frame = (*before, "A", *after), (*before, "A", *between), ("B", *after)
    tree |= {"post_processor": _template(tokenizer, *frame), "truncation": None, "padding": None}
    side = padding or ("left" if kind == "decoder" else "right")
    return {huggingface.FILE: huggingface.serialise(tree), CONFIG: _config(tokenizer, kind, types, longest, side)}


def roles(tokenizer: Tokenizer, kind: str) -> dict[str, int]:
    """Return ids by role; a decoder's bos is eos, from which it generates if the prompt is empty."""
    ids = {role: getattr(tokenizer, role) for role in ROLES}
    if kind == "decoder":
        ids["bos"] = tokenizer.eos
    return {role: token for role, token in ids.items() if token is not None}


def _config(tokenizer: Tokenizer, kind: str, types: bool, longest: int | None, side: str) -> bytes:
    """Return tokenizer_config.json; it names the generic class, because a family's class would add processing steps."""
    tree = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        **{f"{role}_token": tokenizer.piece(token) for role, token in roles(tokenizer, kind).items()},
        "additional_special_tokens": [tokenizer.piece(int(token)) for token in tokenizer.sentinels],
        "clean_up_tokenization_spaces": False,
        # Without token types: GPT-2 would embed them as tokens 0 and 1, and other models refuse them.
        "model_input_names": ["input_ids", *(["token_type_ids"] if types else []), "attention_mask"],
        "padding_side": side,
    }
    tree |= {} if longest is None else {"model_max_length": longest}
    return (json.dumps(tree, ensure_ascii=False, indent=2) + "\n").encode()


def _frame(tokenizer: Tokenizer, kind: str) -> tuple[tuple[str, ...], tuple[str, ...], tuple[str, ...]]:
    """Return templates of a text A, and of the texts A and B of a pair: [CLS] and [SEP], or EOS after a source text."""
    first, second = {
        "decoder": ((), ()),
        "encoder": (("cls", "A", "sep"), ("B", "sep")),
        "encoder_decoder": (("A", "eos"), ("B", "eos")),
    }[kind]
    ids = [getattr(tokenizer, name) for name in (*first, *second) if name not in "AB"]
    if any(token is None for token in ids):
        return (), (), ()
    pieces = lambda side: tuple(name if name in "AB" else tokenizer.piece(getattr(tokenizer, name)) for name in side)
    return pieces(first), pieces(first), pieces(second)


def _template(
    tokenizer: Tokenizer, alone: Sequence[str], first: Sequence[str], second: Sequence[str]
) -> dict[str, Any] | None:
    """Return the post-processor for the templates of a text A, and of the texts A and B of a pair."""
    names = [name for name in (*alone, *first, *second) if name not in "AB"]
    if not names:
        return None
    ids = {name: tokenizer.pieces.index(name) for name in names}
    step = lambda name, side: (
        {"Sequence": {"id": name, "type_id": side}} if name in "AB" else {"SpecialToken": {"id": name, "type_id": side}}
    )
    return {
        "type": "TemplateProcessing",
        "single": [step(name, 0) for name in alone],
        "pair": [*(step(name, 0) for name in first), *(step(name, 1) for name in second)],
        "special_tokens": {name: {"id": name, "ids": [token], "tokens": [name]} for name, token in ids.items()},
    }


def _extended(tokenizer: Tokenizer) -> list[dict[str, Any]]:
    """Return the entries of tokens added by `extend`, which are found before the text around them is split.

    Markers are special there: the library can be told to spell special tokens in a text.
    """
    backend = tokenizer.backend
    if not isinstance(backend, Extended):
        return []
    # A marker may be a special token of the tokenizer, which the file has already.
    ids = {name: token for name, token in backend.ids.items() if not tokenizer.special[token]}
    return [{**entry, "special": entry["content"] in backend.markers} for entry in huggingface.added_tokens(ids)]


def _framed(tokenizer: Tokenizer, model: Mapping[str, Any], decoder: Mapping[str, Any], *steps: Any) -> dict[str, Any]:
    """Return the tokenizer.json of a tokenizer trained here."""
    names = {name: index for index, name in enumerate(SPECIALS)}
    names |= {tokenizer.piece(int(token)): int(token) for token in tokenizer.sentinels}
    return {
        **huggingface.frame(),
        "added_tokens": _strip_spaces(tokenizer, huggingface.added_tokens(names)),
        "pre_tokenizer": None if not steps else {"type": "Sequence", "pretokenizers": [*steps]},
        "decoder": decoder,
        "model": model,
    }


def _strip_spaces(tokenizer: Tokenizer, entries: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Let the mask and the sentinels absorb the space before them, as `decode.prompting` does."""
    spans = {tokenizer.mask, *tokenizer.sentinels.tolist()} if tokenizer.carries_space else set()
    return [{**entry, "lstrip": True} if entry["id"] in spans else entry for entry in entries]


def _unigram(tokenizer: Tokenizer) -> dict[str, Any]:
    proto = sentencepiece.parse(tokenizer.content)
    texts, others = _pieces(proto.pieces)
    isolate = _isolate_unknown(texts, others)
    return _framed(tokenizer, _unigram_model(proto, texts, others), huggingface.SPELLED, _split(_PARTS), *isolate)


def _unigram_model(proto: Any, texts: Mapping[int, str], others: Mapping[int, str]) -> dict[str, Any]:
    """Return a unigram model; the library matches `others` in text too, so any spelling must score above them."""
    never = (1 + max(map(len, others.values()))) * min(piece.score for piece in proto.pieces)
    vocab = [
        [texts[index], piece.score] if index in texts else [others[index], never]
        for index, piece in enumerate(proto.pieces)
    ]
    fallback = proto.trainer_spec.byte_fallback
    return {"type": "Unigram", "unk_id": proto.trainer_spec.unk_id, "vocab": vocab, "byte_fallback": fallback}


def _isolate_unknown(texts: Mapping[int, str], others: Mapping[int, str]) -> list[dict[str, Any]]:
    """Return a step that isolates characters without a piece, so that no name of a special token or byte matches."""
    characters = sorted(set("".join(others.values())) - set(texts.values()))
    return [_split("[" + "".join(map(re.escape, characters)) + "]")] if characters else []


def _bpe(tokenizer: Tokenizer) -> dict[str, Any]:
    proto = sentencepiece.parse(tokenizer.content)
    return _framed(tokenizer, _bpe_model(proto, *_pieces(proto.pieces)), huggingface.SPELLED, _split(_PARTS))


def _bpe_model(proto: Any, texts: Mapping[int, str], others: Mapping[int, str]) -> dict[str, Any]:
    vocab = {name: index for index, name in sorted({**texts, **others}.items())}
    fallback, unknown = proto.trainer_spec.byte_fallback, proto.pieces[proto.trainer_spec.unk_id].piece
    model = huggingface.bpe(vocab, _merges(proto, texts))
    return {**model, "unk_token": unknown, "fuse_unk": True, "byte_fallback": fallback}


def _published(tokenizer: Tokenizer) -> dict[str, Any]:
    """Return the tokenizer.json of a published sentencepiece model, with its normalisation, and "▁" for spaces."""
    proto = sentencepiece.parse(tokenizer.content)
    normaliser, trainer = proto.normalizer_spec, proto.trainer_spec
    symbols = any(piece.type == sentencepiece.USER for piece in proto.pieces)
    suffix = trainer.treat_whitespace_as_suffix or not normaliser.escape_whitespaces
    if symbols or suffix or trainer.model_type not in _MODELS:
        raise InputError(
            "tokenizer.json cannot express a sentencepiece model with user-defined symbols, spaces after words, or "
            "pieces that are words or characters"
        )
    texts, others = _pieces(proto.pieces, mark=_MARK)
    charsmap = base64.b64encode(normaliser.precompiled_charsmap).decode()
    steps = [{"type": "Precompiled", "precompiled_charsmap": charsmap}] if charsmap else []
    if normaliser.remove_extra_whitespaces:
        steps.append(_replace({"Regex": r"\A +| +\z| +(?= )"}, ""))
    steps += [{"type": "Prepend", "prepend": _MARK}] if normaliser.add_dummy_prefix else []
    ends = [{"type": "Strip", "content": " ", "start": 1, "stop": 0}] if normaliser.add_dummy_prefix else []
    special = {*(index for index, piece in enumerate(proto.pieces) if piece.type in sentencepiece.NAMED)}
    special |= {*tokenizer.options["roles"].values(), *tokenizer.sentinels.tolist()}
    entries = huggingface.added_tokens({tokenizer.piece(index): index for index in special})
    unknown = _replace({"String": proto.pieces[trainer.unk_id].piece}, UNKNOWN)
    decoders = [unknown, _replace({"String": _MARK}, " "), *huggingface.SPELLED["decoders"], *ends]
    return {
        **huggingface.frame(),
        "added_tokens": _strip_spaces(tokenizer, entries),
        "normalizer": {"type": "Sequence", "normalizers": [*steps, _replace({"String": " "}, _MARK)]},
        "decoder": {"type": "Sequence", "decoders": decoders},
        "model": _MODELS[trainer.model_type](proto, texts, others),
    }


def _merges(proto: Any, texts: Mapping[int, str]) -> Iterable[tuple[str, str]]:
    """Yield all pairs of pieces that join to a piece, by descending score; sentencepiece merges all such pairs."""
    pieces = set(texts.values())
    ranked = sorted(texts, key=lambda index: (-proto.pieces[index].score, index))
    for piece in (texts[index] for index in ranked):
        for cut in range(1, len(piece)):
            if piece[:cut] in pieces and piece[cut:] in pieces:
                yield piece[:cut], piece[cut:]


# Model types in sentencepiece_model.proto.
_UNIGRAM, _BPE = 1, 2
_MODELS = {_UNIGRAM: _unigram_model, _BPE: _bpe_model}


def _pieces(pieces: Any, mark: str = " ") -> tuple[dict[int, str], dict[int, str]]:
    """Return by id the text pieces, with `mark` for a space, and the names of others (special tokens and bytes)."""
    normal = {index: piece.piece for index, piece in enumerate(pieces) if piece.type == sentencepiece.NORMAL}
    others = {index: piece.piece for index, piece in enumerate(pieces) if index not in normal}
    return {index: name.replace(_MARK, mark) for index, name in normal.items()}, others


def _replace(pattern: Mapping[str, str], content: str) -> dict[str, Any]:
    return {"type": "Replace", "pattern": pattern, "content": content}


def _split(pattern: str) -> dict[str, Any]:
    """Return a step that splits a text into matches of a pattern and the text between them."""
    return {"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": False}


# Isolates "▁", and splits the text between marks like `data.parts.split`: into at most `PART` characters, after a
# newline, else before a space, else anywhere.
_PARTS = (
    f"{_MARK}"
    f"|(?=[^{_MARK}]{{{PART + 1}}})"
    f"(?:[^{_MARK}]{{0,{PART - 1}}}\\n|[^{_MARK}]{{0,{PART - 2}}}[^{_MARK} ](?= )|[^{_MARK}]{{{PART}}})"
    f"|[^{_MARK}]+"
)


def _bytes(tokenizer: Tokenizer) -> dict[str, Any]:
    characters = {byte: character for character, byte in huggingface.BYTES.items()}
    names = [*SPECIALS, *(characters[byte] for byte in range(256))]
    level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False}
    model = huggingface.bpe({name: index for index, name in enumerate(names)}, [])
    return _framed(tokenizer, model, level, level)


def _characters(tokenizer: Tokenizer) -> dict[str, Any]:
    names = [*SPECIALS, *tokenizer.content.decode()]
    # BPE without merges: unlike WordLevel it needs no pre-tokenizer.
    model = huggingface.bpe({name: index for index, name in enumerate(names)}, [])
    unknown = _replace({"String": SPECIALS[UNK]}, UNKNOWN)
    decoder = {"type": "Sequence", "decoders": [unknown, {"type": "Fuse"}]}
    return _framed(tokenizer, {**model, "unk_token": SPECIALS[UNK]}, decoder)


def _stored(tokenizer: Tokenizer) -> dict[str, Any]:
    """Return the stored tokenizer.json, with the special tokens that it lacks."""
    tree = json.loads(tokenizer.content)
    entries = [*(tree.get("added_tokens") or ()), *huggingface.added_tokens(tokenizer.options["added"])]
    return {**tree, "added_tokens": _strip_spaces(tokenizer, entries)}


def _wordpiece(tokenizer: Tokenizer) -> dict[str, Any]:
    unknown = [] if tokenizer.unk is None else [_replace({"String": tokenizer.piece(tokenizer.unk)}, UNKNOWN)]
    joints = _replace({"Regex": f"^{huggingface.PREFIX}(?=.)|{huggingface.JOINTS}"}, "")
    words = {"type": "WordPiece", "prefix": huggingface.PREFIX, "cleanup": False}
    steps = [*unknown, words, {"type": "Fuse"}, joints]
    return {**_stored(tokenizer), "decoder": {"type": "Sequence", "decoders": steps}}


def caveat(tokenizer: Tokenizer) -> str:
    """Return a line about text that the library may segment differently, or "" if there is none.

    If two pieces repeat one string, as ">" and ">>" do, ">>>" has the same score in either order of the two. Rounding
    then decides, and sentencepiece sums scores in 32 bits, the library in 64.
    """
    if tokenizer.kind not in ("unigram", "sentencepiece"):
        return ""
    proto = sentencepiece.parse(tokenizer.content)
    texts, _ = _pieces(proto.pieces) if proto.trainer_spec.model_type == _UNIGRAM else ({}, {})
    repeated = collections.Counter(text[: (text + text).find(text, 1)] for text in texts.values())
    ties = [root for root, count in repeated.items() if count > 1]
    if not ties:
        return ""
    examples = ", ".join(repr(3 * root) for root in ties[:3])
    return (
        f"a run such as {examples} may be split into the same pieces in another order: sentencepiece sums scores in 32 "
        "bits, the tokenizers library in 64"
    )


TREES: dict[str, Callable[[Tokenizer], dict[str, Any]]] = {
    "unigram": _unigram,
    "bpe": _bpe,
    "wordpiece": _wordpiece,
    "byte_bpe": _stored,
    "bytes": _bytes,
    "characters": _characters,
    "huggingface": _stored,
    "sentencepiece": _published,
}
