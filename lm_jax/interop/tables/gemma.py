"""Gemma 1 to 3 (arXiv:2403.08295, arXiv:2408.00118, arXiv:2503.19786).

Norms scale by 1 + their weight and embeddings are multiplied by sqrt(width). Gemma 2 adds norms after each branch, soft
caps, and windows in every other layer; Gemma 3 adds query and key norms, and other rotary angles in windowed layers.
"""

from __future__ import annotations

from typing import Any

from lm_jax.interop.heads import SCORED, SEQUENCES, TOKENS, Heads
from lm_jax.interop.settings import Settings
from lm_jax.interop.tables import common, llama
from lm_jax.models import config as models


def gemma(hf: Settings) -> models.TransformerConfig:
    """Convert Gemma's config.json to a model configuration."""
    hf.architecture("GemmaForCausalLM", "GemmaModel")
    hf.expect("use_bidirectional_attention", None, False)
    # The released files say "gelu"; every release of the reference computes its tanh approximation.
    explicit = hf.get("hidden_act", default="gelu") != "gelu"
    return _decoder(hf, _attention(hf), names=("hidden_activation", *(["hidden_act"] if explicit else [])))


def gemma2(hf: Settings) -> models.TransformerConfig:
    """Convert Gemma 2's config.json to a model configuration."""
    hf.architecture("Gemma2ForCausalLM", "Gemma2Model")
    scale = float(hf.get("query_pre_attn_scalar", default=256)) ** -0.5
    attention = _attention(hf, scale=scale, softcap=hf.nullable("attn_logit_softcapping", 50.0))
    depth, window = hf.get("num_hidden_layers"), hf.get("sliding_window", default=4096)
    fallback = ["full_attention" if at % 2 else "sliding_attention" for at in range(depth)]
    local = {"attention": {"window": window}}
    return _decoder(
        hf, attention, placement="sandwich", softcap=hf.nullable("final_logit_softcapping", 30.0),
        **_kinds(hf, depth, fallback, local),
    )  # fmt: skip


def gemma3(hf: Settings) -> models.TransformerConfig:
    """Convert Gemma 3's config.json to a model configuration."""
    hf.architecture("Gemma3ForCausalLM", "Gemma3TextModel")
    scale = float(hf.get("query_pre_attn_scalar", default=256)) ** -0.5
    rotary = hf.rotary(1e6, layers="full_attention")
    local_rotary = hf.rotary(1e4, layers="sliding_attention", key="rope_local_base_freq", scaled=False)
    hf.get("attn_logit_softcapping", default=None)  # No release caps Gemma 3's scores.
    bidirectional = hf.get("use_bidirectional_attention", default=False)
    attention = _attention(hf, scale=scale, qk_norm=True, rotary=rotary, mask="full" if bidirectional else "causal")
    depth, window = hf.get("num_hidden_layers"), hf.get("sliding_window", default=4096)
    period = hf.get("sliding_window_pattern", "_sliding_window_pattern", default=6)
    fallback = ["sliding_attention" if (at + 1) % period else "full_attention" for at in range(depth)]
    # A bidirectional window has half of its width on each side.
    local = {"attention": {"window": window // 2 if bidirectional else window, "rotary": local_rotary}}
    return _decoder(
        hf, attention, placement="sandwich", softcap=hf.nullable("final_logit_softcapping", None),
        **_kinds(hf, depth, fallback, local),
    )  # fmt: skip


def _attention(hf: Settings, **options: Any) -> models.AttentionConfig:
    biased = hf.get("attention_bias", default=False)
    rotary = options.pop("rotary", None) or hf.rotary(10000.0)
    return models.AttentionConfig(
        bias=biased, out_bias=biased, rotary=rotary, **llama.sizes(hf, head_dim=256), **options
    )


def _kinds(hf: Settings, depth: int, fallback: list[str], local: dict[str, Any]) -> dict[str, Any]:
    types = hf.layer_types(depth, fallback)
    names = ["local" if kind == "sliding_attention" else "block" for kind in types]
    return {"kinds": {"local": local}, "pattern": names}


def _decoder(hf: Settings, attention: models.AttentionConfig, **options: Any) -> models.TransformerConfig:
    norm = models.NormConfig(name="rms", epsilon=float(hf.get("rms_norm_eps", default=1e-6)), offset=True)
    options = {"names": ("hidden_activation",), "activation": "gelu_pytorch_tanh", **options}
    return llama.decoder(hf, attention, norm=norm, scale=True, tied=True, **options)


def settings1(config: models.TransformerConfig) -> dict[str, Any]:
    """Convert a model configuration to Gemma's config.json; transformers 5 reads the activation as `hidden_act`."""
    tree = _config_json(config, "gemma", "GemmaForCausalLM")
    return {**tree, "hidden_act": tree["hidden_activation"]}


def settings2(config: models.TransformerConfig) -> dict[str, Any]:
    """Convert a model configuration to Gemma 2's config.json."""
    return {
        **_config_json(config, "gemma2", "Gemma2ForCausalLM"),
        **_layered(config),
        "attn_logit_softcapping": config.stack.block.attention.softcap,
    }


def settings3(config: models.TransformerConfig) -> dict[str, Any]:
    """Convert a model configuration to Gemma 3's config.json; only global layers may scale rotary angles."""
    blocks = config.stack.layers
    windowed, full = (
        [block.attention.rotary for block in blocks if (block.attention.window is not None) == local]
        for local in (True, False)
    )
    return {
        **_config_json(config, "gemma3_text", "Gemma3ForCausalLM"),
        **_layered(config),
        **common.rotary((full or windowed)[0]),
        "rope_local_base_freq": (windowed or full)[0].theta,
    }


def _config_json(config: models.TransformerConfig, kind: str, name: str) -> dict[str, Any]:
    tree = llama.config_json(config, kind, name)
    # Gemma's class reads "gelu" as the tanh approximation.
    names, block = {"gelu_tanh": "gelu_pytorch_tanh", "gelu": "gelu_python"}, config.stack.block
    activation = names.get(block.feedforward.activation, tree.pop("hidden_act"))
    return {**tree, "hidden_activation": activation, "attention_bias": block.attention.bias}


def _layered(config: models.TransformerConfig) -> dict[str, Any]:
    scale, (window, local) = config.stack.block.attention.scale, common.windows(config.stack)
    if scale is None:
        scale = config.stack.block.attention.head_width(config.embed.width) ** -0.5
    return {
        "query_pre_attn_scalar": round(scale**-2),
        "sliding_window": window or 4096,  # The class's default, where no layer has a window.
        "layer_types": ["sliding_attention" if windowed else "full_attention" for windowed in local],
        "final_logit_softcapping": config.readout.softcap,
    }


HEADS: Heads = {name: SCORED[name] for name in (SEQUENCES, TOKENS)}
GEMMA = llama.family(gemma, settings1, HEADS)
GEMMA2 = llama.family(gemma2, settings2, HEADS)
GEMMA3 = llama.family(gemma3, settings3, {SEQUENCES: SCORED[SEQUENCES]})
