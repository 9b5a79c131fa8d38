"""Checkpoints whose sizes and settings differ from the stored reference cases; the installed reference writes them.

`VARIANTS` has every switch that a family's configuration documents, and every head of its classes, at least once: the
class and the fields that differ. `write` initialises a model at random, runs it, and stores its outputs as a case.
"""

from __future__ import annotations

import json
import zlib
from pathlib import Path
from typing import Any

import numpy as np

LENGTH, BATCH = 13, 3
IGNORED = -100

_ROBERTA = {"max_position_embeddings": 42, "type_vocab_size": 1, "pad_token_id": 1}
# Common settings by prefix of the configuration class; fields that a class lacks are left out.
_BERT = dict(
    vocab_size=90, hidden_size=24, num_hidden_layers=2, num_attention_heads=3, intermediate_size=40, num_labels=3,
    max_position_embeddings=40, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0, classifier_dropout_prob=0.0,
)  # fmt: skip
_LLAMA = dict(
    vocab_size=90, hidden_size=24, num_hidden_layers=2, num_attention_heads=3, intermediate_size=40, num_labels=3,
    max_position_embeddings=64, pad_token_id=0, bos_token_id=1, eos_token_id=2, attention_dropout=0.0,
    hidden_dropout=0.0, classifier_dropout=0.0,
)  # fmt: skip
_GEMMA = {**_LLAMA, "num_key_value_heads": 1, "head_dim": 10, "sliding_window": 4}
_GPT2 = dict(
    vocab_size=90, n_embd=24, n_layer=2, n_head=3, n_positions=40, num_labels=3, resid_pdrop=0.0, embd_pdrop=0.0,
    attn_pdrop=0.0, pad_token_id=0, bos_token_id=1, eos_token_id=2,
)  # fmt: skip
_T5 = dict(
    vocab_size=90, d_model=24, d_kv=6, d_ff=40, num_layers=2, num_heads=3, relative_attention_num_buckets=8,
    relative_attention_max_distance=16, dropout_rate=0.0, pad_token_id=0, eos_token_id=1, decoder_start_token_id=0,
    num_labels=3, classifier_dropout=0.0,
)  # fmt: skip
_BART = dict(
    vocab_size=90, d_model=24, encoder_layers=2, decoder_layers=3, encoder_attention_heads=3, decoder_attention_heads=2,
    encoder_ffn_dim=40, decoder_ffn_dim=30, max_position_embeddings=40, pad_token_id=1, bos_token_id=0, eos_token_id=2,
    decoder_start_token_id=2, forced_eos_token_id=None, dropout=0.0, attention_dropout=0.0, activation_dropout=0.0,
    classifier_dropout=0.0, num_labels=3,
)  # fmt: skip
_COMMON: dict[str, dict[str, Any]] = {
    "Bert": _BERT,
    "Roberta": {**_BERT, **_ROBERTA},
    "Albert": {**_BERT, "embedding_size": 12, "num_hidden_layers": 4},
    "DistilBert": dict(
        vocab_size=90, dim=24, n_layers=2, n_heads=3, hidden_dim=40, max_position_embeddings=40, dropout=0.0,
        attention_dropout=0.0, qa_dropout=0.0, seq_classif_dropout=0.0, num_labels=3,
    ),
    "Electra": {**_BERT, "embedding_size": 12},
    "ModernBert": {**_LLAMA, "local_attention": 8, "num_hidden_layers": 4, "cls_token_id": 1, "sep_token_id": 2},
    "DebertaV2": {
        **_BERT, "type_vocab_size": 0, "relative_attention": True, "position_biased_input": False,
        "position_buckets": 8, "share_att_key": True, "norm_rel_ebd": "layer_norm", "pos_att_type": ["c2p", "p2c"],
        "pooler_hidden_size": 24, "pooler_dropout": 0.0,
    },
    "OpenAIGPT": _GPT2,
    "GPT2": _GPT2,
    "GPTJ": {**_GPT2, "rotary_dim": 4},
    "GPTNeoX": _LLAMA,
    "GPTNeo": {
        **_GPT2, "hidden_size": 24, "num_layers": 4, "num_heads": 3, "window_size": 4, "max_position_embeddings": 40,
        "attention_types": [[["global", "local"], 2]], "resid_dropout": 0.0, "embed_dropout": 0.0,
        "attention_dropout": 0.0, "classifier_dropout": 0.0,
    },
    "OPT": {**_LLAMA, "ffn_dim": 40, "word_embed_proj_dim": 24, "pad_token_id": 1, "dropout": 0.0, "layerdrop": 0.0},
    "Bloom": {**_LLAMA, "n_layer": 2, "n_head": 3, "pad_token_id": 3},
    "Falcon": _LLAMA,
    "Mpt": dict(vocab_size=90, d_model=24, n_heads=3, n_layers=2, max_seq_len=64, pad_token_id=0, num_labels=3),
    "Llama": _LLAMA,
    "Mistral": {**_LLAMA, "num_key_value_heads": 1},
    "Mixtral": {**_LLAMA, "num_key_value_heads": 1, "num_local_experts": 4},
    "Qwen2": {**_LLAMA, "num_key_value_heads": 3},
    "Qwen3": {**_LLAMA, "num_key_value_heads": 1, "head_dim": 8},
    "Gemma": _GEMMA,
    "Gemma2": _GEMMA,
    "Gemma3Text": _GEMMA,
    "T5": _T5,
    "MT5": _T5,
    "UMT5": _T5,
    "Bart": _BART,
    "Marian": {**_BART, "pad_token_id": 79, "decoder_start_token_id": 79, "eos_token_id": 0},
    "Pegasus": {**_BART, "pad_token_id": 0, "decoder_start_token_id": 0, "eos_token_id": 1},
}  # fmt: skip


def _rope(name: str, **settings: Any) -> dict[str, Any]:
    return {"rope_parameters": {"rope_type": name, "rope_theta": 1000.0, **settings}}


_ORIGINAL = {"original_max_position_embeddings": 12}

# Class, then the fields of its configuration that differ. Names that begin with `_` are settings of the inputs: `_pad`
# is the side of padding (default: right), `_types` adds token types, `_length` is the length of rows.
VARIANTS: tuple[tuple[str, dict[str, Any]], ...] = (
    ("BertForMaskedLM", {"hidden_act": "relu", "_types": True, "_pad": "left"}),
    ("BertForMaskedLM", {"tie_word_embeddings": False, "num_attention_heads": 1}),
    ("BertForPreTraining", {"layer_norm_eps": 1e-5, "type_vocab_size": 3, "pad_token_id": 4, "_types": True}),
    ("BertForNextSentencePrediction", {"_types": True}),
    ("BertForSequenceClassification", {"num_labels": 5}),
    ("BertForSequenceClassification", {"num_labels": 1}),
    ("BertForTokenClassification", {}),
    ("BertForQuestionAnswering", {"_pad": "left"}),
    ("BertForMultipleChoice", {"_types": True}),
    ("BertLMHeadModel", {"is_decoder": True}),
    ("RobertaForMaskedLM", {"pad_token_id": 3, "num_attention_heads": 6, "_pad": "left"}),
    ("RobertaForMaskedLM", {"tie_word_embeddings": False, "pad_token_id": 0}),
    ("RobertaForSequenceClassification", {}),
    ("RobertaForQuestionAnswering", {}),
    ("RobertaForMultipleChoice", {}),
    ("AlbertForMaskedLM", {"num_hidden_groups": 4, "inner_group_num": 2, "_pad": "left"}),
    ("AlbertForMaskedLM", {"tie_word_embeddings": False}),
    ("AlbertForPreTraining", {"inner_group_num": 2, "hidden_act": "relu", "num_hidden_layers": 3}),
    ("AlbertForTokenClassification", {}),
    ("AlbertForSequenceClassification", {}),
    ("AlbertForMultipleChoice", {}),
    ("DistilBertForMaskedLM", {"activation": "relu", "tie_word_embeddings": False}),
    ("DistilBertForSequenceClassification", {}),
    ("DistilBertForQuestionAnswering", {}),
    ("DistilBertForMultipleChoice", {}),
    ("ElectraForPreTraining", {"hidden_act": "relu"}),
    ("ElectraForMaskedLM", {"hidden_act": "gelu_new", "embedding_size": 32, "tie_word_embeddings": False}),
    ("ElectraForSequenceClassification", {}),
    ("ElectraForMultipleChoice", {"summary_activation": "tanh"}),
    ("ModernBertForMaskedLM", {"global_attn_every_n_layers": 2, "hidden_activation": "silu", "_length": 30}),
    ("ModernBertForMaskedLM", {"norm_bias": True, "attention_bias": True, "mlp_bias": True, "classifier_bias": True}),
    ("ModernBertForSequenceClassification", {"classifier_pooling": "mean"}),
    ("ModernBertForTokenClassification", {}),
    ("ModernBertForMultipleChoice", {"classifier_pooling": "cls"}),
    ("DebertaV2ForMaskedLM", {"share_att_key": False, "pos_att_type": ["c2p"], "norm_rel_ebd": "none"}),
    ("DebertaV2ForMaskedLM", {"position_buckets": -1, "position_biased_input": True, "legacy": False}),
    ("DebertaV2ForSequenceClassification", {"type_vocab_size": 2, "_types": True}),
    ("DebertaV2ForMultipleChoice", {"pooler_hidden_act": "tanh"}),
    ("OpenAIGPTLMHeadModel", {"afn": "relu"}),
    ("GPT2LMHeadModel", {"scale_attn_by_inverse_layer_idx": True, "activation_function": "silu", "_pad": "left"}),
    ("GPT2LMHeadModel", {"scale_attn_weights": False, "n_inner": 56, "tie_word_embeddings": False}),
    ("GPT2ForSequenceClassification", {"_pad": "left"}),
    ("GPT2ForTokenClassification", {}),
    ("GPTJForCausalLM", {"n_inner": 50, "_pad": "left"}),
    ("GPTJForSequenceClassification", {}),
    ("GPTNeoXForCausalLM", {"use_parallel_residual": False, "tie_word_embeddings": True, "attention_bias": False}),
    ("GPTNeoXForTokenClassification", {}),
    ("GPTNeoForCausalLM", {"attention_types": [[["local"], 3], [["global"], 1]], "tie_word_embeddings": False}),
    ("OPTForCausalLM", {"enable_bias": False, "layer_norm_elementwise_affine": False, "_pad": "left"}),
    ("OPTForCausalLM", {"do_layer_norm_before": False, "word_embed_proj_dim": 12, "tie_word_embeddings": False}),
    ("OPTForSequenceClassification", {}),
    ("BloomForCausalLM", {"apply_residual_connection_post_layernorm": True, "n_head": 6, "_pad": "left"}),
    ("BloomForQuestionAnswering", {}),
    ("FalconForCausalLM", {"multi_query": False, "parallel_attn": False, "bias": True}),
    ("FalconForCausalLM", {"num_attention_heads": 6, "new_decoder_architecture": True, "num_kv_heads": 2}),
    ("FalconForSequenceClassification", {"_pad": "left"}),
    ("MptForCausalLM", {"attn_config": {"clip_qkv": 0.6, "softmax_scale": 0.3}, "tie_word_embeddings": False}),
    ("LlamaForCausalLM", {"num_attention_heads": 6, "num_key_value_heads": 2, "head_dim": 10, "attention_bias": True}),
    ("LlamaForCausalLM", {"mlp_bias": True, "tie_word_embeddings": True, **_rope("linear", factor=3.0)}),
    ("LlamaForCausalLM", {"max_position_embeddings": 10, "_length": 16, **_rope("dynamic", factor=3.0)}),
    ("LlamaForCausalLM", _rope("yarn", factor=4.0, **_ORIGINAL, truncate=False)),
    ("LlamaForCausalLM", _rope("yarn", factor=4.0, **_ORIGINAL, mscale=0.7, mscale_all_dim=1.3)),
    ("LlamaForCausalLM", _rope("longrope", factor=4.0, **_ORIGINAL, short_factor=[1.1] * 4, long_factor=[2.0] * 4)),
    ("LlamaForQuestionAnswering", {}),
    ("LlamaForSequenceClassification", {"num_labels": 1}),
    ("MistralForCausalLM", {"sliding_window": 4, "_pad": "left"}),
    ("MixtralForCausalLM", {"num_local_experts": 5, "num_experts_per_tok": 3, "sliding_window": 4}),
    ("MixtralForSequenceClassification", {"num_experts_per_tok": 1}),
    ("Qwen2ForCausalLM", {"use_sliding_window": True, "sliding_window": 4, "max_window_layers": 1}),
    ("Qwen3ForCausalLM", {"attention_bias": True, "tie_word_embeddings": True, "_pad": "left"}),
    ("GemmaForCausalLM", {"hidden_act": "relu", "tie_word_embeddings": False}),
    ("Gemma2ForCausalLM", {"attn_logit_softcapping": 5.0, "final_logit_softcapping": None}),
    ("Gemma2Model", {}),
    ("Gemma3ForCausalLM", {"sliding_window_pattern": 3, "num_hidden_layers": 4, "_pad": "left"}),
    ("Gemma3TextModel", {"use_bidirectional_attention": True, "sliding_window": 6}),
    ("T5ForConditionalGeneration", {"feed_forward_proj": "gated-silu", "num_decoder_layers": 1, "_pad": "left"}),
    ("T5ForConditionalGeneration", {"feed_forward_proj": "gated-gelu", "scale_decoder_outputs": False}),
    ("T5EncoderModel", {}),
    ("T5ForTokenClassification", {}),
    ("T5ForSequenceClassification", {}),
    ("MT5ForConditionalGeneration", {"feed_forward_proj": "relu"}),
    ("UMT5ForConditionalGeneration", {"feed_forward_proj": "gated-gelu", "num_decoder_layers": 1}),
    ("BartForConditionalGeneration", {"scale_embedding": True, "activation_function": "relu", "pad_token_id": 3}),
    ("BartForSequenceClassification", {}),
    ("MarianMTModel", {"share_encoder_decoder_embeddings": False, "decoder_vocab_size": 80}),
    ("PegasusForConditionalGeneration", {"activation_function": "relu", "scale_embedding": True}),
)


def name(variant: tuple[str, dict[str, Any]]) -> str:
    """The name of a variant's test."""
    return "-".join([variant[0], *(key.strip("_") for key in variant[1])])


def write(folder: Path, kind: str, over: dict[str, Any]) -> None:
    """Writes a case directory for a class of the reference; the variant's name seeds the random weights and inputs."""
    import torch
    import transformers

    seed = zlib.crc32(name((kind, over)).encode())
    torch.manual_seed(seed)
    cls = getattr(transformers, kind)
    settings = cls.config_class
    family = max((start for start in _COMMON if settings.__name__.startswith(start)), key=len)
    fields = {key: value for key, value in over.items() if not key.startswith("_")}
    exists = lambda key: hasattr(settings(), key) or key.endswith("_token_id")
    common = {key: value for key, value in _COMMON[family].items() if exists(key)}
    pairs = {"num_labels": 2} if kind.endswith(("Answering", "PreTraining")) else {}
    config = settings(**{**common, **pairs, **fields})
    config._attn_implementation = "eager"
    model = cls(config).eval()
    _draw(model)
    inputs = _inputs(kind, config, over, np.random.default_rng(seed))
    tensor = lambda array: torch.tensor(array, dtype=torch.float32 if array.dtype.kind == "f" else torch.long)
    result = model(**{key: tensor(value) for key, value in inputs.items()}, output_hidden_states=True)
    outputs: dict[str, Any] = {}
    for key in ("loss", "logits", "prediction_logits", "seq_relationship_logits", "sop_logits", "start_logits"):
        if result.get(key) is not None:
            outputs[key] = result[key].detach().numpy()
    for key in ("hidden_states", "encoder_hidden_states", "decoder_hidden_states"):
        states = result.get(key) or ()
        outputs |= {f"{key}/{index}": state.detach().numpy() for index, state in enumerate(states)}
    if result.get("loss") is not None:
        result["loss"].backward()
        grads = {key: weight.grad for key, weight in model.named_parameters() if weight.grad is not None}
        outputs |= {f"grad_norm/{key}": np.float32(grad.norm().item()) for key, grad in grads.items()}
    if kind.startswith("Albert"):
        # The reference now returns the hidden states of inner layers too.
        outputs = {key: value for key, value in outputs.items() if not key.startswith("hidden_states")}
    model.save_pretrained(folder)
    np.savez(folder / "inputs.npz", **inputs)
    np.savez(folder / "outputs.npz", **outputs)
    # float32 sums in another order differ by up to 1e-5 of the largest number.
    forward = max([1.0, *(np.abs(value).max() for key, value in outputs.items() if not key.startswith("grad"))])
    largest = max([1.0, *(value for key, value in outputs.items() if key.startswith("grad"))])
    tolerance = {"forward_abs": 1e-5 * float(forward), "loss_abs": 2e-5, "grad_abs": 1e-5 * float(largest)}
    (folder / "meta.json").write_text(json.dumps({"tolerance": tolerance}))


def _draw(model: Any) -> None:
    """Draws every parameter, so that a missing one changes the outputs; tables of sinusoids keep their values."""
    import torch

    with torch.no_grad():
        for key, weight in model.named_parameters():
            if "embed_positions" in key and type(model).__name__.startswith(("Marian", "Pegasus")):
                continue
            if weight.ndim > 1:
                weight.copy_(torch.randn(weight.shape) * weight.shape[-1] ** -0.5)
            else:
                weight.add_(0.15 * torch.randn(weight.shape))
        for key, buffer in model.named_buffers():
            if key.endswith("final_logits_bias"):
                buffer.copy_(0.3 * torch.randn(buffer.shape))


def _inputs(kind: str, config: Any, over: dict[str, Any], draw: np.random.Generator) -> dict[str, np.ndarray]:
    """Rows, all but the first with padding, and the labels of the class."""
    length, pad = over.get("_length", LENGTH), getattr(config, "pad_token_id", None) or 0
    vocab = min(config.vocab_size, getattr(config, "decoder_vocab_size", None) or config.vocab_size)
    tokens = lambda *shape: draw.integers(6, vocab - 1, shape)
    ids, mask = tokens(BATCH, length), np.ones((BATCH, length), np.int64)
    for row in range(1, BATCH):
        mask[row, slice(-2 * row - 1, None) if over.get("_pad") != "left" else slice(2 * row + 1)] = 0
    ids[mask == 0] = pad
    inputs = {"input_ids": ids, "attention_mask": mask}
    if over.get("_types"):
        inputs["token_type_ids"] = (np.arange(length)[None] >= length // 2) * np.ones((BATCH, 1), np.int64)
    inputs |= _labels(kind, config, inputs, tokens, draw)
    if kind.endswith("ForMultipleChoice"):
        # The rows are the choices of one question.
        inputs = {key: array if key == "labels" else array[None] for key, array in inputs.items()}
    return inputs


def _labels(kind: str, config: Any, inputs: dict[str, np.ndarray], tokens: Any, draw: Any) -> dict[str, np.ndarray]:
    """Labels of the class, and the inputs of its decoder."""
    ids, mask = inputs["input_ids"], inputs["attention_mask"]
    if kind.endswith(("ForConditionalGeneration", "MTModel")):
        rows = tokens(BATCH, 9)
        rows[:, 0] = config.decoder_start_token_id
        return {"decoder_input_ids": rows, "decoder_attention_mask": np.ones_like(rows), "labels": tokens(BATCH, 9)}
    if kind.endswith("ForSequenceClassification"):
        if config.is_encoder_decoder:
            ids[np.arange(BATCH), mask.sum(1) - 1] = config.eos_token_id
        classes = config.num_labels
        return {"labels": draw.integers(0, classes, BATCH) if classes > 1 else np.float32(draw.normal(size=BATCH))}
    if kind.endswith("ForMultipleChoice"):
        return {"labels": draw.integers(0, BATCH, 1)}
    if kind.endswith("ForTokenClassification"):
        return {"labels": np.where(mask > 0, draw.integers(0, config.num_labels, ids.shape), IGNORED)}
    if kind.endswith("ForQuestionAnswering"):
        start = int(mask.argmax(1).max()) + 1
        return {"start_positions": np.full(BATCH, start), "end_positions": np.full(BATCH, start + 1)}
    if kind == "ElectraForPreTraining":
        return {"labels": draw.integers(0, 2, ids.shape)}
    if kind == "BertForNextSentencePrediction":
        return {"labels": draw.integers(0, 2, BATCH)}
    if kind.endswith("Model") and not kind.endswith("LMHeadModel"):
        return {}
    labels = np.where(mask > 0, ids, IGNORED)
    # The prediction of the last padding token before a text depends on the implementation.
    labels[np.arange(BATCH), mask.argmax(1)] = IGNORED
    pairs = {"BertForPreTraining": "next_sentence_label", "AlbertForPreTraining": "sentence_order_label"}
    return {"labels": labels, **({pairs[kind]: draw.integers(0, 2, BATCH)} if kind in pairs else {})}
