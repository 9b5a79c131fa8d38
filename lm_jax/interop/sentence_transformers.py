"""Files with which sentence-transformers reads a bare model as a sentence encoder (Reimers and Gurevych 2019)."""

from __future__ import annotations

import json
from typing import Any

from lm_jax.core.config import lookup

_MODULES = "sentence_transformers.models"
# Names of our pools in its configuration.
POOLING = {"first": "pooling_mode_cls_token", "mean": "pooling_mode_mean_tokens", "last": "pooling_mode_lasttoken"}
_OTHERS = ("pooling_mode_max_tokens", "pooling_mode_mean_sqrt_len_tokens", "pooling_mode_weightedmean_tokens")


def files(width: int, pool: str, *, unit: bool, longest: int) -> dict[str, bytes]:
    """Return the contents of the files by path.

    Args:
      width: of the hidden states.
      pool: how a text's hidden states become its vector, a key of `models.pooling.POOLS`.
      unit: whether vectors are normalised to length 1.
      longest: maximum tokens of a text.

    Raises:
      InputError: it has no such pool.
    """
    mode = lookup(POOLING, pool, "config.model.task.pool of a sentence encoder")
    modules = [("", "Transformer"), ("1_Pooling", "Pooling"), *([("2_Normalize", "Normalize")] if unit else [])]
    pooling = {name: name == mode for name in (*POOLING.values(), *_OTHERS)}
    documents: dict[str, Any] = {
        "modules.json": [
            {"idx": number, "name": str(number), "path": path, "type": f"{_MODULES}.{name}"}
            for number, (path, name) in enumerate(modules)
        ],
        "1_Pooling/config.json": {"word_embedding_dimension": width, **pooling, "include_prompt": True},
        "sentence_bert_config.json": {"max_seq_length": longest, "do_lower_case": False},
        "config_sentence_transformers.json": {
            "prompts": {},
            "default_prompt_name": None,
            "similarity_fn_name": "cosine" if unit else "dot",
        },
    }
    if unit:
        documents["2_Normalize/config.json"] = {}
    return {path: (json.dumps(document, indent=2) + "\n").encode() for path, document in documents.items()}
