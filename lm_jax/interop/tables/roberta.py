"""RoBERTa (Liu et al. 2019, arXiv:1907.11692) and XLM-RoBERTa: BERT's layers; positions count from row pad + 1 on."""

from __future__ import annotations

import dataclasses
import functools

from lm_jax.interop.family import Family
from lm_jax.interop.rules import Rules, dense, norm, same
from lm_jax.interop.settings import Settings
from lm_jax.interop.tables import bert
from lm_jax.models import config as models


def config(hf: Settings, *, name: str) -> models.TransformerConfig:
    """Their settings to ours; `name` begins the names of their classes."""
    masked, classifier = f"{name}ForMaskedLM", f"{name}ForSequenceClassification"
    found = hf.architecture(masked, classifier, f"{name}Model", f"{name}ForQuestionAnswering")
    for field, value in (
        ("position_embedding_type", "absolute"),
        ("is_decoder", False),
        ("add_cross_attention", False),
    ):
        hf.expect(field, value)
    hf.expect("tie_word_embeddings", True)
    offset = hf.get("pad_token_id", default=1) + 1
    room = hf.get("max_position_embeddings") - offset
    classes = hf.labels() if found == classifier else 0
    made = bert.encoder(hf, masked=found == masked, classes=classes, offset=offset, max_length=room)
    # The head's activation is not the layers'.
    readout = dataclasses.replace(made.readout, transform="gelu" if found == masked else "")
    return dataclasses.replace(made, readout=readout)


def weights(config: models.TransformerConfig, architecture: str) -> Rules:
    """Which tensor is which."""
    rules = [*bert.embedding(config, "roberta.embeddings."), *bert.layers(config, "roberta.encoder.layer.")]
    if config.readout.transform:
        rules += dense("head/transform", "lm_head.dense")
        rules += norm("head/norm", "lm_head.layer_norm", config.norm)
        rules += [same("head/bias", "lm_head.bias")]
    if config.pair_classes:
        rules += dense("pair/pooler", "classifier.dense") + dense("pair/out", "classifier.out_proj")
    elif architecture.endswith("Model"):
        rules += [dataclasses.replace(rule, optional=True) for rule in dense("extra/pooler", "roberta.pooler.dense")]
    if architecture.endswith("ForQuestionAnswering"):
        rules += dense("extra/out", "qa_outputs")
    return rules


IGNORED = (r"roberta\.embeddings\.position_ids", r"roberta\.pooler\.dense\.\w+", r"lm_head\.decoder\.\w+")


def _family(name: str) -> Family:
    read = functools.partial(config, name=name)
    return Family(config=read, weights=weights, prefix="roberta.", ignored=IGNORED, counted="real", still_padding=True)


FAMILY = _family("Roberta")
XLM = _family("XLMRoberta")
