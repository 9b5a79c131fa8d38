"""RoBERTa (Liu et al. 2019, arXiv:1907.11692) and XLM-RoBERTa: BERT's layers; positions start at row pad + 1."""

from __future__ import annotations

import dataclasses
import functools
from typing import Any

from lm_jax.core.config import InputError
from lm_jax.interop.family import Family
from lm_jax.interop.heads import BERT_DROPOUT, ENCODED, SEQUENCES, Head, Heads, on_pooler, pooler
from lm_jax.interop.rules import Rules
from lm_jax.interop.settings import Settings
from lm_jax.interop.tables import bert, common
from lm_jax.models import config as models


def config(hf: Settings, *, name: str) -> models.TransformerConfig:
    """Convert config.json to a model configuration; `name` is the prefix of the class names."""
    lm_classes = (f"{name}ForMaskedLM", f"{name}ForCausalLM")
    masked = hf.architecture(*lm_classes, f"{name}Model") in lm_classes
    hf.expect("position_embedding_type", "absolute")
    offset = hf.get("pad_token_id", default=1) + 1
    max_length = hf.get("max_position_embeddings") - offset
    base = bert.encoder(hf, masked=masked, offset=offset, max_length=max_length)
    # The head always uses GELU.
    readout = dataclasses.replace(base.readout, transform="gelu" if masked else "")
    return dataclasses.replace(base, readout=readout)


def weights(config: models.TransformerConfig, architecture: str) -> Rules:
    """Return the rules that map checkpoint tensors to parameters."""
    rules = [*bert.embedding(config, "roberta.embeddings."), *bert.layers(config, "roberta.encoder.layer.")]
    return rules + common.masked_head(config, "lm_head.dense", "lm_head.layer_norm", "lm_head")


def settings(config: models.TransformerConfig) -> dict[str, Any]:
    """Convert a model configuration to config.json; the padding token's row precedes that of position 0."""
    embed = config.embed
    if not embed.offset or not embed.types:
        raise InputError("RoBERTa needs token types and a row before position 0")
    return {
        **bert.config_json(config, "roberta", "RobertaForMaskedLM"),
        "max_position_embeddings": embed.max_length + embed.offset,
        "pad_token_id": embed.offset - 1,
    }


# The classifier of sequences has its own dense layer; that of choices reads the pooler.
POOLER = pooler("roberta.pooler.dense")
CLASSIFIER = Head(
    out="classifier.out_proj",
    dense="classifier.dense",
    activation="tanh",
    pick="first",
    dropout=BERT_DROPOUT,
    dense_dropout=BERT_DROPOUT,
)
HEADS: Heads = {**ENCODED, **on_pooler(POOLER, dropout=("hidden_dropout_prob", 0.1)), SEQUENCES: CLASSIFIER}
IGNORED = (r"roberta\.embeddings\.position_ids", r"roberta\.pooler\.dense\.\w+", r"lm_head\.decoder\.\w+")


def _family(name: str, settings: Any = None) -> Family:
    return common.encoder(
        functools.partial(config, name=name),
        weights,
        settings,
        HEADS,
        pooler=POOLER,
        prefix="roberta.",
        ignored=IGNORED,
        copies={"lm_head.decoder.bias": "lm_head.bias"},
        position_tokens="real",
    )


FAMILY = _family("Roberta", settings)
XLM = _family("XLMRoberta")
