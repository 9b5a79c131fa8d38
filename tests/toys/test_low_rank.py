"""A toy adaptation: a low-rank product is added to every query kernel; all other parameters are frozen."""

import dataclasses

import flax.linen as nn
import jax
import jax.numpy as jnp
import laws
import numpy as np
import pytest
import tiny

from lm_jax.core.trees import merge
from lm_jax.models.interface import Inputs
from lm_jax.models.model import Bound, build_model, from_module
from lm_jax.objectives.causal import Causal, CausalConfig

RANK = 2


def adapted(tree):
    """One layer's parameters with the low-rank product added to the query kernel."""
    query = tree.get("attention", {}).get("query", {})
    if "down" not in query:
        return tree
    kernel = query["kernel"] + jnp.tensordot(query["down"], query["up"], 1)
    return {**tree, "attention": {**tree["attention"], "query": {**query, "kernel": kernel}}}


def low_rank(config):
    """A model with two low-rank factors for every query kernel, the only trained parameters."""
    model = build_model(config, config.embed.vocab)
    depth, embed, heads, kv = model.shapes["stack"]["layers"]["attention"]["query"]["kernel"].shape

    def init(key):
        draw = lambda shape, axes: nn.LogicallyPartitioned(jax.random.normal(key, shape), axes)
        down, up = draw((depth, embed, RANK), ("layers", "embed", "rank")), jnp.zeros((depth, RANK, heads, kv))
        factors = {"down": down, "up": nn.LogicallyPartitioned(up, ("layers", "rank", "heads", "kv"))}
        return merge(model.init(key), {"stack": {"layers": {"attention": {"query": factors}}}})

    return dataclasses.replace(
        model, init=init, transform=adapted, trainable=lambda path: path.endswith(("/down", "/up"))
    )


@pytest.mark.parametrize("scan", ["never", "always"])
def test_it_keeps_the_laws_and_no_other_parameter_changes(scan, tmp_path):
    rows = [{"tokens": laws.text(count, seed)} for seed, count in enumerate(tiny.LENGTHS)]
    config = tiny.config("gpt2", over={"stack.depth": 2, "stack.scan": scan, "embed.max_length": 8})
    objective = Causal(CausalConfig(), tiny.VOCABULARY, 8)
    case = laws.case(objective, {}, rows, models={"model": low_rank(config)})
    states = laws.check(case, tmp_path, fall=0.99)
    first, last = states[0], states[-1]
    assert len(jax.tree.leaves(first.params)) == 2
    jax.tree.map(np.testing.assert_array_equal, first.frozen, last.frozen)
    # The merged parameters have no factors and give the same hidden states.
    model = case.models.models["model"]
    params, tokens = merge(last.params, last.frozen)["model"], Inputs(tokens=jnp.asarray(case.batch["tokens"]))
    folded = model.merge(params)
    assert jax.tree.structure(folded) == jax.tree.structure(from_module(model.module).shapes)
    hidden = Bound(model.module, folded)(tokens).hidden
    np.testing.assert_allclose(hidden, model.bind(params)(tokens).hidden, atol=1e-5)
