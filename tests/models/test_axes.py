"""Axes give the sides of matrices; vectors and tables have none."""

import pytest

from lm_jax.models.axes import is_hidden, is_matrix, is_product, join_sides, joined_shape, sides

MATRICES = [
    (("embed", "mlp"), (2, 3), ("embed", "mlp"), (2, 3)),
    (("layers", "embed", "heads", "kv"), (5, 2, 3, 4), ("layers", "embed", "heads"), (5, 2, 12)),
    (("layers", "memory", "groups", "kv"), (5, 2, 3, 4), ("layers", "memory", "groups"), (5, 2, 12)),
    (("layers", "embed", "single", "kv"), (5, 2, 1, 4), ("layers", "embed", "single"), (5, 2, 4)),
    (("layers", "heads", "kv", "embed"), (5, 3, 4, 2), ("layers", "heads", "embed"), (5, 12, 2)),
    (("layers", "experts", "mlp", "embed"), (5, 6, 3, 2), ("layers", "experts", "mlp", "embed"), (5, 6, 3, 2)),
    (("layers", "taps", "heads", "kv"), (5, 2, 3, 4), ("layers", "taps", "heads"), (5, 2, 12)),
]
OTHERS = [
    ("norm",),
    ("layers", "norm"),
    ("layers", "mlp"),
    ("layers", "heads", "kv"),
    ("vocab", "embed"),
    ("position", "embed"),
    ("layers", "buckets", "heads"),
    ("layers", "types", "heads", "kv"),
    ("layers",),
]


@pytest.mark.parametrize(("axes", "shape", "names", "matrix"), MATRICES)
def test_a_matrix_has_an_input_and_an_output_side_behind_its_leading_axes(axes, shape, names, matrix):
    assert is_matrix(axes) and is_hidden(axes) and is_product(axes)
    assert sum(sides(axes), ()) == axes
    assert (join_sides(axes), joined_shape(axes, shape)) == (names, matrix)


@pytest.mark.parametrize("axes", OTHERS)
def test_vectors_and_tables_are_not_matrices(axes):
    assert not is_matrix(axes) and not is_hidden(axes)
    assert is_product(axes) == (axes == ("vocab", "embed"))
    assert (join_sides(axes), joined_shape(axes, (2,) * len(axes))) == (axes, (2,) * len(axes))


def test_readouts_are_matrices_and_not_hidden():
    for axes in (("embed", "vocab"), ("embed", "classes"), ("factor", "embed")):
        assert is_matrix(axes) and not is_hidden(axes)
