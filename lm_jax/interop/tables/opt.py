"""OPT (Zhang et al. 2022, arXiv:2205.01068): positions count attended tokens from row 2 on; 350M is post-norm."""

from __future__ import annotations

from typing import Any

from lm_jax.interop.family import Family
from lm_jax.interop.heads import CLASSIFIED
from lm_jax.interop.rules import Rules, attention, feedforward, norm, same, turned
from lm_jax.interop.settings import THEIRS, Settings
from lm_jax.interop.tables import common
from lm_jax.models import config as models


def config(hf: Settings) -> models.TransformerConfig:
    """Their settings to ours."""
    hf.architecture("OPTForCausalLM", "OPTModel")
    biased, before = hf.get("enable_bias", default=True), hf.get("do_layer_norm_before", default=True)
    width = hf.get("hidden_size")
    factor = hf.get("word_embed_proj_dim", default=width)
    affine = hf.get("layer_norm_elementwise_affine", default=True)
    norm = models.NormConfig(epsilon=1e-5, scale=affine, bias=affine)
    block = models.BlockConfig(
        attention=models.AttentionConfig(heads=hf.get("num_attention_heads"), bias=biased, out_bias=biased),
        feedforward=models.FeedForwardConfig(
            width=hf.get("ffn_dim"), activation=hf.activation("activation_function", default="relu"), bias=biased
        ),
        norm=norm,
        norm_placement="pre" if before else "post",
    )
    return models.TransformerConfig(
        embed=models.EmbedConfig(
            vocab=hf.get("vocab_size"),
            width=width,
            factor=None if factor == width else factor,
            factor_bias=False,
            factor_first=factor != width,
            max_length=hf.get("max_position_embeddings"),
            offset=2,
        ),
        stack=models.StackConfig(depth=hf.get("num_hidden_layers"), block=block),
        norm=norm,
        final_norm=before and not hf.get("_remove_final_layer_norm", default=False),
        readout=models.ReadoutConfig(tied=hf.tied(True)),
    )


def weights(config: models.TransformerConfig, architecture: str) -> Rules:
    """Which tensor is which."""
    block, top = config.stack.block, "model.decoder."
    rules = [
        same("token/embedding", f"{top}embed_tokens.weight"),
        same("embed/position", f"{top}embed_positions.weight"),
    ]
    rules += norm("final_norm", f"{top}final_layer_norm", config.norm) if config.final_norm else []
    if config.embed.factor is not None:
        rules += [turned("embed/project/kernel", f"{top}project_in.weight")]
        rules += [turned("head/factor/kernel", f"{top}project_out.weight")]
    rules += common.readout(config.readout, "lm_head.weight")
    names = ("q_proj", "k_proj", "v_proj", "out_proj")
    norms = {"attention_norm": "self_attn_layer_norm", "feedforward_norm": "final_layer_norm"}
    for layer in range(config.stack.depth):
        ours, theirs = f"stack/{layer}", f"{top}layers.{layer}."
        rules += attention(f"{ours}/attention", f"{theirs}self_attn.", names, block.attention)
        rules += feedforward(f"{ours}/feedforward", theirs, ("fc1", "fc2"), block.feedforward)
        rules += common.norms(ours, theirs, norms, block)
    return rules


def settings(config: models.TransformerConfig) -> dict[str, Any]:
    """Our settings to theirs."""
    block, before = config.stack.block, config.stack.block.norm_placement == "pre"
    return {
        "model_type": "opt",
        "architectures": ["OPTForCausalLM"],
        "vocab_size": config.embed.vocab,
        "max_position_embeddings": config.embed.max_length,
        "hidden_size": config.embed.width,
        "word_embed_proj_dim": config.embed.factor or config.embed.width,
        "ffn_dim": block.feedforward.width or 4 * config.embed.width,
        "num_hidden_layers": config.stack.depth,
        "num_attention_heads": block.attention.heads,
        "activation_function": THEIRS[block.feedforward.activation],
        "enable_bias": block.attention.bias,
        "do_layer_norm_before": before,
        "_remove_final_layer_norm": before and not config.final_norm,
        "layer_norm_elementwise_affine": config.norm.scale,
        "tie_word_embeddings": config.readout.tied,
        "attention_dropout": block.attention.dropout,
        "dropout": block.dropout,
        "torch_dtype": "float32",
    }


# Checkpoints of the model alone begin with `decoder.`.
FAMILY = Family(
    config=config,
    weights=weights,
    heads=CLASSIFIED,
    settings=settings,
    prefix="model.",
    ignored=(r"(model\.)?lm_head\.weight",),
    counted="attended",
    still_padding=True,
)
