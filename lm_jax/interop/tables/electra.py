"""ELECTRA (Clark et al. 2020, arXiv:2003.10555): a generator or a discriminator, with factorised embeddings."""

from __future__ import annotations

import dataclasses
import functools
from typing import Any

from lm_jax.core.config import InputError
from lm_jax.interop.heads import BERT_DROPOUT, CHOICES, DETECTION, ENCODED, SEQUENCES, Head, Heads
from lm_jax.interop.rules import Rules, dense, norm, same, zeros
from lm_jax.interop.settings import Settings
from lm_jax.interop.tables import bert, common
from lm_jax.models import config as models

DISCRIMINATOR = f"Electra{DETECTION}"


def config(hf: Settings) -> models.TransformerConfig:
    """Convert config.json to a model configuration."""
    name = hf.architecture("ElectraForMaskedLM", "ElectraForCausalLM", DISCRIMINATOR, "ElectraModel")
    hf.expect("position_embedding_type", "absolute")
    width = hf.get("hidden_size")
    factor = hf.get("embedding_size", default=width)
    masked = name in ("ElectraForMaskedLM", "ElectraForCausalLM")
    base = bert.encoder(hf, masked=masked, factor=None if factor == width else factor)
    # The generator's head always uses GELU, the discriminator's the activation of the layers.
    readout = dataclasses.replace(base.readout, transform="gelu" if masked else "")
    activation = base.stack.block.feedforward.activation
    detects = name == DISCRIMINATOR
    return dataclasses.replace(base, readout=readout, detection=detects, detection_activation=activation)


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
    if config.detection or architecture == DISCRIMINATOR:
        # Runs imported before models had this head store it beside the model.
        ours, theirs = "detect" if config.detection else "extra", "discriminator_predictions"
        rules += dense(f"{ours}/dense", f"{theirs}.dense") + dense(f"{ours}/out", f"{theirs}.dense_prediction")
    return rules


def settings(config: models.TransformerConfig) -> dict[str, Any]:
    """Convert a model configuration to config.json; the heads decide the class."""
    if not config.embed.types:
        raise InputError("ELECTRA needs token types")
    name = "ElectraForMaskedLM" if config.readout.transform else DISCRIMINATOR if config.detection else "ElectraModel"
    return {**bert.config_json(config, "electra", name), "embedding_size": config.embed.factor or config.embed.width}


IGNORED = (r"electra\.embeddings\.position_ids", r"generator_lm_head\.weight")
CLASSIFIER = Head(
    out="classifier.out_proj",
    dense="classifier.dense",
    activation="gelu",
    pick="first",
    dropout=BERT_DROPOUT,
    dense_dropout=BERT_DROPOUT,
)
_SUMMARY = functools.partial(common.summary, out="classifier", pick="first", activation="gelu")
HEADS: Heads = {**ENCODED, SEQUENCES: CLASSIFIER, CHOICES: _SUMMARY}
FAMILY = common.encoder(config, weights, settings, HEADS, prefix="electra.", ignored=IGNORED)
