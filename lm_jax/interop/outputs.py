"""Outputs of a Hugging Face checkpoint, under the names of the reference implementation."""

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
from lm_jax.interop.tables import bert
from lm_jax.models import cpu
from lm_jax.models.config import TransformerConfig
from lm_jax.models.feedforward import experts
from lm_jax.models.heads import TaskHead
from lm_jax.models.interface import Inputs, Shown
from lm_jax.models.pooling import pooled
from lm_jax.models.task import TaskHeadConfig

NEW_TOKENS = 20
# Arguments of the reference's `forward` that change its outputs and are not supported here.
UNREAD = {
    *("position_ids", "inputs_embeds", "decoder_inputs_embeds", "head_mask", "decoder_head_mask", "encoder_outputs"),
    *("cross_attn_head_mask", "past_key_values", "encoder_hidden_states", "encoder_attention_mask"),
}

Arrays = dict[str, Any]


def run(path: Path | str, inputs: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """Implements `interop.run`."""
    if unread := sorted(UNREAD & set(inputs)):
        raise InputError(f"inputs has {', '.join(unread)}, which is not supported; leave it out")
    checkpoint = open_checkpoint(path)
    params = checkpoint.params()
    if checkpoint.family.start_field and "gen_input_ids" not in inputs:
        # Reference cases of these families use their inputs as prompts.
        prompts = {name: inputs[name] for name in ("input_ids", "attention_mask") if name in inputs}
        inputs = {**inputs, **{f"gen_{name}": array for name, array in prompts.items()}}
    # Reference cases may also store their inputs as readable text.
    arrays = {name: np.asarray(value) for name, value in inputs.items() if not name.startswith("gen_")}
    numbers = {name: jnp.asarray(array) for name, array in arrays.items() if array.dtype.kind not in "SUO"}
    with jax.default_matmul_precision("highest"):
        outputs = forward(checkpoint, params, numbers) if "input_ids" in numbers else {}
        if "gen_input_ids" in inputs and checkpoint.config.kind != "encoder":
            outputs |= continuations(checkpoint, params, inputs)
    return {name: np.asarray(value) for name, value in outputs.items()}


def forward(checkpoint: Checkpoint, params: Params, inputs: Arrays) -> Arrays:
    """Outputs of a forward pass, and with labels the loss and its gradients."""
    choices = inputs["input_ids"].shape[1] if inputs["input_ids"].ndim == 3 else 0
    if choices:
        inputs = {name: x.reshape(-1, *x.shape[2:]) if x.ndim == 3 else x for name, x in inputs.items()}

    def compute(params: Params) -> tuple[Any, Arrays]:
        outputs = trace(checkpoint, params, inputs)
        readout = {"logits": checkpoint.module.bind({"params": params}).readout(outputs["last"])}
        if checkpoint.config.embed.factor_first and "factor" in params.get("head", {}):
            # OPT-350M's last hidden state has the width of its embedding tables.
            outputs["last"] = outputs["last"] @ params["head"]["factor"]["kernel"]
        outputs |= readout if checkpoint.has_readout else {}
        outputs |= _heads(checkpoint, params, inputs, outputs["last"])
        if choices:
            outputs["logits"] = outputs["logits"].reshape(-1, choices)
        if checkpoint.tree.get("output_router_logits"):
            outputs["aux_loss"] = _balance(checkpoint, outputs, inputs)
        name, field, tree = checkpoint.architecture, checkpoint.family.smoothing_field, checkpoint.tree
        loss = heads.loss(name, outputs, inputs, tree, float(tree.get(field) or 0))
        if field and loss is not None:
            outputs["loss_no_smoothing"] = heads.loss(name, outputs, inputs, tree)
        return (0.0 if loss is None else loss), outputs | ({} if loss is None else {"loss": loss})

    if not ({"labels", "start_positions"} & set(inputs)):
        _, outputs = _once(compute, params)
        return _by_reference_name(checkpoint, outputs, inputs)
    (_, outputs), grads = _once(jax.value_and_grad(compute, has_aux=True), params)
    if checkpoint.family.position_tokens == "real":
        # The reference never trains the position embedding of padding.
        padding = checkpoint.config.embed.offset - 1
        grads["embed"]["position"] = grads["embed"]["position"].at[padding].set(0)
    return _by_reference_name(checkpoint, outputs, inputs) | _gradients(checkpoint, grads)


def _once(function: Callable[..., Any], *args: Any) -> Any:
    """Calls `function`, compiled without optimisation on a CPU, because it runs once."""
    unoptimised = {"xla_backend_optimization_level": 0, "xla_llvm_disable_expensive_passes": True}
    options = unoptimised if cpu.on_cpu() else {}
    return jax.jit(function).lower(*args).compile(options)(*args)


def trace(checkpoint: Checkpoint, params: Params, inputs: Arrays) -> Arrays:
    """Hidden states, attention probabilities and router logits of every layer."""
    config = checkpoint.config
    if isinstance(config, TransformerConfig) and config.two_stream:
        return xlnet.trace(checkpoint, params, inputs)
    show = ("hidden", "attention", "router")
    output = checkpoint.module.apply({"params": params}, _inputs(checkpoint, params, inputs), show=show)
    if isinstance(config, TransformerConfig):
        inner = config.stack.share.layers if config.stack.share.groups else 1
        return {"last": output.hidden, **_layers(output.shown, "", inner)}
    sides = {"decoder_": output.shown, "encoder_": output.shown.encoder}
    outputs = {"last": output.hidden, "encoder_last": output.memory}
    return outputs | {key: array for side, shown in sides.items() for key, array in _layers(shown, side).items()}


def _layers(shown: Shown, side: str, inner: int = 1) -> Arrays:
    """Intermediate outputs of a stack; one layer of the reference is `inner` layers of ours (ALBERT)."""
    outputs = {f"{side}hidden_states/{index}": x for index, x in enumerate(shown.hidden[::inner])}
    if inner > 1:
        outputs |= {f"inner_hidden_states/{index}": x for index, x in enumerate(shown.hidden[1:])}
    by_layer = {f"{side}attentions": shown.attention, "cross_attentions": shown.cross, "router_logits": shown.router}
    return outputs | {f"{name}/{index}": x for name, layers in by_layer.items() for index, x in enumerate(layers)}


def _embedded(checkpoint: Checkpoint, table: Any, tokens: Any) -> Any:
    """Embeds tokens without a gradient for the padding token; None: the model embeds them itself."""
    pad = checkpoint.tree.get("pad_token_id")
    if not checkpoint.family.frozen_padding or pad is None:
        return None
    x, padding = table(tokens), tokens == int(pad)
    return jnp.where(padding[..., None], jax.lax.stop_gradient(x), x)


def _balance(checkpoint: Checkpoint, outputs: Arrays, inputs: Arrays) -> Any:
    """The experts' load-balancing loss over tokens that are not padding."""
    logits = [value for name, value in outputs.items() if name.startswith("router_logits/")]
    mask = inputs.get("attention_mask", jnp.ones_like(inputs["input_ids"])).reshape(-1).astype(jnp.float32)
    return experts.balance(jnp.stack(logits), cast(TransformerConfig, checkpoint.config).stack.experts.top, mask)


def _inputs(checkpoint: Checkpoint, params: Params, inputs: Arrays) -> Inputs:
    """Converts the reference's arguments to ours."""
    module, tokens, mask = checkpoint.module.bind({"params": params}), inputs["input_ids"], inputs.get("attention_mask")
    # As in the reference, padding attends to the real tokens: the loss of question answering reads its logits.
    masked = "segments" if checkpoint.family.isolated_padding else "visible"
    source = Inputs(
        tokens=tokens,
        types=inputs.get("token_type_ids") if checkpoint.config.embed.types else None,
        positions=_positions(checkpoint, tokens, mask),
        embedded=_embedded(checkpoint, module.token, tokens),
        **{masked: mask},
    )
    if checkpoint.config.kind != "encoder_decoder":
        return source
    decoder_ids = inputs.get("decoder_input_ids")
    if decoder_ids is None:
        decoder_ids = _shifted(checkpoint, tokens if checkpoint.head is not None else inputs.get("labels", tokens))
    rows = _embedded(checkpoint, module.decoder_table, decoder_ids)
    return Inputs(tokens=decoder_ids, embedded=rows, source=source, **{masked: inputs.get("decoder_attention_mask")})


def _shifted(checkpoint: Checkpoint, tokens: Any) -> Any:
    """Shifts labels right to the decoder's input ids."""
    pad, start = int(checkpoint.tree.get("pad_token_id") or 0), checkpoint.tree.get("decoder_start_token_id")
    if start is None:
        raise InputError("decoder_input_ids is missing, and config.json has no decoder_start_token_id; set one")
    before = jnp.full_like(tokens[:, :1], start)
    return jnp.concatenate([before, jnp.where(tokens == heads.IGNORED, pad, tokens)[:, :-1]], 1)


def _positions(checkpoint: Checkpoint, tokens: Any, mask: Any) -> Any:
    """Positions in families that count only some tokens; the others get -1.

    None: the model counts all tokens, as always with rotary positions, because scores depend on distances alone.
    """
    rule, config = checkpoint.family.position_tokens, checkpoint.config
    rotates = isinstance(config, TransformerConfig) and config.stack.block.attention.position == "rotary"
    counts = None if rule == "all" or rotates else mask
    if rule == "real":
        counts = tokens != int(checkpoint.tree.get("pad_token_id") or 0)
    return None if counts is None else jnp.where(counts, jnp.cumsum(counts, -1) - 1, -1).astype(jnp.int32)


def _heads(checkpoint: Checkpoint, params: Params, inputs: Arrays, last: Any) -> Arrays:
    """Outputs of the class's heads, except its readout."""
    module, name = checkpoint.module.bind({"params": params}), checkpoint.architecture
    head, task = checkpoint.head, checkpoint.config.task
    outputs: Arrays = {}
    if "pair" in params:
        outputs["pair"] = module.pair_logits(last[:, 0])
        if bert.numbers_next_first(name):
            outputs["pair"] = outputs["pair"][:, ::-1]
        outputs["pooled"] = _pooled(
            checkpoint, params["pair"]["pooler"], getattr(checkpoint.config, "pair_activation", "tanh"), last
        )
    if head is not None and head.dense and "task" in params:
        outputs["pooled"] = _pooled(checkpoint, params["task"]["dense"], task.activation, last)
    if head is not None and task.classes:
        real = heads.read(head.pick, inputs, checkpoint.tree)
        logits = module.task_logits(pooled(last, real, task.pool))
        if heads.ANSWERS in name:
            return outputs | {"start_logits": logits[..., 0], "end_logits": logits[..., 1]}
        outputs["logits"] = logits
    elif checkpoint.detects:
        outputs["logits"] = module.detect_logits(last)
    return outputs


def _pooled(checkpoint: Checkpoint, dense: Params, activation: str, last: Any) -> Any:
    """The first hidden states after a pooler: the first layer of a pair head or of a task's."""
    config, biased = checkpoint.config, "bias" in dense
    settings = TaskHeadConfig(dense=True, dense_bias=biased, activation=activation)
    return TaskHead(settings, config.init, last.dtype).apply({"params": {"dense": dense}}, last[:, 0])


# Reference names of the sentence-pair logits, by family.
_PAIR = {"albert": "sop_logits", "bert": "seq_relationship_logits"}


def _by_reference_name(checkpoint: Checkpoint, outputs: Arrays, inputs: Arrays) -> Arrays:
    name, kind = checkpoint.architecture, tables.kind(checkpoint.tree)
    decoder = "decoder_" if checkpoint.config.kind == "encoder_decoder" else ""
    depth = max(int(key.rpartition("/")[2]) for key in outputs if key.startswith(f"{decoder}hidden_states/"))
    plain = ("loss", "loss_no_smoothing", "aux_loss", "start_logits", "end_logits")
    theirs = {key: value for key, value in outputs.items() if "/" in key or key in plain}
    # The reference's last hidden state is the one after the final norm.
    theirs["base/last_hidden_state"] = theirs[f"{decoder}hidden_states/{depth}"] = outputs["last"]
    if kind == "transformer2017":
        theirs["last_hidden_state"] = outputs["last"]
    if decoder:
        last = max(int(key.rpartition("/")[2]) for key in outputs if key.startswith("encoder_hidden_states/"))
        theirs["encoder_last_hidden_state"] = theirs[f"encoder_hidden_states/{last}"] = outputs["encoder_last"]
    if "pooled" in outputs:
        theirs["base/pooler_output"] = outputs["pooled"]
    if heads.bare(name) and checkpoint.config.kind == "encoder":
        theirs |= _sentence_vectors(theirs, inputs)
    pretraining = name.endswith("ForPreTraining") and "pair" in outputs
    if "logits" in outputs:
        theirs["prediction_logits" if pretraining else "logits"] = outputs["logits"]
    if "pair" in outputs:
        theirs[_PAIR.get(kind, "pair_logits") if pretraining or "logits" in outputs else "logits"] = outputs["pair"]
    return theirs


def _sentence_vectors(outputs: Arrays, inputs: Arrays) -> Arrays:
    """One vector per text, as in sentence encoders, and slices of outputs that are too large to store whole."""
    last = outputs["base/last_hidden_state"]
    mask = inputs.get("attention_mask", jnp.ones(last.shape[:2]))[..., None]
    mean = (last * mask).sum(1) / mask.sum(1)
    unit = mean / jnp.linalg.norm(mean, axis=-1, keepdims=True)
    vectors = {"last_hidden_state": last, "mean_pooled": mean, "sentence_embeddings": unit}
    vectors |= {"cosine_similarity": unit @ unit.T}
    if "base/pooler_output" in outputs:
        vectors["pooler_output"] = outputs["base/pooler_output"]
    for name in [name for name in outputs if name.startswith(("hidden_states/", "attentions/"))]:
        vectors[f"{name}_first2"] = outputs[name][:2]
        if name.startswith("hidden_states/"):
            vectors[f"{name}_cls"] = outputs[name][:, 0]
    return vectors


def _gradients(checkpoint: Checkpoint, grads: Any) -> Arrays:
    """Gradients by the reference's names; the global norm counts tied tensors once, as one parameter."""
    outputs, squares = {}, 0.0
    new_names = {name: new for new, name in {**checkpoint.family.later_names, **checkpoint.aliases}.items()}
    rules, parameter_rules = checkpoint.rules, checkpoint.family.parameter_rules
    if parameter_rules is not None:
        rules = parameter_rules(checkpoint.config, checkpoint.architecture) + heads.rules(checkpoint.head)
    rules = [rule for rule in rules if rule.trained]
    for _, name, array in to_theirs(rules, checkpoint.config, checkpoint.shapes, grads):
        name = naming.their_name(new_names.get(name, name), checkpoint.family, checkpoint.architecture, checkpoint.head)
        outputs[f"grad/{name}"] = array
        square = float(np.square(array.astype(np.float64)).sum())
        outputs[f"grad_norm/{name}"] = np.float32(square**0.5)
        squares += square
    return {**outputs, "grad_global_norm": np.float32(squares**0.5)}


def continuations(checkpoint: Checkpoint, params: Params, inputs: Mapping[str, Any]) -> Arrays:
    """Greedy continuations, as the reference's `generate` returns them: padded prompts, then new tokens."""
    tree, ids = checkpoint.tree, np.asarray(inputs["gen_input_ids"])
    mask = np.asarray(inputs.get("gen_attention_mask", np.ones_like(ids)))
    prompts = [row[keep > 0].tolist() for row, keep in zip(ids, mask, strict=True)]
    pad, start = int(tree.get("pad_token_id") or 0), ids
    if checkpoint.config.kind == "encoder_decoder":
        first = tree.get(checkpoint.family.start_field or "decoder_start_token_id")
        start = np.full((len(ids), 1), pad if first is None else first, ids.dtype)
    continue_with: Callable[..., Any] = functools.partial(
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
    answers = continue_with(eos=None)
    rows = _padded([answer.tokens for answer in answers], pad)
    outputs: Arrays = {"gen_greedy_sequences": np.concatenate([start, rows], 1)}
    outputs["gen_greedy_logprobs"] = np.stack([answer.log_probabilities for answer in answers])
    if "gen_eos_token_id" in inputs:
        eos = int(inputs["gen_eos_token_id"])
        rows = _padded([answer.tokens for answer in continue_with(eos=eos)], pad)
        outputs["gen_greedy_eos_sequences"] = np.concatenate([start, rows], 1)
    return outputs


def _padded(rows: list[np.ndarray], pad: int) -> np.ndarray:
    longest = max(map(len, rows))
    return np.stack([np.pad(row, (0, longest - len(row)), constant_values=pad) for row in rows])
