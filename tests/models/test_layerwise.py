"""Factors of layer-wise decay, for every way to store layers."""

import numpy as np
import pytest
import tiny

from lm_jax.models import layerwise, transformer
from lm_jax.models.axes import by_path
from lm_jax.models.model import from_module


def factors(preset, over=None, decay=0.5):
    config = tiny.config(preset, over=over)
    axes = from_module(transformer.build_transformer(config)).axes
    result, paths = layerwise.multipliers(config, axes, decay), by_path(axes)
    # Every array broadcasts against its parameter.
    assert all(np.ndim(factor) in (0, len(paths[path])) for path, factor in result.items())
    return {path: np.ravel(factor).tolist() for path, factor in result.items()}, paths


def test_the_factor_falls_from_the_head_to_the_embeddings():
    result, paths = factors("bert", {"stack.depth": 3, "task.classes": 2})
    layers = {path for path in paths if path.startswith("stack/layers/")}
    assert {tuple(result[path]) for path in layers} == {(0.125, 0.25, 0.5)}
    before = {path for path in paths if path.startswith(("token/", "embed/"))}
    assert {tuple(result[path]) for path in before} == {(0.0625,)}
    assert set(result) == layers | before
    assert any(path.startswith("task/") for path in paths) and any(path.startswith("head/") for path in paths)
    assert factors("bert", decay=1.0)[0] == {}


def test_kinds_of_layers_with_their_own_parameters_keep_their_places():
    kinds = {"wide": {"feedforward": {"width": 32}}}
    over = {"stack.depth": 4, "stack.kinds": kinds, "stack.pattern": ("wide", "block", "block", "wide")}
    result, paths = factors("gpt2", over)
    of = lambda start: {tuple(result[path]) for path in paths if path.startswith(start)}
    assert of("stack/layers/") == {(0.125, 0.25)} and of("stack/wide/layers/") == {(0.0625, 0.5)}


def test_layers_that_share_parameters_have_the_factor_of_the_last_of_them():
    result, paths = factors("albert", {"stack.depth": 4, "stack.share.groups": 2, "stack.share.layers": 1})
    assert {tuple(result[path]) for path in paths if path.startswith("stack/layers/")} == {(0.125, 0.5)}


def test_both_stacks_are_counted_from_their_own_outputs():
    result, paths = factors("t5", {"encoder.depth": 2, "decoder.depth": 3})
    of = lambda *start: {tuple(result[path]) for path in paths if path.startswith(start)}
    assert of("encoder/layers/") == {(0.25, 0.5)} and of("decoder/layers/") == {(0.125, 0.25, 0.5)}
    # T5's relative positions, which all layers of a stack share; the table is both sides'.
    assert of("encoder/relative/") == {(0.25,)} and of("decoder/relative/") == {(0.125,)}
    assert of("token/") == {(0.0625,)} and not {path for path in result if path.endswith("_norm/scale")} & {
        "encoder_norm/scale",
        "decoder_norm/scale",
    }


@pytest.mark.parametrize("preset", ["deberta", "electra", "modernbert", "xlnet"])
def test_every_preset_has_factors_for_all_its_layers(preset):
    result, paths = factors(preset)
    assert {path for path in paths if path.startswith("stack/")} <= set(result)
