"""What a Hugging Face checkpoint computes, under the names that the reference implementation gives it."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, cast

import jax
import jax.numpy as jnp
import numpy as np

from lm_jax.core.config import InputError
from lm_jax.core.trees import Params
from lm_jax.decode.generate import generate
from lm_jax.decode.sampling import SamplingConfig
from lm_jax.interop import heads, naming, tables, xlnet
from lm_jax.interop.huggingface import Checkpoint, open_checkpoint, to_theirs
from lm_jax.models import cpu
from lm_jax.models.config import TransformerConfig
from lm_jax.models.feedforward import experts
from lm_jax.models.interface import Inputs, Shown

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


def forward(checkpoint: Checkpoint, params: Params, extra: Arrays, given: Arrays) -> Arrays:
    """Outputs of a forward pass, and with labels the loss and its gradients."""

    def compute(params: Params, extra: Arrays) -> tuple[Any, Arrays]:
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


def trace(checkpoint: Checkpoint, params: Params, given: Arrays) -> Arrays:
    """Hidden states and attention probabilities of every layer."""
    config = checkpoint.config
    if isinstance(config, TransformerConfig) and config.two_stream:
        return xlnet.trace(checkpoint, params, given)
    show = ("hidden", "attention", "router")
    output = checkpoint.module.apply({"params": params}, _inputs(checkpoint, params, given), show=show)
    if isinstance(config, TransformerConfig):
        inner = config.stack.share.layers if config.stack.share.groups else 1
        return {"last": output.hidden, **_layers(output.shown, "", inner)}
    sides = {"decoder_": output.shown, "encoder_": output.shown.encoder}
    found = {"last": output.hidden, "encoder_last": output.memory}
    return found | {key: array for side, shown in sides.items() for key, array in _layers(shown, side).items()}


def _layers(shown: Shown, side: str, inner: int = 1) -> Arrays:
    """What the layers of a stack compute, where a layer of theirs is `inner` of ours (ALBERT)."""
    found = {f"{side}hidden_states/{index}": x for index, x in enumerate(shown.hidden[::inner])}
    if inner > 1:
        found |= {f"inner_hidden_states/{index}": x for index, x in enumerate(shown.hidden[1:])}
    named = {f"{side}attentions": shown.attention, "cross_attentions": shown.cross, "router_logits": shown.router}
    return found | {f"{name}/{index}": x for name, layers in named.items() for index, x in enumerate(layers)}


def _embedded(checkpoint: Checkpoint, table: Any, tokens: Any) -> Any:
    """The rows of tokens in a table, through which the padding token's may not be trained; None for the model's own."""
    pad = checkpoint.tree.get("pad_token_id")
    if not checkpoint.family.still_padding or pad is None:
        return None
    x, padding = table(tokens), tokens == int(pad)
    return jnp.where(padding[..., None], jax.lax.stop_gradient(x), x)


def _balance(checkpoint: Checkpoint, found: Arrays, given: Arrays) -> Any:
    """How unevenly experts are used, by tokens that are not padding."""
    logits = [value for name, value in found.items() if name.startswith("router_logits/")]
    mask = given.get("attention_mask", jnp.ones_like(given["input_ids"])).reshape(-1).astype(jnp.float32)
    return experts.balance(jnp.stack(logits), cast(TransformerConfig, checkpoint.config).stack.experts.top, mask)


def _inputs(checkpoint: Checkpoint, params: Params, given: Arrays) -> Inputs:
    """The reference's arguments as ours."""
    module, tokens, mask = checkpoint.module.bind({"params": params}), given["input_ids"], given.get("attention_mask")
    # As in the reference, padding sees all that is not padding: the loss of question answering reads its logits.
    masked = "segments" if checkpoint.family.blind_padding else "visible"
    read = Inputs(
        tokens=tokens,
        types=given.get("token_type_ids") if checkpoint.config.embed.types else None,
        positions=_positions(checkpoint, tokens, mask),
        embedded=_embedded(checkpoint, module.token, tokens),
        **{masked: mask},
    )
    if checkpoint.config.kind != "encoder_decoder":
        return read
    own = given.get("decoder_input_ids")
    if own is None:
        own = _shifted(checkpoint, tokens if checkpoint.head is not None else given.get("labels", tokens))
    rows = _embedded(checkpoint, module.written, own)
    return Inputs(tokens=own, embedded=rows, source=read, **{masked: given.get("decoder_attention_mask")})


def _shifted(checkpoint: Checkpoint, tokens: Any) -> Any:
    """What a decoder reads that is to write these tokens."""
    pad, start = int(checkpoint.tree.get("pad_token_id") or 0), checkpoint.tree.get("decoder_start_token_id")
    if start is None:
        raise InputError("decoder_input_ids is missing, and the model does not say what a decoder starts with")
    before = jnp.full_like(tokens[:, :1], start)
    return jnp.concatenate([before, jnp.where(tokens == heads.IGNORED, pad, tokens)[:, :-1]], 1)


def _positions(checkpoint: Checkpoint, tokens: Any, mask: Any) -> Any:
    """Where families count only some of the tokens, the place of each; the others stand before the first.

    None where all are counted, as always where angles depend on distances alone.
    """
    counted, config = checkpoint.family.counted, checkpoint.config
    rotates = isinstance(config, TransformerConfig) and config.stack.block.attention.position == "rotary"
    real = None if counted == "all" or rotates else mask
    if counted == "real":
        real = tokens != int(checkpoint.tree.get("pad_token_id") or 0)
    return None if real is None else jnp.where(real, jnp.cumsum(real, -1) - 1, -1).astype(jnp.int32)


def _heads(checkpoint: Checkpoint, params: Params, extra: Arrays, given: Arrays, last: Any) -> Arrays:
    """Logits of the heads that the checkpoint's class has, but for its readout."""
    module, name = checkpoint.module.bind({"params": params}), checkpoint.architecture
    shown: Arrays = {}
    if getattr(checkpoint.config, "pair_classes", 0):
        shown["pair"] = module.pair_logits(last[:, 0])
        # The pooler alone is the first half of the pair head.
        pooler = {f"extra/pooler/{part}": array for part, array in params["pair"]["pooler"].items()}
        shown["pooled"] = heads.pooled(pooler, last, getattr(checkpoint.config, "pair_activation", "tanh"))
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


def continued(checkpoint: Checkpoint, params: Params, inputs: Mapping[str, Any]) -> Arrays:
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
