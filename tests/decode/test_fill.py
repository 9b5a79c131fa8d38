import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lm_jax.core.config import InputError
from lm_jax.decode.fill import fill
from lm_jax.models.interface import Inputs
from lm_jax.parallel import mesh
from lm_jax.parallel.layout import Layout
from tests.decode.small import MASK, PAD, model

ROWS = [np.array([4, 20, MASK, 21, MASK, 5]), np.arange(7, 30), np.array([4, MASK, 5])]


def test_the_most_probable_ids_of_each_mask_come_first_with_their_probabilities():
    module, params, _ = model("bert")
    forward = jax.jit(lambda params, inputs: module.apply({"params": params}, inputs, logits=True))
    for row, masks in zip(ROWS, fill(module, params, ROWS, mask=MASK, pad=PAD, top=5), strict=True):
        logits = forward(params, Inputs(tokens=jnp.asarray(row)[None])).logits[0]
        expected = np.asarray(jax.nn.softmax(logits))
        assert [position for position, _ in masks] == np.flatnonzero(row == MASK).tolist()
        for position, candidates in masks:
            ids = [token for token, _ in candidates]
            assert ids == np.argsort(-expected[position])[:5].tolist()
            # float32: sums in another order.
            np.testing.assert_allclose([p for _, p in candidates], expected[position, ids], rtol=1e-4)


def test_forbidden_ids_are_left_out_and_the_others_keep_their_probabilities():
    module, params, _ = model("bert")
    best = fill(module, params, ROWS, mask=MASK, pad=PAD, top=3)[0][0][1]
    others = fill(module, params, ROWS, mask=MASK, pad=PAD, top=2, forbidden=[best[0][0]])[0][0][1]
    assert others == best[1:]


def test_sharded_parameters_give_the_same_ids():
    module, params, axes = model("bert")
    layout = Layout(mesh.make(mesh.MeshConfig(data=2, fsdp=2, tensor=2)))
    sharded = jax.device_put(params, layout.shardings(axes, params))
    expected = fill(module, params, ROWS, mask=MASK, pad=PAD, top=3)
    ids = lambda result: [[[token for token, _ in best] for _, best in row] for row in result]
    assert ids(fill(module, sharded, ROWS, mask=MASK, pad=PAD, top=3, layout=layout)) == ids(expected)
    assert ids(fill(module, sharded, ROWS, mask=MASK, pad=PAD, top=3)) == ids(expected)


def test_rows_without_masks_have_no_candidates():
    module, params, _ = model("bert")
    assert fill(module, params, [ROWS[1]], mask=MASK, pad=PAD, top=3) == [[]]


@pytest.mark.parametrize(
    ("recipe", "row", "top", "message"),
    [("bert", [MASK], 0, "--top"), ("bert", [MASK] * 500, 1, "max_length"), ("gpt2", [MASK], 1, "encoder")],
)
def test_invalid_rows_and_settings_are_refused(recipe, row, top, message):
    module, params, _ = model(recipe)
    with pytest.raises(InputError, match=message):
        fill(module, params, [row], mask=MASK, pad=PAD, top=top)
