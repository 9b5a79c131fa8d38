"""Experts against a loop over tokens and experts, and the load-balancing loss."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny

from lm_jax.core.config import InputError
from lm_jax.models.config import ExpertsConfig, FeedForwardConfig, InitConfig
from lm_jax.models.feedforward.experts import Experts, balance, grouped
from lm_jax.models.interface import Inputs

CONFIG = FeedForwardConfig(width=12, activation="silu", gated=True, bias=False, experts=ExpertsConfig(count=5, top=2))


@pytest.fixture(scope="module")
def experts():
    module = Experts(CONFIG, InitConfig(name="fan_in"), jnp.dtype("float32"), 1.0)
    x = jnp.float32(np.random.default_rng(0).standard_normal((2, 7, 8)))
    boxed = module.init(jax.random.key(0), x)["params"]
    params = jax.tree.map(lambda box: box.value, boxed, is_leaf=lambda leaf: hasattr(leaf, "names"))
    return module, params, x


def by_hand(params, x, top):
    """The output of the experts, token by token and expert by expert."""
    kernels = {name: np.asarray(params[name]["kernel"], np.float64) for name in params}
    rows = np.asarray(x, np.float64).reshape(-1, x.shape[-1])
    outputs = np.zeros_like(rows)
    for token, row in enumerate(rows):
        scores = np.exp(row @ kernels["router"])
        chosen = np.argsort(-scores)[:top]
        for expert in chosen:
            gate, hidden = row @ kernels["experts_gate"][expert], row @ kernels["experts_in"][expert]
            output = (gate / (1 + np.exp(-gate)) * hidden) @ kernels["experts_out"][expert]
            outputs[token] += scores[expert] / scores[chosen].sum() * output
    return outputs.reshape(x.shape)


def test_every_token_is_the_weighted_sum_of_its_experts(experts):
    module, params, x = experts
    outputs = jax.jit(lambda params: module.apply({"params": params}, x))(params)
    np.testing.assert_allclose(outputs, by_hand(params, x, 2), atol=1e-5)


def test_an_expert_without_tokens_has_no_gradient(experts):
    module, params, x = experts
    # Expert 3 has the lowest router logit for this token.
    router = params["router"]["kernel"].at[:, 3].set(-100 * jnp.sign(x[0, 0]))
    changed = {**params, "router": {"kernel": router}}
    gradients = jax.jit(jax.grad(lambda params: (module.apply({"params": params}, x[:1, :1]) ** 2).sum()))(changed)
    used = np.abs(gradients["experts_out"]["kernel"]).sum((1, 2)) > 0
    assert used.sum() == 2 and not used[3]


def test_the_grouped_product_of_tpus_is_the_ragged_one():
    rng = np.random.default_rng(0)
    draw = lambda *shape: jnp.float32(rng.standard_normal(shape))
    rows, kernels, sizes = draw(256, 40), draw(4, 40, 136), jnp.array([100, 0, 29, 127])

    def loss(product, rows, kernels):
        return (product(rows, kernels, sizes) * jnp.cos(jnp.arange(136.0))[None]).sum()

    both = (lambda *args: grouped(*args, tile=128, interpret=True), jax.lax.ragged_dot)
    ours, theirs = (jax.value_and_grad(loss, (1, 2))(product, rows, kernels) for product in both)
    for actual, expected in zip(jax.tree.leaves(ours), jax.tree.leaves(theirs), strict=True):
        np.testing.assert_allclose(actual, expected, rtol=1e-5, atol=1e-4)


def test_balance_is_one_for_an_even_use_of_experts():
    even = jnp.tile(8 * jnp.eye(4), (3, 1))
    assert balance(even, 1) == pytest.approx(1.0)
    single = jnp.tile(jnp.array([[9.0, 0, 0, 0]]), (6, 1))
    assert balance(single, 1) > 3.9
    # Tokens of weight 0 do not count.
    mixed, weights = jnp.concatenate([even, single]), jnp.array([1.0] * 12 + [0.0] * 6)
    assert balance(mixed, 1, weights) == pytest.approx(1.0)


def test_invalid_settings_are_refused():
    with pytest.raises(InputError, match="top is 6; expected 1 to 5"):
        ExpertsConfig(count=5, top=6)
    with pytest.raises(InputError, match="feedforward.bias"):
        dataclasses.replace(CONFIG, bias=True)


def test_the_balance_loss_counts_all_layers_and_no_padding():
    segments = jnp.array([[1] * 5, [1, 1, 1, 0, 0]])
    inputs = Inputs(tokens=jnp.arange(10).reshape(2, 5), segments=segments)
    over = {"embed.width": 16, "stack.block.feedforward.width": 16, "stack.scan": "always"}
    over |= {"stack.block.feedforward.experts.balance": 0.5}
    model, params = tiny.build(tiny.config("mixtral", over=over), inputs)
    apply = lambda train: model.apply({"params": params}, inputs, train=train, show=("router",))
    loss, router = tiny.run_once(lambda: (lambda output: (output.balance, output.shown.router))(apply(True)))
    logits = jnp.concatenate(router)
    expected = balance(logits, 2, jnp.tile(segments.reshape(-1), model.config.stack.depth).astype(jnp.float32))
    assert loss == pytest.approx(0.5 * float(expected), abs=1e-6)
    assert expected > 1
    # Outside training, the loss is a Python float, which costs nothing.
    in_evaluation = []
    jax.eval_shape(lambda: in_evaluation.append(apply(False).balance))
    assert in_evaluation == [0.0]


def test_balancing_different_experts_is_refused():
    with pytest.raises(InputError, match="have 0 kinds of experts"):
        tiny.config("gpt2", over={"stack.block.feedforward.experts.balance": 0.1})
    other = {"stack.kinds": {"few": {"feedforward": {"experts": {"count": 3}}}}, "stack.pattern": ("few", "block")}
    with pytest.raises(InputError, match="have 2 kinds of experts"):
        tiny.config("mixtral", over=other | {"stack.block.feedforward.experts.balance": 0.1})
