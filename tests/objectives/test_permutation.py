"""XLNet's factorisation orders: which tokens are predicted, in which order, and what each prediction depends on."""

import dataclasses
import functools
import json
import math

import jax
import jax.numpy as jnp
import laws
import numpy as np
import pytest
import tiny
import typechecker
from interop.cases import case as stored_case

from lm_jax import interop
from lm_jax.core.config import InputError
from lm_jax.models.interface import Inputs, Past
from lm_jax.models.model import Bound
from lm_jax.objectives.base import Part
from lm_jax.objectives.permutation import Permutation, PermutationConfig

VOCABULARY = tiny.VOCABULARY
CLS, SEP = VOCABULARY.cls, VOCABULARY.sep
PAIRS = Permutation(PermutationConfig(), VOCABULARY, 51)
PACKED = Permutation(PermutationConfig(pairs=False), VOCABULARY, 50)
ROWS, TARGETS = 10_000, 8
STILL = {**tiny.STILL, "stack.block.feedforward.dropout": 0.0}


def pair(first, second):
    return {"first": laws.text(first), "second": laws.text(second, 1)}


@pytest.fixture(scope="module")
def many():
    """The features of 10,000 packed rows with 48 tokens of text."""
    rng, row = np.random.default_rng(0), {"tokens": laws.text(48)}
    with typechecker.off():
        rows = [PACKED.features(row, rng) for _ in range(ROWS)]
    return {name: np.stack([features[name] for features in rows]) for name in rows[0]}


def test_a_row_ends_with_sep_and_cls():
    row, rng = pair(20, 25), np.random.default_rng(0)
    features = PAIRS.features(row, rng)
    tokens = [*row["first"], SEP, *row["second"], SEP, CLS]
    np.testing.assert_array_equal(features["tokens"], tokens + [VOCABULARY.pad] * 3)
    np.testing.assert_array_equal(features["types"][:48], [0] * 21 + [1] * 26 + [2])
    np.testing.assert_array_equal(features["segments"], [1] * 48 + [0] * 3)
    features = PACKED.features({"tokens": row["first"]}, rng)
    np.testing.assert_array_equal(features["tokens"][:23], [*row["first"], SEP, CLS, VOCABULARY.pad])
    np.testing.assert_array_equal(features["types"][:23], [0] * 21 + [2, 0])
    assert (PAIRS.reads.plan, PAIRS.reads.length) == ("pairs", 48)
    assert (PACKED.reads.plan, PACKED.reads.length) == ("packed", 48)


@pytest.mark.parametrize(("objective", "row"), [(PAIRS, pair(15, 16)), (PACKED, {"tokens": laws.text(30)})])
def test_targets_and_special_tokens_are_a_permutation_and_the_others_context(objective, row):
    for seed in range(50):
        features = objective.features(row, np.random.default_rng(seed))
        used = int(features["weights"].sum())
        targets, unused = np.split(features["targets"], [used])
        assert used == 5 and (unused == -1).all() and len(set(targets)) == used
        np.testing.assert_array_equal(features["labels"][:used], features["tokens"][targets])
        assert not {CLS, SEP, VOCABULARY.pad} & set(features["labels"][:used])
        ordered = np.union1d(targets, np.flatnonzero(np.isin(features["tokens"], (CLS, SEP))))
        assert sorted(features["ranks"][ordered]) == list(range(1, len(ordered) + 1))
        assert features["ranks"].sum() == features["ranks"][ordered].sum()


def test_one_token_in_six_is_predicted_anywhere_in_the_row(many):
    assert (many["weights"].sum(1) == TARGETS).all() and (many["ranks"].max(1) == TARGETS + 2).all()
    share = np.bincount(many["targets"].ravel(), minlength=48) / ROWS
    assert share.sum() == pytest.approx(48 / 6)
    # Contexts have fixed borders, near which spans of several tokens begin or end less often.
    assert share.min() > 0.05 and share[8:40].mean() == pytest.approx(1 / 6, rel=0.1)


def test_every_order_of_the_targets_is_as_likely(many):
    moved = np.concatenate([many["targets"], np.full((ROWS, 2), [48, 49])], 1)
    ranks = np.take_along_axis(many["ranks"], moved, 1)
    counts = np.stack([np.bincount(column, minlength=TARGETS + 3)[1:] for column in ranks.T])
    # Each rank a tenth of the time: 5 standard errors are 150 of 10,000 rows. Each pair in either order: 250.
    np.testing.assert_allclose(counts, ROWS / 10, atol=150)
    before = (ranks[:, :, None] < ranks[:, None, :]).sum(0)
    np.testing.assert_allclose(before[~np.eye(10, dtype=bool)], ROWS / 2, atol=250)


@pytest.mark.parametrize("lengths", ["uniform", "inverse"])
def test_the_lengths_of_spans_are_drawn_until_they_meet_the_goal(lengths):
    config = PermutationConfig(lengths=lengths)
    objective, rng = Permutation(config, VOCABULARY, 50), np.random.default_rng(0)
    drawn = [objective.spans(48, TARGETS, rng) for _ in range(ROWS // 2)]
    shares = {"uniform": np.full(5, 0.2), "inverse": np.array([60, 30, 20, 15, 12]) / 137}[lengths]
    # reached[n]: probability that spans hold n tokens before the last one is drawn; a span beyond the goal is cut.
    reached, expected = np.zeros(TARGETS + 5), np.zeros(5)
    reached[0] = 1
    for done in range(TARGETS):
        for length, share in enumerate(shares, 1):
            expected[min(length, TARGETS - done) - 1] += reached[done] * share
            reached[done + length] += reached[done] * share
    counts = np.bincount(np.concatenate([lengths for _, lengths in drawn]), minlength=6)[1:]
    # 5 standard errors of at most 0.01 per row.
    np.testing.assert_allclose(counts / len(drawn), expected, atol=0.05)
    for starts, sizes in drawn[:200]:
        stops = starts + sizes
        assert sizes.sum() == TARGETS and starts[0] >= 0 and stops[-1] <= 48 and (starts[1:] >= stops[:-1]).all()


def test_whole_words_are_predicted_or_context():
    begins = np.random.default_rng(1).random(VOCABULARY.size) < 0.6
    vocabulary = dataclasses.replace(VOCABULARY, starts_word=begins)
    objective = Permutation(PermutationConfig(whole_words=True, pairs=False), vocabulary, 130)
    predicted = 0
    for seed in range(200):
        text = laws.text(128, seed)
        chosen = np.isin(np.arange(128), objective.choose(text, np.random.default_rng(seed)))
        word = np.cumsum(begins[text])
        assert all(len(set(chosen[word == index])) == 1 for index in np.unique(word))
        assert chosen.sum() <= objective.predictions == 21
        predicted += chosen.sum()
    assert 0.8 < predicted / 200 / 21 < 1
    with pytest.raises(InputError, match="whole_words is true, but the tokenizer"):
        Permutation(PermutationConfig(whole_words=True), VOCABULARY, 130)


@pytest.mark.parametrize("one_in", [1, 2, 3, 6])
def test_rows_of_every_length_keep_a_context_token(one_in):
    objective = Permutation(PermutationConfig(one_in=one_in, pairs=False), VOCABULARY, 24)
    for size in range(objective.reads.length + 1):
        features = objective.features({"tokens": laws.text(size)}, np.random.default_rng(size))
        used = int(features["weights"].sum())
        assert used == max(0, min(max(1, round(size / one_in)), size - 1))
        assert ((features["ranks"][:size] > 0).sum() == used) and len(set(features["targets"][:used])) == used


def test_unknown_lengths_are_refused():
    with pytest.raises(InputError, match=r"config\.objective\.permutation\.lengths"):
        PermutationConfig(lengths="geometric")


@functools.cache
def small():
    """A small model of two layers, an objective and the batch of a full, a short and an almost empty row."""
    objective, rng = Permutation(PermutationConfig(one_in=3), VOCABULARY, 16), np.random.default_rng(3)
    batch = tiny.stacked([objective.features(pair(*sizes), rng) for sizes in ((6, 7), (2, 5), (1, 1))])
    size = {"embed.width": 16, "stack.depth": 2, "stack.block.attention.heads": 2, "stack.block.feedforward.width": 24}
    model, params = tiny.build(tiny.config("xlnet", over={**STILL, **size}), objective.inputs(batch))
    return objective, Bound(model, params), batch


@pytest.mark.parametrize("stream", ["query", "content"])
def test_predictions_depend_on_tokens_of_lower_rank_only(stream):
    objective, model, batch = small()
    inputs = objective.inputs(batch)
    inputs = inputs if stream == "query" else inputs.replace(targets=None)
    # The sum over rows, which do not depend on each other.
    outputs = lambda embedded: jnp.sin(model(inputs.replace(embedded=embedded)).hidden).sum((0, 2))
    embedded = model.params["token"]["embedding"][batch["tokens"]]
    strength = np.asarray(jnp.abs(tiny.run_once(jax.jacrev(outputs), embedded)).sum(-1)).transpose(1, 0, 2)
    ranks, real = np.asarray(batch["ranks"]), np.asarray(batch["segments"]) > 0
    queries = ranks
    if stream == "query":
        queries = np.take_along_axis(ranks, np.maximum(batch["targets"], 0), 1) - 1
    expected = (ranks[:, None] <= queries[:, :, None]) & real[:, None]
    used = np.asarray(batch["weights"]) > 0 if stream == "query" else real
    np.testing.assert_array_equal((strength > 0)[used], expected[used])
    assert used.sum() > 5


def layer_norm(x, scale, bias):
    centred = x - x.mean(-1, keepdims=True)
    return centred / np.sqrt((centred**2).mean(-1, keepdims=True) + 1e-12) * scale + bias


def reference_states(params, tokens, types, ranks, segments, targets):
    """The query stream's last states of one row, pair of tokens by pair (Yang et al. 2019, section 2 and A.2)."""
    length, width = len(tokens), params["query_stream"]["start"].shape[0]
    content = params["token"]["embedding"][tokens]
    query = np.tile(params["query_stream"]["start"], (len(targets), 1))
    rates = 10000.0 ** (-2 * np.arange(width // 2) / width)
    for layer in range(2):
        at = jax.tree.map(lambda leaf, layer=layer: leaf[layer], params["stack"]["layers"])
        attention, relative = at["attention"], at["attention"]["relative"]
        keys, values = (np.einsum("ke,ehd->khd", content, attention[name]["kernel"]) for name in ("key", "value"))

        def mix(state, place, visible, attention=attention, relative=relative, keys=keys, values=values):
            q = np.einsum("e,ehd->hd", state, attention["query"]["kernel"])
            scores = np.full((q.shape[0], length), -np.inf)
            for key in np.flatnonzero(visible):
                angles = (place - key) * rates
                distance = np.concatenate([np.sin(angles), np.cos(angles)])
                distance = np.einsum("e,ehd->hd", distance, relative["distance"]["kernel"])
                kind = relative["types"][0 if types[place] == types[key] else 1]
                terms = (q + relative["content_bias"]) * keys[key] + (q + relative["distance_bias"]) * distance
                scores[:, key] = (terms + (q + relative["type_bias"]) * kind).sum(-1) / math.sqrt(q.shape[1])
            weights = np.exp(scores - scores.max(1, keepdims=True))
            mixed = np.einsum("hk,khd->hd", weights / weights.sum(1, keepdims=True), values)
            return np.einsum("hd,hde->e", mixed, attention["out"]["kernel"])

        def block(state, mixed, at=at):
            state = layer_norm(state + mixed, **at["attention_norm"])
            hidden = state @ at["feedforward"]["in"]["kernel"] + at["feedforward"]["in"]["bias"]
            hidden = hidden * 0.5 * (1 + np.vectorize(math.erf)(hidden / math.sqrt(2)))
            hidden = hidden @ at["feedforward"]["out"]["kernel"] + at["feedforward"]["out"]["bias"]
            return layer_norm(state + hidden, **at["feedforward_norm"])

        real = segments > 0
        mixed_query = [mix(query[i], t, real & (ranks < ranks[t])) for i, t in enumerate(targets)]
        mixed_content = [mix(content[i], i, real & (ranks <= ranks[i])) if real[i] else 0 for i in range(length)]
        query = np.stack([block(*each) for each in zip(query, mixed_query, strict=True)])
        content = np.stack([block(*each) for each in zip(content, mixed_content, strict=True)])
    return query


def test_the_loss_is_that_of_the_equations():
    objective, model, batch = small()
    sums = tiny.run_once(lambda params: evaluate(objective, Bound(model.module, params), batch), model.params)
    params = jax.tree.map(np.asarray, model.params)
    losses, correct = [], 0
    for row in zip(*(np.asarray(batch[name]) for name in batch), strict=True):
        row = dict(zip(batch, row, strict=True))
        used = row["weights"] > 0
        names = ("tokens", "types", "ranks", "segments")
        states = reference_states(params, *(row[name] for name in names), row["targets"][used])
        logits = states @ params["token"]["embedding"].T + params["head"]["bias"]
        labels = row["labels"][used]
        losses += list(np.log(np.exp(logits).sum(-1)) - logits[np.arange(len(labels)), labels])
        correct += (logits.argmax(-1) == labels).sum()
    assert float(sums.total) == pytest.approx(np.mean(losses), rel=1e-5)
    assert float(sums.metrics["accuracy"].total) == correct
    assert float(sums.metrics["loss"].weight) == len(losses) > 5


def evaluate(objective, model, batch):
    return objective.loss({"model": model}, Part(batch=batch, weights=objective.weights(batch)))


def test_it_keeps_the_laws_of_training(tmp_path):
    objective = Permutation(PermutationConfig(one_in=3), VOCABULARY, 17)
    rows = [pair(count // 2, count) for count in tiny.LENGTHS]
    laws.check(laws.case(objective, {"model": tiny.config("xlnet", over=STILL)}, rows, rate=0.05), tmp_path)


@dataclasses.dataclass(frozen=True)
class WithMemory(Bound):
    """A one-way model with a past and without a query stream, called as the objective calls its model."""

    past: Past = Past(())

    def __call__(self, inputs, *, dropout=None, **options):
        return super().__call__(Inputs(tokens=inputs.tokens, types=inputs.types), cache=self.past)


def order(perm_mask):
    """The ranks of a mask by pairs: of the tokens that do not attend to themselves, the last attends to most."""
    hidden, moved = perm_mask.sum(2), np.diagonal(perm_mask, axis1=1, axis2=2) > 0
    ranks = np.where(moved, hidden.max(1, keepdims=True) - hidden + 1, 0).astype(np.int32)
    expected = (ranks[:, None] >= np.maximum(ranks, 1)[:, :, None]) & (ranks[:, None] > 0)
    np.testing.assert_array_equal(perm_mask, expected)
    return ranks


@pytest.mark.parity
@pytest.mark.parametrize("name", ["xlnet", "xlnet_uni"])
def test_the_loss_is_that_of_the_reference_implementation(name):
    folder = stored_case(name)
    model = Bound(*interop.load(folder))
    with np.load(folder / "inputs.npz") as file:
        stored = {key: jnp.asarray(file[key]) for key in file.files}
    batch = {"tokens": stored["input_ids"], "types": stored["token_type_ids"], "segments": stored.get("attention_mask")}
    used = stored["labels"] >= 0
    batch |= {"labels": stored["labels"] * used, "weights": used.astype(jnp.float32), "ranks": None, "targets": None}
    if name == "xlnet":
        ranks = order(np.asarray(stored["perm_mask"]))
        batch |= {"ranks": jnp.asarray(ranks), "targets": stored["target_mapping"].argmax(-1)}
    else:
        past = Past(tuple({"past": stored[key].swapaxes(0, 1)} for key in ("mems/0", "mems/1")))
        model = WithMemory(model.module, model.params, past=past)
    with jax.default_matmul_precision("highest"):
        sums = tiny.run_once(
            lambda params: evaluate(PAIRS, dataclasses.replace(model, params=params), batch), model.params
        )
    tolerance = json.loads((folder / "meta.json").read_text())["tolerance"]["loss_abs"]
    assert abs(float(sums.total) - float(np.load(folder / "outputs.npz")["loss"])) <= tolerance
