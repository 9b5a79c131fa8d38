"""`lm-jax generate`: a decoder continues prompts, an encoder fills masks, an encoder-decoder restores spans."""

from __future__ import annotations

import codecs
import json
import re
from pathlib import Path
from typing import Any

import numpy as np

from lm_jax.core.config import InputError
from lm_jax.core.trees import Params
from lm_jax.data import atomic, tokenizers
from lm_jax.decode import prompting
from lm_jax.decode.fill import fill
from lm_jax.decode.generate import generate
from lm_jax.decode.sampling import SamplingConfig
from lm_jax.experiment import Experiment
from lm_jax.flags import Request
from lm_jax.verbs import report
from lm_jax.verbs.runs import open_run, restore_product

SHOWN_FILLERS = 5
MOST_TOKENS = 128  # Unless --max_tokens asks for more.


# A text, or the ids of `--prompt_ids`.
Prompt = str | np.ndarray


def run(request: Request) -> int:
    """Answers `--prompt`, `--prompt_ids` and the lines of `--input`; `--output` has one JSON object a line for each."""
    if request.output:
        atomic.check_file(Path(request.output), "--output")
    exp = open_run(request)
    prompts = _prompts(request, exp)
    step, params = restore_product(request, exp)
    answer = {"encoder": _fill, "decoder": _continue, "encoder_decoder": _restore}[exp.config.model.kind]
    answers = answer(request, exp, params, prompts)
    if request.json:
        report.document({"step": step, "answers": answers})
    if request.output:
        lines = "".join(json.dumps(one, ensure_ascii=False) + "\n" for one in answers)
        atomic.write_bytes(Path(request.output), lines.encode())
    return 0


def _prompts(request: Request, exp: Experiment) -> list[Prompt]:
    texts, ids = [_unicode(prompt) for prompt in request.prompt], list(request.prompt_ids)
    wordless = exp.tokenizer.kind == tokenizers.IDS
    if request.input is not None:
        (ids if wordless else texts).extend(lines(Path(request.input)))
    if texts and wordless:
        raise InputError(tokenizers.NO_TEXT)
    prompts = [*texts, *map(prompting.given_ids, ids)]
    if prompts or request.input is not None:
        return prompts
    if wordless:
        raise InputError("generate needs --prompt_ids=1,2,3 or --input=FILE with ids a line, for this run takes ids")
    if exp.config.model.kind == "decoder":
        return [""]
    raise InputError("generate needs --prompt='...' or --input=FILE")


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


def _about(exp: Experiment, prompt: np.ndarray, tokens: Any) -> dict[str, Any]:
    """The answer to a prompt of ids: ids, and their text where the run knows any."""
    about = {"prompt_ids": [int(one) for one in prompt], "tokens": [int(one) for one in tokens]}
    if exp.tokenizer.kind == tokenizers.IDS:
        return about
    if exp.config.model.kind == "decoder":
        return {**about, "text": prompting.continuation(exp.tokenizer, about["prompt_ids"], tokens)}
    return {**about, "text": exp.tokenizer.decode(tokens)}


def _say_ids(about: dict[str, Any]) -> None:
    report.say(" -> ".join(",".join(map(str, about[name])) for name in ("prompt_ids", "tokens")))


def _continue(request: Request, exp: Experiment, params: Params, prompts: list[Prompt]) -> list[dict[str, Any]]:
    """Texts written by a decoder; a single one is shown as it comes."""
    tokenizer = exp.tokenizer
    streams = len(prompts) == 1 and isinstance(prompts[0], str) and not request.json
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

    read = lambda prompt: exp.config.conventions.text(prompting.decoder_prompt(tokenizer, prompt))
    rows = [read(prompt) if isinstance(prompt, str) else prompt for prompt in prompts]
    settings = _settings(request, exp, max(map(len, rows)))
    vocab = exp.product.module.config.embed.vocab or 0
    if not (all(map(len, rows)) or 0 <= settings["bos"] < vocab):
        raise InputError(
            f"an empty prompt starts from id {settings['bos']}, and the model's table has the ids 0..{vocab - 1}; give "
            "--prompt='...'"
        )
    made = generate(
        exp.product.module, params, rows, forbidden=_forbidden(exp), on_tokens=show if streams else None, **settings
    )
    if streams:
        print()
    answers = []
    for prompt, row, one in zip(prompts, rows, made, strict=True):
        if not isinstance(prompt, str):
            answers.append({**_about(exp, prompt, one.tokens), "finished": bool(one.finished)})
            if not request.json:
                _say_ids(answers[-1])
            continue
        text = prompting.continuation(tokenizer, row, one.tokens)
        answers.append({"prompt": prompt, "text": text, "finished": bool(one.finished)})
        if not streams and not request.json:
            report.say(f"{prompt}{text}\n")
    return answers


def _restore(request: Request, exp: Experiment, params: Params, prompts: list[Prompt]) -> list[dict[str, Any]]:
    """What an encoder-decoder writes: spans, put back into texts that have sentinels; of others its answer."""
    tokenizer = exp.tokenizer
    read = lambda prompt: exp.config.conventions.source(prompting.span_prompt(tokenizer, prompt), tokenizer.eos)
    sources = [read(prompt) if isinstance(prompt, str) else prompt for prompt in prompts]
    forbidden = _forbidden(exp, sentinels=True)
    made = generate(exp.product.module, params, sources, forbidden=forbidden, **_settings(request, exp, 0))
    answers = []
    for prompt, source, one in zip(prompts, sources, made, strict=True):
        if not isinstance(prompt, str):
            answers.append(_about(exp, prompt, one.tokens))
            if not request.json:
                _say_ids(answers[-1])
            continue
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


def _fill(request: Request, exp: Experiment, params: Params, prompts: list[Prompt]) -> list[dict[str, Any]]:
    """Likeliest pieces for every mask, from an encoder."""
    tokenizer = exp.tokenizer
    read = lambda prompt: prompting.masked_prompt(tokenizer, prompt)
    rows = [read(prompt) if isinstance(prompt, str) else prompt for prompt in prompts]
    mask = tokenizer.mask
    if mask is None:
        raise InputError(
            "the tokenizer of this run has no mask token, so there is nothing to fill; of a checkpoint without a "
            "tokenizer, import it again with --hf.mask_token_id=ID"
        )
    if unmasked := [row for row in rows if mask not in row]:
        raise InputError(f"--prompt_ids {','.join(map(str, unmasked[0]))} has no mask, which is id {mask}")
    forbidden = prompting.unwritable(tokenizer, exp.product.module.config.embed.vocab or 0)
    top = request.top_k or SHOWN_FILLERS
    made = fill(
        exp.product.module, params, rows, mask=mask, pad=exp.padding, top=top, forbidden=forbidden, layout=exp.layout
    )
    answers = []
    for prompt, row, masks in zip(prompts, rows, made, strict=True):
        choices = [(position, found[0][0]) for position, found in masks]
        named = [[(tokenizer.piece(token), round(share, 6)) for token, share in found] for _, found in masks]
        if isinstance(prompt, str):
            answers.append({"prompt": prompt, "text": prompting.filled(tokenizer, row, choices), "masks": named})
        else:
            best = dict(choices)
            about = _about(exp, prompt, [best.get(place, token) for place, token in enumerate(row)])
            answers.append({**about, "masks": [[(token, round(share, 6)) for token, share in one] for _, one in masks]})
        if not request.json:
            if isinstance(prompt, str):
                report.say(f"{prompt}\n  -> {answers[-1]['text']}")
            else:
                _say_ids(answers[-1])
            for number, found in enumerate(named):
                report.say(f"     mask {number}: " + "  ".join(f"{piece} {share:.1%}" for piece, share in found))
    return answers


def _forbidden(exp: Experiment, *, sentinels: bool = False) -> tuple[int, ...]:
    """Ids that the model of a run must not write."""
    conventions = exp.config.conventions
    if conventions.foreign:
        return conventions.suppressed
    vocab = exp.product.module.config.embed.vocab or 0
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
        pad=exp.padding,
        eos=conventions.ends or (None if conventions.foreign else tokenizer.eos),
        # Packed text has no BOS; what comes before a document is the EOS of the last one.
        bos=tokenizer.eos if conventions.empty is None else conventions.empty,
        start=conventions.start,
        first=conventions.first,
        last=conventions.last,
        forbidden_first=conventions.suppressed_first,
        layout=exp.layout if exp.layout.mesh.size > 1 else None,
    )
