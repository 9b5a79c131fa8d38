"""ELECTRA (Clark et al. 2020, arXiv:2003.10555): a generator or a discriminator, with factorised embeddings."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from lm_jax.core.config import InputError
from lm_jax.interop.heads import DETECTION, ENCODED, SEQUENCES, Head
from lm_jax.interop.rules import Rules, dense, norm, same, zeros
from lm_jax.interop.settings import ACTIVATIONS, Settings
from lm_jax.interop.tables import bert, common
from lm_jax.models import config as models


def config(hf: Settings) -> models.TransformerConfig:
    """Convert config.json to a model configuration."""
    name = hf.architecture("ElectraForMaskedLM", "ElectraForCausalLM", "ElectraModel")
    hf.expect("position_embedding_type", "absolute")
    width = hf.get("hidden_size")
    factor = hf.get("embedding_size", default=width)
    masked = name in ("ElectraForMaskedLM", "ElectraForCausalLM")
    base = bert.encoder(hf, masked=masked, classes=0, factor=None if factor == width else factor)
    # The generator's head always uses GELU.
    readout = dataclasses.replace(base.readout, transform="gelu" if masked else "")
    return dataclasses.replace(base, readout=readout)


def weights(config: models.TransformerConfig, architecture: str) -> Rules:
    """Return the rules that map checkpoint tensors to parameters."""
    rules = [*bert.embedding(config, "electra.embeddings."), *bert.layers(config, "electra.encoder.layer.")]
    width, factor = config.embed.width, config.embed.factor
    if factor is not None:
        rules += dense("embed/project", "electra.embeddings_project")
    if config.readout.transform:
        rules += dense("head/transform", "generator_predictions.dense")
        rules += norm("head/norm", "generator_predictions.LayerNorm", config.norm)
        rules += [same("head/bias", "generator_lm_head.bias")]
        rules += common.readout(config.readout, "generator_lm_head.weight")
    elif factor is not None:
        rules += [zeros("head/factor/kernel", width, factor)]
    return rules


def _detector(tree: Mapping[str, Any]) -> Head:
    """Return the discriminator's head, which classifies each token."""
    top, activation = "discriminator_predictions", ACTIVATIONS[tree.get("hidden_act", "gelu")]
    return Head(out=f"{top}.dense_prediction", dense=f"{top}.dense", activation=activation)


def settings(config: models.TransformerConfig) -> dict[str, Any]:
    """Convert a model configuration to config.json: a generator if it has a masked-LM head, else a discriminator."""
    if not config.embed.types:
        raise InputError("ELECTRA needs token types")
    name = "ElectraForMaskedLM" if config.readout.transform else "ElectraModel"
    return {**bert.config_json(config, "electra", name), "embedding_size": config.embed.factor or config.embed.width}


IGNORED = (r"electra\.embeddings\.position_ids", r"generator_lm_head\.weight")
CLASSIFIER = Head(out="classifier.out_proj", dense="classifier.dense", activation="gelu", pick="first")
HEADS = {**ENCODED, SEQUENCES: CLASSIFIER, DETECTION: _detector}
FAMILY = common.encoder(config, weights, settings, HEADS, prefix="electra.", ignored=IGNORED)
