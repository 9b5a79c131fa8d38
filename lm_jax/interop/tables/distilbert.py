"""DistilBERT (Sanh et al. 2019, arXiv:1910.01108): half of BERT's layers, without token types and pooler."""

from __future__ import annotations

from typing import Any

from lm_jax.core.config import InputError
from lm_jax.interop.family import Family
from lm_jax.interop.heads import ENCODED, ROWS, Head
from lm_jax.interop.rules import Rules, attention, dense, feedforward, norm, same
from lm_jax.interop.settings import Settings
from lm_jax.interop.tables import common
from lm_jax.models import config as models


def config(hf: Settings) -> models.TransformerConfig:
    """Their settings to ours."""
    name = hf.architecture("DistilBertForMaskedLM", "DistilBertModel")
    # Whether the table began as sinusoids: it is stored either way.
    hf.get("sinusoidal_pos_embds", default=False)
    norm = models.NormConfig(epsilon=1e-12)
    activation = hf.activation("activation", default="gelu")
    masked = name == "DistilBertForMaskedLM"
    block = models.BlockConfig(
        attention=models.AttentionConfig(heads=hf.get("n_heads", "num_attention_heads"), mask="full"),
        feedforward=models.FeedForwardConfig(width=hf.get("hidden_dim"), activation=activation),
        norm=norm,
        norm_placement="post",
    )
    return models.TransformerConfig(
        kind="encoder",
        embed=models.EmbedConfig(
            vocab=hf.get("vocab_size"),
            width=hf.get("dim", "hidden_size"),
            max_length=hf.get("max_position_embeddings"),
            norm=True,
        ),
        stack=models.StackConfig(depth=hf.get("n_layers", "num_hidden_layers"), block=block),
        norm=norm,
        final_norm=False,
        readout=models.ReadoutConfig(tied=hf.tied(True), bias=masked, transform=activation if masked else ""),
    )


def weights(config: models.TransformerConfig, architecture: str) -> Rules:
    """Which tensor is which."""
    block, top = config.stack.block, "distilbert."
    rules = [
        same("token/embedding", f"{top}embeddings.word_embeddings.weight"),
        same("embed/position", f"{top}embeddings.position_embeddings.weight"),
        *norm("embed/norm", f"{top}embeddings.LayerNorm", config.norm),
    ]
    if config.readout.transform:
        rules += dense("head/transform", "vocab_transform") + norm("head/norm", "vocab_layer_norm", config.norm)
        rules += [same("head/bias", "vocab_projector.bias")]
        rules += common.readout(config.readout, "vocab_projector.weight")
    names = ("q_lin", "k_lin", "v_lin", "out_lin")
    norms = {"attention_norm": "sa_layer_norm", "feedforward_norm": "output_layer_norm"}
    for layer in range(config.stack.depth):
        ours, theirs = f"stack/{layer}", f"{top}transformer.layer.{layer}."
        rules += attention(f"{ours}/attention", f"{theirs}attention.", names, block.attention)
        rules += feedforward(f"{ours}/feedforward", f"{theirs}ffn.", ("lin1", "lin2"), block.feedforward)
        rules += common.norms(ours, theirs, norms, block)
    return rules


def settings(config: models.TransformerConfig) -> dict[str, Any]:
    """Our settings to theirs."""
    block, embed = config.stack.block, config.embed
    if config.kind != "encoder" or not config.readout.transform:
        raise InputError("DistilBERT is an encoder with the head of masked language modelling")
    activation = block.feedforward.activation
    return {
        "model_type": "distilbert",
        "architectures": ["DistilBertForMaskedLM"],
        "vocab_size": embed.vocab,
        "dim": embed.width,
        "n_layers": config.stack.depth,
        "n_heads": block.attention.heads,
        "hidden_dim": block.feedforward.width or 4 * embed.width,
        "activation": {"gelu_tanh": "gelu_new"}.get(activation, activation),
        "max_position_embeddings": embed.max_length,
        "tie_word_embeddings": config.readout.tied,
        "attention_dropout": block.attention.dropout,
        "dropout": block.dropout,
        "torch_dtype": "float32",
    }


IGNORED = (r"vocab_projector\.weight", r"distilbert\.embeddings\.position_ids")
ROW = Head(out="classifier", dense="pre_classifier", activation="relu", pick="first")
FAMILY = Family(
    config=config,
    weights=weights,
    heads={**ENCODED, ROWS: ROW},
    settings=settings,
    prefix="distilbert.",
    ignored=IGNORED,
    still_padding=True,
)
