"""The installed reference implementation and our import of its checkpoints compute the same outputs.

Run `pytest -m parity_live` in an environment with torch, transformers and lm_jax.
"""

import json

import numpy as np
import pytest
from interop.cases import FAMILIES, case
from interop.variants import VARIANTS, name, write

from lm_jax.interop import huggingface
from lm_jax.interop.huggingface import open_checkpoint
from lm_jax.interop.settings import Settings
from lm_jax.interop.verify import verify

pytestmark = pytest.mark.parity_live


@pytest.fixture(scope="module", autouse=True)
def transformers():
    pytest.importorskip("torch", reason="needs torch, which is not installed")
    return pytest.importorskip("transformers", reason="needs transformers, which is not installed")


@pytest.mark.parametrize("variant", VARIANTS, ids=name)
def test_a_variant_of_a_family_computes_the_outputs_of_the_reference(variant, tmp_path):
    write(tmp_path, *variant)
    compared, missing = verify(tmp_path)
    assert not [output for output in compared if not output.agrees]
    assert not missing


# transformer2017 is a class of torch, not of transformers.
@pytest.mark.parametrize("family", [family for family in FAMILIES if family != "transformer2017"])
def test_the_reference_reads_an_export_as_it_read_the_original(family, transformers, tmp_path):
    import torch

    folder = case(family)
    checkpoint = open_checkpoint(folder)
    huggingface.save(tmp_path, checkpoint.tree, checkpoint.config, checkpoint.params(), checkpoint.extra())
    cls = getattr(transformers, checkpoint.architecture)
    with np.load(folder / "inputs.npz") as file:
        inputs = {key: file[key] for key in file.files if not key.startswith(("gen_", "extra_", "mems", "labels"))}
    inputs = {key: value for key, value in inputs.items() if not key.endswith(("_label", "_positions"))}
    tensor = lambda array: torch.tensor(array, dtype=torch.float32 if array.dtype.kind == "f" else torch.long)
    outputs = []
    for directory in (folder, tmp_path):
        model, info = cls.from_pretrained(directory, attn_implementation="eager", output_loading_info=True)
        assert not info["missing_keys"] and not info["unexpected_keys"] and not info["mismatched_keys"]
        with torch.no_grad():
            outputs.append(model.eval()(**{key: tensor(value) for key, value in inputs.items()})[0].numpy())
    # Not bitwise equal, because the order of sums depends on the alignment of memory.
    np.testing.assert_allclose(*outputs, rtol=0, atol=1e-6)


@pytest.mark.parametrize(
    "over", [{}, {"num_labels": 5}, {"id2label": {"0": "a"}}, {"id2label": {"0": "a"}, "num_labels": 5}]
)
def test_labels_are_counted_as_the_reference_counts_them(transformers, over):
    assert Settings(over).labels() == transformers.BertConfig(**over).num_labels


@pytest.mark.parametrize("kind", ["BertForPreTraining", "GPT2LMHeadModel", "ElectraForPreTraining", "T5EncoderModel"])
def test_a_checkpoint_without_a_class_and_family_computes_the_same(kind, tmp_path):
    write(tmp_path, kind, {})
    tree = json.loads((tmp_path / "config.json").read_text())
    shared = kind.startswith("T5")  # mT5's and UMT5's tensors have the same names.
    lacking = {"architectures"} if shared else {"architectures", "model_type"}
    fields = {name: value for name, value in tree.items() if name not in lacking}
    (tmp_path / "config.json").write_text(json.dumps({**fields, "condition_on_chain": True}))
    compared, missing = verify(tmp_path)
    assert not [output for output in compared if not output.agrees]
    assert not missing
    assert open_checkpoint(tmp_path).architecture == kind
