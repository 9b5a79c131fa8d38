"""What tables share: trees of settings, config.json of a stack, rules of layers and of what stands around them."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from lm_jax.core.config import Tree
from lm_jax.interop import rules
from lm_jax.interop.family import Family
from lm_jax.interop.heads import CLASSIFIED, ENCODED, Heads
from lm_jax.interop.rules import Rules, same, turned
from lm_jax.interop.settings import THEIRS
from lm_jax.models.config import BlockConfig, EmbedConfig, ReadoutConfig, RotaryConfig, StackConfig, TransformerConfig

# Query, key, value and output in most classes.
PROJECTIONS = ("q_proj", "k_proj", "v_proj", "out_proj")


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


def windows(stack: StackConfig) -> tuple[int | None, list[bool]]:
    """The window of the layers that have one, and which layers these are; where windows differ, one of them."""
    found = [block.attention.window for block in stack.layers]
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


def written(
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
    """The fields of config.json that most families write for a stack, under the names of one family.

    `kind` is their `model_type` and `architecture` their class. The other arguments name fields; an empty name leaves
    the field out.
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
        activation: THEIRS[block.feedforward.activation],
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
    """Rules of the parameters outside the layers; a name is empty where the family lacks the parameter.

    Args:
      config: the model.
      token: name of the token table.
      position: name of the learned positions.
      embed: name of the norm of the embeddings.
      last: name of the norm after the last layer.
      out: name of the matrix to logits, where it is not the token table.
    """
    found = [same("token/embedding", f"{token}.weight")]
    found += [same("embed/position", f"{position}.weight")] if position else []
    found += rules.norm("embed/norm", embed, config.norm) if embed else []
    found += rules.norm("final_norm", last, config.norm) if last and config.final_norm else []
    return found + readout(config.readout, f"{out}.weight")


def layers(stack: StackConfig, theirs: str, *, ours: str = "stack", **names: Any) -> Rules:
    """Rules of all layers; their tensors begin with `theirs` and the layer's number. `names` are as in `layer`."""
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
    turn: bool = True,
) -> Rules:
    """Rules of one layer: attention, cross-attention if the block has it, feed-forward and norms.

    Args:
      ours: path of the layer.
      theirs: what the names of its tensors begin with.
      block: its settings.
      attention: names of its matrices, as in `rules.attention`.
      feedforward: names as in `rules.feedforward`, or a function of our path and of `theirs`.
      norms: our names of norms to theirs; those that the block does not have are left out.
      cross: names of the matrices of cross-attention, as in `rules.attention`.
      order: of queries, keys and values in one matrix (`rules.fused`).
      turn: whether their matrices are [out, in].
    """
    found = rules.attention(f"{ours}/attention", theirs, attention, block.attention, order=order, turn=turn)
    if block.cross is not None:
        found += rules.attention(f"{ours}/cross", theirs, cross, block.cross)
    if callable(feedforward):
        found += feedforward(f"{ours}/feedforward", theirs)
    else:
        found += rules.feedforward(f"{ours}/feedforward", theirs, feedforward, block.feedforward, turn=turn)
    return found + layer_norms(ours, theirs, norms, block)


def layer_norms(ours: str, theirs: str, names: Mapping[str, str], block: BlockConfig) -> Rules:
    """Norms of a layer, our names to theirs; those that the block does not have are left out."""
    lacking = {"attention_norm": not block.attention_norm, "cross_norm": block.cross is None}
    names = {mine: name for mine, name in names.items() if not lacking.get(mine)}
    found = [rules.norm(f"{ours}/{mine}", f"{theirs}{name}", block.norm) for mine, name in names.items()]
    return [rule for norm in found for rule in norm]


def megatron(stack: StackConfig, theirs: str, attention: str, norms: Mapping[str, str], order: str) -> Rules:
    """Rules of layers that are named as Megatron's: BLOOM, GPT-NeoX, Falcon. `attention` begins its matrices' names."""
    matrices = under(attention, "query_key_value", "dense")
    feedforward = under("mlp.", "dense_h_to_4h", "dense_4h_to_h")
    return layers(stack, theirs, attention=matrices, feedforward=feedforward, norms=norms, order=order)


def under(top: str, *names: str) -> tuple[str, ...]:
    """Names that begin with `top`."""
    return tuple(f"{top}{name}" for name in names)


def readout(config: ReadoutConfig, theirs: str) -> Rules:
    """The matrix to logits, where it is not the token table."""
    return [] if config.tied else [turned("head/out/kernel", theirs)]


def masked_head(config: TransformerConfig, dense: str, norm: str, theirs: str) -> Rules:
    """Rules of BERT's head of masked language modelling; none where the model does not have it.

    An untied matrix has a bias of its own, and the class then stores the other bias without using it.

    Args:
      config: the model.
      dense: name of the dense layer.
      norm: name of the norm after it.
      theirs: name of the module that holds the bias and the matrix `decoder`.
    """
    if not config.readout.transform:
        return []
    found = rules.dense("head/transform", dense) + rules.norm("head/norm", norm, config.norm)
    if config.readout.tied:
        return [*found, same("head/bias", f"{theirs}.bias")]
    found += readout(config.readout, f"{theirs}.decoder.weight")
    return [*found, same("head/bias", f"{theirs}.decoder.bias"), *rules.unused(same("extra/unused", f"{theirs}.bias"))]


def decoder(config: Any, weights: Any, settings: Any, **others: Any) -> Family:
    """A family of decoders with the usual heads; `others` are attributes of `Family`."""
    return Family(config=config, weights=weights, settings=settings, heads=CLASSIFIED, **others)


def encoder(config: Any, weights: Any, settings: Any, heads: Heads = ENCODED, **others: Any) -> Family:
    """A family of encoders, whose padding token gets no gradient; `others` are attributes of `Family`."""
    return Family(config=config, weights=weights, settings=settings, heads=heads, still_padding=True, **others)
