"""Which tokens influence which, by gradient, and properties of complete models."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny

from lm_jax.core.config import InputError
from lm_jax.models.heads import gather
from lm_jax.models.interface import Inputs
from lm_jax.models.transformer import build_transformer

LENGTH, SOURCE = 10, 6
DECODERS = [("gpt2", "blockwise"), ("llama", "dense"), ("t5", "dense"), ("t5", "blockwise"), ("transformer", "dense")]
ENCODER_DECODERS = [case for case in DECODERS if case[0] in ("t5", "transformer")]
ENCODERS = [("bert", "dense"), ("bert", "blockwise")]
SEGMENTS = np.array([1, 1, 1, 1, 2, 2, 2, 2, 0, 0])


def rows(length, first):
    """Two rows of distinct tokens."""
    return jnp.arange(first, first + 2 * length).reshape(2, length)


def inputs_of(preset):
    """Row 0 is one text; row 1 holds two texts and padding."""
    segments = jnp.asarray(np.stack([np.ones(LENGTH, int), SEGMENTS]), jnp.int32)
    if len(tiny.stacks(preset)) == 1:
        return Inputs(tokens=rows(LENGTH, 1), segments=segments)
    source = Inputs(tokens=rows(SOURCE, 30), segments=jnp.array([[1] * SOURCE, [1, 1, 1, 1, 0, 0]]))
    return Inputs(tokens=rows(LENGTH, 1), segments=segments, source=source)


@functools.cache
def influence(preset, kernel):
    """[row, position, token]: whether the hidden state at a position depends on the embedding of a token.

    Measured by the gradient with respect to a row of the token table, because no token occurs twice.
    """
    # One layer: if no layer passes information on, no stack does.
    settings = {"depth": 1, "block__attention__kernel": kernel, "block__attention__block": 4}
    over = tiny.everywhere(preset, **settings)
    if len(tiny.stacks(preset)) == 2:
        over |= {"decoder.block.cross.kernel": kernel, "decoder.block.cross.block": 4}
    inputs = inputs_of(preset)
    model, params = tiny.build(tiny.config(preset, over=over), inputs)
    direction = jnp.cos(jnp.arange(64.0))

    def hidden(table):
        replaced = {**params, "token": {**params["token"], "embedding": table}}
        return model.apply({"params": replaced}, inputs).hidden @ direction

    gradients = jax.jit(jax.jacrev(hidden))(params["token"]["embedding"])
    return np.asarray(jnp.abs(gradients).max(-1) > 0)


def influence_within(preset, kernel, row):
    """[position, position] of one row: whether the hidden state at the first depends on the token at the second."""
    tokens = np.asarray(inputs_of(preset).tokens[row])
    return influence(preset, kernel)[row][:, tokens]


@pytest.mark.parametrize(("preset", "kernel"), DECODERS)
def test_a_token_sees_itself_and_the_past_and_never_the_future(preset, kernel):
    np.testing.assert_array_equal(influence_within(preset, kernel, 0), np.tri(LENGTH, dtype=bool))


@pytest.mark.parametrize(("preset", "kernel"), DECODERS)
def test_a_token_sees_its_own_text_only(preset, kernel):
    same = (SEGMENTS[:, None] == SEGMENTS) & np.tri(LENGTH, dtype=bool)
    real = SEGMENTS > 0
    np.testing.assert_array_equal(influence_within(preset, kernel, 1)[real], same[real])


@pytest.mark.parametrize(("preset", "kernel"), ENCODER_DECODERS)
def test_every_target_token_sees_the_whole_source_without_its_padding(preset, kernel):
    seen = influence(preset, kernel)
    tokens = np.asarray(inputs_of(preset).source.tokens)
    assert seen[0][:, tokens[0]].all()
    np.testing.assert_array_equal(seen[1][:, tokens[1]][SEGMENTS > 0], np.tile([1, 1, 1, 1, 0, 0], (8, 1)).astype(bool))


@pytest.mark.parametrize(("preset", "kernel"), ENCODERS)
def test_an_encoder_sees_everything_but_padding_and_other_texts(preset, kernel):
    assert influence_within(preset, kernel, 0).all()
    real = SEGMENTS > 0
    np.testing.assert_array_equal(influence_within(preset, kernel, 1)[real], (SEGMENTS[:, None] == SEGMENTS)[real])


def test_visible_padding_attends_to_all_tokens_and_changes_none_of_them():
    tokens, mask = rows(6, 1), jnp.array([[1] * 6, [1, 1, 1, 1, 0, 0]])
    model, params = tiny.build(tiny.config("bert", over={"stack.depth": 1}), Inputs(tokens=tokens))
    positions = jnp.where(mask > 0, jnp.arange(6)[None], 9)
    cases = [Inputs(tokens=tokens, segments=mask), Inputs(tokens=tokens, visible=mask, positions=positions)]
    run = lambda params: [model.apply({"params": params}, case, show=("attention",)) for case in cases]
    apart, visible = tiny.run_once(run, params)
    real = np.asarray(mask) > 0
    np.testing.assert_allclose(np.asarray(visible.hidden)[real], np.asarray(apart.hidden)[real], atol=1e-5)
    (weights,) = visible.shown.attention
    np.testing.assert_array_equal(np.asarray(weights)[1] > 0, np.broadcast_to(real[1], weights.shape[1:]))


@pytest.mark.parametrize(("preset", "kernel"), DECODERS + ENCODERS)
def test_rows_of_a_batch_do_not_see_each_other(preset, kernel):
    seen, tokens = influence(preset, kernel), np.asarray(inputs_of(preset).tokens)
    assert not seen[0][:, tokens[1]].any()
    assert not seen[1][:, tokens[0]].any()


SPARSE = {
    "window": ({"attention.window": 3}, lambda i, j: i - 3 < j <= i),
    "strided": (
        {"attention.window": 2, "attention.stride": 4},
        lambda i, j: j <= i and (j > i - 2 or (i - j) % 4 == 0),
    ),
    "prefix": ({"attention.mask": "prefix"}, lambda i, j: j <= i or j < 4),
    "alibi": (
        {"attention.position": "alibi", "attention.softcap": 5.0, "norm_placement": "parallel"},
        lambda i, j: j <= i,
    ),
    "rotary": (
        {"attention.position": "rotary", "attention.rotary.interleaved": True, "norm_placement": "sandwich"}
        | {"attention.qk_norm": True, "attention.kv_heads": 1, "attention.window": 3},
        lambda i, j: i - 3 < j <= i,
    ),
}


@pytest.mark.parametrize(("settings", "allowed"), SPARSE.values(), ids=SPARSE)
def test_a_token_sees_the_keys_that_its_mask_allows(settings, allowed):
    # One layer: if no layer passes information on, no stack does.
    over = {"embed.width": 16, "stack.depth": 1, "stack.block.feedforward.width": 16}
    block = {"attention.kernel": "blockwise", "attention.block": 4} | settings
    inputs = Inputs(tokens=rows(LENGTH, 1)[:1], prefix=jnp.array([4]))
    config = tiny.config("gpt2", over=over | {f"stack.block.{key}": value for key, value in block.items()})
    model, params = tiny.build(config, inputs)

    def hidden(table):
        replaced = {**params, "token": {"embedding": table}}
        return model.apply({"params": replaced}, inputs).hidden @ jnp.cos(jnp.arange(16.0))

    gradients = jax.jit(jax.jacrev(hidden))(params["token"]["embedding"])
    seen = np.asarray(jnp.abs(gradients).max(-1) > 0)[0][:, np.asarray(inputs.tokens[0])]
    expected = [[allowed(i, j) for j in range(LENGTH)] for i in range(LENGTH)]
    np.testing.assert_array_equal(seen, expected)


def test_windows_alibi_and_one_key_head_compute_in_two_calls_what_they_compute_in_one():
    settings = {"kv_heads": 1, "window": 3, "position": "alibi", "softcap": 4.0, "qk_norm": True}
    over = {f"stack.block.attention.{key}": value for key, value in settings.items()}
    model, params = tiny.build(tiny.config("llama", over={**over, "stack.depth": 1}), Inputs(tokens=rows(7, 1)))
    apply = functools.partial(model.apply, {"params": params})

    @jax.jit
    def both():
        first = apply(Inputs(tokens=rows(7, 1)[:, :5]), cache=model.empty_cache(2, 8))
        second = apply(Inputs(tokens=rows(7, 1)[:, 5:]), cache=first.cache)
        return jnp.concatenate([first.hidden, second.hidden], 1), apply(Inputs(tokens=rows(7, 1))).hidden

    assert model.empty_cache(2, 8).layers[0]["self"]["key"].shape == (2, 1, 8, 16)
    np.testing.assert_allclose(*both(), atol=2e-5)


def test_a_factorised_table_has_its_own_width():
    inputs = Inputs(tokens=rows(5, 1))
    over = {"embed.factor": 24, "embed.types": 2, "readout.transform": "gelu", "stack.depth": 1}
    model, params = tiny.build(tiny.config("bert", over=over), inputs)
    shape = lambda *path: functools.reduce(lambda tree, key: tree[key], path, params).shape
    assert shape("token", "embedding") == (64, 24)
    assert shape("embed", "position") == (128, 24)
    assert shape("embed", "norm", "scale") == (24,)
    assert shape("embed", "project", "kernel") == (24, 64)
    assert shape("head", "transform", "kernel") == (64, 24)
    hidden = jnp.float32(np.random.default_rng(0).standard_normal((1, 3, 64)))
    opt, untransformed = tiny.build(tiny.config("gpt2", over={"embed.factor": 24, "stack.depth": 1}), inputs)
    logits = jax.jit(lambda params: opt.apply({"params": params}, hidden, method="readout"))(untransformed)
    expected = hidden @ untransformed["head"]["factor"]["kernel"] @ untransformed["token"]["embedding"].T
    np.testing.assert_allclose(logits, expected, atol=2e-5)


@pytest.mark.parametrize("preset", ("llama", "t5"))
def test_two_calls_with_a_cache_compute_what_one_call_does(preset):
    inputs = Inputs(tokens=rows(6, 1), source=inputs_of("t5").source if preset == "t5" else None)
    model, params = tiny.build(tiny.config(preset, over=tiny.everywhere(preset, scan="always")), inputs)
    read = jax.jit(lambda inputs, cache=None: model.apply({"params": params}, inputs, cache=cache))
    first = read(inputs.replace(tokens=inputs.tokens[:, :3]), model.empty_cache(2, 8, SOURCE if preset == "t5" else 0))
    # The cache holds the keys and values of the source.
    second = read(Inputs(tokens=inputs.tokens[:, 3:]), first.cache)
    # float32 sums also include the cache's empty slots, in another order.
    hidden = jnp.concatenate([first.hidden, second.hidden], 1)
    np.testing.assert_allclose(hidden, read(inputs).hidden, atol=2e-5)


@pytest.fixture(scope="module")
def encoder():
    """One layer of BERT with dropout 0.1: model, parameters, inputs, and its outputs without dropout."""
    inputs = Inputs(tokens=rows(LENGTH, 1))
    model, params = tiny.build(tiny.config("bert", over={"stack.depth": 1}), inputs)
    rest = jax.jit(lambda key: model.apply({"params": params}, inputs, rngs={"dropout": key}, logits=True))
    return model, params, inputs, rest


def test_dropout_acts_in_training_only_and_is_a_function_of_its_key(encoder):
    model, params, inputs, rest = encoder
    train = jax.jit(lambda key: model.apply({"params": params}, inputs, train=True, rngs={"dropout": key}).hidden)
    # Random numbers of this kind compile in a tenth of the time.
    one, two = (jax.random.key(seed, impl="unsafe_rbg") for seed in (1, 2))
    first, again, other = train(one), train(one), train(two)
    np.testing.assert_array_equal(first, again)
    assert tiny.largest_difference(first, other) > 0.1
    np.testing.assert_array_equal(rest(one).hidden, rest(two).hidden)
    assert tiny.largest_difference(first, rest(one).hidden) > 0.1


def test_bfloat16_is_close_to_float32_and_keeps_float32_parameters(encoder):
    _, params, inputs, rest = encoder
    model = build_transformer(tiny.config("bert", over={"stack.depth": 1, "dtype": "bfloat16"}))
    rough = jax.jit(lambda: model.apply({"params": params}, inputs, logits=True))()
    assert rough.hidden.dtype == rough.logits.dtype == jnp.bfloat16
    assert {leaf.dtype for leaf in jax.tree.leaves(tiny.shapes(model, inputs))} == {jnp.dtype("float32")}
    # Normalised states of size 1 to 3, a dozen roundings of 2^-9 relative error each.
    np.testing.assert_allclose(
        rough.hidden.astype(jnp.float32), rest(jax.random.key(0, impl="unsafe_rbg")).hidden, atol=0.08
    )


def test_logits_of_gathered_states_are_the_gathered_logits(encoder):
    model, params, _, rest = encoder
    output = rest(jax.random.key(0, impl="unsafe_rbg"))
    logits = model.apply({"params": params}, output.hidden[:, 3:5], method="readout")
    np.testing.assert_allclose(logits, output.logits[:, 3:5], atol=2e-5)


@pytest.mark.parametrize(
    ("preset", "scan"), [("bert", "never"), ("bert", "always"), ("palm", "never"), ("t5", "never")]
)
def test_read_hidden_states_are_the_gathered_hidden_states(preset, scan):
    inputs, read, key = inputs_of(preset), jnp.array([[0, 4], [3, 3]]), jax.random.key(0)
    settings = {"scan": scan, "block__feedforward__dropout": 0.0, "block__dropout": 0.3}
    model, params = tiny.build(tiny.config(preset, over=tiny.everywhere(preset, **settings)), inputs)

    def squares(params, narrow):
        narrowed = inputs.replace(read=read if narrow else None)
        hidden = model.apply({"params": params}, narrowed, train=True, rngs={"dropout": key}).hidden
        hidden = hidden if narrow else gather(hidden, read)
        return jnp.square(hidden).sum(), hidden

    compute = jax.jit(jax.value_and_grad(squares, has_aux=True), static_argnums=1)
    ((_, narrowed), gradients), ((_, gathered), expected) = compute(params, True), compute(params, False)
    np.testing.assert_allclose(narrowed, gathered, atol=1e-5)
    assert tiny.largest_difference(gradients, expected) < 1e-4
    flops = [compute.lower(params, narrow).cost_analysis()["flops"] for narrow in (True, False)]
    assert (flops[0] < 0.9 * flops[1]) == ((preset, scan) in (("bert", "never"), ("t5", "never")))


@pytest.mark.parametrize(("preset", "tied"), [("gpt2", True), ("llama", False)])
def test_a_tied_readout_is_the_token_table_and_an_untied_one_a_separate_matrix(preset, tied):
    model, params = tiny.build(tiny.config(preset), Inputs(tokens=rows(4, 1)))
    hidden = jnp.float32(np.random.default_rng(0).standard_normal((2, 3, 64)))
    table = params["token"]["embedding"].T if tied else params["head"]["out"]["kernel"]
    assert ("head" in params) != tied
    logits = model.apply({"params": params}, hidden, method="readout")
    np.testing.assert_allclose(logits, np.float64(hidden) @ np.float64(table), atol=2e-5)


def test_t5s_tied_readout_is_scaled():
    model, params = tiny.build(tiny.config("t5", version="1.0"), inputs_of("t5"))
    hidden = jnp.ones((1, 1, 64))
    logits = model.apply({"params": params}, hidden, method="readout")
    np.testing.assert_allclose(logits[0, 0], params["token"]["embedding"].sum(1) / 8, atol=1e-5)


def test_as_many_key_heads_as_query_heads_is_ordinary_attention():
    inputs = Inputs(tokens=rows(5, 1))
    shapes = lambda groups: tiny.shapes(
        build_transformer(tiny.config("llama", over={"stack.block.attention.kv_heads": groups})), inputs
    )["stack"]["layers"]["attention"]
    assert shapes(4) == shapes(None)
    assert shapes(2)["key"]["kernel"].shape == (2, 64, 2, 16)
    assert shapes(2)["query"]["kernel"].shape == (2, 64, 4, 16)


def test_too_long_an_input_is_refused_by_learned_positions():
    config = tiny.config("gpt2", over={"embed.max_length": 4})
    with pytest.raises(InputError, match="an input of 5 tokens, but config.model.embed.max_length is 4"):
        jax.eval_shape(
            lambda: build_transformer(config).init(jax.random.key(0), Inputs(tokens=rows(5, 1)), method="everything")
        )


def test_an_encoder_decoder_without_a_source_is_refused():
    with pytest.raises(InputError, match="needs inputs.source"):
        build_transformer(tiny.config("t5")).init(jax.random.key(0), Inputs(tokens=rows(5, 1)), method="everything")
