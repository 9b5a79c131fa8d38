"""LLaMA 1 to 3, and the rules of all whose layers look like its own: Mistral, Qwen, Gemma."""

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
    """Their settings to ours."""
    hf.architecture("LlamaForCausalLM", "LlamaModel")
    biased = hf.get("attention_bias", default=False)
    return assembled(
        hf,
        models.AttentionConfig(bias=biased, out_bias=biased, rotary=hf.rotary(10000.0), **sizes(hf)),
        bias=hf.get("mlp_bias", default=False),
    )


def sizes(hf: Settings, head_dim: int | None = None) -> dict[str, Any]:
    """Heads and rotary positions, the arguments of attention that all these families have."""
    heads = hf.get("num_attention_heads")
    return {
        "heads": heads,
        "kv_heads": hf.get("num_key_value_heads", default=heads),
        "head_dim": hf.get("head_dim", default=head_dim),
        "position": "rotary",
    }


def assembled(
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
    """A decoder of gated layers around `attention`; what is not given is LLaMA's."""
    depth = hf.get("num_hidden_layers")
    epsilon = float(hf.get("rms_norm_eps", default=1e-6))
    norm = norm or models.NormConfig(name="rms", epsilon=epsilon)
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
    """Which tensor is which, of LLaMA and its relatives."""
    return tensors(config, common.under("mlp.", "gate_proj", "up_proj", "down_proj"))


def tensors(config: models.TransformerConfig, feedforward: Any) -> Rules:
    """The rules with other feed-forward layers: names or a function, as in `common.layer`."""
    block, names = config.stack.block, NORMS
    if block.norm_placement == "sandwich":
        names = {
            "attention_norm": "input_layernorm",
            "attention_norm_after": "post_attention_layernorm",
            "feedforward_norm": "pre_feedforward_layernorm",
            "feedforward_norm_after": "post_feedforward_layernorm",
        }
    if block.attention.qk_norm:
        names = {**names, "attention/query_norm": "self_attn.q_norm", "attention/key_norm": "self_attn.k_norm"}
    rules = common.outside(config, "model.embed_tokens", last="model.norm")
    return rules + common.layers(
        config.stack, "model.layers.", attention=PROJECTIONS, feedforward=feedforward, norms=names
    )


def settings(config: models.TransformerConfig) -> dict[str, Any]:
    """Our settings to theirs."""
    block = config.stack.block
    return {
        **written(config, "llama", "LlamaForCausalLM"),
        "attention_bias": block.attention.bias,
        "mlp_bias": block.feedforward.bias,
    }


def written(config: models.TransformerConfig, kind: str, name: str) -> dict[str, Any]:
    """What the settings of all these families say: `kind` is their `model_type`, `name` the class."""
    attention = config.stack.block.attention
    return {
        **common.written(config, kind, name, epsilon="rms_norm_eps", dropout=""),
        "num_key_value_heads": attention.kv_heads or attention.heads,
        "head_dim": attention.head_width(config.embed.width),
        **common.rotary(attention.rotary),
    }


# The class for answers has another name for its model.
HEADS: Heads = {**SCORED, ANSWERS: Head(out="qa_outputs", prefix="transformer.")}


def family(
    config: Callable[[Settings], models.TransformerConfig],
    settings: Callable[[Any], dict[str, Any]],
    heads: Heads = SCORED,
) -> Family:
    """A family with LLaMA's tensors."""
    return common.encoder(config, weights, settings, heads, prefix="model.", ignored=IGNORED)


FAMILY = family(config, settings, HEADS)
