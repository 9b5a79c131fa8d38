"""GPT-NeoX and Pythia (Black et al. 2022, arXiv:2204.06745): query, key and value of each head side by side."""

from __future__ import annotations

from typing import Any

from lm_jax.interop.family import Family
from lm_jax.interop.heads import CLASSIFIED
from lm_jax.interop.rules import Rules, norm, same
from lm_jax.interop.settings import THEIRS, Settings
from lm_jax.interop.tables import common
from lm_jax.models import config as models


def config(hf: Settings) -> models.TransformerConfig:
    """Their settings to ours."""
    hf.architecture("GPTNeoXForCausalLM", "GPTNeoXModel")
    hf.expect("is_decoder", False, True)
    fraction = hf.get("rotary_pct", default=0.25)
    theta = hf.get("rotary_emb_base", "rope_theta", default=10000)
    biased = hf.get("attention_bias", default=True)
    norm = models.NormConfig(epsilon=float(hf.get("layer_norm_eps", default=1e-5)))
    block = models.BlockConfig(
        attention=models.AttentionConfig(
            heads=hf.get("num_attention_heads"),
            bias=biased,
            out_bias=biased,
            position="rotary",
            rotary=hf.rotary(float(theta), fraction=fraction),
        ),
        feedforward=models.FeedForwardConfig(
            width=hf.get("intermediate_size"), activation=hf.activation("hidden_act", default="gelu")
        ),
        norm=norm,
        norm_placement="parallel_two" if hf.get("use_parallel_residual", default=True) else "pre",
    )
    return models.TransformerConfig(
        embed=models.EmbedConfig(
            vocab=hf.get("vocab_size"),
            width=hf.get("hidden_size"),
            positions="none",
            max_length=hf.get("max_position_embeddings", default=2048),
        ),
        stack=models.StackConfig(depth=hf.get("num_hidden_layers"), block=block),
        norm=norm,
        readout=models.ReadoutConfig(tied=hf.tied(False)),
    )


def weights(config: models.TransformerConfig, architecture: str) -> Rules:
    """Which tensor is which."""
    block = config.stack.block
    rules = [
        same("token/embedding", "gpt_neox.embed_in.weight"),
        *norm("final_norm", "gpt_neox.final_layer_norm", config.norm),
    ]
    rules += common.readout(config.readout, "embed_out.weight")
    norms = {"attention_norm": "input_layernorm", "feedforward_norm": "post_attention_layernorm"}
    for layer in range(config.stack.depth):
        ours, theirs = f"stack/{layer}", f"gpt_neox.layers.{layer}."
        rules += common.megatron(ours, theirs, "attention", block, "heads", norms)
    return rules


def settings(config: models.TransformerConfig) -> dict[str, Any]:
    """Our settings to theirs."""
    block = config.stack.block
    rotary = common.rotary(block.attention.rotary)
    return {
        "model_type": "gpt_neox",
        "architectures": ["GPTNeoXForCausalLM"],
        "vocab_size": config.embed.vocab,
        "max_position_embeddings": config.embed.max_length,
        "hidden_size": config.embed.width,
        "intermediate_size": block.feedforward.width or 4 * config.embed.width,
        "num_hidden_layers": config.stack.depth,
        "num_attention_heads": block.attention.heads,
        "hidden_act": THEIRS[block.feedforward.activation],
        "layer_norm_eps": config.norm.epsilon,
        "attention_bias": block.attention.bias,
        "use_parallel_residual": block.norm_placement == "parallel_two",
        "rotary_pct": block.attention.rotary.fraction,
        "rotary_emb_base": rotary.pop("rope_theta"),
        **rotary,
        "tie_word_embeddings": config.readout.tied,
        "attention_dropout": block.attention.dropout,
        "hidden_dropout": block.dropout,
        "torch_dtype": "float32",
    }


_BUFFERS = (r"gpt_neox\.layers\.\d+\.attention\.(bias|masked_bias|rotary_emb\.inv_freq)", r"embed_out\.weight")
FAMILY = Family(
    config=config,
    weights=weights,
    heads=CLASSIFIED,
    settings=settings,
    prefix="gpt_neox.",
    ignored=_BUFFERS,
    renamed={"lm_head.weight": "embed_out.weight"},
)
