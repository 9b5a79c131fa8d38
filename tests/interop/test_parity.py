"""Real Hugging Face checkpoints compute here what the reference implementation computes.

The default share imports every family and compares its last hidden states, or logits, through the models' own forward
pass; `pytest -m parity` compares every stored output, gradients and greedy continuations among them.
"""

import json
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from interop.cases import FAMILIES, case

from lm_jax import interop
from lm_jax.interop.huggingface import function_of
from lm_jax.interop.verify import verify
from lm_jax.models.interface import Inputs, Past

HEADLESS = ("electra_disc", "bert_qa", "bert_seqcls")


def arrays(folder, name):
    with np.load(folder / f"{name}.npz") as file:
        return {key: file[key] for key in file.files}


def forward(folder, given):
    """Hidden states and logits of a checkpoint, by its model's own forward pass."""
    module, params = interop.load(folder)
    read = {"tokens": given["input_ids"], "segments": given.get("attention_mask")}
    inputs = Inputs(**{name: None if array is None else jnp.asarray(array) for name, array in read.items()})
    if "token_type_ids" in given and (module.config.embed.types or getattr(module.config, "typed", False)):
        inputs = inputs.replace(types=jnp.asarray(given["token_type_ids"]))
    if "decoder_input_ids" in given:
        mask = jnp.asarray(given["decoder_attention_mask"])
        inputs = Inputs(tokens=jnp.asarray(given["decoder_input_ids"]), segments=mask, source=inputs)
    if "target_mapping" in given:
        targets = jnp.asarray(given["target_mapping"].argmax(-1))
        inputs = inputs.replace(unseen=jnp.asarray(given["perm_mask"] > 0), targets=targets)
    past = tuple(
        {"past": jnp.asarray(given[name]).swapaxes(0, 1)} for name in sorted(given) if name.startswith("mems/")
    )
    options = {"cache": Past(past) if past else None, "logits": True}
    with jax.default_matmul_precision("highest"):
        return jax.jit(lambda params: module.apply({"params": params}, inputs, **options))(params)


@pytest.mark.parametrize("family", FAMILIES)
def test_an_imported_checkpoint_computes_what_the_reference_computes(family):
    folder = case(family)
    given, stored = arrays(folder, "inputs"), arrays(folder, "outputs")
    tolerance = json.loads((folder / "meta.json").read_text())["tolerance"]["forward_abs"]
    found = forward(folder, given)
    wanted, ours = stored.get("prediction_logits", stored.get("logits")), found.logits
    if family in HEADLESS:
        wanted, ours = stored["base/last_hidden_state"], found.hidden
    mask = given.get("decoder_attention_mask" if "decoder_input_ids" in given else "attention_mask")
    if mask is None or "target_mapping" in given:
        # Nothing is padding; of a query stream, all rows are targets.
        mask = np.ones(wanted.shape[:2])
    mask = mask > 0
    assert np.abs(np.asarray(ours) - wanted)[mask].max() <= tolerance


@pytest.mark.parity
@pytest.mark.parametrize("family", FAMILIES)
def test_every_stored_output_agrees(family):
    compared, missing = verify(case(family))
    assert not [(one.name, one.difference, one.tolerance) for one in compared if not one.agrees]
    # Beam search is not compared; nothing else is left out.
    assert not [name for name in missing if not name.startswith("gen_beam4")]


# torch's own Transformer has no library's config.json, and no releases of one.
RELEASED = [family for family in FAMILIES if family != "transformer2017"]


@pytest.mark.parity
@pytest.mark.parametrize("family", RELEASED)
def test_the_settings_of_transformers_4_mean_the_same(family, tmp_path):
    folder = case(family)
    for name in ("inputs.npz", "outputs.npz", "meta.json", "model.safetensors"):
        (tmp_path / name).symlink_to(folder / name)
    shutil.copyfile(folder / "config_v4.json", tmp_path / "config.json")
    module, _ = interop.load(tmp_path)
    assert function_of(module.config) == function_of(interop.load(folder)[0].config)


@pytest.mark.parametrize("family", ("gpt2", "bert", "t5"))
def test_hidden_states_and_gradients_agree(family):
    folder = case(family)
    given, stored = arrays(folder, "inputs"), arrays(folder, "outputs")
    found = interop.run(folder, {name: array for name, array in given.items() if not name.startswith("gen_")})
    names = [name for name in stored if name.startswith(("grad", "loss"))]
    assert len(names) > 10
    for name in names:
        np.testing.assert_allclose(found[name], stored[name], rtol=0, atol=1e-5, err_msg=name)
