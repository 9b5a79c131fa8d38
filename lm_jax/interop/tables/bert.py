"""BERT (Devlin et al. 2019, arXiv:1810.04805), with any of its heads."""

from __future__ import annotations

from typing import Any

from lm_jax.core.config import InputError
from lm_jax.interop.heads import ENCODED, on_pooler, pooler
from lm_jax.interop.rules import Rules, dense, dense_reversed, norm, same
from lm_jax.interop.settings import Settings
from lm_jax.interop.tables import common
from lm_jax.models import config as models

# Classes with the masked-LM head.
MASKED = ("BertForPreTraining", "BertForMaskedLM", "BertLMHeadModel")
FEEDFORWARD = ("intermediate.dense", "output.dense")
NORMS = {"attention_norm": "attention.output.LayerNorm", "feedforward_norm": "output.LayerNorm"}


def config(hf: Settings) -> models.TransformerConfig:
    """Convert config.json to a model configuration."""
    name = hf.architecture(*MASKED, "BertModel", "BertForNextSentencePrediction")
    hf.expect("position_embedding_type", "absolute")
    return encoder(hf, masked=name in MASKED, paired="cls.seq_relationship.weight" in hf.tensors)


def encoder(
    hf: Settings, *, masked: bool, paired: bool = False, factor: int | None = None, default: str = "gelu", **embed: Any
) -> models.TransformerConfig:
    """Return a post-norm encoder, or a decoder with the same layers.

    Args:
      hf: the fields of config.json.
      masked: whether it has the masked-LM head.
      paired: whether it has the sentence-pair head.
      factor: width of the embedding tables; None: the hidden size.
      default: the activation if config.json has none.
      **embed: fields of `EmbedConfig` that differ from BERT's.
    """
    hf.expect("add_cross_attention", False)
    decodes = hf.get("is_decoder", default=False)
    norm = models.NormConfig(epsilon=float(hf.get("layer_norm_eps", default=1e-12)))
    activation = hf.activation("hidden_act", default=default)
    block = models.BlockConfig(
        attention=models.AttentionConfig(heads=hf.get("num_attention_heads"), mask="causal" if decodes else "full"),
        feedforward=models.FeedForwardConfig(width=hf.get("intermediate_size"), activation=activation),
        norm=norm,
        norm_placement="post",
    )
    settings: dict[str, Any] = dict(
        vocab=hf.get("vocab_size"),
        width=hf.get("hidden_size"),
        factor=factor,
        types=hf.get("type_vocab_size", default=2),
        norm=True,
        max_length=hf.get("max_position_embeddings"),
    )
    tied = hf.get("tie_word_embeddings", default=True) or not masked
    return models.TransformerConfig(
        kind="decoder" if decodes else "encoder",
        embed=models.EmbedConfig(**{**settings, **embed}),
        stack=models.StackConfig(depth=hf.get("num_hidden_layers"), block=block),
        norm=norm,
        final_norm=False,
        readout=models.ReadoutConfig(tied=tied, bias=masked, transform=activation if masked else ""),
        pair_classes=2 if paired else 0,
    )


def weights(config: models.TransformerConfig, architecture: str) -> Rules:
    """Return the rules that map checkpoint tensors to parameters."""
    rules, top = embedding(config, "bert.embeddings.") + layers(config, "bert.encoder.layer."), "cls.predictions"
    rules += common.masked_head(config, f"{top}.transform.dense", f"{top}.transform.LayerNorm", top)
    if not config.pair_classes:
        return rules
    head = dense_reversed if numbers_next_first(architecture) else dense
    return rules + dense("pair/pooler", "bert.pooler.dense") + head("pair/out", "cls.seq_relationship")


def numbers_next_first(architecture: str) -> bool:
    """Whether class 0 of the pair head means that the second sentence follows the first; ours is class 1."""
    return architecture.startswith("Bert")


def embedding(config: models.TransformerConfig, theirs: str) -> Rules:
    """Return the rules of the embedding tables under `theirs` and of their norm."""
    rules = [
        same("token/embedding", f"{theirs}word_embeddings.weight"),
        same("embed/position", f"{theirs}position_embeddings.weight"),
        *norm("embed/norm", f"{theirs}LayerNorm", config.norm),
    ]
    return rules + ([same("embed/types", f"{theirs}token_type_embeddings.weight")] if config.embed.types else [])


def layers(config: models.TransformerConfig, theirs: str) -> Rules:
    """Return the rules of the layers, whose names are `theirs` and a number."""
    names = common.under("attention.", "self.query", "self.key", "self.value", "output.dense")
    return common.layers(config.stack, theirs, attention=names, feedforward=FEEDFORWARD, norms=NORMS)


def settings(config: models.TransformerConfig) -> dict[str, Any]:
    """Convert a model configuration to config.json."""
    if not config.embed.types:
        raise InputError("BERT needs token types")
    paired = config.pair_classes == 2
    tree = config_json(config, "bert", "BertForPreTraining" if paired else "BertForMaskedLM")
    return {**tree, "tensors": ("cls.seq_relationship.weight",) if paired else ()}


def config_json(config: models.TransformerConfig, kind: str, architecture: str) -> dict[str, Any]:
    """Return the config.json fields that BERT and its relatives share; arguments as in `common.config_json`."""
    if config.kind != "encoder":
        raise InputError("BERT and its relatives are encoders")
    rates = dict(dropout="hidden_dropout_prob", attention_dropout="attention_probs_dropout_prob")
    return {**common.config_json(config, kind, architecture, **rates), "type_vocab_size": config.embed.types}


IGNORED = (r"bert\.embeddings\.position_ids", r"bert\.pooler\.dense\.\w+", r"cls\.predictions\.decoder\.\w+")
POOLER = pooler("bert.pooler.dense")
FAMILY = common.encoder(
    config,
    weights,
    settings,
    {**ENCODED, **on_pooler(POOLER)},
    pooler=POOLER,
    prefix="bert.",
    ignored=IGNORED,
    copies={"cls.predictions.decoder.bias": "cls.predictions.bias"},
    distinguishing={"BertForPreTraining": "cls.seq_relationship.weight"},
)
