"""Families of checkpoints, by the `model_type` of their config.json.

To add a family, write a file with its settings and rules, and add a line to `TABLES`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from lm_jax.interop.family import Family
from lm_jax.interop.tables import (
    albert,
    bart,
    bert,
    bloom,
    deberta,
    distilbert,
    electra,
    falcon,
    gemma,
    gpt2,
    gpt_neo,
    gpt_neox,
    gptj,
    llama,
    mistral,
    mixtral,
    modernbert,
    mpt,
    openai_gpt,
    opt,
    qwen,
    roberta,
    t5,
    transformer2017,
    xlnet,
)

TABLES: dict[str, Family] = {
    "gpt2": gpt2.FAMILY,
    "bert": bert.FAMILY,
    "t5": t5.FAMILY,
    "mt5": t5.MT5,
    "umt5": t5.UMT5,
    "llama": llama.FAMILY,
    "mistral": mistral.FAMILY,
    "mixtral": mixtral.FAMILY,
    "qwen2": qwen.QWEN2,
    "qwen3": qwen.QWEN3,
    "gemma": gemma.GEMMA,
    "gemma2": gemma.GEMMA2,
    "gemma3_text": gemma.GEMMA3,
    "gptj": gptj.FAMILY,
    "gpt_neox": gpt_neox.FAMILY,
    "gpt_neo": gpt_neo.FAMILY,
    "bloom": bloom.FAMILY,
    "falcon": falcon.FAMILY,
    "mpt": mpt.FAMILY,
    "opt": opt.FAMILY,
    "openai-gpt": openai_gpt.FAMILY,
    "roberta": roberta.FAMILY,
    "xlm-roberta": roberta.XLM,
    "distilbert": distilbert.FAMILY,
    "electra": electra.FAMILY,
    "albert": albert.FAMILY,
    "deberta-v2": deberta.FAMILY,
    "modernbert": modernbert.FAMILY,
    "bart": bart.FAMILY,
    "marian": bart.MARIAN,
    "pegasus": bart.PEGASUS,
    "xlnet": xlnet.FAMILY,
    "transformer2017": transformer2017.FAMILY,
}


def kind(tree: Mapping[str, Any]) -> str:
    """Return a config.json's `model_type`, or `transformer2017` if it holds the arguments of `torch.nn.Transformer`."""
    from_torch = "model_type" not in tree and {"nhead", "num_encoder_layers", "dim_feedforward"} <= set(tree)
    return "transformer2017" if from_torch else str(tree.get("model_type"))
