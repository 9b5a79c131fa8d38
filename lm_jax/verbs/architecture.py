"""`lm-jax inspect PRESET[:SIZE]`: parameters, operations and memory of a preset; allocates no arrays."""

from __future__ import annotations

import dataclasses
import functools
from inspect import signature
from typing import Any

import jax
import ml_collections

from lm_jax.core.config import InputError, from_config_dict, lookup, nearest
from lm_jax.core.trees import count, named_leaves, size_bytes
from lm_jax.models.config import KINDS
from lm_jax.models.flops import training_flops
from lm_jax.models.model import Model, build_model
from lm_jax.models.presets import PRESETS
from lm_jax.verbs import report

LENGTH = 2048  # Row length at which FLOPs are counted, unless the model's maximum length is shorter.
TRAINING_BYTES = 4 * 4  # Parameters, gradients and AdamW's two moments, all in float32.
INFERENCE_BYTES = {"float32": 4, "bfloat16": 2, "int8": 1}
PREFIXES = ("", "k", "M", "G", "T", "P")


def show(name: str, *, json: bool) -> None:
    """Prints the description of a preset: `NAME:SIZE`, or `NAME` for its default size."""
    facts = describe(name)
    report.document(facts) if json else report.say(text(facts))


def describe(name: str) -> dict[str, Any]:
    """Returns everything that `inspect` prints about a preset; raises `InputError` if the preset or size is unknown."""
    family, _, size = name.partition(":")
    if family not in PRESETS:
        raise InputError(
            f"{name} is neither the directory of a run nor a preset{nearest(family, PRESETS)}; "
            "lm-jax list shows presets"
        )
    preset = PRESETS[family]
    size = size or str(signature(preset.build).parameters["size"].default)
    lookup(preset.sizes, size, f"the size of {family}")
    tree: Any = preset.build(size)
    vocab = preset.vocabulary(size)
    for stack in ("encoder", "decoder") if tree.kind == "encoder_decoder" else ("stack",):
        # A scan traces one layer, so a deep stack takes no longer than a shallow one.
        tree[stack].scan = "always"
    config = from_config_dict(KINDS[tree.kind], tree, "config.model")
    model = build_model(config, vocab)
    parameters = count(model.shapes)
    return {
        "preset": family,
        "size": size,
        "paper": preset.paper,
        "kind": config.kind,
        "vocabulary": vocab,
        "parameters": parameters,
        "tensors": _tensors(model),
        "flops": _flops(config, model),
        "training_bytes": TRAINING_BYTES * parameters,
        "inference_bytes": {dtype: size * parameters for dtype, size in INFERENCE_BYTES.items()},
        "cache_bytes": _cache_bytes(config, model),
        "config": _to_builtins(preset.build(size)),
    }


def _tensors(model: Model) -> list[dict[str, Any]]:
    axes = jax.tree.leaves(model.axes, is_leaf=lambda node: isinstance(node, tuple))
    leaves = zip(named_leaves(model.shapes), axes, strict=True)
    return [{"path": path, "shape": list(leaf.shape), "axes": list(names)} for (path, leaf), names in leaves]


def _flops(config: Any, model: Model) -> dict[str, Any]:
    """Returns FLOPs per token (of source and target) for rows of at most `LENGTH` tokens on each side."""
    length = min(config.embed.max_length, LENGTH)
    source = length if config.kind == "encoder_decoder" else 0
    count = functools.partial(
        training_flops, config, model.shapes, model.axes, length=length, read=length, source=source
    )
    forward, training = (count(trained=trained) / (length + source) for trained in (False, True))
    return {"length": length, "forward": forward, "training": training}


def _cache_bytes(config: Any, model: Model) -> dict[str, int] | None:
    """Returns the bytes that a token takes in a bfloat16 KV cache; None for an encoder."""
    if config.kind == "encoder":
        return None
    module = model.module.clone(config=dataclasses.replace(model.module.config, dtype="bfloat16"))
    cache_size = lambda slots, source: size_bytes(jax.eval_shape(lambda: module.empty_cache(1, slots, source).layers))
    base = cache_size(1, 1)
    sizes = {"token": cache_size(2, 1) - base}
    return {**sizes, "source_token": cache_size(1, 2) - base} if config.kind == "encoder_decoder" else sizes


def _to_builtins(tree: Any) -> Any:
    if isinstance(tree, (ml_collections.ConfigDict, dict)):
        return {name: _to_builtins(value) for name, value in tree.items()}
    return list(tree) if isinstance(tree, tuple) else tree


def text(facts: dict[str, Any]) -> str:
    """Formats the facts of `describe` as text."""
    flops, cache = facts["flops"], facts["cache_bytes"]
    lines = [f"{'parameter':<52}{'shape':<30}axes"]
    for tensor in facts["tensors"]:
        shape = f"({', '.join(map(str, tensor['shape']))})"
        lines.append(f"{tensor['path']:<52}{shape:<30}{', '.join(map(str, tensor['axes']))}")
    sizes = ", ".join(f"{_bytes(size)} in {dtype}" for dtype, size in facts["inference_bytes"].items())
    sides = " on each side" if facts["kind"] == "encoder_decoder" else ""
    lines += [
        "",
        f"{facts['preset']}:{facts['size']}, {facts['kind'].replace('_', '-')} ({facts['paper']})",
        f"parameters  {facts['parameters']:,} with the released vocabulary of {facts['vocabulary']:,}",
        f"operations  {_count(flops['forward'])}FLOP per token forward, {_count(flops['training'])}FLOP in training, "
        f"for rows of {flops['length']:,} tokens{sides} and logits of every token",
        f"training    {_bytes(facts['training_bytes'])}: parameters, gradients and AdamW's two moments in float32, "
        "without activations",
        f"inference   {sizes}; parameters only",
    ]
    if cache is not None:
        source = f", {_bytes(cache['source_token'])} per source token" if "source_token" in cache else ""
        lines.append(f"cache       {_bytes(cache['token'])} per token{source}; keys and values in bfloat16")
    return "\n".join(lines)


def _count(number: float) -> str:
    """Formats a number with three digits and an SI prefix."""
    # 999.5 would be rounded to 1000, so it takes the next prefix.
    power = next(power for power in range(len(PREFIXES)) if number / 1000**power < 999.5 or power == len(PREFIXES) - 1)
    return f"{number / 1000**power:.3g} {PREFIXES[power]}"


def _bytes(size: float) -> str:
    return f"{_count(size)}B"
