"""A tokenizer as Hugging Face's libraries read it: tokenizer.json and tokenizer_config.json, which give our ids.

Ours have no normalisation, so that pieces are written as their text, spaces as spaces: the mark that sentencepiece
writes for them is then a character as any other, which no piece has and which is spelled in bytes. What is not the same
there: special tokens are found in text unless `split_special_tokens` is set, a character that was cut off takes the
whole run of bytes around it along when ids are decoded, and `caveat` names runs that may be cut in another order.
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

CONFIG = "tokenizer_config.json"
_MARK = sentencepiece.MARK


def files(
    tokenizer: Tokenizer,
    kind: str,
    *,
    types: bool = False,
    longest: int | None = None,
    around: tuple[Sequence[int], Sequence[int]] | None = None,
) -> dict[str, bytes]:
    """The files by name.

    Args:
      tokenizer: of any kind in `TREES`.
      kind: of the model that reads its ids, which decides what is put around a text.
      types: whether the model tells the two texts of a pair apart.
      longest: the most tokens that the model reads; None where it has no limit.
      around: ids before and after a text; None where `kind` says which.

    Raises:
      InputError: the tokenizer is of a kind that tokenizer.json cannot express.
    """
    tree = lookup(TREES, tokenizer.kind, "the kind of the tokenizer")(tokenizer)
    tree["added_tokens"] = [*(tree.get("added_tokens") or ()), *_more(tokenizer)]
    frame = _frame(tokenizer, kind) if around is None else (("A",), ("B",))
    if around is not None:
        names = [[tokenizer.piece(int(token)) for token in side] for side in around]
        frame = ((*names[0], "A", *names[1]), (*names[0], "B", *names[1]))
    tree |= {"post_processor": _template(tokenizer, *frame), "truncation": None, "padding": None}
    return {huggingface.FILE: huggingface.written(tree), CONFIG: _config(tokenizer, kind, types, longest)}


def roles(tokenizer: Tokenizer, kind: str) -> dict[str, int]:
    """Ids by role as a model of ours uses them: an empty prompt of a decoder starts from the end of the last text."""
    ids = {role: getattr(tokenizer, role) for role in ROLES}
    if kind == "decoder":
        ids["bos"] = tokenizer.eos
    return {role: token for role, token in ids.items() if token is not None}


def _config(tokenizer: Tokenizer, kind: str, types: bool, longest: int | None) -> bytes:
    """tokenizer_config.json. The class is named because a family's own would put its own steps around the pieces."""
    tree = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        **{f"{role}_token": tokenizer.piece(token) for role, token in roles(tokenizer, kind).items()},
        "additional_special_tokens": [tokenizer.piece(int(token)) for token in tokenizer.sentinels],
        "clean_up_tokenization_spaces": False,
        # GPT-2 would add the embeddings of tokens 0 and 1 for types, and others refuse them.
        "model_input_names": ["input_ids", *(["token_type_ids"] if types else []), "attention_mask"],
        "padding_side": "left" if kind == "decoder" else "right",
    }
    tree |= {} if longest is None else {"model_max_length": longest}
    return (json.dumps(tree, ensure_ascii=False, indent=2) + "\n").encode()


def _frame(tokenizer: Tokenizer, kind: str) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Names around a text A and a second text B in prompts of ours: [CLS] and [SEP] of an encoder, EOS of a source."""
    first, second = {
        "decoder": ((), ()),
        "encoder": (("cls", "A", "sep"), ("B", "sep")),
        "encoder_decoder": (("A", "eos"), ("B", "eos")),
    }[kind]
    ids = [getattr(tokenizer, name) for name in (*first, *second) if name not in "AB"]
    if any(token is None for token in ids):
        return (), ()
    named = lambda side: tuple(name if name in "AB" else tokenizer.piece(getattr(tokenizer, name)) for name in side)
    return named(first), named(second)


def _template(tokenizer: Tokenizer, first: Sequence[str], second: Sequence[str]) -> dict[str, Any] | None:
    """A post-processor that puts special tokens around a text A, and around a second text B behind it."""
    names = [name for name in (*first, *second) if name not in "AB"]
    if not names:
        return None
    ids = {name: tokenizer.pieces.index(name) for name in names}
    step = lambda name, side: (
        {"Sequence": {"id": name, "type_id": side}} if name in "AB" else {"SpecialToken": {"id": name, "type_id": side}}
    )
    single = [step(name, 0) for name in first]
    return {
        "type": "TemplateProcessing",
        "single": single,
        "pair": [*single, *(step(name, 1) for name in second)],
        "special_tokens": {name: {"id": name, "ids": [token], "tokens": [name]} for name, token in ids.items()},
    }


def _more(tokenizer: Tokenizer) -> list[dict[str, Any]]:
    """Tokens that were added to a tokenizer: found in text before anything else, and no special ones."""
    backend = tokenizer.backend
    entries = huggingface.added(backend.ids) if isinstance(backend, Extended) else []
    return [{**entry, "special": False} for entry in entries]


def _framed(tokenizer: Tokenizer, model: Mapping[str, Any], decoder: Mapping[str, Any], *steps: Any) -> dict[str, Any]:
    """The file of a tokenizer that was trained here."""
    names = {name: index for index, name in enumerate(SPECIALS)}
    names |= {tokenizer.piece(int(token)): int(token) for token in tokenizer.sentinels}
    return {
        **huggingface.frame(),
        "added_tokens": _eager(tokenizer, huggingface.added(names)),
        "pre_tokenizer": None if not steps else {"type": "Sequence", "pretokenizers": [*steps]},
        "decoder": decoder,
        "model": model,
    }


def _eager(tokenizer: Tokenizer, entries: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Special tokens of which the mask and sentinels take the space before them, as in prompts of ours."""
    spans = {tokenizer.mask, *tokenizer.sentinels.tolist()} if tokenizer.carries_space else set()
    return [{**entry, "lstrip": True} if entry["id"] in spans else entry for entry in entries]


def _unigram(tokenizer: Tokenizer) -> dict[str, Any]:
    proto = sentencepiece.parsed(tokenizer.content)
    texts, others = _pieces(proto.pieces)
    alone = _strange(texts, others)
    return _framed(tokenizer, _likeliest(proto, texts, others), huggingface.SPELLED, _split(_PARTS), *alone)


def _likeliest(proto: Any, texts: Mapping[int, str], others: Mapping[int, str]) -> dict[str, Any]:
    """A unigram model. The library looks for every piece, so one that is no text costs more than any spelling of it."""
    never = (1 + max(map(len, others.values()))) * min(piece.score for piece in proto.pieces)
    vocab = [
        [texts[index], piece.score] if index in texts else [others[index], never]
        for index, piece in enumerate(proto.pieces)
    ]
    spelled = proto.trainer_spec.byte_fallback
    return {"type": "Unigram", "unk_id": proto.trainer_spec.unk_id, "vocab": vocab, "byte_fallback": spelled}


def _strange(texts: Mapping[int, str], others: Mapping[int, str]) -> list[dict[str, Any]]:
    """Cuts out what no piece has: the name of a piece that is no text would be the cheapest spelling of itself."""
    strange = sorted(set("".join(others.values())) - set(texts.values()))
    return [_split("[" + "".join(map(re.escape, strange)) + "]")] if strange else []


def _bpe(tokenizer: Tokenizer) -> dict[str, Any]:
    proto = sentencepiece.parsed(tokenizer.content)
    return _framed(tokenizer, _joined(proto, *_pieces(proto.pieces)), huggingface.SPELLED, _split(_PARTS))


def _joined(proto: Any, texts: Mapping[int, str], others: Mapping[int, str]) -> dict[str, Any]:
    """A model of merges."""
    vocab = {name: index for index, name in sorted({**texts, **others}.items())}
    spelled, unknown = proto.trainer_spec.byte_fallback, proto.pieces[proto.trainer_spec.unk_id].piece
    model = huggingface.bpe(vocab, _merges(proto, texts))
    return {**model, "unk_token": unknown, "fuse_unk": True, "byte_fallback": spelled}


def _foreign(tokenizer: Tokenizer) -> dict[str, Any]:
    """A sentencepiece model from elsewhere, with its normalisation; here its mark is a space in texts too.

    Raises:
      InputError: it has what the library has not.
    """
    proto = sentencepiece.parsed(tokenizer.content)
    normaliser, trainer = proto.normalizer_spec, proto.trainer_spec
    symbols = any(piece.type == sentencepiece.USER for piece in proto.pieces)
    behind = trainer.treat_whitespace_as_suffix or not normaliser.escape_whitespaces
    if symbols or behind or trainer.model_type not in _MODELS:
        raise InputError(
            "no tokenizer.json expresses a sentencepiece model with symbols of its user, spaces behind words, or words "
            "or characters for pieces"
        )
    texts, others = _pieces(proto.pieces, mark=_MARK)
    charsmap = base64.b64encode(normaliser.precompiled_charsmap).decode()
    steps = [{"type": "Precompiled", "precompiled_charsmap": charsmap}] if charsmap else []
    if normaliser.remove_extra_whitespaces:
        steps.append(_replace({"Regex": r"\A +| +\z| +(?= )"}, ""))
    steps += [{"type": "Prepend", "prepend": _MARK}] if normaliser.add_dummy_prefix else []
    ends = [{"type": "Strip", "content": " ", "start": 1, "stop": 0}] if normaliser.add_dummy_prefix else []
    kept = {*(index for index, piece in enumerate(proto.pieces) if piece.type in sentencepiece.NAMED)}
    kept |= {*tokenizer.options["roles"].values(), *tokenizer.sentinels.tolist()}
    unknown = _replace({"String": proto.pieces[trainer.unk_id].piece}, UNKNOWN)
    decoders = [unknown, _replace({"String": _MARK}, " "), *huggingface.SPELLED["decoders"], *ends]
    return {
        **huggingface.frame(),
        "added_tokens": _eager(tokenizer, huggingface.added({tokenizer.piece(index): index for index in kept})),
        "normalizer": {"type": "Sequence", "normalizers": [*steps, _replace({"String": " "}, _MARK)]},
        "decoder": {"type": "Sequence", "decoders": decoders},
        "model": _MODELS[trainer.model_type](proto, texts, others),
    }


def _merges(proto: Any, texts: Mapping[int, str]) -> Iterable[tuple[str, str]]:
    """Every pair of pieces that makes a third, the best third first: sentencepiece joins whatever makes a piece."""
    known = set(texts.values())
    ranked = sorted(texts, key=lambda index: (-proto.pieces[index].score, index))
    for piece in (texts[index] for index in ranked):
        for cut in range(1, len(piece)):
            if piece[:cut] in known and piece[cut:] in known:
                yield piece[:cut], piece[cut:]


# By their types in sentencepiece_model.proto.
_UNIGRAM, _MERGED = 1, 2
_MODELS = {_UNIGRAM: _likeliest, _MERGED: _joined}


def _pieces(pieces: Any, mark: str = " ") -> tuple[dict[int, str], dict[int, str]]:
    """Pieces of text, with `mark` for a space, and the names of the others (special tokens and bytes), by id."""
    texts, others = {}, {}
    for index, piece in enumerate(pieces):
        if piece.type == sentencepiece.NORMAL:
            texts[index] = piece.piece.replace(_MARK, mark)
        else:
            others[index] = piece.piece
    return texts, others


def _replace(pattern: Mapping[str, str], content: str) -> dict[str, Any]:
    """A step that puts `content` for what a pattern matches."""
    return {"type": "Replace", "pattern": pattern, "content": content}


def _split(pattern: str) -> dict[str, Any]:
    """Cuts a text into what a pattern matches and what lies between."""
    return {"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": False}


# The mark alone, and between marks what `data.parts.parts` does: at most 2,000 characters, up to a newline, else up to
# a space, else anywhere.
_PARTS = (
    f"{_MARK}"
    f"|(?=[^{_MARK}]{{{PART + 1}}})"
    f"(?:[^{_MARK}]{{0,{PART - 1}}}\\n|[^{_MARK}]{{0,{PART - 2}}}[^{_MARK} ](?= )|[^{_MARK}]{{{PART}}})"
    f"|[^{_MARK}]+"
)


def _bytes(tokenizer: Tokenizer) -> dict[str, Any]:
    named = {byte: name for name, byte in huggingface.BYTES.items()}
    names = [*SPECIALS, *(named[byte] for byte in range(256))]
    level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False}
    model = huggingface.bpe({name: index for index, name in enumerate(names)}, [])
    return _framed(tokenizer, model, level, level)


def _characters(tokenizer: Tokenizer) -> dict[str, Any]:
    names = [*SPECIALS, *tokenizer.content.decode()]
    # Pairs that are never joined: unlike a vocabulary of words it needs no cutting beforehand.
    model = huggingface.bpe({name: index for index, name in enumerate(names)}, [])
    unknown = _replace({"String": SPECIALS[UNK]}, UNKNOWN)
    decoder = {"type": "Sequence", "decoders": [unknown, {"type": "Fuse"}]}
    return _framed(tokenizer, {**model, "unk_token": SPECIALS[UNK]}, decoder)


def _stored(tokenizer: Tokenizer) -> dict[str, Any]:
    """What the tokenizer runs itself, with the special tokens that its file does not have."""
    tree = json.loads(tokenizer.content)
    entries = [*(tree.get("added_tokens") or ()), *huggingface.added(tokenizer.options["added"])]
    return {**tree, "added_tokens": _eager(tokenizer, entries)}


def _wordpiece(tokenizer: Tokenizer) -> dict[str, Any]:
    unknown = [] if tokenizer.unk is None else [_replace({"String": tokenizer.piece(tokenizer.unk)}, UNKNOWN)]
    joints = _replace({"Regex": f"^{huggingface.PREFIX}(?=.)|{huggingface.JOINTS}"}, "")
    words = {"type": "WordPiece", "prefix": huggingface.PREFIX, "cleanup": False}
    steps = [*unknown, words, {"type": "Fuse"}, joints]
    return {**_stored(tokenizer), "decoder": {"type": "Sequence", "decoders": steps}}


def caveat(tokenizer: Tokenizer) -> str:
    """Where the library may cut a text otherwise all the same, in one line; "" nowhere.

    Pieces that are the same string repeated can change places at no cost: in ">>>" the pieces ">>" and ">". Which comes
    first then depends on rounding, and sentencepiece sums scores in 32 bits, the library in 64.
    """
    if tokenizer.kind not in ("unigram", "sentencepiece"):
        return ""
    proto = sentencepiece.parsed(tokenizer.content)
    texts, _ = _pieces(proto.pieces) if proto.trainer_spec.model_type == _UNIGRAM else ({}, {})
    repeated = collections.Counter(text[: (text + text).find(text, 1)] for text in texts.values())
    ties = [root for root, count in repeated.items() if count > 1]
    if not ties:
        return ""
    shown = ", ".join(repr(3 * root) for root in ties[:3])
    return (
        f"a run such as {shown} may be cut into the same pieces in another order: sentencepiece sums scores in 32 "
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
    "sentencepiece": _foreign,
}
