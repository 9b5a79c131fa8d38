"""What Hugging Face's `generate` knows of a model beside its weights: special ids, and where a text ends.

Left out, their classes' own defaults would hold, which are ids of the tokenizers that their first checkpoints had.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

FILE = "generation_config.json"


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
