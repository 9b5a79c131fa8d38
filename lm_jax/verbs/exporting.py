"""`lm-jax export`: a run as a directory that other libraries read; it is read again and compared before it is done."""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
import uuid
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from lm_jax.core.config import InputError, lookup
from lm_jax.core.trees import Params
from lm_jax.data import atomic, tokenizers
from lm_jax.data.tokenizers import Tokenizer, interchange
from lm_jax.decode import prompting
from lm_jax.experiment import Experiment
from lm_jax.flags import Request
from lm_jax.interop import generation, huggingface, positions, safetensors
from lm_jax.interop.settings import Settings
from lm_jax.models.config import TransformerConfig
from lm_jax.models.interface import Inputs
from lm_jax.verbs import report
from lm_jax.verbs.generate import MOST_TOKENS
from lm_jax.verbs.importing import ABOUT, TOKENIZER
from lm_jax.verbs.runs import open_run, restore_product
from lm_jax.verbs.workdir import ORIGIN

# Both sides are computed by the same program in float32: they differ by what was lost on the way.
TOLERANCE = 1e-5
TEXT = (
    "It was the best of times, it was the worst of times, it was the age of wisdom, it was the age of foolishness, it "
    "was the epoch of belief, it was the epoch of incredulity, it was the season of Light"
)
# What tokenizers disagree about: white space, what the alphabet lacks, marks of their own, long words.
TEXTS = (
    *(TEXT, "", " ", "  two  spaces ", "\ttab\tand\r\nlines\n\n  of code:\n", "NUL\0inside", "a ▁ mark ▁the▁"),
    *("天地玄黄，宇宙洪荒。日月盈昃，辰宿列张。", "naïve café e\u0301\u0302 ﬁ Straße", "👩‍👩‍👧 👍🏽 🇩🇪 ❤️"),
    *("[MASK]<0x41> <unk> ##s Ġ", "\n".join(f"{' ' * depth}x" for depth in range(1, 40))),
    *("x" * 150, "汉字" * 1500, "-" * 77, " " * 77, "1234567890.5e-3", "\u2028\ufeff\u200b\u00a0\u3000"),
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
    step, params = restore_product(request, exp)
    partial = output.with_name(f"{output.name}.partial-{uuid.uuid4().hex}")
    try:
        tree = write(exp, params, Path(str(request.workdir)), partial)
        tokenizer = None if exp.tokenizer.kind == tokenizers.IDS else _read(partial)
        differ = [] if tokenizer is None else differing(exp.tokenizer, tokenizer)
        if TEXT in differ:
            raise InputError(
                f"the tokenizer that was written gives other ids than the run's own {exp.tokenizer.kind!r} for "
                f"{len(differ)} of {len(TEXTS)} texts; {output} was not made"
            )
        found = compare(exp, params, partial, tokenizer)
        agrees = found["difference"] <= TOLERANCE
        came = _knows(Path(str(request.workdir)) / ORIGIN, exp.tokenizer)
        alone = not (partial / TOKENIZER[0]).is_file()
        forced = "" if came else huggingface.family_of(tree).tokenizer
        notes = [] if tokenizer is None else _notes(exp.tokenizer, differ, came=came, alone=alone, forced=forced)
        if agrees:
            os.replace(partial, output)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    if request.json:
        told = {"texts": len(TEXTS), "differ": differ, "notes": notes}
        report.document({"step": step, "output": str(output), "agrees": agrees, **found, "tokenizer": told})
        return 0 if agrees else 1
    named = (tree.get("architectures") or [huggingface.kind(tree)])[0]
    report.say(f"step {step} of {request.workdir} as {named} in {output}, read again:")
    report.say(f"  {found['compared']} differ by at most {found['difference']:.1e} (allowed {TOLERANCE:.0e})")
    if found["kl"] is None:
        report.say(f"  {named} writes no tokens: the readout is not in the directory")
    else:
        kl, overlap = found["kl"], found["overlap"]
        report.say(f"  KL divergence {kl:.1e} nats a token, the {TOP} likeliest overlap by {overlap:.1%}")
    if tokenizer is not None:
        report.say(f"  the tokenizer gives the same ids for {len(TEXTS) - len(differ)} of {len(TEXTS)} texts")
    for note in notes:
        report.say(f"  {note}")
    if not agrees:
        report.say(f"  they do not agree, and {output} was not made")
    return 0 if agrees else 1


def _notes(tokenizer: Tokenizer, differ: list[str], *, came: bool, alone: bool, forced: str = "") -> list[str]:
    """What to know of the tokenizer that was written.

    Args:
      tokenizer: the run's.
      differ: the texts of `TEXTS` for which it gives other ids.
      came: whether its files are those that the run was imported with.
      alone: whether there is no tokenizer.json.
      forced: the class that AutoTokenizer takes in place of the one that was written.
    """
    notes = [f"other ids for {differ[0][:40]!r}"] if differ else []
    if not came and alone:
        notes.append(
            f"{tokenizer.file} was written alone, as no tokenizer.json expresses this {tokenizer.kind!r}: others "
            "may read it otherwise"
        )
    if forced:
        notes.append(
            f"AutoTokenizer of transformers 5 takes {forced} for such a model, which cuts texts in its own way: read "
            "the tokenizer with PreTrainedTokenizerFast"
        )
    caveat = "" if came or alone else interchange.caveat(tokenizer)
    return [*notes, *([caveat] if caveat else [])]


def _read(output: Path) -> Tokenizer:
    """The tokenizer of a directory as a library reads it that does not know our files."""
    file = output / TOKENIZER[0]
    return tokenizers.load(file if file.is_file() else output)


def differing(ours: Tokenizer, theirs: Tokenizer) -> list[str]:
    """The texts of `TEXTS` that two tokenizers cut otherwise."""
    pairs = zip(TEXTS, ours.encode_batch(TEXTS), theirs.encode_batch(TEXTS), strict=True)
    return [text for text, mine, other in pairs if mine.tolist() != other.tolist()]


def _huggingface(exp: Experiment, params: Params, workdir: Path, output: Path) -> dict[str, Any]:
    """config.json, safetensors, the tokenizer's files and generation_config.json."""
    config, origin = exp.product.module.config, workdir / ORIGIN
    tree, extra = _origin(origin, config)
    known = _knows(origin, exp.tokenizer)
    if not (tree and known):
        ids = generation.ids(config.kind, interchange.roles(exp.tokenizer, config.kind))
        tree = {**(tree or huggingface.tree_for(config)), **ids, **generation.written(exp.config.conventions)}
        tree, config, params = positions.aligned(tree, config, params)
    huggingface.save(output, tree, config, params, extra)
    for file in origin.iterdir() if known else ():
        if file.name not in (ABOUT, safetensors.SINGLE):
            shutil.copyfile(file, output / file.name)
    if exp.tokenizer.kind != tokenizers.IDS and not _has_tokenizer(output):
        _write_tokenizer(exp, output, came=known)
    if config.kind != "encoder" and not (output / generation.FILE).is_file():
        atomic.write_json(output / generation.FILE, _generation(exp))
    return tree


def _knows(origin: Path, tokenizer: Tokenizer) -> bool:
    """Whether a run came from a checkpoint, and still has its tokenizer: a fork may have been given another."""
    if not _has_tokenizer(origin):
        # Ours came, and its files are those of the run.
        return origin.is_dir()
    return tokenizers.load(origin).fingerprint == tokenizer.fingerprint


def _has_tokenizer(folder: Path) -> bool:
    """Whether a folder has the files of a tokenizer from elsewhere."""
    return any(True for pattern in TOKENIZER for _ in folder.glob(pattern))


def _write_tokenizer(exp: Experiment, output: Path, *, came: bool) -> None:
    """The tokenizer as others read it; `came` as ours, beside an imported checkpoint, also as it came."""
    tokenizer, config = exp.tokenizer, exp.product.module.config
    # Whether the model tells the two texts of a pair apart.
    types = config.embed.types > 1 or (isinstance(config, TransformerConfig) and config.typed)
    try:
        written = interchange.files(tokenizer, config.kind, types=types, longest=_longest(exp), around=_around(exp))
    except InputError:
        # `_notes` says so.
        written = {}
    if came or not written:
        tokenizer.save(output)
    for name, content in written.items():
        if not (output / name).exists():
            atomic.write_bytes(output / name, content)


def _around(exp: Experiment) -> tuple[Sequence[int], Sequence[int]] | None:
    """Ids around a text, where the run has them from elsewhere."""
    conventions, config = exp.config.conventions, exp.config.model
    if not conventions.foreign or config.kind == "encoder":
        return None
    after = conventions.suffix or ((exp.tokenizer.eos,) if config.kind == "encoder_decoder" else ())
    return conventions.prefix, after


def _generation(exp: Experiment) -> dict[str, Any]:
    tokenizer, config, conventions = exp.tokenizer, exp.product.module.config, exp.config.conventions
    writes = config.kind == "encoder_decoder"
    forbidden = prompting.unwritable(tokenizer, config.embed.vocab or 0, sentinels=writes)
    defaults = generation.defaults(
        config.kind,
        interchange.roles(tokenizer, config.kind),
        forbidden=conventions.suppressed if conventions.foreign else forbidden,
        longest=_longest(exp),
        most=MOST_TOKENS,
    )
    return {**defaults, **generation.written(conventions)}


def _longest(exp: Experiment) -> int | None:
    embed = exp.product.module.config.embed
    # Sinusoids are a table with them.
    return None if embed.positions == "none" else embed.max_length


def _origin(origin: Path, config: Any) -> tuple[dict[str, Any], dict[str, Any]]:
    """config.json and heads of the checkpoint that a run came from, if it came from one of the same function."""
    if not (origin / ABOUT).is_file():
        return {}, {}
    about = json.loads((origin / ABOUT).read_text())
    family = huggingface.family_of(about["config"])
    before = family.config(Settings(about["config"], about["tensors"], heads=family.heads))
    # Tokens may have been added.
    rows = config.embed.vocab
    grown = dataclasses.replace(before, embed=dataclasses.replace(before.embed, vocab=rows))
    if huggingface.function_of(grown) != huggingface.function_of(config):
        return {}, {}
    stored = safetensors.entries(origin) if (origin / safetensors.SINGLE).is_file() else {}
    tree = about["config"] if before.embed.vocab == rows else {**about["config"], "vocab_size": rows}
    return tree, {name: entry.read() for name, entry in stored.items()}


def compare(exp: Experiment, params: Params, output: Path, tokenizer: Tokenizer | None) -> dict[str, Any]:
    """What a run and what was written of it make of a line of text as `tokenizer` cuts it, or of any ids.

    Returns:
      `compared` (logits, or hidden states where the class writes no tokens), their largest `difference`, `kl` and
      `overlap` of the likeliest tokens, both None for hidden states.
    """
    embed = exp.product.module.config.embed
    vocab = embed.vocab or 0
    room = min(LONGEST, embed.max_length) if embed.positions == "learned" else LONGEST
    ids = [] if tokenizer is None else [one for one in tokenizer.encode(TEXT).tolist() if one < vocab]
    tokens = jnp.asarray(np.asarray(ids or np.arange(LONGEST) % vocab, np.int32)[None, :room])
    inputs = Inputs(tokens=tokens)
    if exp.config.model.kind == "encoder_decoder":
        inputs = Inputs(tokens=tokens, source=Inputs(tokens=tokens))
    checkpoint = huggingface.open_checkpoint(output)
    module, again, writes = checkpoint.module, checkpoint.params(), checkpoint.writes
    with jax.default_matmul_precision("highest"):
        answer = lambda output: output.logits if writes else output.hidden
        apply = lambda module, params: answer(module.apply({"params": params}, inputs, logits=writes))
        ours, theirs = (
            np.asarray(jax.jit(apply, static_argnums=0)(one, tree), np.float64)
            for one, tree in ((exp.product.module, jax.device_get(params)), (module, again))
        )
    difference = float(np.abs(ours - theirs).max())
    if not writes:
        return {"compared": "hidden states", "difference": difference, "kl": None, "overlap": None}
    logs = [logits - np.logaddexp.reduce(logits, -1, keepdims=True) for logits in (ours, theirs)]
    best = [np.argsort(logits, -1)[..., -TOP:] for logits in (ours, theirs)]
    same = [len(set(a) & set(b)) for a, b in zip(*(part.reshape(-1, part.shape[-1]) for part in best), strict=True)]
    return {
        "compared": "logits",
        "difference": difference,
        "kl": float((np.exp(logs[0]) * (logs[0] - logs[1])).sum(-1).mean()),
        "overlap": float(np.mean(same)) / best[0].shape[-1],
    }


FORMATS: dict[str, Callable[[Experiment, Any, Path, Path], dict[str, Any]]] = {"huggingface": _huggingface}
