"""The small Transformer of `benchmarks.translation` on torch; needs torch and numpy only.

python -m benchmarks.translation_peer ROWS.npz OUTPUT.json SECONDS key=value ...

ROWS.npz has the token ids of `train` and `test`, sources and targets, as flat arrays with offsets. After SECONDS of
training the greedy translations of the sources of `test` are written as lists of ids.
"""

from __future__ import annotations

import json
import math
import sys
import time
from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor, nn


class Translator(nn.Module):
    """Vaswani et al. 2017 (arXiv:1706.03762), with one table for source, target and logits (section 3.4)."""

    def __init__(self, vocab: int, width: int, depth: int, heads: int, mlp: int, dropout: float, longest: int = 256):
        super().__init__()
        self.width = width
        self.embed = nn.Embedding(vocab, width)
        sizes = {"d_model": width, "nhead": heads, "dim_feedforward": mlp, "dropout": dropout, "batch_first": True}
        self.transformer = nn.Transformer(num_encoder_layers=depth, num_decoder_layers=depth, **sizes)
        # torch normalises the outputs of the stacks once more than the paper.
        self.transformer.encoder.norm = self.transformer.decoder.norm = None
        # The paper drops outputs of sublayers only (section 5.4), torch attention weights and activations as well.
        for module in self.transformer.modules():
            if isinstance(module, nn.MultiheadAttention):
                module.dropout = 0.0
            elif isinstance(module, nn.TransformerEncoderLayer | nn.TransformerDecoderLayer):
                module.dropout = nn.Identity()
        for parameter in self.transformer.parameters():
            if parameter.dim() > 1:
                nn.init.xavier_uniform_(parameter)
        nn.init.normal_(self.embed.weight, std=width**-0.5)
        self.dropout = nn.Dropout(dropout)
        angles = torch.arange(longest)[:, None] * 10_000.0 ** (-torch.arange(0, width, 2) / width)
        self.register_buffer("positions", torch.cat([angles.sin(), angles.cos()], 1))

    def embedded(self, tokens: Tensor) -> Tensor:
        """Embeddings [rows length width] with positions."""
        return self.dropout(self.embed(tokens) * math.sqrt(self.width) + self.positions[: tokens.shape[1]])

    def encode(self, source: Tensor) -> tuple[Tensor, Tensor]:
        """Outputs of the encoder [rows length width], and where its padding is."""
        padding = source == 0
        return self.transformer.encoder(self.embedded(source), src_key_padding_mask=padding), padding

    def decode(self, target: Tensor, memory: Tensor, padding: Tensor) -> Tensor:
        """Hidden states [rows length width] of the decoder."""
        mask = nn.Transformer.generate_square_subsequent_mask(target.shape[1])
        return self.transformer.decoder(
            self.embedded(target), memory, mask, memory_key_padding_mask=padding, tgt_is_causal=True
        )

    def logits(self, hidden: Tensor) -> Tensor:
        """Logits [... vocab]."""
        return hidden @ self.embed.weight.T


def ragged(file: np.lib.npyio.NpzFile, name: str) -> list[np.ndarray]:
    """The rows of a flat array with offsets."""
    return np.split(file[name], file[f"{name}_offsets"][1:-1])


def padded(rows: list[np.ndarray]) -> Tensor:
    """Rows as a rectangle, with 0 as padding; ids are shifted by one, so that 0 is free."""
    result = np.zeros((len(rows), max(map(len, rows))), np.int64)
    for index, row in enumerate(rows):
        result[index, : len(row)] = row + 1
    return torch.from_numpy(result)


def batches(sources: list[np.ndarray], targets: list[np.ndarray], rows: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Endless shuffled batches whose rows have similar lengths."""
    rng, window = np.random.default_rng(0), 50 * rows
    lengths = np.array([max(len(source), len(target)) for source, target in zip(sources, targets, strict=True)])
    while True:
        order = rng.permutation(len(sources))
        chunks = [order[start : start + window] for start in range(0, len(order), window)]
        order = np.concatenate([chunk[np.argsort(lengths[chunk], kind="stable")] for chunk in chunks])
        starts = np.arange(0, len(order) - rows + 1, rows)
        for start in rng.permutation(starts):
            chosen = order[start : start + rows]
            yield padded([sources[index] for index in chosen]), padded([targets[index] for index in chosen])


def main() -> None:
    """Train, translate, write."""
    path, output, seconds = sys.argv[1], sys.argv[2], float(sys.argv[3])
    options = {key: float(value) for key, value in (word.split("=") for word in sys.argv[4:])}
    file = np.load(path)
    vocab, eos = int(file["vocab"]) + 1, int(file["eos"]) + 1
    torch.manual_seed(0)
    sizes = {name: int(options[name]) for name in ("width", "depth", "heads", "mlp")}
    model = Translator(vocab, **sizes, dropout=options["dropout"]).train()
    rate, betas = options["learning_rate"], (0.9, 0.98)
    optimizer = torch.optim.AdamW(model.parameters(), lr=rate, betas=betas, eps=1e-9, weight_decay=0.0, fused=True)
    rows = batches(ragged(file, "train_source"), ragged(file, "train_target"), int(options["batch"]))
    start, step = time.monotonic(), 0
    while (done := (time.monotonic() - start) / seconds) < 1:
        source, target = next(rows)
        # A linear warmup and decay over the time, as lm_jax's over the steps.
        warmup = options["warmup"]
        optimizer.param_groups[0]["lr"] = rate * min(max(done, 1e-4) / warmup, (1 - done) / (1 - warmup))
        before = torch.cat([torch.full((len(target), 1), eos), target[:, :-1]], 1)
        hidden = model.decode(before, *model.encode(source))
        real = target > 0
        loss = nn.functional.cross_entropy(model.logits(hidden[real]), target[real], label_smoothing=0.1)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        step += 1
        if step % 200 == 0:
            print(f"step {step}, {100 * done:.0f} % of the time, loss {float(loss):.3f}", flush=True)
    print(f"{step} steps in {time.monotonic() - start:.0f} s", flush=True)
    model.eval()
    with open(output, "w", encoding="utf-8") as out:
        json.dump({"steps": step, "texts": greedy(model, ragged(file, "test_source"), eos)}, out)


@torch.inference_mode()
def greedy(
    model: Translator, sources: list[np.ndarray], eos: int, rows: int = 50, longest: int = 60
) -> list[list[int]]:
    """The greedy translation of each source, without EOS."""
    results = []
    for start in range(0, len(sources), rows):
        memory, padding = model.encode(padded(sources[start : start + rows]))
        target = torch.full((len(memory), 1), eos)
        ended = torch.zeros(len(memory), dtype=torch.bool)
        while target.shape[1] <= longest and not ended.all():
            following = model.logits(model.decode(target, memory, padding)[:, -1])
            following[:, 0] = -torch.inf
            chosen = following.argmax(-1)
            target = torch.cat([target, chosen[:, None]], 1)
            ended |= chosen == eos
        for row in target[:, 1:].tolist():
            row = row[: row.index(eos)] if eos in row else row
            results.append([token - 1 for token in row])
    return results


if __name__ == "__main__":
    main()
