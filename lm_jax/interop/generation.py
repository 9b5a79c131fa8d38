"""Settings of Hugging Face's `generate`: special token ids, and the ids that start and end a text.

They come from generation_config.json, or from config.json in older checkpoints. Exports write both files, because the
classes' defaults are ids of other tokenizers.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from lm_jax.interop import document

FILE = "generation_config.json"
# Decoding settings that we do not support, and the values that switch them off.
_UNSUPPORTED: dict[str, tuple[Any, ...]] = {
    "num_beams": (1, None),
    "num_beam_groups": (1, None),
    "repetition_penalty": (1.0, None),
    "no_repeat_ngram_size": (0, None),
    "encoder_no_repeat_ngram_size": (0, None),
    "min_length": (0, None),
    "min_new_tokens": (0, None),
    "penalty_alpha": (0.0, None),
    "forced_decoder_ids": (None, []),
}


def read(source: Path, tree: Mapping[str, Any], start_field: str = "") -> tuple[dict[str, Any], list[str]]:
    """Return a checkpoint's fields of `ConventionsConfig`, and the names of its decoding settings that are ignored.

    `source` is its directory, `tree` its config.json, and `start_field` is that of its `Family`.
    """
    file = source / FILE
    settings = (document.parse(file) if file.is_file() else None) or tree
    get = lambda *names: next((settings[name] for name in names if settings.get(name) is not None), None)
    ends = get("eos_token_id")
    bad = get("bad_words_ids") or []
    unused = [name for name, off in _UNSUPPORTED.items() if settings.get(name) not in off]
    if any(len(words) > 1 for words in bad):
        unused.append("bad_words_ids of several tokens")
    start = get("decoder_start_token_id")
    if start is None:
        start = tree.get(start_field or "decoder_start_token_id")
    fields = {
        "ends": ends if isinstance(ends, list) else [] if ends is None else [ends],
        "start": start,
        "empty": get("bos_token_id"),
        "first": get("forced_bos_token_id"),
        "last": _first(get("forced_eos_token_id")),
        "suppressed": [*(get("suppress_tokens") or []), *(words[0] for words in bad if len(words) == 1)],
        "suppressed_first": get("begin_suppress_tokens") or [],
    }
    # Old files write -1 for no id.
    return {name: _valid(value) for name, value in fields.items()}, unused


def _first(value: Any) -> Any:
    """The first id of a list; the reference allows any of them at the last position."""
    return value[0] if isinstance(value, list) and value else value


def _valid(value: Any) -> Any:
    if isinstance(value, list):
        return tuple(int(token) for token in value if token is not None and token >= 0)
    return None if value is None or value < 0 else int(value)


def ids(kind: str, roles: Mapping[str, int]) -> dict[str, int]:
    """Return the fields of config.json with special ids.

    `kind` is `decoder`, `encoder` or `encoder_decoder`. `roles` maps roles to ids; an empty prompt starts from `bos`.
    """
    fields = {f"{role}_token_id": token for role, token in roles.items()}
    # `decode.generate` also starts from padding.
    return {**fields, "decoder_start_token_id": roles["pad"]} if kind == "encoder_decoder" else fields


def defaults(
    kind: str, roles: Mapping[str, int], *, forbidden: Sequence[int], longest: int | None, most: int
) -> dict[str, Any]:
    """Return generation_config.json of a model that generates text; `kind` and `roles` are as for `ids`.

    `forbidden` ids are never generated. `longest` is the number of rows of the position table, which limits prompt and
    answer together; if it is None, `most` limits the generated tokens.
    """
    names = ("bos_token_id", "eos_token_id", "pad_token_id", "decoder_start_token_id")
    return {
        "do_sample": False,
        **{name: token for name, token in ids(kind, roles).items() if name in names},
        "suppress_tokens": [*map(int, forbidden)],
        **({"max_new_tokens": most} if longest is None else {"max_length": longest}),
    }


def from_conventions(conventions: Any) -> dict[str, Any]:
    """Return the fields of config.json and generation_config.json that a run's `ConventionsConfig` sets."""
    ends = conventions.ends
    fields = {
        "eos_token_id": None if not ends else ends[0] if len(ends) == 1 else [*ends],
        "decoder_start_token_id": conventions.start,
        "bos_token_id": conventions.empty,
        "forced_bos_token_id": conventions.first,
        "forced_eos_token_id": conventions.last,
        "begin_suppress_tokens": [*conventions.suppressed_first] or None,
    }
    return {name: value for name, value in fields.items() if value is not None}
