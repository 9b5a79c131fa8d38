"""What a step needs of a device, in closed form: memory by part, bytes sent, and operations that are computed again.

Nothing is fitted to compiled programs: every term is a shape of the model. docs/claims.md compares both.
"""

from __future__ import annotations

import dataclasses
import functools
import itertools
import math
from collections.abc import Iterable, Mapping

from lm_jax.parallel.products import LARGE, LEAST_DEVICES
from lm_jax.parallel.rings import LANES
from lm_jax.plan import layers
from lm_jax.plan.layers import Layer

# A loss computes its logits in at most 8 chunks of at least 512 tokens (`objectives.cross_entropy`).
MOST_CHUNKS, LEAST_TOKENS = 8, 512
# A TPU stores arrays in tiles of 8 x 128 numbers.
SUBLANES = 8


@dataclasses.dataclass(frozen=True)
class Split:
    """A way to run a step.

    Attributes:
      data, fsdp, tensor: sizes of the mesh axes.
      remat: what the layers keep whose own setting is open; None: none are open, or everything.
      accumulate: micro-batches.
    """

    data: int
    fsdp: int
    tensor: int
    remat: str | None = None
    accumulate: int = 1

    @property
    def axes(self) -> dict[str, int]:
        """Size of each mesh axis by its name."""
        return {"data": self.data, "fsdp": self.fsdp, "tensor": self.tensor}

    @property
    def devices(self) -> int:
        """The number of devices."""
        return self.data * self.fsdp * self.tensor

    def remat_of(self, layer: Layer) -> str:
        """What a layer keeps."""
        return layer.remat or self.remat or "none"


@dataclasses.dataclass(frozen=True)
class Array:
    """An array of the train state or of a batch.

    Attributes:
      shape: of the whole array.
      itemsize: bytes of a number.
      over: for each dimension, the mesh axes that divide it.

    Example:
      >>> Array((24, 1024, 4096), 4, ((), ("fsdp",), ("tensor",))).size_bytes({"fsdp": 8, "tensor": 1})
      50331648
    """

    shape: tuple[int, ...]
    itemsize: int
    over: tuple[tuple[str, ...], ...]

    def divides(self, axes: Mapping[str, int]) -> bool:
        """Whether every dimension is a multiple of its number of parts."""
        return not any(size % parts for size, parts in zip(self.shape, self._parts(axes), strict=True))

    def size_bytes(self, axes: Mapping[str, int], tiled: bool = False) -> int:
        """Bytes of a device's part; with `tiled` as a TPU stores it, in the layout with the least padding."""
        shape = tuple(size // parts for size, parts in zip(self.shape, self._parts(axes), strict=True))
        return (_tiled(shape) if tiled else math.prod(shape)) * self.itemsize

    def _parts(self, axes: Mapping[str, int]) -> list[int]:
        return [math.prod(axes[name] for name in names) for names in self.over]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Read:
    """Logits over a vocabulary.

    Attributes:
      scored: tokens of a row that have them.
      vocabulary, width: sizes of the table or matrix.
      tied: whether it is the table of token embeddings, too.
    """

    scored: int
    vocabulary: int
    width: int
    tied: bool = True


@dataclasses.dataclass(frozen=True, kw_only=True)
class Step:
    """Sizes of a step, whatever the devices.

    Attributes:
      layers: every kind of layer of all models.
      parameters, optimizer, other: arrays of the train state; of a global batch too, in `other`.
      trained: the parameters with gradients.
      stacked: the matrices of all layers, with a leading axis of layers.
      reads: logits over vocabularies.
      rows: rows of the global batch.
      itemsize: bytes of an activation.
      flops: operations that the models require for the batch.
    """

    layers: tuple[Layer, ...]
    parameters: tuple[Array, ...]
    optimizer: tuple[Array, ...]
    other: tuple[Array, ...]
    trained: tuple[Array, ...]
    stacked: tuple[Array, ...]
    reads: tuple[Read, ...]
    rows: int
    itemsize: int
    flops: float


@dataclasses.dataclass(frozen=True, kw_only=True)
class Estimate:
    """What a step needs of a device.

    Attributes:
      split: how the step runs.
      parameters_bytes, optimizer_bytes, other_bytes: arguments: parameters, optimizer state, and batch with the rest.
      gradient_bytes: gradients in float32.
      cast_bytes: the matrices of layers in the type of activations.
      activation_bytes: what layers keep for the backward pass.
      working_bytes: values of the layer that is being computed, its gathered matrices and their gradients.
      logit_bytes: logits of one chunk with their gradient, the gathered table, and the table's gradient.
      needed_bytes: the sum, of which the last two count at different times.
      wire_bytes: bytes that the device sends, by purpose.
      flops: operations of products that the model requires.
      repeated_flops: operations that the backward pass repeats.
    """

    split: Split
    parameters_bytes: int
    optimizer_bytes: int
    other_bytes: int
    gradient_bytes: int
    cast_bytes: int
    activation_bytes: int
    working_bytes: int
    logit_bytes: int
    needed_bytes: int
    wire_bytes: dict[str, float]
    flops: float
    repeated_flops: float

    @property
    def temporary_bytes(self) -> int:
        """What is not an argument."""
        return self.needed_bytes - self.parameters_bytes - self.optimizer_bytes - self.other_bytes

    @property
    def sent_bytes(self) -> float:
        """Bytes that the device sends."""
        return sum(self.wire_bytes.values())


def estimate(step: Step, split: Split, *, tiled: bool = True) -> Estimate:
    """Returns what a step needs of a device; the split must divide all arrays (`Array.divides`).

    After the forward pass a device holds the activations and the logits; in the backward pass the activations and what
    one layer works with; after it, when no activations are left, a table with its gradient. The largest counts.

    Args:
      step: sizes of the step.
      split: mesh, what layers keep, and micro-batches.
      tiled: whether arrays are padded to the tiles of a TPU.
    """
    axes, remat = split.axes, split.remat_of
    size = lambda arrays: sum(array.size_bytes(axes, tiled) for array in arrays)
    rows = step.rows / (split.data * split.fsdp * split.accumulate)
    shape = step.itemsize, split.tensor
    kept = sum(each.count * each.queries * layers.kept_bytes(each, remat(each), *shape) for each in step.layers)
    works = (each.queries * layers.working_bytes(each, remat(each), *shape) for each in step.layers)
    working = rows * max(works, default=0.0) + _matrices(step, split)
    logits = max((_logits(read, step, split, rows) for read in step.reads if read.scored), default=0.0)
    tables = max((_table(read, step, split, 4) for read in step.reads), default=0.0)
    # Gradients of micro-batches are added to as many.
    gradients = size(step.trained) * (1 if split.accumulate == 1 else 2)
    casts = sum(array.size_bytes(axes) // array.itemsize * step.itemsize for array in step.stacked)
    casts = casts if step.itemsize < 4 else 0
    parameters, optimizer, other = (size(arrays) for arrays in (step.parameters, step.optimizer, step.other))
    temporaries = max(rows * kept + casts + max(working, logits), tables) + gradients
    repeated = sum(each.count * each.queries * layers.repeated_flops(each, remat(each)) for each in step.layers)
    return Estimate(
        split=split,
        parameters_bytes=parameters,
        optimizer_bytes=optimizer,
        other_bytes=other,
        gradient_bytes=gradients,
        cast_bytes=casts,
        activation_bytes=round(rows * kept),
        working_bytes=round(working),
        logit_bytes=round(logits),
        needed_bytes=round(parameters + optimizer + other + temporaries),
        wire_bytes=wire_bytes(step, split),
        flops=step.flops / split.devices,
        repeated_flops=repeated * step.rows / split.devices,
    )


def wire_bytes(step: Step, split: Split) -> dict[str, float]:
    """Returns the bytes that a device sends in a step, by purpose.

    `gathers`: matrices in the type of activations, for the forward and for the backward pass. `gradients`: twice, as an
    all-reduce; once, as a reduce-scatter, if products are explicit (`parallel.products`) or no axis holds replicas, and
    then those of a tied table once for each of its uses. `tensor`: sums of the residual stream, one a branch in both
    passes (Shoeybi et al. 2019, arXiv:1909.08053, section 3).
    """
    replicas, passes = split.data * split.fsdp, split.accumulate
    part = lambda devices: (devices - 1) / devices
    numbers = lambda arrays: sum(math.prod(array.shape) for array in arrays) / split.tensor
    matrices, everything = numbers(step.stacked), numbers(step.trained)
    # Frozen ones have no gradient.
    learned = min(matrices, everything)
    tables = sum(read.vocabulary * read.width for read in step.reads) / split.tensor
    sums = 0.0
    for layer in step.layers:
        times = layer.branches * (3 if layers.summed_again(split.remat_of(layer)) else 2)
        sums += step.rows / replicas * layer.queries * layer.count * times * layer.width * step.itemsize
    gradients = 2 * part(replicas) * (step.itemsize * learned + 4 * (everything - learned))
    if split.fsdp > 1 and (split.data == 1 or replicas >= LEAST_DEVICES):
        once = part(split.fsdp) + 2 * part(split.data) / split.fsdp
        gradients = once * step.itemsize * everything
        for read in step.reads:
            tokens, table = step.rows / replicas / passes * read.scored, read.vocabulary * read.width / split.tensor
            again = read.tied + (_chunks(tokens) - 1 if _in_parts(read, split) else 0)
            gradients += once * step.itemsize * table * again
    return {
        "gathers": part(split.fsdp) * passes * step.itemsize * 2 * (matrices + tables),
        "gradients": passes * gradients,
        "tensor": 2 * part(split.tensor) * sums,
    }


def splits(
    step: Step,
    devices: int,
    fixed: Mapping[str, int],
    remats: Iterable[str | None],
    accumulates: Iterable[int],
    slices: int = 1,
) -> list[Split]:
    """Returns all splits that divide the rows and the arrays of a step.

    Args:
      step: sizes of the step.
      devices: number of devices.
      fixed: size of each mesh axis by its name; -1: open.
      remats: choices for the layers whose setting is open.
      accumulates: numbers of micro-batches.
      slices: of TPUs; only the data axis may span them, so it is a multiple of their number.
    """
    divisors = [number for number in range(1, devices + 1) if devices % number == 0]
    pairs, result = tuple(itertools.product(remats, accumulates)), []
    for data, fsdp in itertools.product(divisors, divisors):
        if devices % (data * fsdp) or data % slices:
            continue
        axes = {"data": data, "fsdp": fsdp, "tensor": devices // (data * fsdp)}
        arrays = (*step.parameters, *step.optimizer, *step.other)
        if any(fixed[name] not in (-1, size) for name, size in axes.items()):
            continue
        if all(array.divides(axes) for array in arrays):
            these = [(remat, parts) for remat, parts in pairs if step.rows % (data * fsdp * parts) == 0]
            result += [Split(**axes, remat=remat, accumulate=parts) for remat, parts in these]
    return result


def _matrices(step: Step, split: Split) -> float:
    """Bytes of one layer's gathered matrices, and of the gradient of the largest before and after its sum."""
    sizes = [math.prod(array.shape[1:]) / split.tensor for array in step.stacked]
    return step.itemsize * (sum(sizes) * (split.fsdp > 1) + 2 * max(sizes, default=0))


def _logits(read: Read, step: Step, split: Split, rows: float) -> float:
    """Bytes of a chunk's logits and of their gradient, of the table, and of hidden states and their gradients.

    The softmax in float32 is a part of the products' fusions. A device sums the gradient of the whole table in float32,
    or of its part of a large one.
    """
    tokens, vocabulary = rows * read.scored, read.vocabulary / split.tensor
    logits = math.ceil(tokens / _chunks(tokens)) * vocabulary * 2 * step.itemsize
    gradient = step.itemsize if _in_parts(read, split) else 4
    return logits + _table(read, step, split, gradient) + 2 * step.itemsize * tokens * read.width


def _chunks(tokens: float) -> int:
    """Parts of a loss."""
    return max(min(MOST_CHUNKS, math.ceil(tokens / LEAST_TOKENS)), 1)


def _in_parts(read: Read, split: Split) -> bool:
    """Whether the gradient of a table is reduced in every chunk of the loss."""
    return split.fsdp > 1 and 4 * read.vocabulary * read.width >= LARGE * split.tensor


def _table(read: Read, step: Step, split: Split, gradient: int) -> float:
    """Bytes of a whole table and of its gradient, which has `gradient` bytes a number."""
    return (gradient + step.itemsize) * read.vocabulary * read.width / split.tensor


@functools.cache
def _tiled(shape: tuple[int, ...]) -> int:
    """Numbers of an array with the padding of tiles, in the layout that pads the least."""
    if len(shape) < 2:
        return math.prod(shape)
    up, choices = lambda size, tile: -(-size // tile) * tile, []
    for minor, second in itertools.permutations(range(len(shape)), 2):
        rest = math.prod(size for index, size in enumerate(shape) if index not in (minor, second))
        tile = min(SUBLANES, 1 << max(shape[second] - 1, 0).bit_length())
        choices.append(rest * up(shape[minor], LANES) * up(shape[second], tile))
    return min(choices)
