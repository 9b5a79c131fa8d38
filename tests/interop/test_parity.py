"""Imported Hugging Face checkpoints compute the outputs of the reference implementation.

The default tests import every family and compare its logits, or last hidden states, from the model's forward pass;
`pytest -m parity` compares every stored output, including gradients and greedy continuations.
"""

import json
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from interop.cases import FAMILIES, case

from lm_jax import interop
from lm_jax.interop.choice import function_of
from lm_jax.interop.verify import verify
from lm_jax.models.interface import Inputs, Past

HEADLESS = ("electra_disc", "bert_qa", "bert_seqcls")


def arrays(folder, name):
    with np.load(folder / f"{name}.npz") as file:
        return {key: file[key] for key in file.files}


def forward(folder, stored):
    """Hidden states and logits of a checkpoint for stored inputs, by its model's forward pass."""
    module, params = interop.load(folder)
    stored = {name: jnp.asarray(array) for name, array in stored.items() if array.dtype.kind not in "SUO"}
    inputs = Inputs(tokens=stored["input_ids"], segments=stored.get("attention_mask"))
    if "token_type_ids" in stored and (module.config.embed.types or getattr(module.config, "typed", False)):
        inputs = inputs.replace(types=stored["token_type_ids"])
    if "decoder_input_ids" in stored:
        mask = stored["decoder_attention_mask"]
        inputs = Inputs(tokens=stored["decoder_input_ids"], segments=mask, source=inputs)
    if "target_mapping" in stored:
        inputs = inputs.replace(unseen=stored["perm_mask"] > 0, targets=stored["target_mapping"].argmax(-1))
    past = tuple({"past": stored[name].swapaxes(0, 1)} for name in sorted(stored) if name.startswith("mems/"))
    options = {"cache": Past(past) if past else None, "logits": True}
    with jax.default_matmul_precision("highest"):
        return jax.jit(lambda params: module.apply({"params": params}, inputs, **options))(params)


@pytest.mark.parametrize("family", FAMILIES)
def test_an_imported_checkpoint_computes_what_the_reference_computes(family):
    folder = case(family)
    inputs, outputs = arrays(folder, "inputs"), arrays(folder, "outputs")
    tolerance = json.loads((folder / "meta.json").read_text())["tolerance"]["forward_abs"]
    computed = forward(folder, inputs)
    theirs, ours = outputs.get("prediction_logits", outputs.get("logits")), computed.logits
    if family in HEADLESS:
        theirs, ours = outputs["base/last_hidden_state"], computed.hidden
    mask = inputs.get("decoder_attention_mask" if "decoder_input_ids" in inputs else "attention_mask")
    if mask is None or "target_mapping" in inputs:
        # There is no padding; all rows of a query stream are targets.
        mask = np.ones(theirs.shape[:2])
    mask = mask > 0
    assert np.abs(np.asarray(ours) - theirs)[mask].max() <= tolerance


@pytest.mark.parity
@pytest.mark.parametrize("family", FAMILIES)
def test_every_stored_output_agrees(family):
    compared, missing = verify(case(family))
    assert not [output for output in compared if not output.agrees]
    # Only beam search is not compared.
    assert not [name for name in missing if not name.startswith("gen_beam4")]


# torch's own Transformer is not a class of transformers, so it has no config.json of transformers 4.
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
    inputs, stored = arrays(folder, "inputs"), arrays(folder, "outputs")
    outputs = interop.run(folder, {name: array for name, array in inputs.items() if not name.startswith("gen_")})
    names = [name for name in stored if name.startswith(("grad", "loss"))]
    assert len(names) > 10
    for name in names:
        np.testing.assert_allclose(outputs[name], stored[name], rtol=0, atol=1e-5, err_msg=name)
