"""Every method of adaptation: what it trains, what it leaves, and that plain parameters give the same outputs."""

import functools

import jax
import jax.numpy as jnp
import laws
import numpy as np
import pytest
import tiny

from lm_jax.adapt import METHODS, AdaptConfig, RankConfig, adapt
from lm_jax.core.config import InputError
from lm_jax.core.trees import flatten, merge, partition
from lm_jax.experiment import rates
from lm_jax.models.interface import Inputs
from lm_jax.models.model import Bound, build_model, from_module
from lm_jax.objectives.causal import Causal, CausalConfig
from lm_jax.objectives.roles import Models, Role

KINDS = {"encoder": "bert", "decoder": "gpt2", "encoder_decoder": "t5"}
# The trained parameters by method: words of which each path has one.
TRAINED = {
    "feedforward": {"feedforward"},
    "attention": {"attention", "cross"},
    "bias": {"bias"},
    "norms": {"scale", "bias"},
    "last": {"apart", "final_norm", "encoder_norm", "decoder_norm"},
    "lora": {"down", "up"},
    "rslora": {"down", "up"},
    "dora": {"down", "up", "magnitude"},
    "ia3": {"inputs", "outputs"},
    "houlsby": {"adapter", "scale", "bias"},
    "pfeiffer": {"adapter"},
    "prompt": {"prompt"},
    "prefix": {"prefix"},
}
LEARNED = ("prompt", "prefix")
LOW_RANK = ("lora", "rslora", "dora")
FOLDED = ("lora", "rslora", "dora", "ia3", "last")


# Methods on a base in codes, `METHOD-BASE`.
QUANTISED = ("lora-int8", "lora-nf4", "dora-nf4")


def config_of(name):
    """The settings of a method, with small products and prompts; of `METHOD-BASE`, on this base."""
    method, _, base = name.partition("-")
    low_rank = {"rank": 2, "alpha": 2.0, "base": base or "float32"}
    sizes = low_rank if method in LOW_RANK else {"tokens": 3} if method in LEARNED else {}
    return AdaptConfig(method=method, **sizes)


def model_of(kind, **over):
    return built(kind, tuple(over.items()))


@functools.cache
def built(kind, over):
    over = dict(over)
    config = tiny.config(KINDS[kind], over=tiny.everywhere(KINDS[kind], depth=2) | over)
    return build_model(config, config.embed.vocab)


def outputs(model, params, seed=0):
    """Hidden states [2 6 embed] of random rows."""
    tokens = jnp.asarray(np.random.default_rng(seed).integers(7, 56, (2, 6)))
    source = Inputs(tokens=tokens[:, ::-1]) if model.module.config.kind == "encoder_decoder" else None
    bound = model if isinstance(model, Bound) else model.bind(params)
    return tiny.run_once(lambda params: bound(Inputs(tokens=tokens, source=source)).hidden, params)


def test_every_method_is_tested():
    # The phases of `gradual` are tested in tests/train/test_phases.py.
    assert {*TRAINED} == {*METHODS} - {"full", "head", "gradual"}


# One for each kind; the others take half a minute together.
BEGINS = {"lora": "encoder_decoder", "dora": "encoder", "last": "decoder"}
PAIRS = [
    pytest.param(kind, method, marks=() if BEGINS.get(method) == kind else pytest.mark.slow)
    for method in FOLDED
    for kind in KINDS
]


@pytest.mark.parametrize(("kind", "method"), PAIRS)
def test_it_begins_as_the_plain_model_and_folds_into_one(kind, method):
    plain = model_of(kind)
    model = adapt(plain, config_of(method))
    base = tiny.random_params(plain.shapes)
    first = model.extend(base, jax.random.key(0))
    assert jax.tree.map(jnp.shape, first) == jax.tree.map(jnp.shape, model.shapes)
    before = outputs(plain, base)
    np.testing.assert_allclose(outputs(model, first), before, atol=1e-5 * abs(before).max())
    trained, frozen = partition(first, model.trainable)
    noise = tiny.random_params(jax.eval_shape(lambda: trained), seed=1)
    tuned = merge(jax.tree.map(lambda leaf, other: leaf + 0.1 * other, trained, noise), frozen)
    changed = outputs(model, tuned)
    assert abs(changed - before).max() > 0.01
    folded = model.merge(tuned)
    assert jax.tree.map(jnp.shape, folded) == jax.tree.map(jnp.shape, from_module(model.module).shapes)
    np.testing.assert_allclose(outputs(Bound(model.module, folded), folded), changed, atol=1e-5 * abs(changed).max())


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("method", TRAINED)
def test_it_trains_what_it_says(kind, method):
    if (kind, method) == ("encoder_decoder", "bias"):
        pytest.skip("T5 has no biases: the method is refused")
    model = adapt(model_of(kind), AdaptConfig(method=method))
    paths = [path for path in flatten(model.shapes) if model.trainable(path)]
    assert paths and all(TRAINED[method] & {*path.split("/")} for path in paths)


QUICK = (("lora", "always"), ("ia3", "never"))
EVERY = [
    pytest.param(method, scan, marks=() if (method, scan) in QUICK else pytest.mark.slow)
    for method in (*TRAINED, *QUANTISED)
    for scan in ("never", "always")
]


@pytest.mark.parametrize(("method", "scan"), EVERY)
def test_it_keeps_the_laws_and_no_frozen_parameter_changes(method, scan, tmp_path):
    rows = [{"tokens": laws.text(count, seed)} for seed, count in enumerate(tiny.LENGTHS)]
    model = model_of("decoder", **{"stack.scan": scan, "embed.max_length": 16})
    objective = Causal(CausalConfig(), tiny.VOCABULARY, 8)
    case = laws.case(objective, {}, rows, models={"model": adapt(model, config_of(method))})
    states = laws.check(case, tmp_path, fall=0.99)
    first, last = states[0], states[-1]
    jax.tree.map(np.testing.assert_array_equal, first.frozen, last.frozen)
    assert {*flatten(first.frozen)} | {*flatten(first.params)} == {*flatten(case.models.shapes)}


def test_targets_are_names_parts_and_axes():
    model = model_of("encoder_decoder")
    kernels = lambda *targets: {
        path.removesuffix("/lora/down")
        for path in flatten(adapt(model, AdaptConfig(method="lora", targets=targets)).shapes)
        if path.endswith("/lora/down")
    }
    assert kernels("cross/query") == {"decoder/layers/cross/query"}
    assert kernels("mlp") == kernels("feedforward")
    assert kernels("query") == {f"{part}/query" for part in PARTS}
    with pytest.raises(InputError, match="'qury', which fits no projection; .* did you mean query"):
        kernels("qury")


PARTS = ("encoder/layers/attention", "decoder/layers/attention", "decoder/layers/cross")


def test_ranks_and_scales_differ_by_target():
    ranks = (RankConfig(target="feedforward", rank=3, alpha=6.0), RankConfig(target="out", rank=5))
    config = AdaptConfig(method="lora", targets=("query", "feedforward"), rank=2, alpha=8.0, ranks=ranks)
    added = flatten(adapt(model_of("decoder"), config).draw(jax.random.key(0)))
    of = lambda name: (added[f"stack/layers/{name}/lora/down"].shape[-1], added[f"stack/layers/{name}/lora/scale"][0])
    assert of("attention/query") == (2, 4) and of("feedforward/in") == (3, 2) and of("feedforward/out") == (5, 1.2)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"targets": ("query",)}, "targets is .'query',., but config.adapt.method 'full' does not read it"),
        ({"method": "ia3", "rank": 4}, "rank is 4, .* set the method to lora or rslora or dora"),
        ({"method": "lora", "ranks": (RankConfig(target="qury", rank=2),)}, "adapt.ranks has 'qury', which fits no"),
        ({"method": "last", "layers": 2}, "layers is 2, but stack has 2 layers"),
        ({"method": "gradual"}, r"every is 0 and config.adapt.steps \(\); set one of them"),
        (
            {"method": "gradual", "every": 2, "steps": (3,)},
            r"every is 2 and config.adapt.steps \(3,\); set one of them",
        ),
        ({"method": "gradual", "steps": (3, 2)}, r"steps is \(3, 2\); expected ascending numbers of steps"),
    ],
)
def test_settings_without_effect_are_refused(settings, message):
    with pytest.raises(InputError, match=message):
        adapt(model_of("decoder"), AdaptConfig(**settings))


@pytest.mark.parametrize("method", ["last", "gradual"])
def test_layers_that_share_parameters_are_refused(method):
    config = tiny.config("albert")
    with pytest.raises(InputError, match=f"method is '{method}', but layers of stack share parameters"):
        adapt(build_model(config, config.embed.vocab), AdaptConfig(method=method, every=2 * (method == "gradual")))


def test_layers_that_are_stored_apart_keep_their_rates():
    plain = model_of("decoder", **{"stack.depth": 3})
    rates_of = lambda model: rates.factors(Models(ROLES, {"model": model}), 0.5)
    path = "layers/attention/query/kernel"
    whole, apart = rates_of(plain), rates_of(adapt(plain, AdaptConfig(method="last", layers=2)))
    assert whole[f"model/stack/{path}"].ravel().tolist() == [0.125, 0.25, 0.5]
    assert apart[f"model/stack/apart/{path}"].ravel().tolist() == [0.25, 0.5]


ROLES = {"model": Role(kinds=("decoder",))}


@pytest.mark.parametrize("kind, method", [("encoder_decoder", "bias"), ("decoder", "head")])
def test_a_method_without_anything_to_train_is_refused(kind, method):
    with pytest.raises(InputError, match=f"config.adapt.method is '{method}', but the model has no such parameters"):
        adapt(model_of(kind), AdaptConfig(method=method))


def test_the_gradient_of_lora_has_no_matrix_of_the_kernels_size():
    model = adapt(model_of("decoder"), AdaptConfig(method="lora", rank=2))
    trained, frozen = partition(model.shapes, model.trainable)

    def loss(trained, frozen):
        return model.bind(merge(trained, frozen))(Inputs(tokens=jnp.zeros((2, 4), jnp.int32))).hidden.sum()

    width = model.module.config.embed.width
    program = str(jax.make_jaxpr(jax.grad(loss))(trained, frozen))
    products = [line for line in program.splitlines() if "dot_general" in line and "transpose" not in line]
    assert products and not any(f"f32[{width},{width}] = dot_general" in line for line in products)
