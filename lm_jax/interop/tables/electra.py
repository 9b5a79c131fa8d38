"""ELECTRA (Clark et al. 2020, arXiv:2003.10555): a generator or a discriminator, with narrow tables."""

from __future__ import annotations

from lm_jax.interop.family import Family
from lm_jax.interop.rules import Rules, absent, dense, norm, same
from lm_jax.interop.settings import Settings
from lm_jax.interop.tables import bert
from lm_jax.models import config as models


def config(hf: Settings) -> models.TransformerConfig:
    """Their settings to ours."""
    name = hf.architecture("ElectraForPreTraining", "ElectraForMaskedLM", "ElectraModel")
    for field, value in (
        ("position_embedding_type", "absolute"),
        ("is_decoder", False),
        ("add_cross_attention", False),
    ):
        hf.expect(field, value)
    hf.expect("tie_word_embeddings", True)
    # The heads' activation is always this one.
    hf.expect("hidden_act", "gelu")
    width = hf.get("hidden_size")
    factor = hf.get("embedding_size", default=width)
    masked = name == "ElectraForMaskedLM"
    return bert.encoder(hf, masked=masked, classes=0, factor=None if factor == width else factor)


def weights(config: models.TransformerConfig, architecture: str) -> Rules:
    """Which tensor is which."""
    rules = [*bert.embedding(config, "electra.embeddings."), *bert.layers(config, "electra.encoder.layer.")]
    width, factor = config.embed.width, config.embed.factor
    if factor is not None:
        rules += dense("embed/project", "electra.embeddings_project")
    if config.readout.transform:
        rules += dense("head/transform", "generator_predictions.dense")
        rules += norm("head/norm", "generator_predictions.LayerNorm", config.norm)
        rules += [same("head/bias", "generator_lm_head.bias")]
    elif factor is not None:
        rules += [absent("head/factor/kernel", width, factor)]
    if architecture == "ElectraForPreTraining":
        rules += dense("extra/dense", "discriminator_predictions.dense")
        rules += dense("extra/out", "discriminator_predictions.dense_prediction")
    return rules


IGNORED = (r"electra\.embeddings\.position_ids", r"generator_lm_head\.weight")
FAMILY = Family(config=config, weights=weights, prefix="electra.", ignored=IGNORED, still_padding=True)
