"""Mixtral (Jiang et al. 2024, arXiv:2401.04088): Mistral's layers with a mixture of experts."""

from __future__ import annotations

import dataclasses
from typing import Any

from lm_jax.interop.rules import Change, Rule, Rules, transposed
from lm_jax.interop.rules import concatenate as concatenated
from lm_jax.interop.settings import Settings
from lm_jax.interop.tables import llama, mistral
from lm_jax.models import config as models

# Our names of an expert's matrices to theirs.
_MATRICES = {"gate": "w1", "in": "w3", "out": "w2"}


def config(hf: Settings) -> models.TransformerConfig:
    """Convert config.json to a model configuration."""
    hf.architecture("MixtralForCausalLM", "MixtralModel")
    # These settings of training change the loss or add noise.
    for name in ("output_router_logits", "router_aux_loss_coef", "router_jitter_noise"):
        hf.get(name, default=None)
    experts = models.ExpertsConfig(
        count=hf.get("num_local_experts", default=8), top=hf.get("num_experts_per_tok", default=2)
    )
    base = llama.decoder(hf, mistral.attention(hf, window=None, theta=1e6))
    feedforward = dataclasses.replace(base.stack.block.feedforward, experts=experts)
    block = dataclasses.replace(base.stack.block, feedforward=feedforward)
    return dataclasses.replace(base, stack=dataclasses.replace(base.stack, block=block))


def weights(config: models.TransformerConfig, architecture: str) -> Rules:
    """Return the rules that map checkpoint tensors, one for each expert's matrix, to parameters."""

    def experts(ours: str, theirs: str) -> Rules:
        numbers = range(config.stack.block.feedforward.experts.count)
        rules = [transposed(f"{ours}/router/kernel", f"{theirs}block_sparse_moe.gate.weight")]
        for matrix, name in _MATRICES.items():
            names = tuple(f"{theirs}block_sparse_moe.experts.{number}.{name}.weight" for number in numbers)
            rules += [Rule((f"{ours}/experts_{matrix}/kernel",), names, _stack, _unstack)]
        return rules

    return llama.tensors(config, experts)


def learned(config: models.TransformerConfig, architecture: str) -> Rules:
    """Return the rules that map the parameters of the reference's module, which stacks experts, to ours."""

    def experts(ours: str, theirs: str) -> Rules:
        gated = tuple(f"{ours}/experts_{name}/kernel" for name in ("gate", "in"))
        return [
            transposed(f"{ours}/router/kernel", f"{theirs}mlp.gate.weight"),
            Rule(gated, (f"{theirs}mlp.experts.gate_up_proj",), _split_gate, _join_gate),
            Rule((f"{ours}/experts_out/kernel",), (f"{theirs}mlp.experts.down_proj",), _swap, _swap),
        ]

    return llama.tensors(config, experts)


_stack: Change = lambda *arrays: (concatenated([array.T[None] for array in arrays], 0),)
_unstack: Change = lambda array: tuple(matrix.T for matrix in array)
_swap: Change = lambda array: (array.swapaxes(1, 2),)
_join_gate: Change = lambda gate, other: _swap(concatenated([gate, other], 2))


def _split_gate(array: Any) -> tuple[Any, Any]:
    half = array.shape[1] // 2
    return _swap(array[:, :half])[0], _swap(array[:, half:])[0]


def settings(config: models.TransformerConfig) -> dict[str, Any]:
    """Convert a model configuration to config.json."""
    block = config.stack.block
    return {
        **llama.config_json(config, "mixtral", "MixtralForCausalLM"),
        "sliding_window": block.attention.window,
        "num_local_experts": block.feedforward.experts.count,
        "num_experts_per_tok": block.feedforward.experts.top,
    }


FAMILY = dataclasses.replace(llama.family(config, settings), weights=weights, parameter_rules=learned)
