"""GPT-NeoX (Black et al. 2022, arXiv:2204.06745) and Pythia: QKV is fused head by head."""

from __future__ import annotations

from typing import Any

from lm_jax.interop.rules import Rules
from lm_jax.interop.settings import Settings
from lm_jax.interop.tables import common
from lm_jax.models import config as models


def config(hf: Settings) -> models.TransformerConfig:
    """Convert config.json to a model configuration."""
    hf.architecture("GPTNeoXForCausalLM", "GPTNeoXModel")
    hf.expect("is_decoder", False, True)
    fraction, theta = hf.get("rotary_pct", default=0.25), hf.get("rotary_emb_base", "rope_theta", default=10000)
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
    """Return the rules that map checkpoint tensors to parameters."""
    rules = common.outside(config, "gpt_neox.embed_in", last="gpt_neox.final_layer_norm", out="embed_out")
    norms = {"attention_norm": "input_layernorm", "feedforward_norm": "post_attention_layernorm"}
    return rules + common.megatron(config.stack, "gpt_neox.layers.", "attention.", norms, "heads")


def settings(config: models.TransformerConfig) -> dict[str, Any]:
    """Convert a model configuration to config.json."""
    block = config.stack.block
    rotary = common.rotary(block.attention.rotary)
    return {
        **common.config_json(config, "gpt_neox", "GPTNeoXForCausalLM"),
        "attention_bias": block.attention.bias,
        "use_parallel_residual": block.norm_placement == "parallel_two",
        "rotary_pct": block.attention.rotary.fraction,
        "rotary_emb_base": rotary.pop("rope_theta"),
        **rotary,
    }


_BUFFERS = (r"gpt_neox\.layers\.\d+\.attention\.(bias|masked_bias|rotary_emb\.inv_freq)", r"embed_out\.weight")
_RENAMED = {"lm_head.weight": "embed_out.weight"}
FAMILY = common.decoder(config, weights, settings, prefix="gpt_neox.", ignored=_BUFFERS, later_names=_RENAMED)
