"""What tables share: trees of settings, the rules of norms and of the readout."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from lm_jax.core.config import Tree
from lm_jax.interop.rules import Rules, feedforward, fused, norm, out, same, turned
from lm_jax.models.config import BlockConfig, EmbedConfig, ReadoutConfig, RotaryConfig, StackConfig


def tree(settings: Any) -> Tree:
    """A mapping or a dataclass as a `Tree`, all the way down."""
    if dataclasses.is_dataclass(settings):
        settings = {field.name: getattr(settings, field.name) for field in dataclasses.fields(settings)}
    inside = lambda value: isinstance(value, Mapping) or dataclasses.is_dataclass(value)
    return Tree((name, tree(value) if inside(value) else value) for name, value in settings.items())


def stack(depth: int, block: BlockConfig, kinds: Mapping[str, Any], names: Sequence[str]) -> StackConfig:
    """A stack whose layers are of the named kinds, in order; `block` is the block as it is."""
    used = {name: tree(kinds[name]) for name in dict.fromkeys(names) if name != "block"}
    if not used:
        return StackConfig(depth=depth, block=block)
    # The shortest pattern that gives these names.
    period = next(size for size in range(1, depth + 1) if all(names[at] == names[at % size] for at in range(depth)))
    return StackConfig(depth=depth, block=block, kinds=Tree(used), pattern=tuple(names[:period]))


def layers(stack: StackConfig) -> list[BlockConfig]:
    """The block of every layer."""
    names = stack.pattern or ("block",)
    return [stack.kind(names[layer % len(names)]) for layer in range(stack.depth)]


def windows(stack: StackConfig) -> tuple[int | None, list[bool]]:
    """The window of the layers that have one, and which layers these are; where windows differ, one of them."""
    found = [block.attention.window for block in layers(stack)]
    return max((window for window in found if window), default=None), [window is not None for window in found]


def rotary(config: RotaryConfig) -> dict[str, Any]:
    """Our rotary settings as transformers 4 spelled them, which later releases read too."""
    scaling = config.scaling
    if scaling.name == "none":
        return {"rope_theta": config.theta}
    stretched: dict[str, Any] = {"rope_type": scaling.name, "factor": scaling.factor}
    if scaling.name == "llama3":
        length = scaling.length
        stretched |= {"low_freq_factor": scaling.low, "high_freq_factor": scaling.high}
        stretched |= {"original_max_position_embeddings": length}
    return {"rope_theta": config.theta, "rope_scaling": stretched}


def room(config: EmbedConfig) -> int:
    """Rows of a table of positions that their class computes: our positions have no limit, and answers go on."""
    return max(config.max_length, 2048)


def norms(ours: str, theirs: str, names: Mapping[str, str], block: BlockConfig) -> Rules:
    """Norms of a layer: our names to theirs."""
    return [rule for mine, name in names.items() for rule in norm(f"{ours}/{mine}", f"{theirs}{name}", block.norm)]


def readout(config: ReadoutConfig, theirs: str) -> Rules:
    """The matrix to logits, where it is not the token table."""
    return [] if config.tied else [turned("head/out/kernel", theirs)]


def masked_readout(config: ReadoutConfig, theirs: str, decoder: str) -> Rules:
    """The matrix and biases of BERT's kind: an untied matrix brings a bias of its own, and leaves the other unused."""
    if config.tied:
        return [same("head/bias", f"{theirs}.bias")]
    unused = dataclasses.replace(same("extra/unused", f"{theirs}.bias"), trained=False, optional=True)
    return [*readout(config, f"{decoder}.weight"), same("head/bias", f"{decoder}.bias"), unused]


def megatron(ours: str, theirs: str, name: str, block: BlockConfig, order: str, names: Mapping[str, str]) -> Rules:
    """A layer as Megatron's heirs call its parts: BLOOM, GPT-NeoX, Falcon.

    Args:
      ours: path of the layer.
      theirs: what the names of its tensors begin with.
      name: theirs of attention.
      block: the layer.
      order: of queries, keys and values in their one matrix (`rules.fused`).
      names: norms, ours to theirs.
    """
    rules = fused(f"{ours}/attention", f"{theirs}{name}.query_key_value", block.attention, order)
    rules += out(f"{ours}/attention/out", f"{theirs}{name}.dense", block.attention.heads, bias=block.attention.out_bias)
    matrices = ("dense_h_to_4h", "dense_4h_to_h")
    rules += feedforward(f"{ours}/feedforward", f"{theirs}mlp.", matrices, block.feedforward)
    return rules + norms(ours, theirs, names, block)
