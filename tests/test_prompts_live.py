"""Soft prompts and prefixes have the outputs and losses of PEFT, and its directories load here as ours load there.

`pytest -m parity_live`, in an environment with torch, transformers and peft beside lm_jax.
"""

import json

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from lm_jax.adapt import AdaptConfig, adapt
from lm_jax.core.trees import flatten, map_named, merge, partition
from lm_jax.interop import huggingface, peft, peft_prompts
from lm_jax.models.interface import Inputs
from lm_jax.models.model import build_model
from lm_jax.verbs import adapters

pytestmark = pytest.mark.parity_live
SMALL = {"vocab_size": 64, "num_attention_heads": 4, "num_hidden_layers": 2, "hidden_size": 32}
SMALL_GPT = {"vocab_size": 64, "n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 64}
MODELS = {
    "GPT2LMHeadModel": {**SMALL_GPT, "attn_pdrop": 0, "embd_pdrop": 0, "resid_pdrop": 0},
    "GPTJForCausalLM": {**SMALL_GPT, "rotary_dim": 4},
    "LlamaForCausalLM": {**SMALL, "num_key_value_heads": 2, "intermediate_size": 64, "max_position_embeddings": 64},
    "GPTNeoXForCausalLM": {**SMALL, "intermediate_size": 64, "max_position_embeddings": 64},
    "OPTForCausalLM": {**SMALL, "ffn_dim": 64, "max_position_embeddings": 64, "dropout": 0, "word_embed_proj_dim": 32},
    "BloomForCausalLM": {"vocab_size": 64, "hidden_size": 32, "n_layer": 2, "n_head": 4},
    "T5ForConditionalGeneration": {
        "vocab_size": 64,
        **{"d_model": 32, "d_kv": 8, "d_ff": 64, "num_layers": 2, "num_heads": 4, "dropout_rate": 0},
        "decoder_start_token_id": 0,
    },
}
CASES = [(name, method) for name in MODELS for method in ("prompt", "prefix") if ("T5", "prefix") != (name[:2], method)]
TOKENS, STEPS, RATE = 3, 20, 1e-2


@pytest.fixture(scope="module", autouse=True)
def libraries():
    for name in ("torch", "transformers", "peft"):
        pytest.importorskip(name, reason=f"needs {name}, which is not installed")


def reference(name, folder):
    """A random model of a class, and its class."""
    import torch
    import transformers

    torch.manual_seed(0)
    made = getattr(transformers, name)
    model = made(made.config_class(**MODELS[name], bos_token_id=1, eos_token_id=1, pad_token_id=0))
    for parameter in model.parameters():
        if parameter.ndim > 1:
            parameter.data.normal_(0, 0.2)
    model.save_pretrained(folder)
    return made


def base_of(folder):
    """The class of a folder's model, as `lm-jax export` describes it, with its module and parameters."""
    tree = json.loads((folder / "config.json").read_text())
    module, params = huggingface.load(folder)
    _, shapes, axes = huggingface.describe(module.config)
    rules = huggingface.family_of(tree).rules(module.config, tree["architectures"][0], tree)
    base = adapters.Base(tree=tree, config=module.config, rules=rules, shapes=shapes, axes=axes, places={})
    places = peft.places(rules, module.config, shapes, axes)
    named = lambda place: place._replace(module=base.named(f"{place.module}.weight").removesuffix(".weight"))
    return base, {path: [(at, named(place)) for at, place in rows] for path, rows in places.items()}, params


def batches(pair):
    rng = np.random.default_rng(0)
    for _ in range(STEPS):
        yield rng.integers(3, 64, (4, 9)), rng.integers(3, 64, (4, 5)) if pair else None


def our_losses(model, params, rows):
    """The losses of AdamW on the learned tokens, and what they are in the end."""
    trained, frozen = partition(params, model.trainable)
    optimizer = optax.adamw(RATE, weight_decay=0.0)
    state = optimizer.init(trained)

    def loss(trained, source, target):
        read = source if target is None else target
        inputs = Inputs(tokens=read[:, :-1], source=None if target is None else Inputs(tokens=source))
        logits = model.bind(merge(trained, frozen))(inputs, logits=True).logits
        return optax.softmax_cross_entropy_with_integer_labels(logits, read[:, 1:]).mean()

    step = jax.jit(jax.value_and_grad(loss))
    losses = []
    for source, target in rows:
        value, gradients = step(trained, source, target)
        updates, state = optimizer.update(gradients, state, trained)
        trained = optax.apply_updates(trained, updates)
        losses.append(float(value))
    return losses, flatten(trained)


def their_losses(model, rows):
    import torch

    optimizer = torch.optim.AdamW([each for each in model.parameters() if each.requires_grad], RATE, weight_decay=0.0)
    losses = []
    for source, target in rows:
        read = torch.tensor(source if target is None else target)
        words = {"input_ids": read[:, :-1]}
        if target is not None:
            words = {"input_ids": torch.tensor(source), "decoder_input_ids": read[:, :-1]}
        words["attention_mask"] = torch.ones_like(words["input_ids"])
        logits = model(**words).logits[:, -(read.shape[1] - 1) :]
        loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), read[:, 1:].flatten())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss))
    return losses


@pytest.mark.parametrize(("name", "method"), CASES)
def test_learned_tokens_have_the_losses_of_peft_and_are_exchanged(name, method, tmp_path):
    from peft import PeftModel

    made = reference(name, tmp_path / "base")
    base, places, params = base_of(tmp_path / "base")
    plain = build_model(base.config, base.config.embed.vocab)
    model = adapt(plain, AdaptConfig(method=method, tokens=TOKENS))
    rng = np.random.default_rng(1)
    noisy = lambda path, leaf: (
        leaf + 0.3 * rng.standard_normal(leaf.shape, np.float32) if model.trainable(path) else leaf
    )
    begun = map_named(noisy, model.extend(params, jax.random.key(0)))
    learned = lambda leaves: {path: np.asarray(leaf) for path, leaf in leaves.items() if model.trainable(path)}
    peft_prompts.write(tmp_path / "adapter", learned(flatten(begun)), places, base.architecture)
    theirs = PeftModel.from_pretrained(made.from_pretrained(tmp_path / "base"), tmp_path / "adapter")
    theirs.prompt_encoder.requires_grad_(True)
    rows = list(batches(base.config.kind == "encoder_decoder"))
    with jax.default_matmul_precision("highest"):
        ours, trained = our_losses(model, begun, rows)
    differences = np.abs(np.subtract(ours, their_losses(theirs.eval(), rows)))
    print(f"{name}, {method}: largest difference of {STEPS} losses {differences.max():.1e}")
    assert ours[-1] != ours[0]
    np.testing.assert_array_less(differences, 1e-4)
    theirs.save_pretrained(tmp_path / "saved")
    loaded = peft_prompts.load(tmp_path / "saved", base.config, places, base.shapes)
    assert loaded.settings == {"method": method, "tokens": TOKENS} and {*loaded.leaves} == {*trained}
    for path, leaf in loaded.leaves.items():
        np.testing.assert_allclose(leaf, jnp.asarray(trained[path]), atol=1e-4)
