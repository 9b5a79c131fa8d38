import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lm_jax.core.config import InputError
from lm_jax.decode import generate as generation
from lm_jax.decode import weights
from lm_jax.decode.generate import generate
from lm_jax.decode.sampling import GREEDY, SamplingConfig
from lm_jax.decode.weights import unstacked
from lm_jax.models.interface import Inputs
from lm_jax.models.transformer import build_transformer
from lm_jax.parallel import mesh
from lm_jax.parallel.layout import Layout
from tests import tiny
from tests.decode.small import BOS, PAD, VOCAB, model

PROMPTS = [np.arange(10, 15), np.arange(30, 51), np.array([7])]
ROOM = 10


def generated(recipe="gpt2", prompts=PROMPTS, scan="never", dtype="float32", **options):
    module, params, _ = model(recipe, scan, dtype)
    settings = dict(max_tokens=ROOM, sampling=GREEDY, seed=0, pad=PAD, eos=None, bos=BOS)
    return generate(module, params, prompts, **{**settings, **options})


def tokens(results):
    return [result.tokens.tolist() for result in results]


def by_full_forward(recipe, scan, prompt, count):
    """Greedy tokens and their log-probabilities without a cache: a full forward pass for every token."""
    module, params, _ = model(recipe, scan)
    has_source = module.config.kind == "encoder_decoder"
    start = np.array([PAD]) if has_source else prompt
    row = np.zeros((1, len(start) + count), np.int32)
    row[0, : len(start)] = start
    source = Inputs(tokens=jnp.asarray(prompt, jnp.int32)[None]) if has_source else None

    @jax.jit
    def step(row, place):
        logits = module.apply({"params": params}, Inputs(tokens=row, source=source), logits=True).logits[0, place]
        return logits.argmax(), jax.nn.log_softmax(logits).max()

    log_probabilities = []
    for place in range(len(start), len(start) + count):
        row[0, place], log_probability = step(row, place - 1)
        log_probabilities.append(log_probability)
    return row[0, len(start) :].tolist(), log_probabilities


@pytest.mark.parametrize("scan", ["never", "always"])
@pytest.mark.parametrize("recipe", ["gpt2", "llama", "t5 1.1", "transformer"])
def test_cached_greedy_decoding_is_the_argmax_of_full_forwards(recipe, scan):
    results = generated(recipe, scan=scan)
    number = 0 if scan == "never" else 1
    expected, scores = by_full_forward(recipe, scan, PROMPTS[number], ROOM)
    assert results[number].tokens.tolist() == expected
    # float32: sums in another order.
    np.testing.assert_allclose(results[number].log_probabilities, scores, atol=1e-4)
    assert len({tuple(row) for row in tokens(results)}) == 3


@pytest.mark.parametrize("recipe", ["gpt2", "llama", "t5 1.1", "transformer"])
def test_a_prompt_is_continued_alone_as_in_a_batch(recipe):
    alone = [tokens(generated(recipe, [prompt]))[0] for prompt in (PROMPTS[0], PROMPTS[2])]
    assert tokens(generated(recipe))[::2] == alone
    assert tokens(generated(recipe, [PROMPTS[0], PROMPTS[1][5:], PROMPTS[2]]))[::2] == alone


@pytest.mark.parametrize("recipe", ["t5 1.1", "transformer"])
def test_an_output_that_begins_as_the_greedy_one_goes_on_as_that_does(recipe):
    whole = tokens(generated(recipe))
    openings = [row[:length] for row, length in zip(whole, (4, 0, 2), strict=True)]

    rest = tokens(generated(recipe, openings=openings, max_tokens=6))

    assert rest == [row[len(opening) :][:6] for row, opening in zip(whole, openings, strict=True)]
    with pytest.raises(InputError, match="1 openings for 3 prompts"):
        generated(recipe, openings=[[5]])
    with pytest.raises(InputError, match="opening 1 holds id 999999"):
        generated(recipe, openings=[[], [999999], []])


def test_a_prompt_is_the_prefix_of_a_model_whose_mask_has_one():
    _, params, _ = model()
    module = build_transformer(
        tiny.config("gpt2", over={"stack.scan": "never", "stack.block.attention.mask": "prefix"})
    )
    settings = dict(max_tokens=2, sampling=GREEDY, seed=0, pad=PAD, eos=None, bos=BOS)
    (result,) = generate(module, params, PROMPTS[:1], **settings)
    row = jnp.asarray(np.append(PROMPTS[0], result.tokens), jnp.int32)[None]

    @jax.jit
    def scores(prefix):
        logits = module.apply({"params": params}, Inputs(tokens=row, prefix=prefix[None]), logits=True).logits
        return jax.nn.log_softmax(logits[0, -3:-1]).max(-1)

    # float32: sums in another order.
    np.testing.assert_allclose(result.log_probabilities, scores(jnp.int32(len(PROMPTS[0]))), atol=1e-4)
    assert abs(result.log_probabilities - scores(jnp.int32(1))).max() > 1e-3


def test_draws_do_not_depend_on_the_other_prompts_or_on_padding():
    sampling = SamplingConfig(temperature=1.5)
    first = generated(prompts=PROMPTS[:1], sampling=sampling)[0].tokens
    np.testing.assert_array_equal(first, generated(prompts=PROMPTS, sampling=sampling)[0].tokens)
    np.testing.assert_array_equal(first, generated(prompts=[PROMPTS[0], *PROMPTS[:2]], sampling=sampling)[0].tokens)


def test_the_same_seed_gives_the_same_text_and_another_seed_another():
    sampling = SamplingConfig(temperature=1.5)
    first = tokens(generated(sampling=sampling, seed=1))
    assert first == tokens(generated(sampling=sampling, seed=1)) != tokens(generated(sampling=sampling, seed=2))


def test_equal_prompts_of_a_batch_get_different_draws():
    first, second = tokens(generated(prompts=[PROMPTS[0]] * 2, sampling=SamplingConfig(temperature=1.5)))
    assert first != second


@pytest.mark.parametrize("recipe", ["llama", "t5 1.1"])
@pytest.mark.parametrize("chunk", [1, 4, 100])
def test_streamed_tokens_are_the_returned_tokens(recipe, chunk):
    sampling = SamplingConfig(temperature=1.5, top_k=20)
    expected = generated(recipe, sampling=sampling)
    eos = int(expected[1].tokens[4])
    expected = tokens(generated(recipe, sampling=sampling, eos=eos))
    parts = {0: [], 1: [], 2: []}
    results = generated(
        recipe, sampling=sampling, eos=eos, chunk=chunk, on_tokens=lambda row, new: parts[row].append(new.tolist())
    )
    assert tokens(results) == expected
    assert [sum(parts[row], []) for row in range(3)] == expected
    assert all(len(new) <= chunk for row in parts.values() for new in row)


def test_end_of_text_stops_a_row_and_is_its_last_token():
    endless = generated()
    eos = int(endless[0].tokens[3])
    results = generated(eos=eos)
    for full, result in zip(tokens(endless), results, strict=True):
        stop = full.index(eos) + 1 if eos in full else ROOM
        assert result.tokens.tolist() == full[:stop]
        assert len(result.log_probabilities) == stop
        assert result.finished == (eos in full)
    assert results[0].finished


def test_generation_stops_as_soon_as_all_rows_have_ended():
    calls = []
    eos = int(generated(prompts=PROMPTS[:1])[0].tokens[0])
    generated(prompts=PROMPTS[:1], eos=eos, chunk=1, on_tokens=lambda row, new: calls.append(new.tolist()))
    assert calls == [[eos]]


def test_forbidden_ids_are_never_generated():
    first = generated()
    forbidden = {int(token) for result in first for token in result.tokens}
    assert not forbidden & {token for row in tokens(generated(forbidden=tuple(forbidden))) for token in row}
    sampled = generated(forbidden=range(50), sampling=SamplingConfig(temperature=5.0, top_k=40))
    assert min(token for row in tokens(sampled) for token in row) >= 50


def test_an_empty_prompt_starts_from_bos():
    assert tokens(generated(prompts=[[]])) == tokens(generated(prompts=[[BOS]]))
    assert generated(prompts=[]) == []


def test_a_single_token_can_be_generated():
    assert tokens(generated(max_tokens=1)) == [row[:1] for row in tokens(generated())]


@pytest.mark.parametrize("recipe", ["gpt2", "t5 1.0"])
def test_unstacked_parameters_generate_the_same(recipe):
    module, params, _ = model(recipe)
    once = unstacked(module, params)
    pairs = zip(jax.tree.leaves(unstacked(module, once)), jax.tree.leaves(once), strict=True)
    assert all(twice_leaf is leaf for twice_leaf, leaf in pairs)
    results = generate(module, once, PROMPTS, max_tokens=ROOM, sampling=GREEDY, seed=0, pad=PAD, eos=None, bos=BOS)
    assert tokens(results) == tokens(generated(recipe))


def test_another_number_of_tokens_does_not_compile_again(monkeypatch):
    traces = []
    advance = generation._advance
    monkeypatch.setattr(generation, "_advance", lambda *args: (traces.append(1), advance(*args))[1])
    parts, prompts = [], PROMPTS[:1]
    (longer,) = generated(prompts=prompts, max_tokens=12, last=9)
    compiled = len(traces)
    (shorter,) = generated(prompts=prompts, max_tokens=7, last=9, on_tokens=lambda row, new: parts.extend(new))
    assert compiled >= 2 and len(traces) == compiled
    # Except for the last token, which is forced.
    assert [*longer.tokens[:6], 9] == shorter.tokens.tolist() == parts
    assert (len(longer.tokens), longer.tokens[-1]) == (12, 9)
    np.testing.assert_array_equal(shorter.log_probabilities[:6], longer.log_probabilities[:6])


def test_integers_are_not_cast_and_parameters_of_the_right_dtype_are_not_inspected(monkeypatch):
    module, params, _ = model("t5 1.0", "never", "bfloat16")
    layers = params["encoder"]["layers"]
    kernel = layers["feedforward"]["in"]["kernel"].astype(jnp.int8)
    layers = {**layers, "feedforward": {**layers["feedforward"], "in": {"kernel": kernel}}}
    cast = unstacked(module, {**params, "encoder": {**params["encoder"], "layers": layers}})
    first = cast["encoder"]["layers"][0]
    assert first["feedforward"]["in"]["kernel"].dtype == jnp.int8
    assert first["attention"]["query"]["kernel"].dtype == cast["token"]["embedding"].dtype == jnp.bfloat16
    assert first["attention_norm"]["scale"].dtype == cast["encoder"]["relative"]["table"].dtype == jnp.float32
    monkeypatch.setattr(weights, "from_module", None)
    module, params, _ = model("gpt2", "never", "float32")
    unstacked(module, params)


def test_matrices_cast_in_advance_give_the_logits_of_matrices_cast_in_the_model():
    module, params, _ = model("t5 1.0", "never", "bfloat16")
    inputs = Inputs(tokens=jnp.arange(8)[None], source=Inputs(tokens=jnp.arange(6)[None]))
    forward = jax.jit(lambda params: module.apply({"params": params}, inputs, logits=True).logits)
    logits = [forward(tree) for tree in (params, unstacked(module, params))]
    np.testing.assert_array_equal(*logits)


@pytest.mark.parametrize(
    ("recipe", "scan", "with_layout"), [("llama", "never", True), ("gpt2", "never", False), ("t5 1.1", "always", True)]
)
def test_sharded_parameters_generate_the_same(recipe, scan, with_layout):
    module, params, axes = model(recipe, scan)
    layout = Layout(mesh.make(mesh.MeshConfig(data=2, fsdp=2, tensor=2)))
    sharded = jax.device_put(params, layout.shardings(axes, params))
    settings = dict(max_tokens=ROOM, sampling=GREEDY, seed=0, pad=PAD, eos=None, bos=BOS)
    results = generate(module, sharded, PROMPTS, layout=layout if with_layout else None, **settings)
    assert tokens(results) == tokens(generated(recipe, scan=scan))


def test_a_text_longer_than_the_position_table_is_refused_with_a_limit_that_fits():
    limit = model("gpt2")[0].config.embed.max_length
    generated(prompts=[np.zeros(limit - 2, int)], max_tokens=2)
    with pytest.raises(InputError, match=f"--max_tokens={limit - 40} .*shorten"):
        generated(prompts=[np.zeros(40, int)], max_tokens=limit)
    with pytest.raises(InputError, match="shorten the prompt"):
        generated(prompts=[np.zeros(limit, int)], max_tokens=1)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"max_tokens": 0}, "--max_tokens"),
        ({"seed": -1}, "--seed"),
        ({"prompts": [[VOCAB]]}, f"id {VOCAB}"),
        ({"prompts": [[0.5]]}, "float64"),
        ({"forbidden": range(VOCAB)}, "forbidden"),
        ({"recipe": "bert"}, "encoder"),
    ],
)
def test_invalid_prompts_and_settings_are_refused(options, message):
    with pytest.raises(InputError, match=message):
        generated(**options)


def test_damaged_parameters_are_reported():
    module, params, _ = model()
    damaged = jax.tree.map(lambda leaf: leaf * jnp.nan, params)
    with pytest.raises(InputError, match="NaN or infinity"):
        generate(module, damaged, PROMPTS, max_tokens=ROOM, sampling=GREEDY, seed=0, pad=PAD, eos=None, bos=BOS)
