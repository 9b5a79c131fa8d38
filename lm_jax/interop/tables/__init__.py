"""Families of Hugging Face checkpoints, by the `model_type` of their config.json.

Adding one: a file with its settings and its rules, and a line in `TABLES`.
"""

from __future__ import annotations

from lm_jax.interop.family import Family
from lm_jax.interop.tables import bert, gpt2, llama, t5

TABLES: dict[str, Family] = {
    "gpt2": gpt2.FAMILY,
    "bert": bert.FAMILY,
    "t5": t5.FAMILY,
    "mt5": t5.MT5,
    "umt5": t5.UMT5,
    "llama": llama.FAMILY,
}
