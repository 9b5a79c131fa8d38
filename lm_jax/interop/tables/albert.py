"""ALBERT (Lan et al. 2020, arXiv:1909.11942): shared layers and factorised embeddings."""

from __future__ import annotations

import dataclasses
from typing import Any

from lm_jax.core.config import InputError
from lm_jax.interop.heads import ENCODED, TOKENS, Head, Heads, on_pooler, pooler
from lm_jax.interop.rules import Rules, dense, zeros
from lm_jax.interop.settings import Settings
from lm_jax.interop.tables import bert, common
from lm_jax.models import config as models

MASKED = ("AlbertForPreTraining", "AlbertForMaskedLM")


def config(hf: Settings) -> models.TransformerConfig:
    """Convert config.json to a model configuration."""
    name = hf.architecture(*MASKED, "AlbertModel")
    hf.expect("position_embedding_type", "absolute")
    paired = "sop_classifier.classifier.weight" in hf.tensors
    factor = hf.get("embedding_size", default=128)
    base = bert.encoder(hf, masked=name in MASKED, paired=paired, factor=factor, default="gelu_new")
    inner, groups = hf.get("inner_group_num", default=1), hf.get("num_hidden_groups", default=1)
    depth, share = base.stack.depth * inner, models.ShareConfig(groups=groups, layers=inner)
    return dataclasses.replace(base, stack=dataclasses.replace(base.stack, depth=depth, share=share))


def weights(config: models.TransformerConfig, architecture: str) -> Rules:
    """Return the rules that map checkpoint tensors to parameters."""
    block, share = config.stack.block, config.stack.share
    rules = bert.embedding(config, "albert.embeddings.")
    rules += dense("embed/project", "albert.encoder.embedding_hidden_mapping_in")
    rules += common.masked_head(config, "predictions.dense", "predictions.LayerNorm", "predictions")
    if not config.readout.transform and config.embed.factor != config.embed.width:
        rules += [zeros("head/factor/kernel", config.embed.width, config.embed.factor or 0)]
    if config.pair_classes:
        rules += dense("pair/pooler", "albert.pooler") + dense("pair/out", "sop_classifier.classifier")
    names, feedforward = common.under("attention.", "query", "key", "value", "dense"), ("ffn", "ffn_output")
    norms = {"attention_norm": "attention.LayerNorm", "feedforward_norm": "full_layer_layer_norm"}
    for layer in range(share.groups * share.layers):
        group, inner = divmod(layer, share.layers)
        theirs = f"albert.encoder.albert_layer_groups.{group}.albert_layers.{inner}."
        rules += common.layer(f"stack/{layer}", theirs, block, attention=names, feedforward=feedforward, norms=norms)
    return rules


def settings(config: models.TransformerConfig) -> dict[str, Any]:
    """Convert a model configuration to config.json."""
    share, paired = config.stack.share, config.pair_classes == 2
    if not config.embed.types or not share.groups:
        raise InputError("ALBERT needs token types and shared layers")
    return {
        **bert.config_json(config, "albert", "AlbertForPreTraining" if paired else "AlbertForMaskedLM"),
        "tensors": ("sop_classifier.classifier.weight",) if paired else (),
        "embedding_size": config.embed.factor,
        "num_hidden_layers": config.stack.depth // share.layers,
        "num_hidden_groups": share.groups,
        "inner_group_num": share.layers,
    }


IGNORED = (r"albert\.embeddings\.position_ids", r"albert\.pooler\.\w+", r"predictions\.decoder\.\w+")
POOLER = pooler("albert.pooler")
HEADS: Heads = {
    **ENCODED,
    **on_pooler(POOLER, dropout=("classifier_dropout_prob", 0.1)),
    TOKENS: Head(out="classifier", dropout=("classifier_dropout_prob", 0.1)),
}
FAMILY = common.encoder(
    config,
    weights,
    settings,
    HEADS,
    pooler=POOLER,
    prefix="albert.",
    ignored=IGNORED,
    copies={"predictions.decoder.bias": "predictions.bias"},
    distinguishing={"AlbertForPreTraining": "sop_classifier.classifier.weight"},
)
