"""Operations of a program lowered for a TPU, counted from its text."""

import functools
import math
import re

import jax

_FUNCTION = re.compile(r"^  func\.func \w+ @([\w.]+)\(.*?^  }", re.MULTILINE | re.DOTALL)
_CALL = re.compile(r"\bcall @([\w.]+)\(")
_PRODUCT = re.compile(r"\b(?:dot_general|ragged_dot)\b.*$", re.MULTILINE)
_CONTRACTED = re.compile(r"contracting_dim(?:ension)?s = \[([\d, ]*)\]")
_SHAPE = re.compile(r"tensor<((?:\d+x)*)[a-z]\w*>")


def lower_for_tpu(function, *args):
    """The StableHLO text of a function for a TPU, which this machine need not have; `args` may be shapes."""
    return jax.jit(function).trace(*args).lower(lowering_platforms=("tpu",)).as_text()


def product_flops(text: str) -> float:
    """Operations of all matrix products of a program: 2 per multiply-add, at each call. Loops count one iteration."""
    functions = {match[1]: match[0] for match in _FUNCTION.finditer(text)}

    @functools.cache
    def count(name: str) -> float:
        body = functions[name]
        return sum(map(_flops, _PRODUCT.findall(body))) + sum(map(count, _CALL.findall(body)))

    return count("main")


def _flops(product: str) -> float:
    left, *_, result = ([int(size) for size in re.findall(r"\d+", shape)] for shape in _SHAPE.findall(product))
    contracted = _CONTRACTED.search(product)
    assert contracted is not None, product
    operations = 2.0 * math.prod(result) * math.prod(left[int(axis)] for axis in re.findall(r"\d+", contracted[1]))
    # The gradient of experts' matrices, whose first axis is the expert: each row of the operands belongs to one expert.
    each_row_once = product.startswith("ragged_dot") and "rhs_group_dimensions" not in product
    return operations / result[0] if each_row_once else operations
