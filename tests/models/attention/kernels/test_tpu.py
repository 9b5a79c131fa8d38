"""The TPU kernel compiles for TPUs that this machine need not have.

Needs libtpu in the environment: `JAX_PLATFORMS=cpu TPU_SKIP_MDS_QUERY=1 ALLOW_MULTIPLE_LIBTPU_LOAD=1 python -m pytest
-m tpu_aot tests/models/attention/kernels`.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.experimental import topologies
from jax.sharding import Mesh
from ml_collections import ConfigDict

from lm_jax import experiment
from lm_jax.data import tokenizers
from lm_jax.experiment import Experiment
from lm_jax.models.attention import masks
from lm_jax.models.attention.kernels.splash import splash
from lm_jax.models.attention.masks import Visibility, causal, full
from lm_jax.models.config import AttentionConfig
from lm_jax.models.presets.llama import llama
from lm_jax.parallel.layout import Layout

pytestmark = pytest.mark.tpu_aot
CALL = "tpu_custom_call"


def devices(name):
    return topologies.get_topology_desc(name, platform="tpu").devices


def compiled_gradient(name, mask, *, queries=640, keys=640, heads=4, groups=2, width=64, segments=True, **options):
    """The text of the program of an attention and its gradients for one device."""
    layout = Layout(Mesh(np.array(devices(name)[:1]).reshape(1, 1, 1), ("data", "fsdp", "tensor")))

    def total(q, k, v, query_segments, key_segments):
        ids = {"query_segments": query_segments, "key_segments": key_segments} if segments else {}
        return splash(q, k, v, Visibility(mask=mask, **ids), **options).astype(jnp.float32).sum()

    shape = lambda *sizes, dtype=jnp.bfloat16: jax.ShapeDtypeStruct(sizes, dtype, sharding=layout.replicated)
    ids = shape(2, queries, dtype=jnp.int32), shape(2, keys, dtype=jnp.int32)
    arrays = shape(2, heads, queries, width), shape(2, groups, keys, width), shape(2, groups, keys, width)
    return layout.jit(jax.grad(total, (0, 1, 2))).lower(*arrays, *ids).compile().as_text()


@pytest.mark.parametrize("name", ["v4:2x2x1", "v5e:2x2", "v5p:2x2x1", "v6e:2x2", "tpu7x:2x2x1"])
def test_attention_and_its_gradients_compile_for_every_tpu(name):
    assert compiled_gradient(name, causal).count(CALL) >= 3


@pytest.mark.parametrize("width", [8, 80, 96, 128, 256])
def test_heads_of_any_width_compile(width):
    assert CALL in compiled_gradient("v5e:2x2", causal, queries=256, keys=256, width=width)


OTHERS = {
    "strided, capped": (masks.of_config(AttentionConfig(window=200, stride=50)), {"softcap": 30.0}),
    "cross, without segments": (full, {"queries": 500, "keys": 300, "segments": False}),
    "8,192 tokens": (causal, {"queries": 8192, "keys": 8192, "heads": 2, "groups": 1, "width": 128}),
}


@pytest.mark.parametrize("name", OTHERS)
def test_other_cases_compile(name):
    mask, options = OTHERS[name]
    assert CALL in compiled_gradient("v5e:2x2", mask, **options)


def step_text(repository, **changes):
    """The text of a tiny decoder's train step for sixteen TPUs."""
    recipe = {"model": llama("tiny"), "data": {"length": 256, "batch": 16}, "mesh": {"fsdp": 8, "tensor": 2}}
    recipe = experiment.complete(ConfigDict(recipe))
    for key, value in changes.items():
        recipe.model.stack[key] = value
    tokenizer = tokenizers.load(repository / "tests/golden/tokenizer")
    exp = Experiment(experiment.parse(recipe), tokenizer, devices=devices("v5e:4x4"))
    return exp.train_step(0).lower(exp.state_like, exp.batch_like).compile().as_text()


def test_a_train_step_on_sixteen_tpus_contains_the_kernel(repository):
    assert step_text(repository, remat="none").count(CALL) == 3


def test_a_backward_pass_that_keeps_the_output_does_not_compute_it_again(repository):
    assert step_text(repository, remat="save_attention").count(CALL) == 3
    assert step_text(repository, remat="full").count(CALL) == 4
