"""Helpers that the tables share: stacks of settings, config.json fields, and rules of layers, embeddings and heads."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from lm_jax.core.config import InputError, Tree, lookup
from lm_jax.interop import rules
from lm_jax.interop.family import Family
from lm_jax.interop.heads import CLASSIFIED, ENCODED, Head, Heads
from lm_jax.interop.rules import Rules, same, transposed
from lm_jax.interop.settings import ACTIVATION_NAMES, ACTIVATIONS
from lm_jax.models.config import BlockConfig, EmbedConfig, ReadoutConfig, RotaryConfig, StackConfig, TransformerConfig

# Names of the query, key, value and output matrices in most classes.
PROJECTIONS = ("q_proj", "k_proj", "v_proj", "out_proj")


def tree(settings: Any) -> Tree:
    """Convert a mapping or a dataclass to a `Tree`, recursively."""
    if dataclasses.is_dataclass(settings):
        settings = {field.name: getattr(settings, field.name) for field in dataclasses.fields(settings)}
    inside = lambda value: isinstance(value, Mapping) or dataclasses.is_dataclass(value)
    return Tree((name, tree(value) if inside(value) else value) for name, value in settings.items())


def stack(depth: int, block: BlockConfig, kinds: Mapping[str, Any], names: Sequence[str]) -> StackConfig:
    """Return a stack whose layers have the kinds `names`, in order; `block` is the kind without changes."""
    used = {name: tree(kinds[name]) for name in dict.fromkeys(names) if name != "block"}
    if not used:
        return StackConfig(depth=depth, block=block)
    # The shortest pattern whose repetition gives these names.
    period = next(size for size in range(1, depth + 1) if all(names[at] == names[at % size] for at in range(depth)))
    return StackConfig(depth=depth, block=block, kinds=Tree(used), pattern=tuple(names[:period]))


def windows(stack: StackConfig) -> tuple[int | None, list[bool]]:
    """Return the largest window of a stack (None: no windows), and whether each layer has a window."""
    sizes = [block.attention.window for block in stack.layers]
    return max((window for window in sizes if window), default=None), [window is not None for window in sizes]


def rotary(config: RotaryConfig) -> dict[str, Any]:
    """Convert rotary settings to config.json in the spelling of transformers 4, which later releases read too."""
    scaling = config.scaling
    if scaling.name == "none":
        return {"rope_theta": config.theta}
    rope_scaling: dict[str, Any] = {"rope_type": scaling.name, "factor": scaling.factor}
    if scaling.name == "llama3":
        rope_scaling |= {"low_freq_factor": scaling.low, "high_freq_factor": scaling.high}
        rope_scaling["original_max_position_embeddings"] = scaling.length
    return {"rope_theta": config.theta, "rope_scaling": rope_scaling}


def position_rows(config: EmbedConfig) -> int:
    """Return the rows of a reference class's position table: at least 2,048, as generation may exceed `max_length`."""
    return max(config.max_length, 2048)


def config_json(
    config: TransformerConfig,
    kind: str,
    architecture: str,
    *,
    length: str = "max_position_embeddings",
    width: str = "hidden_size",
    mlp: str = "intermediate_size",
    depth: str = "num_hidden_layers",
    heads: str = "num_attention_heads",
    activation: str = "hidden_act",
    epsilon: str = "layer_norm_eps",
    dropout: str = "hidden_dropout",
    attention_dropout: str = "attention_dropout",
    embed_dropout: str = "",
) -> dict[str, Any]:
    """Return the config.json fields that most families share.

    `kind` is the `model_type` and `architecture` the Hugging Face class. The other arguments are the family's names of
    the fields; an empty name leaves the field out.
    """
    embed, block = config.embed, config.stack.block
    fields = {
        "model_type": kind,
        "architectures": [architecture],
        "vocab_size": embed.vocab,
        length: embed.max_length,
        width: embed.width,
        mlp: block.feedforward.width or 4 * embed.width,
        depth: config.stack.depth,
        heads: block.attention.heads,
        activation: ACTIVATION_NAMES[block.feedforward.activation],
        epsilon: config.norm.epsilon,
        dropout: block.dropout,
        attention_dropout: block.attention.dropout,
        embed_dropout: embed.dropout,
        "tie_word_embeddings": config.readout.tied,
        "torch_dtype": "float32",
    }
    return {name: value for name, value in fields.items() if name}


def outside(
    config: TransformerConfig, token: str, *, position: str = "", embed: str = "", last: str = "", out: str = "lm_head"
) -> Rules:
    """Return the rules of the parameters outside the layers; an empty name: the family lacks the parameter.

    Args:
      config: the model.
      token: name of the token table.
      position: name of the table of learned positions.
      embed: name of the embedding norm.
      last: name of the norm after the last layer.
      out: name of the LM head, unless it is tied to the token table.
    """
    outer = [same("token/embedding", f"{token}.weight")]
    outer += [same("embed/position", f"{position}.weight")] if position else []
    outer += rules.norm("embed/norm", embed, config.norm) if embed else []
    outer += rules.norm("final_norm", last, config.norm) if last and config.final_norm else []
    return outer + readout(config.readout, f"{out}.weight")


def layers(stack: StackConfig, theirs: str, *, ours: str = "stack", **names: Any) -> Rules:
    """Return the rules of all layers, whose tensor names start with `theirs` and a number; `names` as in `layer`."""
    blocks = enumerate(stack.layers)
    return [rule for at, block in blocks for rule in layer(f"{ours}/{at}", f"{theirs}{at}.", block, **names)]


def layer(
    ours: str,
    theirs: str,
    block: BlockConfig,
    *,
    attention: Sequence[str],
    feedforward: Sequence[str] | Callable[[str, str], Rules],
    norms: Mapping[str, str],
    cross: Sequence[str] = (),
    order: str = "parts",
    transpose: bool = True,
) -> Rules:
    """Return the rules of one layer: attention, cross-attention where the block has it, feed-forward and norms.

    Args:
      ours: path of the layer in our parameters.
      theirs: prefix of the layer's tensor names.
      block: settings of the layer.
      attention: names of the attention matrices, as in `rules.attention`.
      feedforward: names as in `rules.feedforward`, or a function of our path and `theirs`.
      norms: our norm names to theirs; norms that the block lacks are skipped.
      cross: names of the cross-attention matrices, as in `rules.attention`.
      order: order of a fused QKV matrix (`rules.fused`).
      transpose: whether their matrices are [out, in].
    """
    path = f"{ours}/attention"
    block_rules = rules.attention(path, theirs, attention, block.attention, order=order, transpose=transpose)
    if block.cross is not None:
        block_rules += rules.attention(f"{ours}/cross", theirs, cross, block.cross)
    path = f"{ours}/feedforward"
    if callable(feedforward):
        block_rules += feedforward(path, theirs)
    else:
        block_rules += rules.feedforward(path, theirs, feedforward, block.feedforward, transpose=transpose)
    return block_rules + layer_norms(ours, theirs, norms, block)


def layer_norms(ours: str, theirs: str, names: Mapping[str, str], block: BlockConfig) -> Rules:
    """Return the rules of a layer's norms, `names` from ours to theirs; norms that `block` lacks are skipped."""
    lacking = {"attention_norm": not block.attention_norm, "cross_norm": block.cross is None}
    names = {name: tensor for name, tensor in names.items() if not lacking.get(name)}
    norms = [rules.norm(f"{ours}/{name}", f"{theirs}{tensor}", block.norm) for name, tensor in names.items()]
    return [rule for norm in norms for rule in norm]


def megatron(stack: StackConfig, theirs: str, attention: str, norms: Mapping[str, str], order: str) -> Rules:
    """Return the rules of layers with Megatron's names (BLOOM, GPT-NeoX, Falcon); `attention` prefixes its names."""
    matrices = under(attention, "query_key_value", "dense")
    feedforward = under("mlp.", "dense_h_to_4h", "dense_4h_to_h")
    return layers(stack, theirs, attention=matrices, feedforward=feedforward, norms=norms, order=order)


def under(top: str, *names: str) -> tuple[str, ...]:
    """Return `names`, each with the prefix `top`."""
    return tuple(f"{top}{name}" for name in names)


def readout(config: ReadoutConfig, theirs: str) -> Rules:
    """Return the rule of the LM head; empty where it is tied to the token table."""
    return [] if config.tied else [transposed("head/out/kernel", theirs)]


def masked_head(config: TransformerConfig, dense: str, norm: str, theirs: str) -> Rules:
    """Return the rules of BERT's masked-LM head; empty where the model lacks it.

    An untied decoder has its own bias; the class then also stores a second bias, which it does not use.

    Args:
      config: the model.
      dense: name of the dense layer.
      norm: name of the norm after it.
      theirs: name of the module that holds the bias and the matrix `decoder`.
    """
    if not config.readout.transform:
        return []
    head_rules = rules.dense("head/transform", dense) + rules.norm("head/norm", norm, config.norm)
    if config.readout.tied:
        return [*head_rules, same("head/bias", f"{theirs}.bias")]
    head_rules += [*readout(config.readout, f"{theirs}.decoder.weight"), same("head/bias", f"{theirs}.decoder.bias")]
    return head_rules + rules.unused(same("extra/unused", f"{theirs}.bias"))


def activation(tree: Mapping[str, Any], field: str, default: str) -> str:
    """Return our name of a head's activation in a field of config.json."""
    return lookup(ACTIVATIONS, tree.get(field) or default, f"config.json: {field}")


def summary(tree: Mapping[str, Any], out: str, pick: str = "last", activation: str = "tanh") -> Head:
    """Return a head on a `SequenceSummary`: one hidden state or the mean of all, padding included, and a dense layer.

    `pick` and `activation` are the defaults of `summary_type` and `summary_activation`.
    """
    picks = {"first": "first", "mean": "average", "last": "final", "cls_index": "final"}
    name = tree.get("summary_activation", activation)
    if tree.get("summary_proj_to_labels"):
        raise InputError("config.json: summary_proj_to_labels is True, and supported is False only")
    return Head(
        out=out,
        dense="sequence_summary.summary" if tree.get("summary_use_proj", True) else "",
        activation=lookup(ACTIVATIONS, name, "config.json: summary_activation") if name else "",
        pick=lookup(picks, tree.get("summary_type") or pick, "config.json: summary_type"),
        dropout=("summary_last_dropout", 0.1),
        dense_dropout=("summary_first_dropout", 0.0) if "summary_first_dropout" in tree else (),
    )


def decoder(config: Any, weights: Any, settings: Any, heads: Heads = CLASSIFIED, **others: Any) -> Family:
    """Return a family of decoders with the usual heads; `others` are attributes of `Family`."""
    return Family(config=config, weights=weights, settings=settings, heads=heads, **others)


def encoder(config: Any, weights: Any, settings: Any, heads: Heads = ENCODED, **others: Any) -> Family:
    """Return a family of encoders, whose padding embedding gets no gradient; `others` are attributes of `Family`."""
    return Family(config=config, weights=weights, settings=settings, heads=heads, frozen_padding=True, **others)
