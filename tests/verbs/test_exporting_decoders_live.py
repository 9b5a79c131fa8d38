"""transformers, if it is installed, loads exports of every decoder preset and gives our logits, ids and text.

`pytest -m parity_live`, in an environment with torch and transformers beside lm_jax.
"""

import json

import jax.numpy as jnp
import numpy as np
import pytest
import tiny
import workdirs
from commands import lm_jax

from lm_jax.data import tokenizers
from lm_jax.data.tokenizers import TokenizerConfig
from lm_jax.models.interface import Inputs
from lm_jax.verbs import exporting

pytestmark = pytest.mark.parity_live
# Presets, each with the kind of tokenizer of its release, or the nearest one.
FAMILIES = {
    "gpt": "bpe",
    "gpt_neo": "byte_bpe",
    "gptj": "byte_bpe",
    "gpt_neox": "byte_bpe",
    "pythia": "byte_bpe",
    "opt": "byte_bpe",
    "bloom": "byte_bpe",
    "falcon": "byte_bpe",
    "mpt": "byte_bpe",
    "mistral": "bpe",
    "mixtral": "bpe",
    "qwen2": "byte_bpe",
    "qwen3": "byte_bpe",
    "gemma": "unigram",
    "gemma2": "unigram",
    "gemma3": "unigram",
}
PROMPTS = ("The old weaver", "", "  two  spaces\n▁ and 织工 é")


@pytest.fixture(scope="module", autouse=True)
def transformers():
    pytest.importorskip("torch", reason="needs torch, which is not installed")
    return pytest.importorskip("transformers", reason="needs transformers, which is not installed")


@pytest.fixture(scope="module")
def trained(repository):
    """Trained tokenizers by kind."""
    text = (repository / "tests" / "golden" / "text.txt").read_text()
    kinds = sorted(set(FAMILIES.values()))
    return {kind: tokenizers.train(TokenizerConfig(kind=kind, vocab=600, sentinels=4), [text]) for kind in kinds}


@pytest.mark.parametrize(("preset", "kind"), FAMILIES.items())
def test_transformers_gives_the_logits_and_the_text_of_a_run(preset, kind, trained, transformers, tmp_path, capsys):
    ours, output = trained[kind], tmp_path / "exported"
    exp = workdirs.draw(tmp_path / "run", preset, ours)
    assert lm_jax("export", f"--workdir={tmp_path / 'run'}", f"--output={output}") == 0
    # For qwen2, AutoTokenizer always loads the class of the released models, and `export` reports it.
    forced = preset == "qwen2"
    assert ("load the tokenizer with PreTrainedTokenizerFast" in capsys.readouterr().out) == forced
    loader = transformers.PreTrainedTokenizerFast if forced else transformers.AutoTokenizer
    theirs = loader.from_pretrained(output)
    network, info = transformers.AutoModelForCausalLM.from_pretrained(output, output_loading_info=True)
    assert not any(info.values()), info

    expected = [ids.tolist() for ids in ours.encode_batch(exporting.TEXTS)]
    assert theirs([*exporting.TEXTS], split_special_tokens=True, verbose=False)["input_ids"] == expected
    ids = ours.encode(exporting.TEXT)[None, :60]
    # Our logits are float32: those of gemma3, up to 53 here, are within 9e-5 of the float64 ones.
    np.testing.assert_allclose(_their_logits(network, ids), _our_logits(exp, ids), rtol=0, atol=1e-4)

    for prompt in PROMPTS:
        # One prompt a call: the longest prompt of a call limits the new tokens of all if positions are learned.
        capsys.readouterr()
        words = (f"--workdir={tmp_path / 'run'}", f"--prompt={prompt}", "--temperature=0", "--json")
        assert lm_jax("generate", *words) == 0
        (answer,) = json.loads(capsys.readouterr().out)["answers"]
        encoded = theirs(prompt, return_tensors="pt") if prompt else {}
        start = encoded["input_ids"].shape[1] if prompt else 1
        tokens = network.generate(**encoded)[0].tolist()[start:]
        assert (ours.decode(tokens), tokens[-1] == ours.eos) == (answer["text"], answer["finished"])


def _our_logits(exp, ids):
    inputs = Inputs(tokens=jnp.asarray(ids))
    module, params = tiny.build(exp.product.module.config, inputs)
    return module.apply({"params": params}, inputs, logits=True).logits


def _their_logits(network, ids):
    import torch

    # Their faster kernels for experts do not support float64.
    network.set_experts_implementation("eager")
    with torch.no_grad():
        logits = network.eval().double()(torch.tensor(np.asarray(ids, np.int64))).logits.numpy()
    network.float()
    return logits
