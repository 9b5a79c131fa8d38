"""DistilBERT (Sanh et al. 2019, arXiv:1910.01108): half of BERT's layers, without token types or pooler."""

from __future__ import annotations

from typing import Any

from lm_jax.core.config import InputError
from lm_jax.interop.heads import ANSWERS, CHOICES, SEQUENCES, TOKENS, Head, Heads
from lm_jax.interop.rules import Rules, dense, norm, same
from lm_jax.interop.settings import Settings
from lm_jax.interop.tables import bert, common
from lm_jax.models import config as models


def config(hf: Settings) -> models.TransformerConfig:
    """Convert config.json to a model configuration."""
    name = hf.architecture("DistilBertForMaskedLM", "DistilBertModel")
    hf.get("sinusoidal_pos_embds", default=False)  # The initialisation of the position table, which is stored.
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
    """Return the rules that map checkpoint tensors to parameters."""
    rules = bert.embedding(config, "distilbert.embeddings.")
    if config.readout.transform:
        rules += dense("head/transform", "vocab_transform") + norm("head/norm", "vocab_layer_norm", config.norm)
        rules += [same("head/bias", "vocab_projector.bias"), *common.readout(config.readout, "vocab_projector.weight")]
    return rules + common.layers(
        config.stack,
        "distilbert.transformer.layer.",
        attention=common.under("attention.", "q_lin", "k_lin", "v_lin", "out_lin"),
        feedforward=("ffn.lin1", "ffn.lin2"),
        norms={"attention_norm": "sa_layer_norm", "feedforward_norm": "output_layer_norm"},
    )


def settings(config: models.TransformerConfig) -> dict[str, Any]:
    """Convert a model configuration to config.json."""
    if config.kind != "encoder":
        raise InputError("DistilBERT must be an encoder")
    names = dict(width="dim", mlp="hidden_dim", depth="n_layers", heads="n_heads", activation="activation")
    return common.config_json(config, "distilbert", "DistilBertForMaskedLM", epsilon="", dropout="dropout", **names)


IGNORED = (r"vocab_projector\.weight", r"distilbert\.embeddings\.position_ids")
CLASSIFIER = Head(
    out="classifier", dense="pre_classifier", activation="relu", pick="first", dropout=("seq_classif_dropout", 0.2)
)
HEADS: Heads = {
    SEQUENCES: CLASSIFIER,
    CHOICES: CLASSIFIER,
    TOKENS: Head(out="classifier", dropout=("dropout", 0.1)),
    ANSWERS: Head(out="qa_outputs", dropout=("qa_dropout", 0.1)),
}
FAMILY = common.encoder(config, weights, settings, HEADS, prefix="distilbert.", ignored=IGNORED)
