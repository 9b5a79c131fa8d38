"""Translates captions from English to German with a small Transformer, in lm_jax and in torch after the same time.

python -m benchmarks.translation data=FOLDER output=FOLDER [torch=PYTHON] [key=value of the recipe ...]

FOLDER has the files of Multi30k (Elliott et al. 2016, arXiv:1605.00459). lm_jax's time is that of the whole command
`lm-jax train`; torch has as many seconds for its steps alone, with the same token ids and an equal model. The score is
sacrebleu's BLEU of greedy translations of test_2016_flickr.
"""

from __future__ import annotations

import gzip
import hashlib
import json
import subprocess
import sys
import time
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import sacrebleu

from lm_jax import experiment
from lm_jax.data.tokenizers import Tokenizer

TEST = "test_2016_flickr"


def lines(data: Path, split: str, language: str) -> list[str]:
    """The captions of a file."""
    with gzip.open(data / f"{split}.{language}.gz", "rt", encoding="utf-8") as file:
        return [line.strip() for line in file]


def train(data: Path, workdir: Path, settings: Iterable[str]) -> float:
    """Train the recipe; return the seconds of the command."""
    flags = [f"--config.data.columns.{column}.path={data}/train.{language}.gz" for column, language in COLUMNS.items()]
    flags += [f"--config.data.columns.{column}.dev={data}/val.{language}.gz" for column, language in COLUMNS.items()]
    command = ["train", "--config=translate:multi30k", *flags, *(f"--config.{word}" for word in settings)]
    start = time.monotonic()
    subprocess.run([sys.executable, "-m", "lm_jax.main", *command, f"--workdir={workdir}"], check=True)
    return time.monotonic() - start


COLUMNS = {"source": "en", "target": "de"}


def translated(workdir: Path, sources: Sequence[str]) -> list[str]:
    """The greedy translations of a run."""
    path, output = workdir.with_suffix(".jsonl"), workdir.with_suffix(".answers.jsonl")
    path.write_text("".join(json.dumps({"source": source}) + "\n" for source in sources), encoding="utf-8")
    output.unlink(missing_ok=True)
    command = ["predict", f"--workdir={workdir}", f"--input={path}", f"--output={output}"]
    subprocess.run([sys.executable, "-m", "lm_jax.main", *command], check=True)
    return [json.loads(line)["text"] for line in output.read_text(encoding="utf-8").splitlines()]


def rows(tokenizer: Tokenizer, data: Path, path: Path, longest: int) -> None:
    """Write the ids of training pairs and of the sources of the test for `translation_peer`."""
    arrays: dict[str, np.ndarray] = {}

    def put(name: str, texts: Sequence[str]) -> None:
        ids = [np.append(ids[: longest - 1], tokenizer.eos).astype(np.int32) for ids in tokenizer.encode_batch(texts)]
        arrays[name] = np.concatenate(ids)
        arrays[f"{name}_offsets"] = np.cumsum([0, *map(len, ids)])

    put("train_source", lines(data, "train", "en"))
    put("train_target", lines(data, "train", "de"))
    put("test_source", lines(data, TEST, "en"))
    np.savez(path, **arrays, vocab=tokenizer.vocab_size, eos=tokenizer.eos)


def report(name: str, seconds: float, texts: Sequence[str], references: Sequence[str]) -> None:
    """Print the score of translations and the hash of them as lines."""
    bleu = sacrebleu.corpus_bleu(list(texts), [list(references)])
    digest = hashlib.sha256("".join(text + "\n" for text in texts).encode()).hexdigest()
    print(f"{name}: BLEU {bleu.score:.2f} after {seconds:.0f} s, sha256 {digest}", flush=True)


def main(words: Sequence[str]) -> None:
    """Train, translate and score both."""
    options = dict(word.split("=", 1) for word in words)
    data, output = Path(options.pop("data")), Path(options.pop("output"))
    python = options.pop("torch", None)
    output.mkdir(parents=True, exist_ok=True)
    workdir, references = output / "lm_jax", lines(data, TEST, "de")
    seconds = train(data, workdir, [f"{key}={value}" for key, value in options.items()])
    report("lm_jax", seconds, translated(workdir, lines(data, TEST, "en")), references)
    if python is None:
        return
    exp = experiment.prepare(experiment.load(workdir).config)
    config, model = exp.config, exp.product.module.config
    block = model.encoder.block
    sizes = {"width": model.embed.width, "depth": model.encoder.depth, "heads": block.attention.heads}
    sizes |= {"mlp": block.feedforward.width, "dropout": block.dropout, "batch": config.data.batch}
    sizes |= {"learning_rate": config.optimizer.learning_rate, "warmup": config.optimizer.schedule.warmup}
    rows(exp.tokenizer, data, output / "rows.npz", config.data.length)
    flags = [f"{key}={value}" for key, value in sizes.items()]
    peer = [python, "-m", "benchmarks.translation_peer", str(output / "rows.npz"), str(output / "torch.json")]
    subprocess.run([*peer, f"{seconds}", *flags], check=True)
    ids = json.loads((output / "torch.json").read_text(encoding="utf-8"))["texts"]
    report("torch", seconds, [exp.tokenizer.decode(np.array(row, np.int32)) for row in ids], references)


if __name__ == "__main__":
    main(sys.argv[1:])
