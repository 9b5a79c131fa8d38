"""`lm-jax export`: a run as a directory that other libraries read; it is read again and compared before it is done."""

from __future__ import annotations

import json
import os
import shutil
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from lm_jax.core.config import InputError, lookup
from lm_jax.data import atomic, tokenizers
from lm_jax.experiment import Experiment
from lm_jax.flags import Request
from lm_jax.interop import huggingface, safetensors
from lm_jax.interop.settings import Settings
from lm_jax.models.interface import Inputs
from lm_jax.verbs import report
from lm_jax.verbs.importing import ABOUT, TOKENIZER
from lm_jax.verbs.runs import open_run, restore_params
from lm_jax.verbs.workdir import ORIGIN

# Both sides are computed by the same program in float32: they differ by what was lost on the way.
TOLERANCE = 1e-5
TEXT = (
    "It was the best of times, it was the worst of times, it was the age of wisdom, it was the age of foolishness, it "
    "was the epoch of belief, it was the epoch of incredulity, it was the season of Light"
)
LONGEST = 64
TOP = 10


def run(request: Request) -> int:
    """Writes the directory of `--output`, compares it with the run, and gives it its name once they agree."""
    if not request.output:
        raise InputError("export needs --output=DIR")
    write = lookup(FORMATS, request.format, "--format")
    output = Path(request.output).expanduser().resolve()
    if output.exists():
        raise InputError(f"--output {output} is there already; give a new directory")
    atomic.check_directory(output, "--output")
    exp = open_run(request)
    step, params = restore_params(request, exp)
    partial = output.with_name(f"{output.name}.partial-{uuid.uuid4().hex}")
    try:
        tree = write(exp, params["model"], Path(str(request.workdir)), partial)
        found = compare(exp, params["model"], partial)
        agrees = found["difference"] <= TOLERANCE
        if agrees:
            os.replace(partial, output)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    if request.json:
        report.document({"step": step, "output": str(output), "agrees": agrees, **found})
    else:
        named = (tree.get("architectures") or [huggingface.kind(tree)])[0]
        report.say(f"step {step} of {request.workdir} as {named} in {output}, read again:")
        report.say(f"  logits differ by at most {found['difference']:.1e} (allowed {TOLERANCE:.0e})")
        report.say(
            f"  KL divergence {found['kl']:.1e} nats a token, the {TOP} likeliest overlap by {found['overlap']:.1%}"
        )
        if not agrees:
            report.say(f"  they do not agree, and {output} was not made")
    return 0 if agrees else 1


def _huggingface(exp: Experiment, params: Any, workdir: Path, output: Path) -> dict[str, Any]:
    """config.json, safetensors and the tokenizer's files."""
    config, origin = exp.model.module.config, workdir / ORIGIN
    tree, extra = _origin(origin, config)
    tree = tree or huggingface.tree_for(config)
    huggingface.save(output, tree, config, params, extra)
    for file in origin.iterdir() if origin.is_dir() else ():
        if file.name not in (ABOUT, safetensors.SINGLE):
            shutil.copyfile(file, output / file.name)
    has_text = exp.tokenizer.kind != tokenizers.IDS
    if has_text and not any(True for pattern in TOKENIZER for _ in output.glob(pattern)):
        exp.tokenizer.save(output)
    return tree


def _origin(origin: Path, config: Any) -> tuple[dict[str, Any], dict[str, Any]]:
    """config.json and heads of the checkpoint that a run came from, if it came from one of the same function."""
    if not (origin / ABOUT).is_file():
        return {}, {}
    about = json.loads((origin / ABOUT).read_text())
    family = huggingface.family_of(about["config"])
    before = family.config(Settings(about["config"], about["tensors"], heads=family.heads))
    if huggingface.function_of(before) != huggingface.function_of(config):
        return {}, {}
    stored = safetensors.entries(origin) if (origin / safetensors.SINGLE).is_file() else {}
    return about["config"], {name: entry.read() for name, entry in stored.items()}


def compare(exp: Experiment, params: Any, output: Path) -> dict[str, float]:
    """The logits of a run and of what was written of it, on a line of text, or on ids where a run knows no text."""
    embed = exp.model.module.config.embed
    room = min(LONGEST, embed.max_length) if embed.positions == "learned" else LONGEST
    ids = (
        [] if exp.tokenizer.kind == tokenizers.IDS else [one for one in exp.tokenizer.encode(TEXT) if one < embed.vocab]
    )
    tokens = jnp.asarray(np.asarray(ids or np.arange(LONGEST) % embed.vocab, np.int32)[None, :room])
    inputs = Inputs(tokens=tokens)
    if exp.config.model.kind == "encoder_decoder":
        inputs = Inputs(tokens=tokens, source=Inputs(tokens=tokens))
    module, again = huggingface.load(output)
    with jax.default_matmul_precision("highest"):
        apply = lambda module, params: module.apply({"params": params}, inputs, logits=True).logits
        ours, theirs = (
            np.asarray(jax.jit(apply, static_argnums=0)(one, tree), np.float64)
            for one, tree in ((exp.model.module, jax.device_get(params)), (module, again))
        )
    logs = [logits - np.logaddexp.reduce(logits, -1, keepdims=True) for logits in (ours, theirs)]
    best = [np.argsort(logits, -1)[..., -TOP:] for logits in (ours, theirs)]
    same = [len(set(a) & set(b)) for a, b in zip(*(part.reshape(-1, part.shape[-1]) for part in best), strict=True)]
    return {
        "difference": float(np.abs(ours - theirs).max()),
        "kl": float((np.exp(logs[0]) * (logs[0] - logs[1])).sum(-1).mean()),
        "overlap": float(np.mean(same)) / best[0].shape[-1],
    }


FORMATS: dict[str, Callable[[Experiment, Any, Path, Path], dict[str, Any]]] = {"huggingface": _huggingface}
