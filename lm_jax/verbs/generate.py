"""`lm-jax generate`: a decoder continues prompts, an encoder fills masks, an encoder-decoder restores spans."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from lm_jax.core.config import InputError
from lm_jax.data import atomic, tokenizers
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


# A text, or the ids of `--prompt_ids`.
Prompt = str | np.ndarray


def run(request: Request) -> int:
    """Answers `--prompt`, `--prompt_ids` and the lines of `--input`; `--output` has one JSON object a line for each."""
    exp = open_run(request)
    prompts = _prompts(request, exp)
    step, params = restore_params(request, exp)
    answer = {"encoder": _fill, "decoder": _continue, "encoder_decoder": _restore}[exp.config.model.kind]
    answers = answer(request, exp, params["model"], prompts)
    if request.json:
        report.document({"step": step, "answers": answers})
    if request.output:
        lines = "".join(json.dumps(one, ensure_ascii=False) + "\n" for one in answers)
        atomic.write_bytes(Path(request.output), lines.encode())
    return 0


def _prompts(request: Request, exp: Experiment) -> list[Prompt]:
    texts, ids = list(request.prompt), list(request.prompt_ids)
    wordless = exp.tokenizer.kind == tokenizers.IDS
    if request.input is not None:
        if not Path(request.input).is_file():
            raise InputError(f"--input {request.input}: there is no such file; give a text file with a prompt a line")
        (ids if wordless else texts).extend(Path(request.input).read_text(encoding="utf-8").splitlines())
    if texts and wordless:
        raise InputError(tokenizers.NO_TEXT)
    prompts = [*texts, *map(prompting.given_ids, ids)]
    if not prompts and wordless:
        raise InputError("generate needs --prompt_ids=1,2,3 or --input=FILE with ids a line, for this run takes ids")
    if not prompts and exp.config.model.kind == "decoder":
        return [""]
    if not prompts:
        raise InputError("generate needs --prompt='...' or --input=FILE")
    return prompts


def _encoded(exp: Experiment, prompts: list[Prompt], encode: Any) -> list[np.ndarray]:
    """What the model reads of each prompt; `encode` makes it of a text."""
    return [encode(exp.tokenizer, prompt) if isinstance(prompt, str) else prompt for prompt in prompts]


def _about(exp: Experiment, prompt: Prompt, tokens: Any) -> dict[str, Any]:
    """The answer to a prompt of ids: ids, and their text where the run knows any."""
    known = exp.tokenizer.kind != tokenizers.IDS
    text = {"text": exp.tokenizer.decode(tokens)} if known else {}
    return {"prompt_ids": [int(one) for one in prompt], "tokens": [int(one) for one in tokens], **text}


def _say_ids(about: dict[str, Any]) -> None:
    report.say(" -> ".join(",".join(map(str, about[name])) for name in ("prompt_ids", "tokens")))


def _continue(request: Request, exp: Experiment, params: Any, prompts: list[Prompt]) -> list[dict[str, Any]]:
    """Texts written by a decoder; a single one is shown as it comes."""
    tokenizer, vocab = exp.tokenizer, exp.model.module.config.embed.vocab
    streams = len(prompts) == 1 and isinstance(prompts[0], str) and not request.json
    written: list[int] = []
    shown = ""

    def show(row: int, tokens: np.ndarray) -> None:
        nonlocal shown
        if not written:
            print(prompts[0], end="")
        written.extend(int(token) for token in tokens)
        more = prompting.readable(tokenizer, written, shown)
        shown += more
        print(more, end="", flush=True)

    rows = _encoded(exp, prompts, prompting.decoder_prompt)
    if tokenizer.eos >= vocab and not all(map(len, rows)):
        raise InputError(
            f"an empty prompt starts from id {tokenizer.eos} of the tokenizer, and the model's table has the ids "
            f"0..{vocab - 1}; give --prompt='...'"
        )
    made = generate(
        exp.model.module,
        params,
        rows,
        forbidden=prompting.unwritable(tokenizer, vocab),
        on_tokens=show if streams else None,
        **_settings(request, exp, max(map(len, rows))),
    )
    if streams:
        print()
    answers = []
    for prompt, one in zip(prompts, made, strict=True):
        if not isinstance(prompt, str):
            answers.append({**_about(exp, prompt, one.tokens), "finished": bool(one.finished)})
            if not request.json:
                _say_ids(answers[-1])
            continue
        text = tokenizer.decode(one.tokens)
        answers.append({"prompt": prompt, "text": text, "finished": bool(one.finished)})
        if not streams and not request.json:
            report.say(f"{prompt}{text}\n")
    return answers


def _restore(request: Request, exp: Experiment, params: Any, prompts: list[Prompt]) -> list[dict[str, Any]]:
    """Spans written by an encoder-decoder, put back into their texts."""
    tokenizer = exp.tokenizer
    sources = _encoded(exp, prompts, prompting.span_prompt)
    vocab = exp.model.module.config.embed.vocab
    forbidden = prompting.unwritable(tokenizer, vocab, sentinels=True)
    made = generate(exp.model.module, params, sources, forbidden=forbidden, **_settings(request, exp, 0))
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
        text = prompting.restored(tokenizer, source, one.tokens)
        answers.append({"prompt": prompt, "text": text, "spans": spans})
        if not request.json:
            report.say(f"{prompt}\n  -> {text}")
            for name, span in spans.items():
                report.say(f"     {name}: {span!r}")
    return answers


def _fill(request: Request, exp: Experiment, params: Any, prompts: list[Prompt]) -> list[dict[str, Any]]:
    """Likeliest pieces for every mask, from an encoder."""
    tokenizer = exp.tokenizer
    rows = _encoded(exp, prompts, prompting.masked_prompt)
    mask = tokenizer.mask
    if mask is None:
        raise InputError(
            "which id is the mask is not known, for the run has no tokenizer; import the checkpoint again with "
            "--hf.mask_token_id=ID, or with --tokenizer=PATH"
        )
    if unmasked := [row for row in rows if mask not in row]:
        raise InputError(f"--prompt_ids {','.join(map(str, unmasked[0]))} has no mask, which is id {mask}")
    forbidden = prompting.unwritable(tokenizer, exp.model.module.config.embed.vocab)
    top = request.top_k or SHOWN_FILLERS
    made = fill(
        exp.model.module,
        params,
        rows,
        mask=mask,
        pad=exp.padding,
        top=top,
        forbidden=forbidden,
        layout=exp.layout,
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


def _settings(request: Request, exp: Experiment, read: int) -> dict[str, Any]:
    """What the generation of text after `read` tokens takes from the command line and the run."""
    tokenizer, embed = exp.tokenizer, exp.config.model.embed
    room = max(embed.max_length - max(read, 1), 1) if embed.positions == "learned" else MOST_TOKENS
    most = min(MOST_TOKENS, room) if request.max_tokens is None else request.max_tokens
    sampling = SamplingConfig(temperature=request.temperature, top_k=request.top_k, top_p=request.top_p)
    return dict(
        max_tokens=most,
        sampling=sampling,
        seed=request.seed or 0,
        pad=exp.padding,
        eos=tokenizer.eos,
        # Packed text has no BOS; what comes before a document is the EOS of the last one.
        bos=tokenizer.eos,
        layout=exp.layout if exp.layout.mesh.size > 1 else None,
    )
