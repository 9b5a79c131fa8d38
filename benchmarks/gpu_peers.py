"""Transformers' models on torch for `benchmarks.gpu`; needs torch and transformers only."""

from __future__ import annotations

import gc
import signal
import time
from collections.abc import Callable
from typing import Any

import torch
import transformers

from benchmarks import gpu, protocol
from benchmarks.gpu import Work


def bert(work: Work, integers: Callable[..., Any]) -> tuple[Any, Callable[[], Any]]:
    """Return Transformers' BERT and a function that computes its loss; the head reads the masked positions only."""
    sizes = {"hidden_size": work.width, "num_hidden_layers": work.depth, "num_attention_heads": work.heads}
    off = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    shape = {"intermediate_size": work.mlp, "vocab_size": work.vocab, "max_position_embeddings": work.length}
    model = transformers.BertForMaskedLM(transformers.BertConfig(**sizes, **off, **shape, attn_implementation="sdpa"))
    tokens = integers(7, work.vocab, (work.rows, work.length))
    order = torch.rand(work.rows, work.length, device=tokens.device).argsort(1)
    places = order[:, : work.scored].sort(1).values
    labels = tokens.gather(1, places).flatten()
    places = places[..., None].expand(-1, -1, work.width)

    def loss() -> Any:
        hidden = model.bert(input_ids=tokens).last_hidden_state.gather(1, places)
        return torch.nn.functional.cross_entropy(model.cls(hidden).flatten(0, 1).float(), labels)

    return model, loss


def gpt2(work: Work, integers: Callable[..., Any]) -> tuple[Any, Callable[[], Any]]:
    """Return Transformers' GPT-2 and a function that computes its loss."""
    sizes = {"n_positions": work.length, "n_embd": work.width, "n_layer": work.depth, "n_head": work.heads}
    off = {"resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0}
    config = transformers.GPT2Config(vocab_size=work.vocab, **sizes, **off, attn_implementation="sdpa")
    model = transformers.GPT2LMHeadModel(config)
    tokens = integers(7, work.vocab, (work.rows, work.length))
    return model, lambda: model(input_ids=tokens, labels=tokens, use_cache=False).loss


def t5(work: Work, integers: Callable[..., Any]) -> tuple[Any, Callable[[], Any]]:
    """Return Transformers' T5 1.1 and a function that computes its loss."""
    sizes: dict[str, Any] = {"d_model": work.width, "d_kv": work.width // work.heads, "d_ff": work.mlp}
    sizes |= {"num_layers": work.depth, "num_decoder_layers": work.depth, "num_heads": work.heads}
    off = {"dropout_rate": 0.0, "tie_word_embeddings": False, "decoder_start_token_id": 0}
    shape = {"vocab_size": work.vocab, "feed_forward_proj": "gated-gelu", "attn_implementation": "sdpa"}
    model = transformers.T5ForConditionalGeneration(transformers.T5Config(**sizes, **shape, **off))
    source, target = (integers(7, work.vocab - 100, (work.rows, size)) for size in (work.length, work.scored))
    return model, lambda: model(input_ids=source, labels=target, use_cache=False).loss


MODELS = {"bert": bert, "gpt": gpt2, "t5": t5}


def serve(name: str, work: Work, *, compiled: bool) -> None:
    """Serve Transformers' train step; a compiled one is compiled before the worker is ready."""
    cuda = torch.cuda.is_available()
    device = torch.device("cuda" if cuda else "cpu")
    torch.manual_seed(0)
    torch.set_float32_matmul_precision("high")
    integers = lambda low, high, shape: torch.randint(low, high, shape, device=device)
    with device:
        model, loss = MODELS[name](work, integers)
    model.train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, betas=(0.9, 0.95), weight_decay=0.1, fused=True)
    forward = torch.compile(loss) if compiled else loss

    def step() -> Any:
        optimizer.zero_grad(set_to_none=True)
        with torch.autocast(device.type, torch.bfloat16):
            value = forward()
        value.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        return value.detach()

    peak, rest = (torch.cuda.max_memory_allocated, torch.cuda.empty_cache) if cuda else (gpu.resident, gc.collect)
    start = time.perf_counter()
    if compiled:
        float(step())
        rest()
    info = {"compile_s": time.perf_counter() - start, "attention": model.config._attn_implementation}
    signal.alarm(0)
    version = f"{torch.__version__}, transformers {transformers.__version__}"
    protocol.serve(gpu.turns(step, float, peak, rest), version=version, **info)
