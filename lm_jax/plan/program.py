"""What a compiled program executes: products and collectives, with the iterations of its loops multiplied in.

The cost analysis of XLA counts the body of a loop once, so it is not used here.
"""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Iterator, Mapping

from lm_jax.plan import products
from lm_jax.plan.hlo import Instruction, Module, arrays, bytes_of, parse

KINDS = ("all-gather", "reduce-scatter", "all-reduce", "all-to-all", "collective-permute")
OTHER_KINDS = {"ragged-all-to-all": "all-to-all", "collective-broadcast": "collective-permute"}
CALLS = ("fusion", "call", "async", "custom-call")
# What moves a value without changing it.
MOVES = ("copy", "bitcast", "convert", "copy-start", "copy-done", "reshape", "opt-barrier")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Collective:
    """A collective that every device executes.

    Attributes:
      kind: one of `KINDS`.
      count: how often it is executed in one step.
      payload_bytes: of one execution: the gathered, reduced, scattered, exchanged or sent array of a device.
      group: devices that take part.
      asynchronous: whether the program computes while it runs.
      dcn: whether it connects slices.
    """

    kind: str
    count: float
    payload_bytes: float
    group: int
    asynchronous: bool
    dcn: bool = False

    @property
    def wire_bytes(self) -> float:
        """Bytes that a device sends in one execution: (n - 1) / n of the payload, twice that for all-reduce."""
        if self.kind == "collective-permute":
            return self.payload_bytes
        share = (self.group - 1) / self.group if self.group else 1.0
        return self.payload_bytes * share * (2 if self.kind == "all-reduce" else 1)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Product:
    """A product: its operations, how often it is executed, and the place in the source that asked for it."""

    flops: float
    count: float
    source: str


@dataclasses.dataclass(frozen=True, kw_only=True)
class Program:
    """Everything that one step executes on a device.

    Attributes:
      kernels: executions of handwritten kernels, whose operations are unknown.
      unknown_loops: loops whose number of iterations cannot be derived; their bodies are counted once.
    """

    products: tuple[Product, ...]
    collectives: tuple[Collective, ...]
    kernels: float
    unknown_loops: tuple[str, ...]

    @property
    def flops(self) -> float:
        """Floating-point operations of all products."""
        return sum(product.flops * product.count for product in self.products)


def read(text: str, slice_devices: int | None = None) -> Program:
    """Reads the text of a compiled program.

    Args:
      text: from `compiled.as_text()`.
      slice_devices: devices of a slice; a group with devices of several slices uses DCN. None: there is one slice.

    Raises:
      ValueError: the text is no compiled program.
    """
    module = parse(text)
    reader = _Reader(module, slice_devices)
    reader.walk(module.entry, 1.0, asynchronous=False)
    return Program(
        products=tuple(reader.products),
        collectives=tuple(reader.collectives),
        kernels=reader.kernels,
        unknown_loops=tuple(dict.fromkeys(reader.unknown)),
    )


class _Reader:
    def __init__(self, module: Module, slice_devices: int | None):
        self._module, self._slice_devices = module, slice_devices
        self.products: list[Product] = []
        self.collectives: list[Collective] = []
        self.kernels = 0.0
        self.unknown: list[str] = []

    def walk(self, name: str, count: float, *, asynchronous: bool) -> None:
        """Adds what a computation executes, `count` times."""
        computation = self._module.computations[name]
        step = self._is_step(name, computation)
        fused = any(_target(each) == "AsyncCollectiveStart" for each in computation.values())
        for each in computation.values():
            kind, base = collective_kind(each.opcode), each.opcode.removesuffix("-start")
            if each.opcode in ("dot", "convolution") or _target(each).startswith(products.CUBLAS):
                source = re.search(r'op_name="([^"]*)"', each.rest)
                flops = products.flops(each, computation)
                self.products.append(Product(flops=flops, count=count, source=source[1] if source else ""))
            elif kind and not step:
                started = asynchronous or fused or each.opcode.endswith("-start")
                self._add(each, kind, computation, count, asynchronous=started)
            elif each.opcode == "send" and "_xla_megascale_transfer_type" in each.rest:
                self._add_across_slices(each, count)
            elif each.opcode == "while":
                trips = self.trips(each, computation)
                for called in each.called:
                    self.walk(called, count * trips, asynchronous=False)
            elif each.opcode == "conditional":
                self._walk_dearest(each.called, count)
            elif base in CALLS:
                # SparseCores run collectives as the start of a call, which names their computation.
                for called in each.called:
                    self.walk(called, count, asynchronous=asynchronous or each.opcode.endswith("-start"))
                self.kernels += count * (_target(each) == "tpu_custom_call")

    def _walk_dearest(self, branches: tuple[str, ...], count: float) -> None:
        """Adds the branch of a conditional with the most operations, then the most bytes sent."""
        results = []
        for branch in branches:
            reader = _Reader(self._module, self._slice_devices)
            reader.walk(branch, count, asynchronous=False)
            sent = sum(each.count * each.wire_bytes for each in reader.collectives)
            results.append(((sum(each.count * each.flops for each in reader.products), sent), len(results), reader))
        if results:
            dearest = max(results)[-1]
            self.products += dearest.products
            self.collectives += dearest.collectives
            self.kernels += dearest.kernels
            self.unknown += dearest.unknown

    @staticmethod
    def _is_step(name: str, computation: Mapping[str, Instruction]) -> bool:
        """Whether this is a later part of a collective that an earlier fusion has started, and that was counted there.

        The compiler hides a collective behind several fusions, each of which repeats its instruction.
        """
        targets = {_target(each) for each in computation.values()}
        continued = name.startswith("async_collective_fusion") or "AsyncCollectiveDone" in targets
        return continued and "AsyncCollectiveStart" not in targets

    def _add(
        self, each: Instruction, kind: str, computation: Mapping[str, Instruction], count: float, *, asynchronous: bool
    ) -> None:
        read = sum(computation[name].size_bytes for name in each.operands if name in computation)
        group, dcn = self._group(each)
        payload = read
        if kind == "all-gather":
            payload = read * group if group else each.size_bytes
        self.collectives.append(
            Collective(kind=kind, count=count, payload_bytes=payload, group=group, asynchronous=asynchronous, dcn=dcn)
        )

    def _add_across_slices(self, each: Instruction, count: float) -> None:
        """Adds a transfer between slices, which the compiler hands to the host as a `send`."""
        transfer = re.search(r'_xla_megascale_transfer_type="(\w+)"', each.rest)
        target = re.search(r'_xla_megascale_target="\{([\d,]+)\}', each.rest)
        kind = transfer[1].lower().replace("_", "-") if transfer else "all-reduce"
        payload = sum(bytes_of(element) * math.prod(dims) for element, dims in arrays(each.shape)[:1])
        slices = len(target[1].split(",")) if target else 2
        if kind not in KINDS:
            kind = "collective-permute"
        if kind == "all-gather":
            payload *= slices
        self.collectives.append(
            Collective(kind=kind, count=count, payload_bytes=payload, group=slices, asynchronous=True, dcn=True)
        )

    def _group(self, each: Instruction) -> tuple[int, bool]:
        """Returns the number of devices of a collective's first group, and whether it has devices of several slices."""
        groups = first_group(each.rest)
        crosses = self._slice_devices is not None and len({device // self._slice_devices for device in groups}) > 1
        return len(groups), crosses

    def trips(self, loop: Instruction, computation: Mapping[str, Instruction]) -> int:
        """Returns the iterations of a `while` that says them, or whose condition compares a counter with a constant.

        An unknown number is noted, and counts as 1.
        """
        if known := re.search(r'"known_trip_count":\{"n":"(\d+)"', loop.rest):
            return int(known[1])
        names = [re.search(rf"\b{key}=%?([\w.\-]+)", loop.rest) for key in ("condition", "body")]
        if all(names):
            condition, body = (self._module.computations[name[1]] for name in names if name)
            limit = self._comparison(condition)
            initial = None if limit is None else _element(loop.operands[0], limit[0], computation)
            step = None if limit is None else _increment(body, limit[0])
            if limit is not None and initial is not None and step:
                _, direction, bound = limit
                span = bound - initial + {"LE": 1, "GE": -1}.get(direction, 0)
                if direction == "NE" or span * step > 0:
                    return max(math.ceil(span / step), 0)
                return 0
        self.unknown.append(loop.name)
        return 1

    def _comparison(self, condition: Mapping[str, Instruction]) -> tuple[int, str, int] | None:
        """Returns the index of the counter in the loop's tuple, the direction of the comparison and its constant."""
        root = next(each for each in condition.values() if each.root)
        names, outer = root.operands, condition
        if root.opcode == "fusion":
            inner = self._module.computations[root.called[0]]
            root = next(each for each in inner.values() if each.root)
            parameters = {
                each.name: names[int(each.operands[0])] for each in inner.values() if each.opcode == "parameter"
            }
            names = tuple(parameters.get(name, name) for name in root.operands)
            outer = {**inner, **condition}
        if root.opcode != "compare" or len(names) != 2:
            return None
        direction = root.attribute("direction")
        values = [_constant(name, outer) for name in names]
        indices = [_index(name, outer) for name in names]
        if values[1] is not None and indices[0] is not None:
            return indices[0], direction, values[1]
        if values[0] is not None and indices[1] is not None:
            return indices[1], {"LT": "GT", "GT": "LT", "LE": "GE", "GE": "LE"}.get(direction, direction), values[0]
        return None


def collective_kind(opcode: str) -> str:
    """Returns the kind of a collective by its opcode; empty if it is none, or the end of one."""
    base = opcode.removesuffix("-start")
    base = OTHER_KINDS.get(base, base)
    return base if base in KINDS else ""


def first_group(attributes: str) -> list[int]:
    """Returns the devices of the first group of a collective, from any of XLA's three notations; empty if unknown.

    Example:
      >>> first_group("replica_groups={{0,2},{1,3}}"), first_group("replica_groups=[2,2]<=[2,2]T(1,0)")
      ([0, 2], [0, 2])
      >>> first_group("replica_groups=mesh['data'=2,'fsdp'=4] {'data'}")
      [0, 4]
    """
    if match := re.search(r"(?:replica_groups|source_target_pairs)=\{\{([\d,]+)\}", attributes):
        return [int(device) for device in match[1].split(",")]
    if match := re.search(r"replica_groups=\[(\d+),(\d+)\]<=\[([\d,]+)\](?:T\(([\d,]+)\))?", attributes):
        sizes = [int(size) for size in match[3].split(",")]
        order = [int(axis) for axis in match[4].split(",")] if match[4] else list(range(len(sizes)))
        return list(_devices(sizes, order))[: int(match[2])]
    if match := re.search(r"replica_groups=mesh\[([^\]]*)\] \{([^}]*)\}", attributes):
        axes = {name: int(size) for name, size in re.findall(r"'([^']+)'=(\d+)", match[1])}
        members = re.findall(r"'([^']+)'", match[2])
        names = list(axes)
        order = [names.index(name) for name in [*(name for name in names if name not in members), *members]]
        return list(_devices(list(axes.values()), order))[: math.prod(axes[name] for name in members)]
    return []


def _devices(sizes: list[int], order: list[int]) -> Iterator[int]:
    """Yields the numbers 0, 1, ... of an array of these sizes after its axes are put in another order."""
    strides = [math.prod(sizes[axis + 1 :]) for axis in range(len(sizes))]
    for flat in range(math.prod(sizes)):
        number = 0
        for axis in reversed(order):
            flat, at = divmod(flat, sizes[axis])
            number += at * strides[axis]
        yield number


def _target(each: Instruction) -> str:
    match = re.search(r'custom_call_target="([^"]*)"', each.rest) if each.opcode == "custom-call" else None
    return match[1] if match else ""


def _source(name: str, computation: Mapping[str, Instruction]) -> Instruction | None:
    """Returns the instruction from which a value comes unchanged."""
    each = computation.get(name)
    while each is not None and each.opcode in MOVES and each.operands:
        each = computation.get(each.operands[0])
    return each


def _constant(name: str, computation: Mapping[str, Instruction]) -> int | None:
    each = _source(name, computation)
    integer = each is not None and each.opcode == "constant" and re.fullmatch(r"-?\d+", each.operands[0])
    return int(each.operands[0]) if each is not None and integer else None


def _index(name: str, computation: Mapping[str, Instruction]) -> int | None:
    """Returns which element of its computation's tuple a value is."""
    each = _source(name, computation)
    return int(each.attribute("index")) if each is not None and each.opcode == "get-tuple-element" else None


def _element(name: str, index: int, computation: Mapping[str, Instruction]) -> int | None:
    """Returns an element of a tuple if it is an integer constant."""
    each = _source(name, computation)
    if each is None or each.opcode != "tuple" or index >= len(each.operands):
        return None
    return _constant(each.operands[index], computation)


def _increment(body: Mapping[str, Instruction], index: int) -> int | None:
    """Returns by how much an iteration changes an element of the loop's tuple; None: not by a constant."""
    root = next(each for each in body.values() if each.root)
    each = _source(root.operands[index], body) if root.opcode == "tuple" and index < len(root.operands) else None
    if each is None or each.opcode not in ("add", "subtract") or len(each.operands) != 2:
        return None
    sign = 1 if each.opcode == "add" else -1
    for counter, other in (each.operands, each.operands[::-1]):
        if _index(counter, body) == index and (value := _constant(other, body)) is not None:
            return sign * value
    return None
