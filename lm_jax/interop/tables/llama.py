"""LLaMA 1 to 3, and functions for families with the same layers: Mistral, Mixtral, Qwen and Gemma."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from lm_jax.interop.family import Family
from lm_jax.interop.heads import ANSWERS, SCORED, Head, Heads
from lm_jax.interop.rules import Rules
from lm_jax.interop.settings import Settings
from lm_jax.interop.tables import common
from lm_jax.models import config as models

PROJECTIONS = common.under("self_attn.", "q_proj", "k_proj", "v_proj", "o_proj")
NORMS = {"attention_norm": "input_layernorm", "feedforward_norm": "post_attention_layernorm"}
IGNORED = (r"model\.layers\.\d+\.self_attn\.rotary_emb\.inv_freq", r"model\.rotary_emb\.inv_freq", r"lm_head\.weight")


def config(hf: Settings) -> models.TransformerConfig:
    """Convert config.json to a model configuration."""
    hf.architecture("LlamaForCausalLM", "LlamaModel")
    biased = hf.get("attention_bias", default=False)
    attention = models.AttentionConfig(bias=biased, out_bias=biased, rotary=hf.rotary(10000.0), **sizes(hf))
    return decoder(hf, attention, bias=hf.get("mlp_bias", default=False))


def sizes(hf: Settings, head_dim: int | None = None) -> dict[str, Any]:
    """Return the fields of `AttentionConfig` that LLaMA-like families share: heads and rotary positions."""
    heads = hf.get("num_attention_heads")
    return {
        "heads": heads,
        "kv_heads": hf.get("num_key_value_heads", default=heads),
        "head_dim": hf.get("head_dim", default=head_dim),
        "position": "rotary",
    }


def decoder(
    hf: Settings,
    attention: models.AttentionConfig,
    *,
    bias: bool = False,
    activation: str = "silu",
    names: tuple[str, ...] = ("hidden_act",),
    norm: models.NormConfig | None = None,
    placement: str = "pre",
    kinds: dict[str, Any] | None = None,
    pattern: list[str] | None = None,
    scale: bool = False,
    tied: bool = False,
    softcap: float | None = None,
) -> models.TransformerConfig:
    """Return a decoder (an encoder if the mask is full) with gated feed-forward layers; the defaults are LLaMA's."""
    depth = hf.get("num_hidden_layers")
    norm = norm or models.NormConfig(name="rms", epsilon=float(hf.get("rms_norm_eps", default=1e-6)))
    block = models.BlockConfig(
        attention=attention,
        feedforward=models.FeedForwardConfig(
            width=hf.get("intermediate_size"),
            activation=hf.activation(*names, default=activation),
            gated=True,
            bias=bias,
        ),
        norm=norm,
        norm_placement=placement,
    )
    return models.TransformerConfig(
        kind="encoder" if attention.mask == "full" else "decoder",
        embed=models.EmbedConfig(
            vocab=hf.get("vocab_size"),
            width=hf.get("hidden_size"),
            positions="none",
            max_length=hf.get("max_position_embeddings", default=2048),
            scale=scale,
        ),
        stack=common.stack(depth, block, kinds or {}, pattern or ["block"] * depth),
        norm=norm,
        readout=models.ReadoutConfig(tied=hf.tied(tied), softcap=softcap),
    )


def weights(config: models.TransformerConfig, architecture: str) -> Rules:
    """Return the rules that map checkpoint tensors to parameters."""
    return tensors(config, common.under("mlp.", "gate_proj", "up_proj", "down_proj"))


def tensors(config: models.TransformerConfig, feedforward: Any) -> Rules:
    """Return the rules of a model with these feed-forward layers: names or a function, as in `common.layer`."""
    block, norms = config.stack.block, NORMS
    if block.norm_placement == "sandwich":
        norms = {
            "attention_norm": "input_layernorm",
            "attention_norm_after": "post_attention_layernorm",
            "feedforward_norm": "pre_feedforward_layernorm",
            "feedforward_norm_after": "post_feedforward_layernorm",
        }
    if block.attention.qk_norm:
        norms = {**norms, "attention/query_norm": "self_attn.q_norm", "attention/key_norm": "self_attn.k_norm"}
    rules = common.outside(config, "model.embed_tokens", last="model.norm")
    names: dict[str, Any] = dict(attention=PROJECTIONS, feedforward=feedforward, norms=norms)
    return rules + common.layers(config.stack, "model.layers.", **names)


def settings(config: models.TransformerConfig) -> dict[str, Any]:
    """Convert a model configuration to config.json."""
    block = config.stack.block
    return {
        **config_json(config, "llama", "LlamaForCausalLM"),
        "attention_bias": block.attention.bias,
        "mlp_bias": block.feedforward.bias,
    }


def config_json(config: models.TransformerConfig, kind: str, name: str) -> dict[str, Any]:
    """Return the config.json fields that LLaMA-like families share; `kind` is the `model_type`, `name` the class."""
    attention = config.stack.block.attention
    return {
        **common.config_json(config, kind, name, epsilon="rms_norm_eps", dropout=""),
        "num_key_value_heads": attention.kv_heads or attention.heads,
        "head_dim": attention.head_width(config.embed.width),
        **common.rotary(attention.rotary),
    }


# The question-answering class calls its model `transformer`.
HEADS: Heads = {**SCORED, ANSWERS: Head(out="qa_outputs", prefix="transformer.")}


def family(
    config: Callable[[Settings], models.TransformerConfig],
    settings: Callable[[Any], dict[str, Any]],
    heads: Heads = SCORED,
) -> Family:
    """Return a family with LLaMA's tensors."""
    return common.encoder(config, weights, settings, heads, prefix="model.", ignored=IGNORED)


FAMILY = family(config, settings, HEADS)
