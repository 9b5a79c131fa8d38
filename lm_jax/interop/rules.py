"""Rules pair our parameters with Hugging Face tensors and convert each to the other.

Our names (`ours`) are paths in the parameter tree, with the layer's number where the stack has a leading axis of
layers: `stack/3/attention/query/kernel`. Theirs (`theirs`) are names of tensors in a checkpoint. Our kernels are
[input axes, output axes]; torch's `Linear` stores [out, in], with all heads in one axis.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np

from lm_jax.models.config import AttentionConfig, FeedForwardConfig, NormConfig

# A conversion of numpy or jax arrays.
Change = Callable[..., tuple[Any, ...]]


@dataclasses.dataclass(frozen=True)
class Rule:
    """Hugging Face tensors with the same numbers as some of our parameters.

    Attributes:
      ours: paths of parameters; empty for a table that we compute and they store.
      theirs: names of tensors; empty for a parameter that their class lacks.
      load: converts their tensors to our parameters.
      save: converts our parameters to their tensors.
      trained: whether the tensors are parameters; False: constants without gradients.
      optional: whether a checkpoint may lack the tensors.

    Example:
      >>> from lm_jax.interop import rules
      >>> rule = rules.transposed("head/out/kernel", "lm_head.weight")
      >>> (kernel,) = rule.load(np.zeros((512, 8)))
      >>> kernel.shape, rule.save(kernel)[0].shape
      ((8, 512), (512, 8))
    """

    ours: tuple[str, ...]
    theirs: tuple[str, ...]
    load: Change
    save: Change
    trained: bool = True
    optional: bool = False


Rules = list[Rule]


def same(ours: str, theirs: str) -> Rule:
    """A tensor that needs no conversion."""
    return Rule((ours,), (theirs,), _same, _same)


def transposed(ours: str, theirs: str) -> Rule:
    """A transposed matrix: [out, in] in the file, [in, out] here."""
    return Rule((ours,), (theirs,), _transpose, _transpose)


def row(ours: str, theirs: str) -> Rule:
    """A vector that they store as a matrix of one row and do not train (`final_logits_bias`)."""
    return Rule((ours,), (theirs,), _first_row, _as_row, trained=False)


def constant(theirs: str, value: Callable[[], np.ndarray]) -> Rule:
    """A table that they store and we compute: never read, but written for their class."""
    return Rule((), (theirs,), lambda array: (), lambda: (value(),), trained=False, optional=True)


def unused(*rules: Rule) -> Rules:
    """Tensors that the class stores and does not use; a checkpoint may lack them."""
    return [dataclasses.replace(rule, trained=False, optional=True) for rule in rules]


def optional(*rules: Rule) -> Rules:
    """Tensors that a checkpoint may lack."""
    return [dataclasses.replace(rule, optional=True) for rule in rules]


def zeros(ours: str, *shape: int) -> Rule:
    """A parameter that their class lacks; it is loaded as zeros."""
    return Rule((ours,), (), lambda: (np.zeros(shape, np.float32),), lambda array: (), trained=False)


def dense(ours: str, theirs: str, *, bias: bool = True, transpose: bool = True) -> Rules:
    """A `Linear`, or with `transpose=False` a `Conv1D`, which stores [in, out] as we do."""
    kernel = (transposed if transpose else same)(f"{ours}/kernel", f"{theirs}.weight")
    return [kernel, *([same(f"{ours}/bias", f"{theirs}.bias")] if bias else [])]


def dense_reversed(ours: str, theirs: str) -> Rules:
    """A `Linear` to classes that they number in the opposite order."""
    kernel = Rule((f"{ours}/kernel",), (f"{theirs}.weight",), _reverse_transpose, _transpose_reverse)
    return [kernel, Rule((f"{ours}/bias",), (f"{theirs}.bias",), _reverse, _reverse)]


def norm(ours: str, theirs: str, config: NormConfig) -> Rules:
    """A norm; an RMS norm has no bias."""
    biased = config.name == "layer" and config.bias
    scale = [same(f"{ours}/scale", f"{theirs}.weight")] if config.scale else []
    return [*scale, *([same(f"{ours}/bias", f"{theirs}.bias")] if biased else [])]


def heads(ours: str, theirs: str, count: int, *, bias: bool) -> Rules:
    """A `Linear` to `count` heads, which share its output axis."""
    load = functools.partial(_heads_in, count)
    kernel = Rule((f"{ours}/kernel",), (f"{theirs}.weight",), load, _save_heads_in)
    split, join = functools.partial(_split_heads, count), _join_heads
    return [kernel, *([Rule((f"{ours}/bias",), (f"{theirs}.bias",), split, join)] if bias else [])]


def out(ours: str, theirs: str, count: int, *, bias: bool, transpose: bool = True) -> Rules:
    """A `Linear` (`Conv1D` with `transpose=False`) from `count` heads, which share its input axis."""
    load = functools.partial(_heads_out, count, transpose)
    kernel = Rule((f"{ours}/kernel",), (f"{theirs}.weight",), load, functools.partial(_save_heads_out, transpose))
    return [kernel, *([same(f"{ours}/bias", f"{theirs}.bias")] if bias else [])]


QKV = ("query", "key", "value")


def attention(
    ours: str,
    theirs: str,
    names: Sequence[str],
    config: AttentionConfig,
    *,
    order: str = "parts",
    transpose: bool = True,
) -> Rules:
    """Attention: `names` are query, key, value and output, or a fused matrix (`fused`) and output."""
    *inputs, output = names
    if len(inputs) == 1:
        rules = fused(ours, f"{theirs}{inputs[0]}", config, order, transpose=transpose)
    else:
        rules, groups = [], config.kv_heads or config.heads
        for projection, name, count in zip(QKV, inputs, (config.heads, groups, groups), strict=True):
            rules += heads(f"{ours}/{projection}", f"{theirs}{name}", count, bias=config.bias)
    return rules + out(f"{ours}/out", f"{theirs}{output}", config.heads, bias=config.out_bias, transpose=transpose)


def fused(
    ours: str, theirs: str, config: AttentionConfig, order: str, *, transpose: bool = True, name_format: str = "{}.{}"
) -> Rules:
    """Fused QKV: one `Linear` (`Conv1D` with `transpose=False`) to queries, keys and values.

    `order` is `parts` (all queries, all keys, all values: GPT-2, MPT, ModernBERT; with shared keys Falcon-7B), `heads`
    (for each head its query, key and value: GPT-NeoX, BLOOM) or `groups` (for each group its queries, its key and its
    value: Falcon-40B). `name_format` gives a tensor's name from `theirs` and `weight` or `bias`.
    """
    weight, bias = name_format.format(theirs, "weight"), name_format.format(theirs, "bias")
    count, groups = config.heads, config.kv_heads or config.heads
    load = functools.partial(_unfuse, order, count, groups, transpose)
    save = functools.partial(_fuse, order, count, groups, transpose)
    kernels = Rule(tuple(f"{ours}/{projection}/kernel" for projection in QKV), (weight,), load, save)
    biases = Rule(tuple(f"{ours}/{projection}/bias" for projection in QKV), (bias,), load, save)
    return [kernels, *([biases] if config.bias else [])]


def feedforward(
    ours: str, theirs: str, names: Sequence[str], config: FeedForwardConfig, *, transpose: bool = True
) -> Rules:
    """Feed-forward: `names` are in and out; if gated, gate, in and out, or a fused matrix (`gate_and_in`) and out."""
    if config.gated and len(names) == 2:
        inputs = gate_and_in(ours, f"{theirs}{names[0]}", bias=config.bias)
        return inputs + dense(f"{ours}/out", f"{theirs}{names[1]}", bias=config.bias)
    projections = ("gate", "in", "out") if config.gated else ("in", "out")
    rules = []
    for projection, name in zip(projections, names, strict=True):
        rules += dense(f"{ours}/{projection}", f"{theirs}{name}", bias=config.bias, transpose=transpose)
    return rules


def gate_and_in(ours: str, theirs: str, *, bias: bool) -> Rules:
    """A fused matrix of gate and in, whose first half is the gate (ModernBERT's `Wi`)."""
    pairs = [("kernel", "weight"), *([("bias", "bias")] if bias else [])]
    return [
        Rule((f"{ours}/gate/{leaf}", f"{ours}/in/{leaf}"), (f"{theirs}.{name}",), _halves, _stacked)
        for leaf, name in pairs
    ]


def concatenate(parts: Sequence[Any], axis: int) -> Any:
    """Concatenates numpy or jax arrays."""
    return (np if isinstance(parts[0], np.ndarray) else jnp).concatenate(parts, axis)


_same: Change = lambda array: (array,)
_transpose: Change = lambda array: (array.T,)
_reverse: Change = lambda array: (array[::-1],)
_reverse_transpose: Change = lambda array: (array[::-1].T,)
_transpose_reverse: Change = lambda array: (array.T[::-1],)
_first_row: Change = lambda array: (array[0],)
_as_row: Change = lambda array: (array.reshape(1, -1),)
_heads_in: Change = lambda count, array: (array.T.reshape(array.shape[1], count, -1),)
_save_heads_in: Change = lambda array: (array.reshape(array.shape[0], -1).T,)
_split_heads: Change = lambda count, array: (array.reshape(count, -1),)
_join_heads: Change = lambda array: (array.reshape(-1),)


def _heads_out(count: int, transpose: bool, array: Any) -> tuple[Any]:
    array = array.T if transpose else array
    return (array.reshape(count, -1, array.shape[1]),)


def _save_heads_out(transpose: bool, array: Any) -> tuple[Any]:
    array = array.reshape(-1, array.shape[2])
    return (array.T if transpose else array,)


def _halves(array: Any) -> tuple[Any, Any]:
    half = array.shape[0] // 2
    return array[:half].T, array[half:].T


def _stacked(gate: Any, value: Any) -> tuple[Any]:
    return (concatenate([gate.T, value.T], 0),)


def _unfuse(order: str, count: int, groups: int, transpose: bool, array: Any) -> tuple[Any, Any, Any]:
    """Splits a fused matrix, or its bias, into queries, keys and values with an axis of heads."""
    array = array if transpose or array.ndim == 1 else array.T
    rest = array.shape[1:]
    width = array.shape[0] // (count + 2 * groups)
    if order == "parts":
        rows = array.reshape(count + 2 * groups, width, *rest)
        parts = rows[:count], rows[count : count + groups], rows[count + groups :]
    else:
        queries = count // groups
        rows = array.reshape(groups, queries + 2, width, *rest)
        parts = rows[:, :queries].reshape(count, width, *rest), rows[:, queries], rows[:, queries + 1]
    return tuple(part.transpose(2, 0, 1) if rest else part for part in parts)  # type: ignore[return-value]


def _fuse(order: str, count: int, groups: int, transpose: bool, *parts: Any) -> tuple[Any]:
    parts = tuple(part.transpose(1, 2, 0) if part.ndim == 3 else part for part in parts)
    width, rest = parts[0].shape[1], parts[0].shape[2:]
    if order == "parts":
        rows = concatenate(parts, 0)
    else:
        queries = parts[0].reshape(groups, count // groups, width, *rest)
        rows = concatenate([queries, parts[1][:, None], parts[2][:, None]], 1)
    array = rows.reshape((count + 2 * groups) * width, *rest)
    return (array if transpose or array.ndim == 1 else array.T,)
