"""DeBERTa-v2 and v3 (He et al. 2020, arXiv:2006.03654; 2021, arXiv:2111.09543), with any of their heads."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from lm_jax.core.config import InputError
from lm_jax.interop.heads import CHOICES, ENCODED, SEQUENCES, TOKENS, Head, Heads
from lm_jax.interop.rules import Rule, Rules, dense, heads, norm, same, transposed, unused, zeros
from lm_jax.interop.settings import ACTIVATION_NAMES, Settings
from lm_jax.interop.tables import bert, common
from lm_jax.models import config as models

MASKED = "DebertaV2ForMaskedLM"
_TABLE = "deberta.encoder.rel_embeddings.weight"
_TERMS = {"c2p": "content_to_position", "p2c": "position_to_content"}
# Tensor names of the masked-LM head in the original models and in the class's first releases, to those of the class.
_ORIGINAL_HEAD_NAMES = {
    "lm_predictions.lm_head.dense.weight": "cls.predictions.transform.dense.weight",
    "lm_predictions.lm_head.dense.bias": "cls.predictions.transform.dense.bias",
    "lm_predictions.lm_head.LayerNorm.weight": "cls.predictions.transform.LayerNorm.weight",
    "lm_predictions.lm_head.LayerNorm.bias": "cls.predictions.transform.LayerNorm.bias",
    "lm_predictions.lm_head.bias": "cls.predictions.bias",
}


def config(hf: Settings) -> models.TransformerConfig:
    """Convert config.json to a model configuration."""
    has_head = "cls.predictions.transform.dense.weight" in hf.tensors
    # The released models do not name their class.
    name = hf.architecture(*((MASKED, "DebertaV2Model") if has_head else ("DebertaV2Model", MASKED)))
    masked, width = name == MASKED, hf.get("hidden_size")
    factor = hf.get("embedding_size", default=width)
    legacy, tied = hf.get("legacy", default=True), hf.get("tie_word_embeddings", default=True)
    if masked and factor != width and not (legacy and tied):
        raise InputError(
            f"{hf.file}: embedding_size is {factor} and hidden_size {width}; {MASKED} supports two widths only where "
            "legacy and tie_word_embeddings are true"
        )
    norm = models.NormConfig(epsilon=float(hf.get("layer_norm_eps", default=1e-7)))
    activation = hf.activation("hidden_act", default="gelu")
    max_length = hf.get("max_position_embeddings", default=512)
    return models.TransformerConfig(
        kind="encoder",
        embed=models.EmbedConfig(
            vocab=hf.get("vocab_size"),
            width=width,
            factor=None if factor == width else factor,
            factor_bias=False,
            positions="learned" if hf.get("position_biased_input", default=True) else "none",
            max_length=max_length,
            types=hf.get("type_vocab_size", default=0),
            norm=True,
            norm_last=True,
            blank_padding=True,
        ),
        stack=_stack(hf, norm, activation, max_length),
        norm=norm,
        final_norm=False,
        readout=models.ReadoutConfig(
            tied=tied or not legacy or not masked, bias=masked, transform=activation if masked else ""
        ),
    )


def _stack(hf: Settings, norm: models.NormConfig, activation: str, max_length: int) -> models.StackConfig:
    width, count, depth = hf.get("hidden_size"), hf.get("num_attention_heads"), hf.get("num_hidden_layers")
    hf.expect("attention_head_size", width // count)
    block = models.BlockConfig(
        attention=_attention(hf, count, width // count, max_length),
        feedforward=models.FeedForwardConfig(width=hf.get("intermediate_size"), activation=activation),
        norm=norm,
        norm_placement="post",
    )
    size = hf.get("conv_kernel_size", default=0)
    groups, conv_activation = hf.get("conv_groups", default=1), hf.activation("conv_act", default="tanh")
    if size <= 0:
        return models.StackConfig(depth=depth, block=block)
    first = {"neighbours": models.NeighboursConfig(width=size, activation=conv_activation, groups=groups)}
    return common.stack(depth, block, {"first": first}, ["first", *["block"] * (depth - 1)])


def _attention(hf: Settings, count: int, head_width: int, max_length: int) -> models.AttentionConfig:
    terms = hf.get("pos_att_type", default=[])
    terms = [term.strip() for term in terms.lower().split("|")] if isinstance(terms, str) else list(terms)
    if unknown := set(terms) - {*_TERMS, ""}:
        raise InputError(f"{hf.file}: pos_att_type has {', '.join(sorted(unknown))}; supported are {', '.join(_TERMS)}")
    norms = {part.strip() for part in hf.get("norm_rel_ebd", default="none").lower().split("|")}
    if unknown := norms - {"none", "layer_norm", ""}:
        raise InputError(f"{hf.file}: norm_rel_ebd has {', '.join(sorted(unknown))}; supported are none and layer_norm")
    buckets, distance = hf.get("position_buckets", default=-1), hf.get("max_relative_positions", default=-1)
    disentangled = models.DisentangledConfig(
        buckets=max(buckets, 0),
        max_distance=distance if distance > 0 else max_length,
        content_to_position="c2p" in terms,
        position_to_content="p2c" in terms,
        share=hf.get("share_att_key", default=False),
        norm="layer_norm" in norms,
    )
    # The scale counts all terms, even where relative positions are off.
    scale = (head_width * disentangled.terms) ** -0.5
    used = hf.get("relative_attention", default=False) and disentangled.terms > 1
    return models.AttentionConfig(
        heads=count,
        mask="full",
        position="disentangled" if used else "none",
        scale=None if used or disentangled.terms == 1 else scale,
        disentangled=disentangled if used else models.DisentangledConfig(),
    )


def weights(config: models.TransformerConfig, architecture: str) -> Rules:
    """Return the rules that map checkpoint tensors to parameters."""
    block, readout, embed = config.stack.block, config.readout, config.embed
    rules = [same("token/embedding", "deberta.embeddings.word_embeddings.weight")]
    rules += norm("embed/norm", "deberta.embeddings.LayerNorm", config.norm)
    if embed.positions == "learned":
        rules += [same("embed/position", "deberta.embeddings.position_embeddings.weight")]
    rules += [same("embed/types", "deberta.embeddings.token_type_embeddings.weight")] if embed.types else []
    rules += [transposed("embed/project/kernel", "deberta.embeddings.embed_proj.weight")] if embed.factor else []
    rules += _relative(block)
    if readout.transform:
        rules += dense("head/transform", "cls.predictions.transform.dense")
        rules += norm("head/norm", "cls.predictions.transform.LayerNorm", config.norm)
        rules += common.readout(readout, "cls.predictions.decoder.weight")
        rules += [same("head/bias", "cls.predictions.bias" if readout.tied else "cls.predictions.decoder.bias")]
        # An untied head has its own bias; the class stores the other one without using it.
        rules += [] if readout.tied else unused(same("extra/bias", "cls.predictions.bias"))
    elif embed.factor:
        rules += [zeros("head/factor/kernel", embed.width, embed.factor)]
    for layer in range(config.stack.depth):
        rules += _layer(f"stack/{layer}", f"deberta.encoder.layer.{layer}.", block)
    if "first" in config.stack.kinds:
        rules += [
            _convolution(config.stack.kind("first").neighbours.groups),
            same("stack/0/neighbours/bias", "deberta.encoder.conv.conv.bias"),
            *norm("stack/0/neighbours/norm", "deberta.encoder.conv.LayerNorm", block.norm),
        ]
    return rules


def _relative(block: models.BlockConfig) -> Rules:
    """Return the rules of the relative position table, which checkpoints may store even if no score uses it."""
    used = block.attention.position == "disentangled"
    top = "stack/relative" if used else "extra/relative"
    rules = [same(f"{top}/table", _TABLE)]
    if not used or block.attention.disentangled.norm:
        rules += norm(f"{top}/norm", "deberta.encoder.LayerNorm", block.norm)
    return rules if used else unused(*rules)


def _layer(ours: str, theirs: str, block: models.BlockConfig) -> Rules:
    names = common.under("attention.", "self.query_proj", "self.key_proj", "self.value_proj", "output.dense")
    rules = common.layer(ours, theirs, block, attention=names, feedforward=bert.FEEDFORWARD, norms=bert.NORMS)
    settings = block.attention.disentangled
    separate = block.attention.position == "disentangled" and not settings.share
    for name, used in (("key", settings.content_to_position), ("query", settings.position_to_content)):
        if separate and used:
            projection = f"{theirs}attention.self.pos_{name}_proj"
            rules += heads(f"{ours}/attention/place_{name}", projection, block.attention.heads, bias=True)
    return rules


def _convolution(groups: int) -> Rule:
    """Return a kernel's rule: theirs [out, in / groups, width]; ours [width, groups, in / groups, out / groups]."""

    def load(array: Any) -> tuple[Any]:
        out, group_in, width = array.shape
        return (array.reshape(groups, out // groups, group_in, width).transpose(3, 0, 2, 1),)

    def save(array: Any) -> tuple[Any]:
        width, _, group_in, group_out = array.shape
        return (array.transpose(1, 3, 2, 0).reshape(groups * group_out, group_in, width),)

    return Rule(("stack/0/neighbours/kernel",), ("deberta.encoder.conv.conv.weight",), load, save)


def aliases_of(tree: Mapping[str, Any], names: Collection[str]) -> Mapping[str, str]:
    """Map the checkpoint's names of the masked-LM head to the table's names, where they differ."""
    renamed = set(_ORIGINAL_HEAD_NAMES) <= set(names) and not set(_ORIGINAL_HEAD_NAMES.values()) & set(names)
    return _ORIGINAL_HEAD_NAMES if renamed or tree.get("legacy") is False else {}


def settings(config: models.TransformerConfig) -> dict[str, Any]:
    """Convert a model configuration to config.json."""
    block, embed, task = config.stack.block, config.embed, config.task
    attention = block.attention.disentangled
    if config.kind != "encoder" or block.attention.position != "disentangled":
        raise InputError("DeBERTa must be an encoder with disentangled attention")
    return {
        **bert.config_json(config, "deberta-v2", MASKED),
        "embedding_size": embed.factor or embed.width,
        "max_relative_positions": attention.max_distance,
        "position_buckets": attention.buckets or -1,
        "position_biased_input": embed.positions == "learned",
        "pos_att_type": [theirs for theirs, ours in _TERMS.items() if getattr(attention, ours)],
        "norm_rel_ebd": "layer_norm" if attention.norm else "none",
        "relative_attention": True,
        "share_att_key": attention.share,
        **({"pooler_hidden_act": ACTIVATION_NAMES[task.activation]} if task.dense else {}),
    }


def _classifier(tree: Mapping[str, Any]) -> Head:
    """Return the classifier of sequences and of choices, which has a pooler of its own."""
    width = tree.get("hidden_size")
    if tree.get("pooler_hidden_size", width) != width:
        raise InputError(
            f"config.json: pooler_hidden_size is {tree['pooler_hidden_size']}, and supported is hidden_size, {width}"
        )
    return Head(
        out="classifier",
        dense="pooler.dense",
        activation=common.activation(tree, "pooler_hidden_act", "gelu"),
        pick="first",
        dropout=("cls_dropout", "hidden_dropout_prob", 0.1),
        dense_dropout=("pooler_dropout", 0.0),
    )


HEADS: Heads = {
    **ENCODED,
    TOKENS: Head(out="classifier", dropout=("hidden_dropout_prob", 0.1)),
    SEQUENCES: _classifier,
    CHOICES: _classifier,
}
IGNORED = (
    r"deberta\.embeddings\.(position_ids|position_embeddings\.weight)",
    r"cls\.predictions\..*",
    r"mask_predictions\..*",
    r"pooler\.dense\.\w+",
)
FAMILY = common.encoder(
    config, weights, settings, HEADS, prefix="deberta.", ignored=IGNORED, aliases_of=aliases_of, isolated_padding=True
)
