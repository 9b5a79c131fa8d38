"""A base in 8 or 4 bits: how exactly its matrices are stored, in how many bytes, and that plain parameters agree."""

from statistics import NormalDist

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny

from lm_jax.adapt import AdaptConfig, adapt
from lm_jax.core.config import InputError, from_config_dict
from lm_jax.core.trees import count, flatten, merge, partition, size_bytes, unflatten
from lm_jax.models import quantised
from lm_jax.models.config import KINDS
from lm_jax.models.interface import Inputs
from lm_jax.models.model import build_model
from lm_jax.models.presets import PRESETS

FORMATS = tuple(quantised.FORMATS)
# Half the largest distance of two codes, in scales, and a twentieth of it because scales are rounded up.
HALF_STEP = {"int8": 1.05 / 254, "nf4": 1.05 * (1 - 0.6961928) / 2}
# Rounding of float32 sums, relative to the largest logit; T5 does not scale its scores, so that errors grow.
TOLERANCE = {"t5": 2e-5}
# Encoder, decoder, encoder-decoder, groups of heads, experts.
PRESETS_OF_KINDS = ("bert", "gpt2", "t5", "llama", "mixtral")


def model_of(preset, base, method="lora", **over):
    """A tiny model, and the same with a low-rank product on a base in `base`."""
    config = tiny.config(preset, over=tiny.everywhere(preset, depth=2) | over)
    plain = build_model(config, config.embed.vocab)
    return plain, adapt(plain, AdaptConfig(method=method, rank=2, alpha=2.0, base=base))


def logits(model, params):
    """Logits [2 6 vocab] of random rows."""
    tokens = jnp.asarray(np.random.default_rng(0).integers(7, 56, (2, 6)))
    source = Inputs(tokens=tokens[:, ::-1]) if model.module.config.kind == "encoder_decoder" else None
    inputs = Inputs(tokens=tokens, source=source)
    return tiny.run_once(lambda params: model.bind(params)(inputs, logits=True).logits, params)


def test_the_levels_of_nf4_are_quantiles_of_the_normal_distribution():
    # Dettmers et al. 2023, appendix E: eight positive levels, seven negative ones, and zero.
    offset = (1 - 1 / 32 + 1 - 1 / 30) / 2
    quantiles = lambda count: [NormalDist().inv_cdf(p) for p in np.linspace(offset, 0.5, count)[:-1]]
    levels = np.sort([*quantiles(9), 0.0, *(-level for level in quantiles(8))])
    np.testing.assert_allclose(levels / levels.max(), quantised.NF4, atol=1e-6)


def stored_and_read(x, format, axis, block):
    """The stored matrix and its values."""

    def both(x):
        stored = quantised.quantise(x, format, axis, block)
        return stored, quantised.dequantised(stored)

    return tiny.run_once(both, x)


@pytest.mark.parametrize("format", FORMATS)
def test_a_value_is_stored_to_half_the_distance_of_two_codes(format):
    x = np.random.default_rng(0).standard_normal((3, 192, 40), np.float32) * 0.05
    # A block of zeros, a constant one, and one of tiny values.
    x[0, :64], x[1, :64, 0], x[2, :64, 0] = 0, 0.3, -1e-30
    stored, values = stored_and_read(x, format, 1, 64)
    largest = np.repeat(abs(x).reshape(3, 3, 64, 40).max(2), 64, axis=1)
    # The scales of one group differ by much here: they are rounded by at most 1 / 127 of the largest difference.
    assert (abs(values - x) <= HALF_STEP[format] * largest + HALF_STEP[format] * x.max() / 127).all()
    assert (values[0, :64] == 0).all()
    bits = 8 * size_bytes(stored) / x.size
    assert bits == pytest.approx({"int8": 8.127, "nf4": 4.127}[format], abs=0.003)


@pytest.mark.parametrize("format", [pytest.param("int8", marks=pytest.mark.slow), "nf4"])
def test_matrices_of_one_value_are_stored_exactly(format):
    for value in (0.0, -0.3):
        _, values = stored_and_read(np.full((128, 3), value, np.float32), format, 0, 64)
        np.testing.assert_allclose(values, value, rtol=1e-6)


@pytest.mark.parametrize("format", [pytest.param("int8", marks=pytest.mark.slow), "nf4"])
def test_rows_of_a_table_are_those_of_the_whole_table(format):
    rng = np.random.default_rng(0)
    ids = rng.integers(0, 300, (2, 7))
    stored, values = stored_and_read(rng.standard_normal((300, 96), np.float32), format, 1, 48)
    # The last bit of a scale depends on the program that it is computed in.
    np.testing.assert_allclose(tiny.run_once(quantised.rows, stored, ids), values[ids], rtol=1e-6)


@pytest.mark.parametrize(("format", "most"), [("int8", 0.27), ("nf4", 0.14)])
@pytest.mark.parametrize("preset", ["bert:base", "llama:7b"])
@pytest.mark.slow
def test_the_base_needs_a_quarter_or_an_eighth_of_the_bytes(preset, format, most):
    name, size = preset.split(":")
    tree = PRESETS[name].build(size)
    plain = build_model(from_config_dict(KINDS[tree.kind], tree, "config.model"), tree.embed.vocab or 32000)
    model = adapt(plain, AdaptConfig(method="lora", base=format))
    trained, base = partition(model.shapes, model.trainable)
    assert size_bytes(base) < most * size_bytes(plain.shapes)
    assert count(model.dense_shapes) == count(plain.shapes) + count(trained) + scales(trained)


def scales(trained):
    """The number of scales of low-rank products, which are not trained."""
    return sum(leaf.shape[0] for path, leaf in flatten(trained).items() if path.endswith("/up"))


def test_plain_parameters_give_the_same_logits():
    plain, model = model_of("gpt2", "nf4", **{"stack.scan": "always"})
    params = tiny.random_params(model.shapes)
    expected = logits(model, params)
    folded = tiny.run_once(model.merge, params)
    np.testing.assert_allclose(logits(plain, folded), expected, atol=1e-5 * abs(expected).max())


@pytest.mark.slow
@pytest.mark.parametrize("preset", PRESETS_OF_KINDS)
@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize("method", ["lora", "rslora", "dora"])
def test_it_begins_as_the_rounded_model_and_folds_into_a_plain_one(preset, format, method):
    plain, model = model_of(preset, format, method, **tiny.everywhere(preset, scan="always"))
    params = tiny.random_params(plain.shapes)
    first = tiny.run_once(model.extend, params, jax.random.key(0))
    assert shapes(first) == shapes(model.shapes)
    rounded = tiny.run_once(model.merge, first)
    assert shapes(rounded) == shapes(plain.shapes)
    for path, leaf in flatten(rounded).items():
        whole = flatten(params)[path]
        assert 0 <= abs(leaf - whole).max() <= 0.16 * abs(whole).max(), path
    before = logits(plain, rounded)
    tolerance = TOLERANCE.get(preset, 1e-5)
    np.testing.assert_allclose(logits(model, first), before, atol=tolerance * abs(before).max())
    trained, base = partition(first, model.trainable)
    noise = tiny.random_params(jax.eval_shape(lambda: trained), seed=1)
    tuned = merge(jax.tree.map(lambda leaf, other: leaf + 0.1 * other, trained, noise), base)
    changed = logits(model, tuned)
    assert abs(changed - before).max() > 0.01
    folded = tiny.run_once(model.merge, tuned)
    np.testing.assert_allclose(logits(plain, folded), changed, atol=tolerance * abs(changed).max())


def shapes(tree):
    return {path: (leaf.shape, leaf.dtype) for path, leaf in flatten(tree).items()}


@pytest.mark.slow
@pytest.mark.parametrize("preset", PRESETS_OF_KINDS)
@pytest.mark.parametrize("format", FORMATS)
def test_scanned_layers_equal_unrolled_ones(preset, format):
    _, scanned = model_of(preset, format, **tiny.everywhere(preset, scan="always"))
    _, unrolled = model_of(preset, format, **tiny.everywhere(preset, scan="never"))
    params = tiny.random_params(scanned.shapes)
    expected = logits(unrolled, params)
    np.testing.assert_allclose(logits(scanned, params), expected, atol=1e-5 * abs(expected).max())


@pytest.mark.slow
def test_experts_routers_and_what_is_trained_stay_as_they_are():
    plain, model = model_of("mixtral", "nf4")
    kept = {path for path in flatten(model.shapes) if path in flatten(plain.shapes)}
    assert any("/router/kernel" in path for path in kept)
    kernels = {path for path in kept if path.endswith("/kernel")}
    assert kernels and all("/feedforward/" in path for path in kernels)
    assert all(leaf.dtype == jnp.float32 for path, leaf in flatten(model.shapes).items() if model.trainable(path))


@pytest.mark.slow
def test_scanned_layers_are_dequantised_one_at_a_time():
    over = {"embed.width": 256, "stack.depth": 8, "stack.block.feedforward.width": 1024, "stack.scan": "always"}
    plain, model = model_of("gpt2", "nf4", **over)
    trained, base = partition(model.shapes, model.trainable)

    def loss(trained, base):
        return model.bind(merge(trained, base))(Inputs(tokens=jnp.zeros((1, 4), jnp.int32))).hidden.sum()

    program = jax.jit(jax.grad(loss)).lower(trained, base).compile()
    assert program.memory_analysis().temp_size_in_bytes < 0.5 * size_bytes(plain.shapes)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"method": "lora", "base": "nf3"}, "config.adapt.base .*nf3.*float32, int8, nf4"),
        ({"method": "ia3", "base": "nf4"}, "base is 'nf4', .* set the method to lora or rslora or dora"),
        ({"base": "int8"}, "base is 'int8', but config.adapt.method 'full' does not read it"),
    ],
)
def test_other_bases_and_methods_are_refused(settings, message):
    config = tiny.config("gpt2")
    with pytest.raises(InputError, match=message):
        adapt(build_model(config, 64), AdaptConfig(**settings))


def test_a_matrix_that_cannot_be_divided_is_refused():
    message = "key/kernel is .12, 2, 6., which cannot be divided into blocks of 16 to 64 values"
    with pytest.raises(InputError, match=message):
        model_of("gpt2", "nf4", **{"embed.width": 12, "stack.block.attention.heads": 2})


@pytest.mark.slow
def test_a_part_of_the_parameters_is_quantised_alone():
    plain, model = model_of("gpt2", "nf4")
    shared = {path: leaf for path, leaf in flatten(tiny.random_params(plain.shapes)).items() if "token/" not in path}
    extended = model.extend(unflatten(shared), jax.random.key(0))
    assert {*flatten(extended)} == {path for path in flatten(model.shapes) if "token/" not in path}
