"""The original Transformer (Vaswani et al. 2017, arXiv:1706.03762), with `torch.nn.Transformer`'s names.

Its config.json holds the arguments of `torch.nn.Transformer` and no `model_type`. QKV is one matrix; both sides and the
readout share one embedding table; positions are interleaved sinusoids.
"""

from __future__ import annotations

from lm_jax.core.config import InputError
from lm_jax.interop.family import Family
from lm_jax.interop.rules import Rules, feedforward, fused, norm, out, same
from lm_jax.interop.settings import Settings
from lm_jax.interop.tables import common
from lm_jax.models import config as models


def config(hf: Settings) -> models.EncoderDecoderConfig:
    """Convert config.json to a model configuration."""
    biased = hf.get("bias", default=True)
    norm = models.NormConfig(epsilon=float(hf.get("layer_norm_eps", default=1e-5)), bias=biased)
    placement = "pre" if hf.get("norm_first", default=False) else "post"
    # torch ends each stack with a norm, even if its layers are post-norm; the paper does not.
    has_norm = [f"transformer.{side}.norm.weight" in hf.tensors for side in ("encoder", "decoder")]
    if has_norm[0] != has_norm[1]:
        raise InputError(f"{hf.file}: only one of encoder and decoder ends with a norm; expected both or neither")
    hf.get("batch_first", default=True)
    # The first belongs to the loss; the others are lengths of training examples.
    for name in ("label_smoothing", "S", "T", "lens", "tlens"):
        hf.get(name, default=None)

    def block(mask: str) -> models.BlockConfig:
        self_attention = models.AttentionConfig(heads=hf.get("nhead"), mask=mask, bias=biased, out_bias=biased)
        cross = models.AttentionConfig(heads=self_attention.heads, mask="full", bias=biased, out_bias=biased)
        width, activation = hf.get("dim_feedforward", default=2048), hf.activation("activation", default="relu")
        return models.BlockConfig(
            attention=self_attention,
            feedforward=models.FeedForwardConfig(width=width, activation=activation, bias=biased),
            norm=norm,
            norm_placement=placement,
            cross=cross if mask == "causal" else None,
        )

    return models.EncoderDecoderConfig(
        embed=models.EmbedConfig(
            vocab=hf.get("vocab_size"), width=hf.get("d_model"), positions="sinusoidal_interleaved", scale=True
        ),
        encoder=models.StackConfig(depth=hf.get("num_encoder_layers"), block=block("full")),
        decoder=models.StackConfig(depth=hf.get("num_decoder_layers"), block=block("causal")),
        norm=norm,
        final_norm=has_norm[0],
    )


def weights(config: models.EncoderDecoderConfig, architecture: str) -> Rules:
    """Return the rules that map checkpoint tensors to parameters."""
    rules = [same("token/embedding", "embed.weight")]
    for side, stack in (("encoder", config.encoder), ("decoder", config.decoder)):
        rules += norm(f"{side}_norm", f"transformer.{side}.norm", config.norm) if config.final_norm else []
        for layer in range(stack.depth):
            rules += _layer(f"{side}/{layer}", f"transformer.{side}.layers.{layer}.", stack.block)
    return rules


def _layer(ours: str, theirs: str, block: models.BlockConfig) -> Rules:
    rules = _attention(f"{ours}/attention", f"{theirs}self_attn", block.attention)
    names = ["attention_norm", "feedforward_norm"]
    if block.cross is not None:
        rules += _attention(f"{ours}/cross", f"{theirs}multihead_attn", block.cross)
        names.insert(1, "cross_norm")
    rules += feedforward(f"{ours}/feedforward", theirs, ("linear1", "linear2"), block.feedforward)
    return rules + common.layer_norms(ours, theirs, {name: f"norm{at + 1}" for at, name in enumerate(names)}, block)


def _attention(ours: str, theirs: str, config: models.AttentionConfig) -> Rules:
    return [
        *fused(ours, f"{theirs}.in_proj", config, "parts", name_format="{}_{}"),
        *out(f"{ours}/out", f"{theirs}.out_proj", config.heads, bias=config.out_bias),
    ]


FAMILY = Family(config=config, weights=weights, smoothing_field="label_smoothing", start_field="bos_token_id")
