"""Operations of a product: XLA writes it as `dot`, for TPUs as `convolution`, for GPUs as a call of cuBLAS."""

from __future__ import annotations

import functools
import math
import re
from collections.abc import Mapping

import numpy as np

from lm_jax.plan.hlo import Instruction, arrays

# Names of cuBLAS calls begin with this.
CUBLAS = "__cublas$"
# Size, stride, padding before and after, dilation of the input, dilation of the kernel.
Axis = tuple[int, int, int, int, int, int]


def flops(product: Instruction, computation: Mapping[str, Instruction]) -> float:
    """Returns the floating-point operations of a product: two for each multiplication that counts.

    Multiplications with padding, or with the holes of a dilated input, do not count, because most of those of a product
    that is written as a convolution are such.
    """
    dims = lambda name: arrays(computation[name].shape)[0][1]
    left, right = (dims(name) for name in product.operands[:2])
    out = arrays(product.shape)[0][1]
    if product.opcode == "dot":
        contracted = [int(axis) for axis in product.braces("lhs_contracting_dims").split(",") if axis]
        return 2.0 * math.prod(out) * math.prod(left[axis] for axis in contracted)
    if product.opcode == "custom-call":
        contracted = re.search(r'"lhs_contracting_dimensions":\[([^\]]*)\]', product.rest)
        sizes = [left[int(axis)] for axis in re.findall(r"\d+", contracted[1] if contracted else "")]
        return 2.0 * math.prod(out) * math.prod(sizes)
    labels = re.fullmatch(r"(\w+)_(\w+)->(\w+)", product.attribute("dim_labels"))
    if labels is None:
        raise ValueError(f"a convolution has no dim_labels: {product.name}")
    lhs, rhs, result = labels.groups()
    spatial = sorted(character for character in lhs if character.isdigit())
    window = product.braces("window")
    valid = 1
    for position, axis in enumerate(spatial):
        size = right[rhs.index(axis)]
        valid *= _valid(left[lhs.index(axis)], out[result.index(axis)], _axis(window, position, size))
    groups = int(product.attribute("batch_group_count") or 1)
    features = right[rhs.index("i")]  # Of one group of features.
    return 2.0 * (left[lhs.index("b")] // groups) * features * out[result.index("f")] * valid


def _axis(window: str, position: int, size: int) -> Axis:
    """Returns the settings of a spatial axis from a text such as `size=1x32 pad=0_0x31_31 rhs_reversal=0x1`."""
    fields = dict(field.split("=", 1) for field in window.split() if "=" in field)
    value = lambda name, default: fields[name].split("x")[position] if name in fields else default
    low, high = map(int, value("pad", "0_0").split("_"))
    stride, holes, spread = (int(value(name, "1")) for name in ("stride", "lhs_dilate", "rhs_dilate"))
    return size, stride, low, high, holes, spread


@functools.cache
def _valid(length: int, outputs: int, axis: Axis) -> int:
    """Counts the pairs of an output and a position of the kernel whose input is an element, not padding or a hole."""
    size, stride, low, _, holes, spread = axis
    at = np.arange(outputs)[:, None] * stride + np.arange(size)[None] * spread - low
    return int(np.count_nonzero((at >= 0) & (at % holes == 0) & (at // holes < length)))
