"""GPT-J (Wang and Komatsuzaki 2021): one norm for both branches, interleaved rotary features, an LM head with bias."""

from __future__ import annotations

from typing import Any

from lm_jax.interop.heads import UNTAGGED
from lm_jax.interop.rules import Rules, same
from lm_jax.interop.settings import Settings
from lm_jax.interop.tables import common, gpt2
from lm_jax.models import config as models


def config(hf: Settings) -> models.TransformerConfig:
    """Convert config.json to a model configuration."""
    hf.architecture("GPTJForCausalLM", "GPTJModel")
    width, heads = hf.get("n_embd", "hidden_size"), hf.get("n_head", "num_attention_heads")
    fraction = hf.get("rotary_dim", default=width // heads) / (width // heads)
    norm = models.NormConfig(epsilon=float(hf.get("layer_norm_epsilon", default=1e-5)))
    block = models.BlockConfig(
        attention=models.AttentionConfig(
            heads=heads,
            bias=False,
            out_bias=False,
            position="rotary",
            rotary=models.RotaryConfig(fraction=fraction, interleaved=True),
        ),
        feedforward=models.FeedForwardConfig(
            width=hf.get("n_inner", default=None), activation=hf.activation("activation_function", default="gelu_new")
        ),
        norm=norm,
        norm_placement="parallel",
    )
    return models.TransformerConfig(
        embed=models.EmbedConfig(
            vocab=hf.get("vocab_size"),
            width=width,
            positions="none",
            max_length=hf.get("n_positions", "max_position_embeddings", default=2048),
        ),
        stack=models.StackConfig(depth=hf.get("n_layer", "num_hidden_layers"), block=block),
        norm=norm,
        readout=models.ReadoutConfig(tied=hf.tied(False), bias=not hf.headless),
    )


def weights(config: models.TransformerConfig, architecture: str) -> Rules:
    """Return the rules that map checkpoint tensors to parameters."""
    rules = common.outside(config, "transformer.wte", last="transformer.ln_f")
    rules += [same("head/bias", "lm_head.bias")] if config.readout.bias else []
    return rules + common.layers(
        config.stack,
        "transformer.h.",
        attention=common.under("attn.", *common.PROJECTIONS),
        feedforward=("mlp.fc_in", "mlp.fc_out"),
        norms={"attention_norm": "ln_1"},
    )


def settings(config: models.TransformerConfig) -> dict[str, Any]:
    """Convert a model configuration to config.json."""
    block = config.stack.block
    return {
        **common.config_json(config, "gptj", "GPTJForCausalLM", **gpt2.FIELDS),
        "n_positions": common.position_rows(config.embed),
        "n_inner": block.feedforward.width,
        "rotary_dim": round(block.attention.rotary.fraction * block.attention.head_width(config.embed.width)),
    }


_BUFFERS = (r"transformer\.h\.\d+\.attn\.(bias|masked_bias|embed_positions)",)
FAMILY = common.decoder(config, weights, settings, UNTAGGED, prefix="transformer.", ignored=_BUFFERS)
