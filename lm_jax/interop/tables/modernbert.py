"""ModernBERT (Warner et al. 2024, arXiv:2412.13663): global and local layers with different rotary angles, GeGLU."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from lm_jax.core.config import InputError
from lm_jax.interop.heads import ANSWERS, CHOICES, SEQUENCES, TOKENS, Head, Heads
from lm_jax.interop.rules import Rules, dense, norm, same
from lm_jax.interop.settings import ACTIVATION_NAMES, Settings
from lm_jax.interop.tables import common
from lm_jax.models import config as models


def config(hf: Settings) -> models.TransformerConfig:
    """Convert config.json to a model configuration."""
    masked = hf.architecture("ModernBertForMaskedLM", "ModernBertModel") == "ModernBertForMaskedLM"
    norm = models.NormConfig(epsilon=float(hf.get("norm_eps", default=1e-5)), bias=hf.get("norm_bias", default=False))
    biased = hf.get("attention_bias", default=False)
    global_rotary = hf.rotary(160000.0, layers="full_attention", key="global_rope_theta", scaled=False)
    local_rotary = hf.rotary(10000.0, layers="sliding_attention", key="local_rope_theta", scaled=False)
    block = models.BlockConfig(
        attention=models.AttentionConfig(
            heads=hf.get("num_attention_heads"),
            mask="full",
            bias=biased,
            out_bias=biased,
            position="rotary",
            rotary=global_rotary,
        ),
        feedforward=models.FeedForwardConfig(
            width=hf.get("intermediate_size"),
            activation=hf.activation("hidden_activation", default="gelu"),
            gated=True,
            bias=hf.get("mlp_bias", default=False),
        ),
        norm=norm,
    )
    head = hf.activation("classifier_activation", default="gelu")
    return models.TransformerConfig(
        kind="encoder",
        embed=models.EmbedConfig(
            vocab=hf.get("vocab_size"),
            width=hf.get("hidden_size"),
            positions="none",
            max_length=hf.get("max_position_embeddings", default=8192),
            norm=True,
        ),
        stack=_stack(hf, block, local_rotary),
        norm=norm,
        readout=models.ReadoutConfig(
            tied=hf.tied(True),
            bias=hf.get("decoder_bias", default=True) and masked,
            transform=head if masked else "",
            transform_bias=hf.get("classifier_bias", default=False),
        ),
    )


def _stack(hf: Settings, block: models.BlockConfig, local_rotary: models.RotaryConfig) -> models.StackConfig:
    """Return a stack of local and global layers; the first lacks an attention norm: the embeddings are normalised."""
    depth, period = hf.get("num_hidden_layers"), hf.get("global_attn_every_n_layers", default=3)
    types = hf.layer_types(depth, ["sliding_attention" if at % period else "full_attention" for at in range(depth)])
    window = hf.get("local_attention", default=128) // 2
    local: dict[str, Any] = {"attention": {"window": window, "rotary": local_rotary}}
    first = {"attention_norm": False, **(local if types[0] == "sliding_attention" else {})}
    names = ["first", *("local" if kind == "sliding_attention" else "block" for kind in types[1:])]
    return common.stack(depth, block, {"first": first, "local": local}, names)


def weights(config: models.TransformerConfig, architecture: str) -> Rules:
    """Return the rules that map checkpoint tensors to parameters."""
    readout, names = config.readout, dict(embed="model.embeddings.norm", last="model.final_norm", out="decoder")
    rules = common.outside(config, "model.embeddings.tok_embeddings", **names)
    if readout.transform:
        rules += dense("head/transform", "head.dense", bias=readout.transform_bias)
        rules += norm("head/norm", "head.norm", config.norm)
    rules += [same("head/bias", "decoder.bias")] if readout.bias else []
    return rules + common.layers(
        config.stack,
        "model.layers.",
        attention=("attn.Wqkv", "attn.Wo"),
        feedforward=("mlp.Wi", "mlp.Wo"),
        norms={"feedforward_norm": "mlp_norm", "attention_norm": "attn_norm"},
    )


def settings(config: models.TransformerConfig) -> dict[str, Any]:
    """Convert a model configuration to config.json."""
    block, readout, layers = config.stack.block, config.readout, config.stack.layers
    if config.kind != "encoder":
        raise InputError("ModernBERT must be an encoder")
    # The masked-LM head and the heads of tasks begin with the same layers.
    task = config.task
    biased = task.dense_bias if task.exists else readout.transform_bias
    activation = task.activation if task.exists and task.activation else readout.transform or "gelu"
    local = [layer.attention for layer in layers if layer.attention.window is not None]
    # Earlier releases read only the period of global layers, so the layers must have one.
    fits = lambda period: all((layer.attention.window is None) == (at % period == 0) for at, layer in enumerate(layers))
    period = next(filter(fits, range(1, len(layers) + 1)), None)
    if period is None:
        raise InputError("ModernBERT needs global attention in every n-th layer, from the first on")
    names = dict(activation="hidden_activation", epsilon="norm_eps", dropout="mlp_dropout")
    return {
        **common.config_json(config, "modernbert", "ModernBertForMaskedLM", embed_dropout="embedding_dropout", **names),
        "norm_bias": config.norm.bias,
        "attention_bias": block.attention.bias,
        "mlp_bias": block.feedforward.bias,
        "global_attn_every_n_layers": period,
        "global_rope_theta": layers[0].attention.rotary.theta,
        **({"local_attention": 2 * (local[0].window or 0), "local_rope_theta": local[0].rotary.theta} if local else {}),
        "classifier_activation": ACTIVATION_NAMES[activation],
        "classifier_bias": biased,
        "classifier_pooling": "mean" if task.pool == "mean" else "cls",
        "decoder_bias": readout.bias,
    }


def _classifier(tree: Mapping[str, Any], pick: str = "all") -> Head:
    """Return a classifier after the dense layer of the masked-LM head."""
    return Head(
        out="classifier",
        dense="head.dense",
        dense_bias=tree.get("classifier_bias", False),
        activation=common.activation(tree, "classifier_activation", "gelu"),
        norm="head.norm",
        norm_bias=tree.get("norm_bias", False),
        epsilon=tree.get("norm_eps", 1e-5),
        pick=pick,
        dropout=("classifier_dropout", 0.0),
    )


def _sequence_classifier(tree: Mapping[str, Any]) -> Head:
    return _classifier(tree, "mean" if tree.get("classifier_pooling", "cls") == "mean" else "first")


HEADS: Heads = {
    TOKENS: _classifier,
    ANSWERS: _classifier,
    SEQUENCES: _sequence_classifier,
    CHOICES: _sequence_classifier,
}
FAMILY = common.encoder(config, weights, settings, HEADS, prefix="model.", ignored=(r"decoder\.weight",))
