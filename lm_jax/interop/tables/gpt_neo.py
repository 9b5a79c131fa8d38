"""GPT-Neo (Black et al. 2021): scores are not scaled, and every other layer has a window."""

from __future__ import annotations

from typing import Any

from lm_jax.core.config import InputError
from lm_jax.interop.rules import Rules
from lm_jax.interop.settings import Settings
from lm_jax.interop.tables import common
from lm_jax.models import config as models


def config(hf: Settings) -> models.TransformerConfig:
    """Convert config.json to a model configuration."""
    hf.architecture("GPTNeoForCausalLM", "GPTNeoModel")
    norm = models.NormConfig(epsilon=float(hf.get("layer_norm_epsilon", default=1e-5)))
    block = models.BlockConfig(
        attention=models.AttentionConfig(heads=hf.get("num_heads", "num_attention_heads"), bias=False, scale=1.0),
        feedforward=models.FeedForwardConfig(
            width=hf.get("intermediate_size", default=None),
            activation=hf.activation("activation_function", default="gelu_new"),
        ),
        norm=norm,
    )
    depth = hf.get("num_layers", "num_hidden_layers")
    kinds = {"local": {"attention": {"window": hf.get("window_size", default=256)}}}
    names = ["local" if name == "local" else "block" for name in _types(hf, depth)]
    return models.TransformerConfig(
        embed=models.EmbedConfig(
            vocab=hf.get("vocab_size"), width=hf.get("hidden_size"), max_length=hf.get("max_position_embeddings")
        ),
        stack=common.stack(depth, block, kinds, names),
        norm=norm,
        readout=models.ReadoutConfig(tied=hf.tied(True)),
    )


def _types(hf: Settings, depth: int) -> list[str]:
    """Return the kind of each layer, `global` or `local`."""
    repeated = hf.get("attention_types", default=[[["global", "local"], depth // 2]])
    types = hf.get("attention_layers", default=[name for names, times in repeated for name in list(names) * times])
    if len(types) != depth or set(types) - {"global", "local"}:
        raise InputError(f"{hf.file}: attention_types are {types}; expected global or local for each of {depth} layers")
    return types


def weights(config: models.TransformerConfig, architecture: str) -> Rules:
    """Return the rules that map checkpoint tensors to parameters."""
    rules = common.outside(config, "transformer.wte", position="transformer.wpe", last="transformer.ln_f")
    return rules + common.layers(
        config.stack,
        "transformer.h.",
        attention=common.under("attn.attention.", *common.PROJECTIONS),
        feedforward=("mlp.c_fc", "mlp.c_proj"),
        norms={"attention_norm": "ln_1", "feedforward_norm": "ln_2"},
    )


def settings(config: models.TransformerConfig) -> dict[str, Any]:
    """Convert a model configuration to config.json."""
    window, local = common.windows(config.stack)
    names = dict(depth="num_layers", heads="num_heads", activation="activation_function", epsilon="layer_norm_epsilon")
    rates = dict(dropout="resid_dropout", embed_dropout="embed_dropout")
    return {
        **common.config_json(config, "gpt_neo", "GPTNeoForCausalLM", **names, **rates),
        "intermediate_size": config.stack.block.feedforward.width,
        "attention_types": [[["local" if windowed else "global" for windowed in local], 1]],
        "window_size": window or 256,  # The class's default, where no layer has a window.
    }


_BUFFERS = (r"transformer\.h\.\d+\.attn\.attention\.(bias|masked_bias)", r"lm_head\.weight")
FAMILY = common.decoder(config, weights, settings, prefix="transformer.", ignored=_BUFFERS)
