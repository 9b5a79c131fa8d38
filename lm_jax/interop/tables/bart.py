"""BART (Lewis et al. 2020, arXiv:1910.13461), Marian and Pegasus (Zhang et al. 2020, arXiv:1912.08777).

BART learns positions and normalises embeddings; Marian and Pegasus have sinusoidal positions; Pegasus is pre-norm, with
a norm at the end of both stacks.
"""

from __future__ import annotations

import functools
from typing import Any

import numpy as np

from lm_jax.core.config import InputError
from lm_jax.interop.family import Family
from lm_jax.interop.heads import ANSWERS, END_CLASSIFIER, SEQUENCES, Head
from lm_jax.interop.rules import Rules, constant, norm, row, same, unused
from lm_jax.interop.settings import ACTIVATION_NAMES, Settings
from lm_jax.interop.tables import common
from lm_jax.models import config as models

_NORM = models.NormConfig(epsilon=1e-5)
_NORMS = {
    "attention_norm": "self_attn_layer_norm",
    "feedforward_norm": "final_layer_norm",
    "cross_norm": "encoder_attn_layer_norm",
}


def config(hf: Settings, *, classes: tuple[str, ...], learned: bool, placement: str) -> models.EncoderDecoderConfig:
    """Convert config.json to a model configuration.

    Args:
      hf: the fields of config.json.
      classes: the supported Hugging Face classes.
      learned: learned positions and normalised embeddings instead of sinusoidal positions.
      placement: `norm_placement` of the layers; pre-norm stacks end with a norm.
    """
    hf.architecture(*classes)
    hf.expect("is_decoder", False)
    tied, one_table = hf.tied(True), hf.get("share_encoder_decoder_embeddings", default=True)
    # Before transformers 5, both sides shared a table even where the readout was untied.
    shared = one_table and (tied or "model.encoder.embed_tokens.weight" not in hf.tensors)
    vocab, decoder_vocab = hf.get("vocab_size"), hf.get("decoder_vocab_size", default=None)
    activation = hf.activation("activation_function", default="gelu")

    def block(side: str) -> models.BlockConfig:
        self_attention = models.AttentionConfig(
            heads=hf.get(f"{side}_attention_heads"), mask="causal" if side == "decoder" else "full"
        )
        cross = models.AttentionConfig(heads=self_attention.heads, mask="full") if side == "decoder" else None
        feedforward = models.FeedForwardConfig(width=hf.get(f"{side}_ffn_dim"), activation=activation)
        return models.BlockConfig(
            attention=self_attention, feedforward=feedforward, norm=_NORM, norm_placement=placement, cross=cross
        )

    return models.EncoderDecoderConfig(
        embed=models.EmbedConfig(
            vocab=vocab,
            width=hf.get("d_model", "hidden_size"),
            positions="learned" if learned else "sinusoidal_halves",
            max_length=hf.get("max_position_embeddings"),
            offset=2 if learned else 0,
            norm=learned,
            scale=hf.get("scale_embedding", default=False),
        ),
        share_embed=shared,
        decoder_vocab=None if shared or one_table else decoder_vocab,
        encoder=models.StackConfig(depth=hf.get("encoder_layers"), block=block("encoder")),
        decoder=models.StackConfig(depth=hf.get("decoder_layers"), block=block("decoder")),
        norm=_NORM,
        final_norm=placement == "pre",
        readout=models.ReadoutConfig(tied=tied, bias="final_logits_bias" in hf.tensors),
    )


def weights(config: models.EncoderDecoderConfig, architecture: str) -> Rules:
    """Return the rules that map checkpoint tensors to parameters."""
    rules = [same("token/embedding", "model.shared.weight")]
    if not config.share_embed:
        rules = [same("token/embedding", "model.encoder.embed_tokens.weight")]
        rules += [same("decoder_token/embedding", "model.decoder.embed_tokens.weight")]
        rules += unused(same("extra/unused", "model.shared.weight"))
    rules += common.readout(config.readout, "lm_head.weight")
    rules += [row("head/bias", "final_logits_bias")] if config.readout.bias else []
    for side, stack in (("encoder", config.encoder), ("decoder", config.decoder)):
        top = f"model.{side}."
        if config.embed.positions == "learned":
            rules += [same(f"{side}_embed/position", f"{top}embed_positions.weight")]
            rules += norm(f"{side}_embed/norm", f"{top}layernorm_embedding", config.norm)
        elif config.final_norm:
            # Pegasus's checkpoints store the sinusoids; Marian's do not.
            table = functools.partial(_sinusoids, config.embed.max_length, config.embed.width)
            rules += [constant(f"{top}embed_positions.weight", table)]
        rules += norm(f"{side}_norm", f"{top}layer_norm", config.norm) if config.final_norm else []
        rules += common.layers(
            stack,
            f"{top}layers.",
            ours=side,
            attention=common.under("self_attn.", *common.PROJECTIONS),
            cross=common.under("encoder_attn.", *common.PROJECTIONS),
            feedforward=("fc1", "fc2"),
            norms=_NORMS,
        )
    return rules


def _sinusoids(length: int, width: int) -> np.ndarray:
    angles = np.arange(length)[:, None] / 10000.0 ** (2 * np.arange((width + 1) // 2) / width)
    return np.concatenate([np.sin(angles), np.cos(angles)[:, : width // 2]], 1).astype(np.float32)


def settings(config: models.EncoderDecoderConfig, *, name: str, architecture: str) -> dict[str, Any]:
    """Convert a model configuration to config.json; `name` is its `model_type`."""
    if config.kind != "encoder_decoder" or not config.share_embed or not config.readout.tied:
        raise InputError(f"{architecture} needs one token table, shared by both sides and the readout")
    block = config.encoder.block
    sides = {}
    for side, stack in (("encoder", config.encoder), ("decoder", config.decoder)):
        sides[f"{side}_layers"] = stack.depth
        sides[f"{side}_attention_heads"] = stack.block.attention.heads
        sides[f"{side}_ffn_dim"] = stack.block.feedforward.width or 4 * config.embed.width
    return {
        "model_type": name,
        "architectures": [architecture],
        "tensors": ("final_logits_bias",) if config.readout.bias else (),
        "vocab_size": config.embed.vocab,
        "d_model": config.embed.width,
        **sides,
        "activation_function": ACTIVATION_NAMES[block.feedforward.activation],
        "max_position_embeddings": config.embed.max_length,
        "scale_embedding": config.embed.scale,
        "is_encoder_decoder": True,
        "tie_word_embeddings": True,
        "attention_dropout": block.attention.dropout,
        "activation_dropout": block.feedforward.dropout,
        "dropout": block.dropout,
        "torch_dtype": "float32",
    }


_IGNORED = (r"model\.(encoder|decoder)\.embed_tokens\.weight", r"lm_head\.weight")


def _family(kind: str, *classes: str, learned: bool = False, placement: str = "post") -> Family:
    ignored = _IGNORED if learned else (*_IGNORED, r"model\.(encoder|decoder)\.embed_positions\.weight")
    return Family(
        config=functools.partial(config, classes=classes, learned=learned, placement=placement),
        weights=weights,
        settings=functools.partial(settings, name=kind, architecture=classes[0]),
        heads={SEQUENCES: END_CLASSIFIER, ANSWERS: Head(out="qa_outputs")} if learned else {},
        prefix="model.",
        ignored=ignored,
        frozen_padding=True,
    )


FAMILY = _family("bart", "BartForConditionalGeneration", "BartModel", learned=True)
MARIAN = _family("marian", "MarianMTModel", "MarianModel")
PEGASUS = _family("pegasus", "PegasusForConditionalGeneration", "PegasusModel", placement="pre")
