"""OPT (Zhang et al. 2022, arXiv:2205.01068): positions count attended tokens from row 2; 350M is post-norm."""

from __future__ import annotations

from typing import Any

from lm_jax.interop.heads import UNTAGGED
from lm_jax.interop.rules import Rules, transposed
from lm_jax.interop.settings import Settings
from lm_jax.interop.tables import common
from lm_jax.models import config as models


def config(hf: Settings) -> models.TransformerConfig:
    """Convert config.json to a model configuration."""
    hf.architecture("OPTForCausalLM", "OPTModel")
    biased, before = hf.get("enable_bias", default=True), hf.get("do_layer_norm_before", default=True)
    width, affine = hf.get("hidden_size"), hf.get("layer_norm_elementwise_affine", default=True)
    factor = hf.get("word_embed_proj_dim", default=width)
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
    """Return the rules that map checkpoint tensors to parameters."""
    top, last = "model.decoder.", "model.decoder.final_layer_norm"
    rules = common.outside(config, f"{top}embed_tokens", position=f"{top}embed_positions", last=last)
    if config.embed.factor is not None:
        rules += [transposed("embed/project/kernel", f"{top}project_in.weight")]
        rules += [transposed("head/factor/kernel", f"{top}project_out.weight")]
    return rules + common.layers(
        config.stack,
        f"{top}layers.",
        attention=common.under("self_attn.", *common.PROJECTIONS),
        feedforward=("fc1", "fc2"),
        norms={"attention_norm": "self_attn_layer_norm", "feedforward_norm": "final_layer_norm"},
    )


def settings(config: models.TransformerConfig) -> dict[str, Any]:
    """Convert a model configuration to config.json."""
    block, before = config.stack.block, config.stack.block.norm_placement == "pre"
    names = dict(mlp="ffn_dim", activation="activation_function", epsilon="", dropout="dropout")
    return {
        **common.config_json(config, "opt", "OPTForCausalLM", **names),
        "word_embed_proj_dim": config.embed.factor or config.embed.width,
        "enable_bias": block.attention.bias,
        "do_layer_norm_before": before,
        "_remove_final_layer_norm": before and not config.final_norm,
        "layer_norm_elementwise_affine": config.norm.scale,
    }


# Tensor names of `OPTModel` begin with `decoder.`.
_TIED = (r"(model\.)?lm_head\.weight",)
FAMILY = common.decoder(
    config, weights, settings, UNTAGGED, prefix="model.", ignored=_TIED, position_tokens="attended", frozen_padding=True
)
