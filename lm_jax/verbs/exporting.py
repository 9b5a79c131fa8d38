"""`lm-jax export`: writes a run as a checkpoint for other libraries, reads it back and compares the outputs."""

from __future__ import annotations

import functools
import os
import shutil
import uuid
from collections.abc import Callable, Mapping
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
from lm_jax.interop import choice, generation, huggingface, positions, safetensors, sentence_transformers
from lm_jax.models.config import TransformerConfig
from lm_jax.models.interface import Inputs
from lm_jax.models.pooling import pooled
from lm_jax.verbs import adapters, forking, origins, report, tasks
from lm_jax.verbs.generate import MOST_TOKENS
from lm_jax.verbs.importing import TOKENIZER
from lm_jax.verbs.runs import one_model, open_run, restore_model, restore_role
from lm_jax.verbs.workdir import ORIGIN

# Both models run the same program in float32, so a larger difference is an error of the export.
TOLERANCE = 1e-5
TEXT = (
    "It was the best of times, it was the worst of times, it was the age of wisdom, it was the age of foolishness, it "
    "was the epoch of belief, it was the epoch of incredulity, it was the season of Light"
)
# Texts that tokenizers split differently: white space, unknown characters, tokenizers' markers, long words.
TEXTS = (
    *(TEXT, "", " ", "  two  spaces ", "\ttab\tand\r\nlines\n\n  of code:\n", "NUL\0inside", "a ▁ mark ▁the▁"),
    *("天地玄黄，宇宙洪荒。日月盈昃，辰宿列张。", "naïve café e\u0301\u0302 ﬁ Straße", "👩‍👩‍👧 👍🏽 🇩🇪 ❤️"),
    *("[MASK]<0x41> <unk> ##s Ġ", "\n".join(f"{' ' * depth}x" for depth in range(1, 40))),
    *("x" * 150, "汉字" * 1500, "-" * 77, " " * 77, "1234567890.5e-3", "\u2028\ufeff\u200b\u00a0\u3000"),
)
ADAPTER = "peft"  # The format of what a run adds to its base.
LONGEST = 64  # Tokens of the row on which the outputs are compared.
TASK_LOGITS = "logits of the task"
TOP = 10  # Number of most likely tokens whose overlap is reported.


def run(request: Request) -> int:
    """Writes a temporary directory, compares its outputs with the run's, and renames it to `--output` if they agree."""
    if not request.output:
        raise InputError("export needs --output=DIR")
    write = lookup({**FORMATS, ADAPTER: None}, request.format, "--format")
    output = Path(request.output).expanduser().resolve()
    if output.exists():
        raise InputError(f"--output {output} already exists; give a new directory")
    atomic.check_directory(output, "--output")
    if write is None:
        return _adapter(request, output)
    run, origin = open_run(request), Path(str(request.workdir)) / ORIGIN
    exp = one_model(request, run)
    step, params = restore_model(request, run)
    forking.refuse_unfolded(exp.product, params, f"--workdir={request.workdir}", exp.config.adapt.method)
    if exp is not run:
        origin = origin / str(request.role)
    partial = output.with_name(f"{output.name}.partial-{uuid.uuid4().hex}")
    try:
        tree = write(exp, params, origin, partial)
        tokenizer = None if exp.tokenizer.kind == tokenizers.IDS else _load_tokenizer(partial)
        differ = [] if tokenizer is None else differing(exp.tokenizer, tokenizer)
        if TEXT in differ:
            raise InputError(
                f"the exported tokenizer gives other ids than the run's {exp.tokenizer.kind!r} tokenizer for "
                f"{len(differ)} of {len(TEXTS)} texts; {output} was not written"
            )
        comparison = compare(exp, params, partial, tokenizer)
        agrees = comparison["difference"] <= TOLERANCE
        imported = _keeps_imported_tokenizer(origin, exp.tokenizer)
        bare = not (partial / TOKENIZER[0]).is_file()
        forced = "" if imported else huggingface.family_of(tree).tokenizer
        notes = [] if tokenizer is None else _notes(exp.tokenizer, differ, imported=imported, bare=bare, forced=forced)
        if getattr(exp.product.module.config, "boundary", 0):
            notes.append("the span-boundary head is left out, as in SpanBERT's released files")
        if agrees:
            os.replace(partial, output)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    if request.json:
        facts = {"texts": len(TEXTS), "differ": differ, "notes": notes}
        report.document({"step": step, "output": str(output), "agrees": agrees, **comparison, "tokenizer": facts})
        return 0 if agrees else 1
    architecture = (tree.get("architectures") or [huggingface.kind(tree)])[0]
    report.say(f"step {step} of {request.workdir}, exported as {architecture} to {output} and read back:")
    report.say(f"  {comparison['compared']} differ by at most {comparison['difference']:.1e} (allowed {TOLERANCE:.0e})")
    if comparison["kl"] is None:
        # Another model of the run has the read-out of a discriminator's run.
        if len(run.models.roles) == 1 and comparison["compared"] != TASK_LOGITS:
            report.say(f"  {architecture} has no LM head: the run's read-out is not exported")
    else:
        kl, overlap = comparison["kl"], comparison["overlap"]
        report.say(f"  KL divergence {kl:.1e} nats per token; the {TOP} most likely tokens overlap by {overlap:.1%}")
    if tokenizer is not None:
        report.say(f"  the tokenizer gives the same ids for {len(TEXTS) - len(differ)} of {len(TEXTS)} texts")
    for note in notes:
        report.say(f"  {note}")
    if not agrees:
        report.say(f"  the outputs do not agree; {output} was not written")
    return 0 if agrees else 1


def _adapter(request: Request, output: Path) -> int:
    """Writes what a run has added to its base as a directory of PEFT."""
    if request.role:
        raise InputError(f"--format={ADAPTER} is for the product of a run; leave out --role={request.role}")
    exp = open_run(request)
    step, params = restore_role(request, exp)
    partial = output.with_name(f"{output.name}.partial-{uuid.uuid4().hex}")
    try:
        architecture, difference = adapters.write(exp, params, Path(str(request.workdir)), partial)
        agrees = difference <= TOLERANCE
        if agrees:
            os.replace(partial, output)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    if request.json:
        report.document({"step": step, "output": str(output), "agrees": agrees, "difference": difference})
        return 0 if agrees else 1
    report.say(f"step {step} of {request.workdir}, exported as an adapter of {architecture} to {output} and read back:")
    report.say(f"  hidden states and head differ by at most {difference:.1e} (allowed {TOLERANCE:.0e})")
    if not agrees:
        report.say(f"  they do not agree; {output} was not written")
    return 0 if agrees else 1


def _notes(tokenizer: Tokenizer, differ: list[str], *, imported: bool, bare: bool, forced: str = "") -> list[str]:
    """Returns notes for the user of the exported tokenizer.

    Args:
      tokenizer: the run's tokenizer, which was exported.
      differ: the texts of `TEXTS` for which the exported tokenizer gives other ids.
      imported: whether the exported files are those that the run was imported with.
      bare: whether the export has no tokenizer.json.
      forced: the class that AutoTokenizer always loads for this family; empty if it loads the exported tokenizer.
    """
    notes = [f"the exported tokenizer gives other ids for {differ[0][:40]!r}"] if differ else []
    if not imported and bare:
        notes.append(
            f"only {tokenizer.file} was written, because tokenizer.json cannot express this {tokenizer.kind!r} "
            "tokenizer: other libraries may read it differently"
        )
    if forced:
        notes.append(
            f"AutoTokenizer of transformers 5 loads {forced} for this model, which splits texts differently: load "
            "the tokenizer with PreTrainedTokenizerFast"
        )
    caveat = "" if imported or bare else interchange.caveat(tokenizer)
    return [*notes, *([caveat] if caveat else [])]


def _load_tokenizer(output: Path) -> Tokenizer:
    """Loads an exported tokenizer as other libraries do, which read tokenizer.json and not our own format."""
    file = output / TOKENIZER[0]
    return tokenizers.load(file if file.is_file() else output)


def differing(ours: Tokenizer, theirs: Tokenizer) -> list[str]:
    """Returns the texts of `TEXTS` for which two tokenizers give different ids."""
    encoded = zip(TEXTS, ours.encode_batch(TEXTS), theirs.encode_batch(TEXTS), strict=True)
    return [text for text, our_ids, their_ids in encoded if our_ids.tolist() != their_ids.tolist()]


def _huggingface(exp: Experiment, params: Params, origin: Path, output: Path, *, bare: bool = False) -> dict[str, Any]:
    """Writes config.json, safetensors, tokenizer files and generation_config.json; returns config.json.

    `origin` has the files of the imported checkpoint that the model began as, if there is one. The class is the one
    with the head of the run's task, if its objective is a task; with `bare`, the model without its head.
    """
    begun, suffix = origins.read(origin), choice.BARE if bare else tasks.suffix_of(exp)
    imported = _keeps_imported_tokenizer(origin, exp.tokenizer)
    config = exp.product.module.config
    if not suffix:
        config, params = origins.updated(begun, config, params)
    tree, config, kept = tasks.class_of(exp, config, suffix, begun)
    if not (kept and imported):
        ids = generation.ids(config.kind, interchange.roles(exp.tokenizer, config.kind))
        tree = {**tree, **ids, **generation.from_conventions(exp.config.conventions)}
        tree, config, params = positions.align(tree, config, params)
    huggingface.save(output, tree, config, params, begun.extra if kept else {})
    for file in origin.iterdir() if imported else ():
        if file.is_file() and file.name not in (origins.ABOUT, safetensors.SINGLE):
            shutil.copyfile(file, output / file.name)
    if exp.tokenizer.kind != tokenizers.IDS and not _has_tokenizer(output):
        _write_tokenizer(exp, output, tree, imported=imported, scores=bool(suffix))
    if config.kind != "encoder" and not (output / generation.FILE).is_file():
        atomic.write_json(output / generation.FILE, _generation(exp))
    if exp.task is not None and exp.task.vectors is not None:
        vectors, longest = exp.task.vectors, exp.config.data.length
        files = sentence_transformers.files(config.embed.width, vectors.pool, unit=vectors.unit, longest=longest)
        for name, content in files.items():
            (output / name).parent.mkdir(exist_ok=True)
            atomic.write_bytes(output / name, content)
    return tree


def _keeps_imported_tokenizer(origin: Path, tokenizer: Tokenizer) -> bool:
    """Returns whether a run has the tokenizer that it was imported with; a fork may have a new one."""
    if not _has_tokenizer(origin):
        # A tokenizer that was imported in our own format is stored only with the run.
        return origin.is_dir()
    return tokenizers.load(origin).fingerprint == tokenizer.fingerprint


def _has_tokenizer(folder: Path) -> bool:
    """Returns whether a folder has tokenizer files in another library's format."""
    return any(True for pattern in TOKENIZER for _ in folder.glob(pattern))


def _write_tokenizer(exp: Experiment, output: Path, tree: Mapping[str, Any], *, imported: bool, scores: bool) -> None:
    """Writes the tokenizer in Hugging Face's format, and in ours if it was imported in ours or needs it.

    `tree` is config.json; `scores`: whether the model has the head of a task, and does not continue texts.
    """
    tokenizer, config = exp.tokenizer, exp.product.module.config
    # Does the model distinguish the two texts of a pair?
    types = config.embed.types > 1 or (isinstance(config, TransformerConfig) and config.typed)
    try:
        head = huggingface.family_of(tree).head(tree["architectures"][0], tree) if scores else None
        # XLNet's head reads the last position, padding included.
        padding = "" if not scores else "left" if head is not None and head.pick == "final" else "right"
        around = _around(exp, scores)
        files = interchange.files(
            tokenizer, config.kind, types=types, longest=_longest(exp), around=around, padding=padding
        )
    except InputError:
        files = {}  # Reported by `_notes`.
    if imported or not files:
        tokenizer.save(output)
    for name, content in files.items():
        if not (output / name).exists():
            atomic.write_bytes(output / name, content)


def _around(exp: Experiment, scores: bool) -> tokenizers.Template | None:
    """Returns the ids around texts if they do not follow from the kind of the model, else None."""
    conventions, config, eos = exp.config.conventions, exp.config.model, exp.tokenizer.eos
    if config.kind == "encoder" or not (conventions.foreign or scores):
        return None
    before, after = conventions.prefix, conventions.suffix or ((eos,) if config.kind == "encoder_decoder" else ())
    # The rows of a task: `objectives.framing`.
    between = conventions.between or after or (eos,) if scores else (*after, *before)
    return tokenizers.Template(before, after, between)


def _generation(exp: Experiment) -> dict[str, Any]:
    tokenizer, config, conventions = exp.tokenizer, exp.product.module.config, exp.config.conventions
    sentinels = config.kind == "encoder_decoder"
    forbidden = prompting.unwritable(tokenizer, config.embed.vocab or 0, sentinels=sentinels)
    defaults = generation.defaults(
        config.kind,
        interchange.roles(tokenizer, config.kind),
        forbidden=conventions.suppressed if conventions.foreign else forbidden,
        longest=_longest(exp),
        most=MOST_TOKENS,
    )
    return {**defaults, **generation.from_conventions(conventions)}


def _longest(exp: Experiment) -> int | None:
    embed = exp.product.module.config.embed
    # Sinusoidal positions too: Hugging Face's classes store them as a table of this length.
    return None if embed.positions == "none" else embed.max_length


def compare(exp: Experiment, params: Params, output: Path, tokenizer: Tokenizer | None) -> dict[str, Any]:
    """Compares the outputs of a run and of its export on a line of text, or on arbitrary ids without a tokenizer.

    Returns:
      `compared` (logits; without an LM head those of the task, log-odds of replaced tokens or hidden states), their
      largest `difference`, their `kl` divergence and the `overlap` of the `TOP` most likely tokens; the last two are
      None without an LM head.
    """
    embed = exp.product.module.config.embed
    vocab = embed.vocab or 0
    length = min(LONGEST, embed.max_length) if embed.positions == "learned" else LONGEST
    ids = [] if tokenizer is None else [token for token in tokenizer.encode(TEXT).tolist() if token < vocab]
    tokens = jnp.asarray(np.asarray(ids or np.arange(LONGEST) % vocab, np.int32)[None, :length])
    inputs = Inputs(tokens=tokens)
    if exp.config.model.kind == "encoder_decoder":
        inputs = Inputs(tokens=tokens, source=Inputs(tokens=tokens))
    checkpoint = huggingface.open_checkpoint(output)
    module, exported, head = checkpoint.module, checkpoint.params(), checkpoint.has_readout
    scores = bool(module.config.task.classes and exp.product.module.config.task.classes)
    detects = checkpoint.detects and getattr(exp.product.module.config, "detection", False)

    def apply(module: Any, params: Params) -> Any:
        states = module.apply({"params": params}, inputs, logits=head)
        if detects:
            return module.apply({"params": params}, states.hidden, method="detect_logits")
        if scores:
            read = pooled(states.hidden, jnp.ones_like(tokens), module.config.task.pool)
            return module.apply({"params": params}, read, method="task_logits")
        return states.logits if head else states.hidden

    with jax.default_matmul_precision("highest"):
        ours, theirs = (
            np.asarray(jax.jit(apply, static_argnums=0)(model, tree), np.float64)
            for model, tree in ((exp.product.module, jax.device_get(params)), (module, exported))
        )
    difference = float(np.abs(ours - theirs).max())
    if not head:
        compared = "log-odds of replaced tokens" if detects else TASK_LOGITS if scores else "hidden states"
        return {"compared": compared, "difference": difference, "kl": None, "overlap": None}
    log_probs = [logits - np.logaddexp.reduce(logits, -1, keepdims=True) for logits in (ours, theirs)]
    top = [np.argsort(logits, -1)[..., -TOP:] for logits in (ours, theirs)]
    overlaps = [len(set(a) & set(b)) for a, b in zip(*(ids.reshape(-1, ids.shape[-1]) for ids in top), strict=True)]
    return {
        "compared": "logits",
        "difference": difference,
        "kl": float((np.exp(log_probs[0]) * (log_probs[0] - log_probs[1])).sum(-1).mean()),
        "overlap": float(np.mean(overlaps)) / top[0].shape[-1],
    }


FORMATS: dict[str, Callable[[Experiment, Any, Path, Path], dict[str, Any]]] = {
    "huggingface": _huggingface,
    "bare": functools.partial(_huggingface, bare=True),
}
