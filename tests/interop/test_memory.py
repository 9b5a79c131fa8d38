"""Importing takes little more host memory than the parameters."""

import json
import subprocess
import sys

import numpy as np
import pytest

from lm_jax.interop import safetensors
from lm_jax.interop.safetensors import Tensor

GIB = 2**30
WIDTH, DEPTH, VOCAB, MLP = 2048, 16, 32_000, 5632
SETTINGS = {
    "model_type": "llama",
    "architectures": ["LlamaForCausalLM"],
    "vocab_size": VOCAB,
    "hidden_size": WIDTH,
    "intermediate_size": MLP,
    "num_hidden_layers": DEPTH,
    "num_attention_heads": 16,
    "tie_word_embeddings": False,
}
# A separate process, because a process's peak memory never falls. Only Linux reports the peak in /proc; getrusage would
# include the parent's memory before this program began.
MEASURE = """
import json, pathlib, sys
import jax
from lm_jax import interop
from lm_jax.interop import huggingface
from lm_jax.parallel import mesh
from lm_jax.parallel.layout import Layout
from lm_jax.parallel.mesh import MeshConfig

status = pathlib.Path("/proc/self/status")
peak = lambda: 1024 * int(status.read_text().split("VmHWM:")[1].split()[0])
layout = Layout(mesh.make(MeshConfig(data=1, fsdp=8))) if sys.argv[2] == "8" else None
before = peak()
params = jax.block_until_ready(interop.load(sys.argv[1], layout)[1])
sizes = [leaf.size * 4 for leaf in jax.tree.leaves(params)]
print(json.dumps({"taken": peak() - before, "parameters": sum(sizes), "largest": max(sizes)}))
"""


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    """A LLaMA of 953 million parameters, 3.6 GiB."""
    folder, generator = tmp_path_factory.mktemp("large"), np.random.default_rng(0)
    matrices = {f"self_attn.{letter}_proj": (WIDTH, WIDTH) for letter in "qkvo"}
    matrices |= {"mlp.gate_proj": (MLP, WIDTH), "mlp.up_proj": (MLP, WIDTH), "mlp.down_proj": (WIDTH, MLP)}
    shapes: dict[str, tuple[int, ...]] = {"model.embed_tokens.weight": (VOCAB, WIDTH), "lm_head.weight": (VOCAB, WIDTH)}
    shapes["model.norm.weight"] = (WIDTH,)
    for layer in range(DEPTH):
        shapes |= {f"model.layers.{layer}.{name}.weight": shape for name, shape in matrices.items()}
        for name in ("input_layernorm", "post_attention_layernorm"):
            shapes[f"model.layers.{layer}.{name}.weight"] = (WIDTH,)
    dtype = np.dtype(np.float32)
    make = lambda shape: lambda: generator.standard_normal(shape, dtype=np.float32)
    safetensors.write(folder, [Tensor(name, shape, dtype, make(shape)) for name, shape in shapes.items()])
    (folder / "config.json").write_text(json.dumps(SETTINGS))
    return folder


@pytest.mark.slow
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="only Linux reports a process's peak memory")
@pytest.mark.parametrize("devices", ["1", "8"])
def test_importing_takes_the_parameters_the_largest_array_and_less_than_a_gibibyte(checkpoint, devices):
    done = subprocess.run(
        [sys.executable, "-c", MEASURE, str(checkpoint), devices], capture_output=True, text=True, timeout=600
    )
    assert done.returncode == 0, done.stderr
    sizes = json.loads(done.stdout.splitlines()[-1])
    print({name: round(size / GIB, 2) for name, size in sizes.items()})
    assert sizes["parameters"] > 3 * GIB
    assert sizes["taken"] < sizes["parameters"] + sizes["largest"] + GIB
