"""All versions of T5, mT5 (Xue et al. 2021, arXiv:2010.11934) and UMT5 (Chung et al. 2023, arXiv:2304.09151)."""

from __future__ import annotations

import dataclasses
import functools
from typing import Any

from lm_jax.core.config import InputError
from lm_jax.interop import heads
from lm_jax.interop.family import Family
from lm_jax.interop.rules import Rules, norm, same
from lm_jax.interop.settings import ACTIVATION_NAMES, Settings
from lm_jax.interop.tables import common
from lm_jax.models import config as models

_TABLE = "SelfAttention.relative_attention_bias.weight"


def config(hf: Settings, *, shared: bool, scales: bool, classes: tuple[str, ...]) -> models.ModelConfig:
    """Convert config.json to a model configuration.

    Args:
      hf: the fields of config.json.
      shared: whether all layers share one table of relative positions.
      scales: whether the class scales the hidden states before the readout if config.json says so.
      classes: the supported Hugging Face classes.
    """
    name = hf.architecture(*classes)
    hf.expect("is_decoder", False)
    kind = hf.get("feed_forward_proj", default="relu")
    activation = "gelu_new" if kind == "gated-gelu" else kind.removeprefix("gated-")
    feedforward = models.FeedForwardConfig(
        width=hf.get("d_ff"),
        activation=hf.activation("dense_act_fn", default=activation),
        gated=hf.get("is_gated_act", default=kind.startswith("gated-")),
        bias=False,
    )
    norm = models.NormConfig(name="rms", epsilon=float(hf.get("layer_norm_epsilon", default=1e-6)))
    attention = models.AttentionConfig(
        heads=hf.get("num_heads"), head_dim=hf.get("d_kv"), mask="full", scale=1.0, bias=False, out_bias=False
    )
    buckets = models.BucketConfig(
        buckets=hf.get("relative_attention_num_buckets", default=32),
        max_distance=hf.get("relative_attention_max_distance", default=128),
        shared=shared,
    )
    self_attention = dataclasses.replace(attention, position="buckets", buckets=buckets)
    block = models.BlockConfig(attention=self_attention, feedforward=feedforward, norm=norm)
    causal = dataclasses.replace(block, attention=dataclasses.replace(self_attention, mask="causal"), cross=attention)
    depth = hf.get("num_layers")
    # transformers 5 renamed the field that sets the scale, and no longer accepts tie_word_embeddings: false.
    scaled = hf.get("scale_decoder_outputs", "tie_word_embeddings", default=True)
    scaled = hf.tree.get("tie_word_embeddings", True) if "scale_decoder_outputs" not in hf.tree else scaled
    embed = models.EmbedConfig(vocab=hf.get("vocab_size"), width=hf.get("d_model"), positions="none")
    encoder = models.StackConfig(depth=depth, block=block)
    decoder = models.StackConfig(depth=hf.get("num_decoder_layers", default=depth), block=causal)
    if name.endswith(("EncoderModel", heads.TOKENS)):
        return models.TransformerConfig(kind="encoder", embed=embed, stack=encoder, norm=norm)
    return models.EncoderDecoderConfig(
        embed=embed,
        encoder=encoder,
        decoder=decoder,
        norm=norm,
        readout=models.ReadoutConfig(tied="lm_head.weight" not in hf.tensors, scale=scaled and scales),
    )


def weights(config: models.ModelConfig, architecture: str) -> Rules:
    """Return the rules that map checkpoint tensors to parameters."""
    rules = [same("token/embedding", "shared.weight")]
    rules += common.readout(config.readout, "lm_head.weight")
    if isinstance(config, models.TransformerConfig):
        return [*rules, *norm("final_norm", "encoder.final_layer_norm", config.norm), *_side("stack", config.stack)]
    for side, stack in (("encoder", config.encoder), ("decoder", config.decoder)):
        rules += norm(f"{side}_norm", f"{side}.final_layer_norm", config.norm) + _side(side, stack)
    return rules


def _side(ours: str, stack: models.StackConfig) -> Rules:
    """Return the rules of a stack; an encoder alone is `stack` in our parameters and `encoder` in checkpoints."""
    side, block, rules = "encoder" if ours == "stack" else ours, stack.block, []
    shared, last = block.attention.buckets.shared, 1 if block.cross is None else 2
    names, matrices = ("q", "k", "v", "o"), ("wi_0", "wi_1", "wo") if block.feedforward.gated else ("wi", "wo")
    if shared:
        rules += [same(f"{ours}/relative/table", f"{side}.block.0.layer.0.{_TABLE}")]
    for layer in range(stack.depth):
        theirs = f"{side}.block.{layer}.layer."
        rules += common.layer(
            f"{ours}/{layer}",
            theirs,
            block,
            attention=common.under("0.SelfAttention.", *names),
            cross=common.under("1.EncDecAttention.", *names),
            feedforward=common.under(f"{last}.DenseReluDense.", *matrices),
            norms={
                "attention_norm": "0.layer_norm",
                "cross_norm": "1.layer_norm",
                "feedforward_norm": f"{last}.layer_norm",
            },
        )
        rules += [] if shared else [same(f"{ours}/{layer}/relative/table", f"{theirs}0.{_TABLE}")]
    return rules


def settings(config: models.EncoderDecoderConfig, *, name: str) -> dict[str, Any]:
    """Convert a model configuration to config.json; `name` is the prefix of the class names."""
    if config.kind != "encoder_decoder":
        raise InputError(f"{name} must be an encoder-decoder")
    block, buckets = config.encoder.block, config.encoder.block.attention.buckets
    activation, gated = ACTIVATION_NAMES[block.feedforward.activation], block.feedforward.gated
    projection = "gated-gelu" if gated and activation == "gelu_new" else f"gated-{activation}" if gated else activation
    tied = config.readout.tied
    return {
        "model_type": name.lower(),
        "architectures": [f"{name}ForConditionalGeneration"],
        "tensors": () if tied else ("lm_head.weight",),
        "vocab_size": config.embed.vocab,
        "d_model": config.embed.width,
        "d_kv": block.attention.head_width(config.embed.width),
        "d_ff": block.feedforward.width or 4 * config.embed.width,
        "num_layers": config.encoder.depth,
        "num_decoder_layers": config.decoder.depth,
        "num_heads": block.attention.heads,
        "relative_attention_num_buckets": buckets.buckets,
        "relative_attention_max_distance": buckets.max_distance,
        "feed_forward_proj": projection,
        "layer_norm_epsilon": config.norm.epsilon,
        "dropout_rate": block.dropout,
        "is_encoder_decoder": True,
        "tie_word_embeddings": tied,
        **({"scale_decoder_outputs": config.readout.scale} if config.readout.scale != tied else {}),
        "torch_dtype": "float32",
    }


_IGNORED = (
    r"(encoder|decoder)\.embed_tokens\.weight",
    # T5's first checkpoints store this table, which no release reads.
    r"decoder\.block\.0\.layer\.1\.EncDecAttention\.relative_attention_bias\.weight",
)


# Two of these classes call their model `transformer`.
_HEADS: heads.Heads = {
    heads.TOKENS: heads.Head(out="classifier", prefix="transformer.", dropout=("classifier_dropout", 0.0)),
    heads.SEQUENCES: dataclasses.replace(heads.END_CLASSIFIER, prefix="transformer."),
    heads.ANSWERS: heads.Head(out="qa_outputs"),
}


def _family(name: str, *, shared: bool = True, scales: bool = True) -> Family:
    classes = (f"{name}ForConditionalGeneration", f"{name}WithLMHeadModel", f"{name}Model", f"{name}EncoderModel")
    return Family(
        config=functools.partial(config, shared=shared, scales=scales, classes=classes),
        weights=weights,
        heads=_HEADS,
        settings=functools.partial(settings, name=name),
        ignored=_IGNORED,
    )


FAMILY = _family("T5")
# mT5's class never scales the hidden states.
MT5 = _family("MT5", scales=False)
UMT5 = _family("UMT5", shared=False)
