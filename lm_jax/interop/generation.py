"""What Hugging Face's `generate` knows of a model beside its weights: special ids, what starts and what ends a text.

Of checkpoints: generation_config.json, or what config.json said before there was one. Of runs of ours: both are
written, because where they are left out the classes' own defaults hold, which are ids of other tokenizers.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from lm_jax.interop import document

FILE = "generation_config.json"
# Settings of decoding that we have not, and the values under which they do nothing.
_UNUSED: dict[str, tuple[Any, ...]] = {
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


def read(source: Path, tree: Mapping[str, Any], starts: str = "") -> tuple[dict[str, Any], list[str]]:
    """The fields of `ConventionsConfig` that a checkpoint decides, and what of its settings is not used, a name each.

    Args:
      source: its directory.
      tree: its config.json.
      starts: the family's own name of the id that a decoder starts from.
    """
    file = source / FILE
    said = (document.parsed(file) if file.is_file() else None) or tree
    get = lambda *names: next((said[name] for name in names if said.get(name) is not None), None)
    ends = get("eos_token_id")
    bad = get("bad_words_ids") or []
    unused = [name for name, idle in _UNUSED.items() if said.get(name) not in idle]
    if any(len(words) > 1 for words in bad):
        unused.append("bad_words_ids of several tokens")
    start = get("decoder_start_token_id")
    if start is None:
        start = tree.get(starts or "decoder_start_token_id")
    fields = {
        "ends": ends if isinstance(ends, list) else [] if ends is None else [ends],
        "start": start,
        "empty": get("bos_token_id"),
        "first": get("forced_bos_token_id"),
        "last": _one(get("forced_eos_token_id")),
        "suppressed": [*(get("suppress_tokens") or []), *(words[0] for words in bad if len(words) == 1)],
        "suppressed_first": get("begin_suppress_tokens") or [],
    }
    # -1 is how old files say none.
    return {name: _positive(value) for name, value in fields.items()}, unused


def _one(value: Any) -> Any:
    """The reference ends the last place with any of a list; the first of them is one."""
    return value[0] if isinstance(value, list) and value else value


def _positive(value: Any) -> Any:
    if isinstance(value, list):
        return tuple(int(one) for one in value if one is not None and one >= 0)
    return None if value is None or value < 0 else int(value)


def ids(kind: str, roles: Mapping[str, int]) -> dict[str, int]:
    """The fields of config.json with special ids.

    Args:
      kind: of the model.
      roles: ids by role; `bos` is what an empty prompt starts from.
    """
    fields = {f"{role}_token_id": token for role, token in roles.items()}
    # As `decode.generate` does.
    return {**fields, "decoder_start_token_id": roles["pad"]} if kind == "encoder_decoder" else fields


def defaults(
    kind: str, roles: Mapping[str, int], *, forbidden: Sequence[int], longest: int | None, most: int
) -> dict[str, Any]:
    """generation_config.json of a model that writes text.

    Args:
      kind: of the model.
      roles: as for `ids`.
      forbidden: ids that are never written.
      longest: rows of the table of positions, which prompt and answer share; None where it has no limit.
      most: tokens that are written where the positions have no limit.
    """
    read = ("bos_token_id", "eos_token_id", "pad_token_id", "decoder_start_token_id")
    return {
        "do_sample": False,
        **{name: token for name, token in ids(kind, roles).items() if name in read},
        "suppress_tokens": [*map(int, forbidden)],
        **({"max_new_tokens": most} if longest is None else {"max_length": longest}),
    }


def written(conventions: Any) -> dict[str, Any]:
    """The fields of config.json and generation_config.json of a run's `ConventionsConfig` that it sets."""
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
