"""What a Hugging Face checkpoint computes, under the names that the reference implementation gives it.

The model is run layer by layer, so that every hidden state and every attention probability can be shown.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, cast

import jax
import jax.numpy as jnp
import numpy as np

from lm_jax.core.config import InputError
from lm_jax.decode.generate import generate
from lm_jax.decode.sampling import SamplingConfig
from lm_jax.interop import heads, naming, tables, xlnet
from lm_jax.interop.huggingface import Checkpoint, open_checkpoint, to_theirs
from lm_jax.models import cpu
from lm_jax.models.attention.masks import Visibility
from lm_jax.models.config import StackConfig, TransformerConfig
from lm_jax.models.feedforward import experts
from lm_jax.models.interface import Inputs
from lm_jax.models.stack import segments
from lm_jax.models.stack.block import Block, Context
from lm_jax.models.stack.layers import grouped, one_a_layer, placed

NEW_TOKENS = 20
# Arguments of the reference's `forward` that change what it computes, and that are not understood.
UNREAD = {
    *("position_ids", "inputs_embeds", "decoder_inputs_embeds", "head_mask", "decoder_head_mask", "encoder_outputs"),
    *("cross_attn_head_mask", "past_key_values", "encoder_hidden_states", "encoder_attention_mask"),
}

Arrays = dict[str, Any]


def run(path: Path | str, inputs: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """Everything that can be computed of a checkpoint from these inputs, with exact matrix products.

    Args:
      path: a directory with config.json and safetensors.
      inputs: arrays by the names of the reference's `forward`: `input_ids`, `attention_mask`, `token_type_ids`,
        `decoder_input_ids`, `decoder_attention_mask`, `labels` ...; with labels also the loss and its gradients,
        with `gen_input_ids` (and `gen_attention_mask`, `gen_eos_token_id`) also greedy continuations of 20 tokens.

    Returns:
      Arrays by the reference's names: `logits`, `base/last_hidden_state`, `hidden_states/0`, `attentions/0`, `loss`,
      `grad_global_norm`, `grad_norm/NAME`, `grad/NAME`, `gen_greedy_sequences` ...

    Raises:
      InputError: the checkpoint is not supported, or an input is missing.
    """
    if unread := sorted(UNREAD & set(inputs)):
        raise InputError(f"inputs has {', '.join(unread)}, which no model here is given; leave it out")
    checkpoint = open_checkpoint(path)
    params, extra = checkpoint.params(), checkpoint.extra()
    if checkpoint.family.starts and "gen_input_ids" not in inputs:
        # Such cases continue what they read.
        read = {name: inputs[name] for name in ("input_ids", "attention_mask") if name in inputs}
        inputs = {**inputs, **{f"gen_{name}": array for name, array in read.items()}}
    # Texts beside their tokens are for readers.
    arrays = {name: np.asarray(value) for name, value in inputs.items() if not name.startswith("gen_")}
    given = {name: jnp.asarray(array) for name, array in arrays.items() if array.dtype.kind not in "SUO"}
    with jax.default_matmul_precision("highest"):
        found = forward(checkpoint, params, extra, given) if "input_ids" in given else {}
        if "gen_input_ids" in inputs and checkpoint.config.kind != "encoder":
            found |= continued(checkpoint, params, inputs)
    return {name: np.asarray(value) for name, value in found.items()}


def forward(checkpoint: Checkpoint, params: Any, extra: Arrays, given: Arrays) -> Arrays:
    """Outputs of a forward pass, and with labels the loss and its gradients."""

    def compute(params: Any, extra: Arrays) -> tuple[Any, Arrays]:
        found = trace(checkpoint, params, given)
        written = {"logits": checkpoint.module.bind({"params": params}).readout(found["last"])}
        if checkpoint.config.embed.factor_first and "factor" in params.get("head", {}):
            # OPT-350M's last hidden state is as narrow as its tables.
            found["last"] = found["last"] @ params["head"]["factor"]["kernel"]
        found |= (written if checkpoint.writes else {}) | _heads(checkpoint, params, extra, given, found["last"])
        if checkpoint.tree.get("output_router_logits"):
            found["aux_loss"] = _balance(checkpoint, found, given)
        named, field, tree = checkpoint.architecture, checkpoint.family.smoothing, checkpoint.tree
        value = heads.loss(named, found, given, tree, float(tree.get(field) or 0))
        if field and value is not None:
            found["loss_no_smoothing"] = heads.loss(named, found, given, tree)
        return (0.0 if value is None else value), found | ({} if value is None else {"loss": value})

    if not ({"labels", "start_positions"} & set(given)):
        _, found = _once(compute, params, extra)
        return _named(checkpoint, found, given)
    (_, found), (slopes, others) = _once(jax.value_and_grad(compute, argnums=(0, 1), has_aux=True), params, extra)
    if checkpoint.family.counted == "real":
        # The reference never trains the place of padding, which only padding has.
        place = checkpoint.config.embed.offset - 1
        slopes["embed"]["position"] = slopes["embed"]["position"].at[place].set(0)
    return _named(checkpoint, found, given) | _gradients(checkpoint, slopes, others)


def _once(function: Callable[..., Any], *args: Any) -> Any:
    """`function` compiled for one call, which is quicker compiled than fast."""
    quick = {"xla_backend_optimization_level": 0, "xla_llvm_disable_expensive_passes": True}
    options = quick if cpu.here() else {}
    return jax.jit(function).lower(*args).compile(options)(*args)


def trace(checkpoint: Checkpoint, params: Any, given: Arrays) -> Arrays:
    """Hidden states and attention probabilities of every layer."""
    config, module = checkpoint.config, checkpoint.module.bind({"params": params})
    if _streamed(checkpoint):
        return xlnet.trace(checkpoint, params, given)
    inputs, found = _inputs(checkpoint, given), {}
    read = functools.partial(_embedded, checkpoint, module)
    if isinstance(config, TransformerConfig):
        visibility = _visibility(checkpoint, inputs)
        real = _real(checkpoint, inputs.tokens, inputs.segments)
        # Padding stands before the first.
        places = inputs.positions if real is None else jnp.where(real, jnp.asarray(inputs.positions), -1)
        x = module.embed(read(inputs.tokens), places, inputs.types, False, inputs.segments)
        x = _layers(checkpoint, config.stack, params["stack"], x, Context(visibility=visibility), found, "")
        found["last"] = module.final_norm(x) if config.final_norm else x
        return found
    source = inputs.source
    if source is None:
        raise InputError("an encoder-decoder needs input_ids for its encoder, and decoder_input_ids; give both")
    visibility = _visibility(checkpoint, source)
    x = module.encoder_embed(read(source.tokens), source.positions, source.types)
    x = _layers(checkpoint, config.encoder, params["encoder"], x, Context(visibility=visibility), found, "encoder_")
    memory = found["encoder_last"] = module.encoder_norm(x) if config.final_norm else x
    seen, crossed = _visibility(checkpoint, inputs), Visibility(key_segments=source.segments)
    context = Context(visibility=seen, cross_visibility=crossed, memory=memory)
    x = module.decoder_embed(read(inputs.tokens, module.written), inputs.positions, inputs.types)
    x = _layers(checkpoint, config.decoder, params["decoder"], x, context, found, "decoder_")
    found["last"] = module.decoder_norm(x) if config.final_norm else x
    return found


def _streamed(checkpoint: Checkpoint) -> bool:
    return isinstance(checkpoint.config, TransformerConfig) and checkpoint.config.two_stream


def _embedded(checkpoint: Checkpoint, module: Any, tokens: Any, table: Any = None) -> Any:
    """The rows of tokens, through which the padding token's may not be trained."""
    x = (table or module.token)(tokens)
    pad = checkpoint.tree.get("pad_token_id")
    if not checkpoint.family.still_padding or pad is None:
        return x
    padding = tokens == int(pad)
    return jnp.where(padding[..., None], jax.lax.stop_gradient(x), x)


def _balance(checkpoint: Checkpoint, found: Arrays, given: Arrays) -> Any:
    """How unevenly experts are used, by tokens that are not padding."""
    logits = [value for name, value in found.items() if name.startswith("router_logits/")]
    mask = given.get("attention_mask", jnp.ones_like(given["input_ids"])).reshape(-1).astype(jnp.float32)
    top = cast(TransformerConfig, checkpoint.config).stack.block.feedforward.experts.top
    return experts.balance(jnp.concatenate(logits), top, jnp.tile(mask, len(logits)))


def _layers(
    checkpoint: Checkpoint, stack: StackConfig, params: Any, x: Any, context: Context, found: Arrays, name: str
) -> Any:
    """The layers of a stack, one after the other, and what each computed in `found`."""
    init = checkpoint.config.init
    context = placed(stack, init, context, x, params)
    mine = one_a_layer(stack, grouped(stack, params))
    found[f"{name}hidden_states/0"] = x
    for index, (layer, own) in enumerate(zip(segments.layers(stack), mine, strict=True)):
        block = Block(stack.kind(layer.kind), init, x.dtype, 1.0)
        (x, _), kept = block.apply({"params": own}, x, context, mutable=["probabilities", "router"])
        found[f"{name}hidden_states/{index + 1}"] = x
        weighed = kept["probabilities"]
        found[f"{name}attentions/{index}"] = weighed["attention"]["weights"][0]
        if "router" in kept:
            found[f"router_logits/{index}"] = kept["router"]["feedforward"]["logits"][0]
        if "cross" in weighed:
            found[f"cross_attentions/{index}"] = weighed["cross"]["weights"][0]
    return x


def _inputs(checkpoint: Checkpoint, given: Arrays) -> Inputs:
    """The reference's arguments as ours."""
    mask = given.get("attention_mask")
    tokens = given["input_ids"]
    read = Inputs(
        tokens=tokens,
        segments=mask,
        types=given.get("token_type_ids") if checkpoint.config.embed.types else None,
        positions=_positions(checkpoint, tokens, mask),
    )
    if checkpoint.config.kind != "encoder_decoder":
        return read
    own = given.get("decoder_input_ids")
    if own is None:
        own = _shifted(checkpoint, tokens if checkpoint.head is not None else given.get("labels", tokens))
    return Inputs(tokens=own, segments=given.get("decoder_attention_mask"), source=read)


def _shifted(checkpoint: Checkpoint, tokens: Any) -> Any:
    """What a decoder reads that is to write these tokens."""
    pad, start = int(checkpoint.tree.get("pad_token_id") or 0), checkpoint.tree.get("decoder_start_token_id")
    if start is None:
        raise InputError("decoder_input_ids is missing, and the model does not say what a decoder starts with")
    before = jnp.full_like(tokens[:, :1], start)
    return jnp.concatenate([before, jnp.where(tokens == heads.IGNORED, pad, tokens)[:, :-1]], 1)


def _positions(checkpoint: Checkpoint, tokens: Any, mask: Any) -> Any:
    """Where families count only some of the tokens, the place of each."""
    real = _real(checkpoint, tokens, mask)
    return None if real is None else (jnp.cumsum(real, -1) - 1).astype(jnp.int32)


def _real(checkpoint: Checkpoint, tokens: Any, mask: Any) -> Any:
    """The tokens that positions count; None for all, as always where angles depend on distances alone."""
    counted = checkpoint.family.counted
    if counted == "real":
        return tokens != int(checkpoint.tree.get("pad_token_id") or 0)
    config = checkpoint.config
    rotates = isinstance(config, TransformerConfig) and config.stack.block.attention.position == "rotary"
    return None if counted == "all" or rotates else mask


def _visibility(checkpoint: Checkpoint, inputs: Inputs) -> Visibility:
    # As in the reference, padding sees all that is not padding: the loss of question answering reads its logits.
    asking = inputs.segments if checkpoint.family.blind_padding else None
    places = inputs.positions
    return Visibility(query_positions=places, key_positions=places, query_segments=asking, key_segments=inputs.segments)


def _heads(checkpoint: Checkpoint, params: Any, extra: Arrays, given: Arrays, last: Any) -> Arrays:
    """Logits of the heads that the checkpoint's class has, but for its readout."""
    module, name = checkpoint.module.bind({"params": params}), checkpoint.architecture
    shown: Arrays = {}
    if getattr(checkpoint.config, "pair_classes", 0):
        shown["pair"] = module.pair_logits(last[:, 0])
        # The pooler alone is the first half of the pair head.
        pooler = params["pair"]["pooler"]
        activation = getattr(checkpoint.config, "pair_activation", "tanh")
        shown["pooled"] = heads.pooled(
            {f"extra/pooler/{part}": array for part, array in pooler.items()}, last, activation
        )
    if "extra/pooler/kernel" in extra:
        shown["pooled"] = heads.pooled(extra, last)
    if checkpoint.head is not None:
        made = heads.logits(checkpoint.head, extra, last, given, checkpoint.tree)
        if heads.ANSWERS in name:
            return shown | {"start_logits": made[..., 0], "end_logits": made[..., 1]}
        shown["logits"] = made[..., 0] if name.endswith(heads.DETECTS) else made
    elif name.endswith(heads.ROWS):
        shown["logits"] = shown["pair"]
    return shown


# Reference names of the sentence-pair head's logits, by the end of the class's name.
_PAIR = {"albert": "sop_logits", "bert": "seq_relationship_logits"}


def _named(checkpoint: Checkpoint, found: Arrays, given: Arrays) -> Arrays:
    """Outputs under the names of the checkpoint's class."""
    name, kind = checkpoint.architecture, tables.kind(checkpoint.tree)
    decoder = "decoder_" if checkpoint.config.kind == "encoder_decoder" else ""
    depth = max(int(key.rpartition("/")[2]) for key in found if key.startswith(f"{decoder}hidden_states/"))
    plain = ("loss", "loss_no_smoothing", "aux_loss", "start_logits", "end_logits")
    shown = {key: value for key, value in found.items() if "/" in key or key in plain}
    # The reference's last hidden state is the one after the final norm.
    shown["base/last_hidden_state"] = shown[f"{decoder}hidden_states/{depth}"] = found["last"]
    if kind == "transformer2017":
        shown["last_hidden_state"] = found["last"]
    if decoder:
        last = max(int(key.rpartition("/")[2]) for key in found if key.startswith("encoder_hidden_states/"))
        shown["encoder_last_hidden_state"] = shown[f"encoder_hidden_states/{last}"] = found["encoder_last"]
    if "pooled" in found:
        shown["base/pooler_output"] = found["pooled"]
    if heads.bare(name) and checkpoint.config.kind == "encoder":
        shown |= _vectors(shown, given)
    pretraining = name.endswith("ForPreTraining") and "pair" in found
    if "logits" in found:
        shown["prediction_logits" if pretraining else "logits"] = found["logits"]
    if "pair" in found:
        shown[_PAIR.get(kind, "pair_logits") if pretraining or "logits" in found else "logits"] = found["pair"]
    return shown


def _vectors(shown: Arrays, given: Arrays) -> Arrays:
    """A vector a text, as sentence encoders make it, and corners of what is too large to store."""
    last = shown["base/last_hidden_state"]
    mask = given.get("attention_mask", jnp.ones(last.shape[:2]))[..., None]
    mean = (last * mask).sum(1) / mask.sum(1)
    unit = mean / jnp.linalg.norm(mean, axis=-1, keepdims=True)
    found = {"last_hidden_state": last, "mean_pooled": mean, "sentence_embeddings": unit}
    found |= {"cosine_similarity": unit @ unit.T}
    if "base/pooler_output" in shown:
        found["pooler_output"] = shown["base/pooler_output"]
    for name in [name for name in shown if name.startswith(("hidden_states/", "attentions/"))]:
        found[f"{name}_first2"] = shown[name][:2]
        if name.startswith("hidden_states/"):
            found[f"{name}_cls"] = shown[name][:, 0]
    return found


def _gradients(checkpoint: Checkpoint, slopes: Any, extra: Arrays) -> Arrays:
    """Gradients by the reference's names; what two tensors share is counted once, as it is one parameter here."""
    found, squares = {}, 0.0
    later = {name: new for new, name in {**checkpoint.family.renamed, **checkpoint.spelled}.items()}
    learned = checkpoint.family.learned
    rules = checkpoint.rules
    if learned is not None:
        rules = learned(checkpoint.config, checkpoint.architecture) + heads.rules(checkpoint.head)
    rules = [rule for rule in rules if rule.trained]
    rules = [rule for rule in rules if all(path in extra or not path.startswith("extra/") for path in rule.ours)]
    for _, name, array in to_theirs(rules, checkpoint.config, checkpoint.shapes, slopes, extra):
        name = naming.their_name(later.get(name, name), checkpoint.family, checkpoint.architecture, checkpoint.head)
        found[f"grad/{name}"] = array
        square = float(np.square(array.astype(np.float64)).sum())
        found[f"grad_norm/{name}"] = np.float32(square**0.5)
        squares += square
    return {**found, "grad_global_norm": np.float32(squares**0.5)}


def continued(checkpoint: Checkpoint, params: Any, inputs: Mapping[str, Any]) -> Arrays:
    """Greedy continuations, as the reference's `generate` returns them: prompts with their padding, then new tokens."""
    tree, ids = checkpoint.tree, np.asarray(inputs["gen_input_ids"])
    mask = np.asarray(inputs.get("gen_attention_mask", np.ones_like(ids)))
    prompts = [row[keep > 0].tolist() for row, keep in zip(ids, mask, strict=True)]
    pad = int(tree.get("pad_token_id") or 0)
    start = ids
    if checkpoint.config.kind == "encoder_decoder":
        first = tree.get(checkpoint.family.starts or "decoder_start_token_id")
        start = np.full((len(ids), 1), pad if first is None else first, ids.dtype)
    write: Callable[..., Any] = functools.partial(
        generate,
        checkpoint.module,
        params,
        prompts,
        max_tokens=NEW_TOKENS,
        sampling=SamplingConfig(temperature=0.0),
        seed=0,
        pad=pad,
        start=int(start[0, 0]) if checkpoint.config.kind == "encoder_decoder" else None,
        bos=0,
    )
    made = write(eos=None)
    found: Arrays = {"gen_greedy_sequences": np.concatenate([start, _padded([one.tokens for one in made], pad)], 1)}
    found["gen_greedy_logprobs"] = np.stack([one.log_probabilities for one in made])
    if "gen_eos_token_id" in inputs:
        eos = int(inputs["gen_eos_token_id"])
        rows = _padded([one.tokens for one in write(eos=eos)], pad)
        found["gen_greedy_eos_sequences"] = np.concatenate([start, rows], 1)
    return found


def _padded(rows: list[np.ndarray], pad: int) -> np.ndarray:
    longest = max(map(len, rows))
    return np.stack([np.pad(row, (0, longest - len(row)), constant_values=pad) for row in rows])
