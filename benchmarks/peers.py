"""The same workloads in Hugging Face Transformers on PyTorch, the usual alternative, for `--also`.

`python -m benchmarks w1 --also transformers='PYTHON -m benchmarks.peers w1'`; PYTHON needs torch and transformers only.
"""

from __future__ import annotations

import itertools
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import batches, protocol

GPT = {"vocab_size": 8192, "n_positions": 256, "n_embd": 384, "n_layer": 6, "n_head": 6}
OFF = {"resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0}


def main() -> None:
    """Serve one workload."""
    if len(sys.argv) < 2 or sys.argv[1] not in WORKS:
        sys.exit(f"benchmarks.peers needs a work: {', '.join(WORKS)}")
    go, tokens = WORKS[sys.argv[1]](**dict(word.split("=", 1) for word in sys.argv[2:]))
    go(1)
    protocol.serve(go, tokens=tokens)


def training(model: Any, loss: Callable[[], Any]) -> Callable[[int], float]:
    """Return a function that runs `units` AdamW steps with clipped gradients."""
    import torch

    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, betas=(0.9, 0.95), weight_decay=0.1, fused=True)

    def go(units: int) -> float:
        for _ in range(units):
            optimizer.zero_grad(set_to_none=True)
            value = loss()
            value.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
        return round(float(value), 4)

    return go


def w1() -> tuple[Callable[[int], Any], int]:
    """Train GPT-2, 6 layers of 384, on 8 rows of 256."""
    import torch
    from transformers import GPT2Config, GPT2LMHeadModel

    model = GPT2LMHeadModel(GPT2Config(**GPT, **OFF)).train()
    tokens = torch.randint(0, 8192, (8, 256))
    return training(model, lambda: model(input_ids=tokens, labels=tokens, use_cache=False).loss), tokens.numel()


def w2() -> tuple[Callable[[int], Any], int]:
    """Train BERT, 4 layers of 512, on 16 rows of 128, with the head on the 20 masked positions only."""
    import torch
    from transformers import BertConfig, BertForMaskedLM

    sizes = {"hidden_size": 512, "num_hidden_layers": 4, "num_attention_heads": 8, "intermediate_size": 2048}
    off = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    model = BertForMaskedLM(BertConfig(vocab_size=30_522, max_position_embeddings=128, **sizes, **off)).train()
    tokens = torch.randint(0, 30_522, (16, 128))
    places = torch.stack([torch.randperm(128)[:20].sort().values for _ in range(16)])
    labels = tokens.gather(1, places)

    def loss() -> Any:
        hidden = model.bert(input_ids=tokens).last_hidden_state
        hidden = hidden.gather(1, places[..., None].expand(-1, -1, hidden.shape[-1]))
        return torch.nn.functional.cross_entropy(model.cls(hidden).flatten(0, 1), labels.flatten())

    return training(model, loss), tokens.numel()


def w3() -> tuple[Callable[[int], Any], int]:
    """Train T5, 6 + 6 layers of 512, on 4 rows of 256 in and 64 out."""
    import torch
    from transformers import T5Config, T5ForConditionalGeneration

    sizes = {"d_model": 512, "d_kv": 64, "d_ff": 1024, "num_layers": 6, "num_decoder_layers": 6, "num_heads": 8}
    config = T5Config(
        vocab_size=32_128, feed_forward_proj="gated-gelu", dropout_rate=0.0, decoder_start_token_id=0, **sizes
    )
    model = T5ForConditionalGeneration(config).train()
    source, target = torch.randint(2, 32_128, (4, 256)), torch.randint(2, 32_128, (4, 64))
    return training(model, lambda: model(input_ids=source, labels=target, use_cache=False).loss), 4 * (256 + 64)


def w4(rows: int) -> tuple[Callable[[int], Any], int]:
    """Generate 128 tokens greedily after prompts of 32, with W1's model."""
    import torch
    from transformers import GPT2Config, GPT2LMHeadModel

    model = GPT2LMHeadModel(GPT2Config(**GPT, **OFF)).eval()
    prompt = torch.randint(0, 8192, (rows, 32))
    settings = {"max_new_tokens": 128, "min_new_tokens": 128, "do_sample": False, "pad_token_id": 0}

    def go(units: int) -> int:
        with torch.inference_mode():
            for _ in range(units):
                outputs = model.generate(prompt, attention_mask=torch.ones_like(prompt), **settings)
        return int(outputs[0, -1])

    return go, rows * 128


def tune(task: str) -> tuple[Callable[[int], Any], int]:
    """Train a BERT of 6 layers of 384 to classify rows or to tag tokens, with its default dropout."""
    import torch
    from transformers import BertConfig, BertForSequenceClassification, BertForTokenClassification

    sizes = {"hidden_size": 384, "num_hidden_layers": 6, "num_attention_heads": 12, "intermediate_size": 1536}
    tag = task == "tag"
    model_class = BertForTokenClassification if tag else BertForSequenceClassification
    model = model_class(BertConfig(vocab_size=batches.VOCAB, num_labels=batches.TASKS[task][2], **sizes)).train()
    drawn = []
    for batch in batches.draw(task):
        labels = np.where(batch["weights"] > 0, batch["answers"], -100).astype(np.int64)
        arrays = {"input_ids": batch["tokens"].astype(np.int64), "attention_mask": batch["segments"], "labels": labels}
        drawn.append({name: torch.from_numpy(array) for name, array in arrays.items()})
    upcoming = itertools.cycle(drawn)
    step = training(model, lambda: model(**next(upcoming)).loss)
    return lambda units: step(units * len(drawn)), sum(batch["input_ids"].numel() for batch in drawn)


def encode(checkpoint: str) -> tuple[Callable[[int], Any], int]:
    """Run the forward pass of an encoder on 32 rows of 128, with its default attention kernel."""
    import torch
    from transformers import AutoModel

    model = AutoModel.from_pretrained(checkpoint).eval()
    tokens = torch.randint(1000, 20_000, (32, 128))

    def go(units: int) -> float:
        with torch.inference_mode():
            for _ in range(units):
                hidden = model(input_ids=tokens, attention_mask=torch.ones_like(tokens)).last_hidden_state
        return round(float(hidden.abs().mean()), 5)

    return go, tokens.numel()


def predict(folder: str, order: str = "length") -> tuple[Callable[[int], Any], int]:
    """Classify the texts of `folder`, in batches of 32 rows of similar length, or in the order of the file."""
    import torch
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    rows, output = Path(folder) / "rows.tsv", Path(folder) / f"transformers_{order}.jsonl"

    def answers() -> list[list[float]]:
        tokenizer = AutoTokenizer.from_pretrained(rows.parent / "exported")
        model = AutoModelForSequenceClassification.from_pretrained(rows.parent / "exported").eval()
        texts = [line.split("\t")[0] for line in rows.read_text(encoding="utf-8").splitlines()]
        ids = tokenizer(texts, truncation=True, max_length=128)["input_ids"]
        numbers = sorted(range(len(ids)), key=lambda row: len(ids[row]) if order == "length" else row)
        scores: list[list[float]] = [[]] * len(ids)
        for start in range(0, len(ids), batches.ROWS):
            chosen = numbers[start : start + batches.ROWS]
            inputs = tokenizer.pad({"input_ids": [ids[row] for row in chosen]}, return_tensors="pt")
            for row, each in zip(chosen, model(**inputs).logits.softmax(-1).tolist(), strict=True):
                scores[row] = each
        lines = [{"label": str(each.index(max(each))), "scores": {"0": each[0], "1": each[1]}} for each in scores]
        output.write_text("".join(json.dumps(line) + "\n" for line in lines))
        return scores

    def go(units: int) -> float:
        with torch.inference_mode():
            for _ in range(units):
                scores = answers()
        return round(sum(each[1] for each in scores) / len(scores), 5)

    return go, 0


WORKS: dict[str, Callable[..., tuple[Callable[[int], Any], int]]] = {
    "encode": encode,
    "predict": predict,
    "tune_classify": lambda: tune("classify"),
    "tune_tag": lambda: tune("tag"),
    "w1": w1,
    "w2": w2,
    "w3": w3,
    "w4b1": lambda: w4(1),
    "w4b16": lambda: w4(16),
}


if __name__ == "__main__":
    main()
