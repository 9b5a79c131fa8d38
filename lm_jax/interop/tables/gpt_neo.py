"""GPT-Neo (Black et al. 2021): scores are not scaled, and every other layer looks back through a window."""

from __future__ import annotations

from typing import Any

from lm_jax.core.config import InputError
from lm_jax.interop.family import Family
from lm_jax.interop.heads import CLASSIFIED
from lm_jax.interop.rules import Rules, attention, feedforward, norm, same
from lm_jax.interop.settings import THEIRS, Settings
from lm_jax.interop.tables import common
from lm_jax.models import config as models


def config(hf: Settings) -> models.TransformerConfig:
    """Their settings to ours."""
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
    return models.TransformerConfig(
        embed=models.EmbedConfig(
            vocab=hf.get("vocab_size"), width=hf.get("hidden_size"), max_length=hf.get("max_position_embeddings")
        ),
        stack=common.stack(depth, block, kinds, ["local" if one == "local" else "block" for one in _types(hf, depth)]),
        norm=norm,
        readout=models.ReadoutConfig(tied=hf.tied(True)),
    )


def _types(hf: Settings, depth: int) -> list[str]:
    """`global` or `local` for every layer."""
    repeated = hf.get("attention_types", default=[[["global", "local"], depth // 2]])
    types = hf.get("attention_layers", default=[one for names, times in repeated for one in list(names) * times])
    if len(types) != depth or set(types) - {"global", "local"}:
        raise InputError(f"{hf.file}: attention_types are {types}; expected global or local for each of {depth} layers")
    return types


def weights(config: models.TransformerConfig, architecture: str) -> Rules:
    """Which tensor is which."""
    block = config.stack.block
    rules = [
        same("token/embedding", "transformer.wte.weight"),
        same("embed/position", "transformer.wpe.weight"),
        *norm("final_norm", "transformer.ln_f", config.norm),
    ]
    rules += common.readout(config.readout, "lm_head.weight")
    names = ("q_proj", "k_proj", "v_proj", "out_proj")
    for layer in range(config.stack.depth):
        ours, theirs = f"stack/{layer}", f"transformer.h.{layer}."
        rules += attention(f"{ours}/attention", f"{theirs}attn.attention.", names, block.attention)
        rules += feedforward(f"{ours}/feedforward", f"{theirs}mlp.", ("c_fc", "c_proj"), block.feedforward)
        rules += common.norms(ours, theirs, {"attention_norm": "ln_1", "feedforward_norm": "ln_2"}, block)
    return rules


def settings(config: models.TransformerConfig) -> dict[str, Any]:
    """Our settings to theirs."""
    block = config.stack.block
    window, local = common.windows(config.stack)
    return {
        "model_type": "gpt_neo",
        "architectures": ["GPTNeoForCausalLM"],
        "vocab_size": config.embed.vocab,
        "max_position_embeddings": config.embed.max_length,
        "hidden_size": config.embed.width,
        "intermediate_size": block.feedforward.width,
        "num_layers": config.stack.depth,
        "num_heads": block.attention.heads,
        "attention_types": [[["local" if one else "global" for one in local], 1]],
        "window_size": window or 256,  # Their default, where no layer has one.
        "activation_function": THEIRS[block.feedforward.activation],
        "layer_norm_epsilon": config.norm.epsilon,
        "tie_word_embeddings": config.readout.tied,
        "attention_dropout": block.attention.dropout,
        "embed_dropout": config.embed.dropout,
        "resid_dropout": block.dropout,
        "torch_dtype": "float32",
    }


_BUFFERS = (r"transformer\.h\.\d+\.attn\.attention\.(bias|masked_bias)", r"lm_head\.weight")
FAMILY = Family(
    config=config, weights=weights, heads=CLASSIFIED, settings=settings, prefix="transformer.", ignored=_BUFFERS
)
