"""`lm-jax generate`: a decoder continues prompts, an encoder fills masks, an encoder-decoder restores spans."""

from __future__ import annotations

import codecs
import json
import re
from pathlib import Path
from typing import Any

import numpy as np

from lm_jax.core.config import InputError
from lm_jax.data import atomic
from lm_jax.decode import prompting
from lm_jax.decode.fill import fill
from lm_jax.decode.generate import generate
from lm_jax.decode.sampling import SamplingConfig
from lm_jax.experiment import Experiment
from lm_jax.flags import Request
from lm_jax.verbs import report
from lm_jax.verbs.runs import open_run, restore_params

SHOWN_FILLERS = 5
MOST_TOKENS = 128  # Unless --max_tokens asks for more.


def run(request: Request) -> int:
    """Answers every prompt of `--prompt` and `--input`; `--output` has one JSON object a line for each."""
    if request.output:
        atomic.check_file(Path(request.output), "--output")
    exp = open_run(request)
    prompts = _prompts(request, exp.config.model.kind)
    step, params = restore_params(request, exp)
    answer = {"encoder": _fill, "decoder": _continue, "encoder_decoder": _restore}[exp.config.model.kind]
    answers = answer(request, exp, params["model"], prompts)
    if request.json:
        report.document({"step": step, "answers": answers})
    if request.output:
        lines = "".join(json.dumps(one, ensure_ascii=False) + "\n" for one in answers)
        atomic.write_bytes(Path(request.output), lines.encode())
    return 0


def _prompts(request: Request, kind: str) -> list[str]:
    prompts = [_unicode(prompt) for prompt in request.prompt]
    if request.input is not None:
        prompts += lines(Path(request.input))
    elif not prompts and kind == "decoder":
        return [""]
    elif not prompts:
        raise InputError("generate needs --prompt='...' or --input=FILE")
    return prompts


def _unicode(prompt: str) -> str:
    try:
        prompt.encode()
    except UnicodeEncodeError as error:
        raise InputError(f"--prompt={prompt!r} is not UTF-8 at character {error.start}; check the terminal") from error
    return prompt


def lines(file: Path) -> list[str]:
    """The lines of a text file: answer i is that of line i, so nothing else than a line break divides them.

    Raises:
      InputError: there is no such file, it is empty, or it is neither UTF-8 nor UTF-16 with a byte order mark.
    """
    if not file.is_file():
        raise InputError(f"--input {file}: there is no such file; give a text file with a prompt a line")
    data = file.read_bytes()
    wide = data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
    try:
        text = data.decode("utf-16" if wide else "utf-8-sig")
    except UnicodeDecodeError as error:
        number = data.count(b"\n", 0, error.start) + 1
        raise InputError(
            f"--input {file}: line {number} is not {'UTF-16' if wide else 'UTF-8'}; convert the file, for instance "
            f"with iconv -f LATIN1 -t UTF-8"
        ) from error
    if not text:
        raise InputError(f"--input {file} is empty; give a text file with a prompt a line")
    found = re.split("\r\n|\n|\r", text)
    return found[:-1] if not found[-1] else found


def _continue(request: Request, exp: Experiment, params: Any, prompts: list[str]) -> list[dict[str, Any]]:
    """Texts written by a decoder; a single one is shown as it comes."""
    tokenizer = exp.tokenizer
    streams = len(prompts) == 1 and not request.json
    written: list[int] = []
    shown = ""

    def show(row: int, tokens: np.ndarray) -> None:
        nonlocal shown
        if not written:
            print(prompts[0], end="")
        written.extend(int(token) for token in tokens)
        more = prompting.readable(tokenizer, rows[0], written, shown)
        shown += more
        print(more, end="", flush=True)

    rows = [exp.config.conventions.text(prompting.decoder_prompt(tokenizer, prompt)) for prompt in prompts]
    made = generate(
        exp.model.module,
        params,
        rows,
        forbidden=_forbidden(exp),
        on_tokens=show if streams else None,
        **_settings(request, exp, max(map(len, rows))),
    )
    if streams:
        print()
    answers = []
    for prompt, row, one in zip(prompts, rows, made, strict=True):
        text = prompting.continuation(tokenizer, row, one.tokens)
        answers.append({"prompt": prompt, "text": text, "finished": bool(one.finished)})
        if not streams and not request.json:
            report.say(f"{prompt}{text}\n")
    return answers


def _restore(request: Request, exp: Experiment, params: Any, prompts: list[str]) -> list[dict[str, Any]]:
    """What an encoder-decoder writes: spans, put back into texts that have sentinels; of others its answer."""
    tokenizer = exp.tokenizer
    texts = [prompting.span_prompt(tokenizer, prompt) for prompt in prompts]
    sources = [exp.config.conventions.source(text, tokenizer.eos) for text in texts]
    forbidden = _forbidden(exp, sentinels=True)
    made = generate(exp.model.module, params, sources, forbidden=forbidden, **_settings(request, exp, 0))
    answers = []
    for prompt, source, one in zip(prompts, sources, made, strict=True):
        found = prompting.spans(tokenizer, one.tokens)
        asked = [int(token) for token in tokenizer.sentinels if token in source]
        spans = {tokenizer.piece(token): tokenizer.decode(found.get(token, [])) for token in asked}
        text = prompting.restored(tokenizer, source, one.tokens) if asked else tokenizer.decode(one.tokens)
        answers.append({"prompt": prompt, "text": text, "spans": spans})
        if not request.json:
            report.say(f"{prompt}\n  -> {text}")
            for name, span in spans.items():
                report.say(f"     {name}: {span!r}")
    return answers


def _fill(request: Request, exp: Experiment, params: Any, prompts: list[str]) -> list[dict[str, Any]]:
    """Likeliest pieces for every mask, from an encoder."""
    tokenizer = exp.tokenizer
    rows = [prompting.masked_prompt(tokenizer, prompt) for prompt in prompts]
    mask = tokenizer.mask
    if mask is None:
        raise InputError("the tokenizer of this run has no mask token, so there is nothing to fill")
    forbidden = prompting.unwritable(tokenizer, exp.model.module.config.embed.vocab)
    top = request.top_k or SHOWN_FILLERS
    made = fill(
        exp.model.module,
        params,
        rows,
        mask=mask,
        pad=tokenizer.pad,
        top=top,
        forbidden=forbidden,
        layout=exp.layout,
    )
    answers = []
    for prompt, row, masks in zip(prompts, rows, made, strict=True):
        best = prompting.filled(tokenizer, row, [(position, found[0][0]) for position, found in masks])
        named = [[(tokenizer.piece(token), round(share, 6)) for token, share in found] for _, found in masks]
        answers.append({"prompt": prompt, "text": best, "masks": named})
        if not request.json:
            report.say(f"{prompt}\n  -> {best}")
            for number, found in enumerate(named):
                report.say(f"     mask {number}: " + "  ".join(f"{piece} {share:.1%}" for piece, share in found))
    return answers


def _forbidden(exp: Experiment, *, sentinels: bool = False) -> tuple[int, ...]:
    """Ids that the model of a run must not write."""
    conventions = exp.config.conventions
    if conventions.foreign:
        return conventions.suppressed
    vocab = exp.model.module.config.embed.vocab
    return (*prompting.unwritable(exp.tokenizer, vocab, sentinels=sentinels), *conventions.suppressed)


def _settings(request: Request, exp: Experiment, read: int) -> dict[str, Any]:
    """What the generation of text after `read` tokens takes from the command line and the run."""
    tokenizer, embed, conventions = exp.tokenizer, exp.config.model.embed, exp.config.conventions
    room = max(embed.max_length - max(read, 1), 1) if embed.positions == "learned" else MOST_TOKENS
    most = min(MOST_TOKENS, room) if request.max_tokens is None else request.max_tokens
    sampling = SamplingConfig(temperature=request.temperature, top_k=request.top_k, top_p=request.top_p)
    return dict(
        max_tokens=most,
        sampling=sampling,
        seed=request.seed or 0,
        pad=tokenizer.pad,
        eos=conventions.ends or (None if conventions.foreign else tokenizer.eos),
        # Packed text has no BOS; what comes before a document is the EOS of the last one.
        bos=tokenizer.eos if conventions.empty is None else conventions.empty,
        start=conventions.start,
        first=conventions.first,
        last=conventions.last,
        forbidden_first=conventions.suppressed_first,
        layout=exp.layout if exp.layout.mesh.size > 1 else None,
    )
