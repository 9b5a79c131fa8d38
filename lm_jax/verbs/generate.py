"""`lm-jax generate`: a decoder continues prompts, an encoder fills masks, an encoder-decoder restores spans."""

from __future__ import annotations

import codecs
import json
import re
from pathlib import Path
from typing import Any, cast

import numpy as np

from lm_jax.core.config import InputError
from lm_jax.core.trees import Params
from lm_jax.data import atomic, tokenizers
from lm_jax.decode import prompting
from lm_jax.decode.fill import fill
from lm_jax.decode.generate import generate
from lm_jax.decode.sampling import SamplingConfig
from lm_jax.experiment import Experiment, writing
from lm_jax.flags import Request
from lm_jax.objectives.seq2seq import Seq2Seq
from lm_jax.verbs import report
from lm_jax.verbs.runs import one_model, open_run, restore_model

CANDIDATES = 5  # Candidates per mask, unless --top_k is set.
MOST_TOKENS = 128  # Default of --max_tokens.
Prompt = str | np.ndarray  # A text, or the ids of `--prompt_ids`.


def run(request: Request) -> int:
    """Answers `--prompt`, `--prompt_ids` and the lines of `--input`; writes a JSON line per prompt to `--output`."""
    if request.output:
        atomic.check_file(Path(request.output), "--output")
    run = open_run(request)
    exp = one_model(request, run)
    _check_predicts(exp)
    prompts = _prompts(request, exp)
    step, params = restore_model(request, run)
    answer = {"encoder": _fill, "decoder": _continue, "encoder_decoder": _restore}[exp.config.model.kind]
    answers = answer(request, exp, params, prompts)
    if request.json:
        report.document({"step": step, "answers": answers})
    if request.output:
        lines = "".join(json.dumps(entry, ensure_ascii=False) + "\n" for entry in answers)
        atomic.write_bytes(Path(request.output), lines.encode())
    return 0


def _check_predicts(exp: Experiment) -> None:
    """Refuses a product that detects the tokens that another model predicts."""
    others = [role for role in exp.models.roles if role != exp.models.product]
    if others and getattr(exp.config.model, "detection", False):
        raise InputError(
            f"the product of this run, its {exp.models.product}, detects replaced tokens and predicts none; "
            f"--role={others[0]} generates from the other model"
        )


def _prompts(request: Request, exp: Experiment) -> list[Prompt]:
    texts, ids = [_unicode(prompt) for prompt in request.prompt], list(request.prompt_ids)
    ids_only = exp.tokenizer.kind == tokenizers.IDS
    if request.input is not None:
        (ids if ids_only else texts).extend(lines(Path(request.input)))
    if texts and ids_only:
        raise InputError(tokenizers.NEEDS_IDS)
    prompts = [*texts, *map(prompting.parse_ids, ids)]
    if prompts or request.input is not None:
        return prompts
    if ids_only:
        raise InputError("generate needs --prompt_ids=1,2,3 or --input=FILE of token ids: the run has no tokenizer")
    if exp.config.model.kind == "decoder":
        return [""]
    raise InputError("generate needs --prompt='...' or --input=FILE")


def _unicode(prompt: str) -> str:
    try:
        prompt.encode()
    except UnicodeEncodeError as error:
        raise InputError(f"--prompt={prompt!r} is not UTF-8 at character {error.start}; set a UTF-8 locale") from error
    return prompt


def lines(file: Path) -> list[str]:
    """Returns the lines of a text file, split only at LF, CR or CR LF, so that answer i belongs to line i.

    Raises:
      InputError: the file does not exist, is empty, or is neither UTF-8 nor UTF-16 with a byte order mark.
    """
    if not file.is_file():
        raise InputError(f"--input {file} does not exist; give a text file with one prompt per line")
    data = file.read_bytes()
    wide = data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
    try:
        text = data.decode("utf-16" if wide else "utf-8-sig")
    except UnicodeDecodeError as error:
        number = data.count(b"\n", 0, error.start) + 1
        raise InputError(
            f"--input {file}: line {number} is not {'UTF-16' if wide else 'UTF-8'}; convert the file, for instance "
            "with iconv -f LATIN1 -t UTF-8"
        ) from error
    if not text:
        raise InputError(f"--input {file} is empty; give a text file with one prompt per line")
    prompts = re.split("\r\n|\n|\r", text)
    return prompts[:-1] if not prompts[-1] else prompts


def _ids_answer(exp: Experiment, prompt: np.ndarray, tokens: Any) -> dict[str, Any]:
    """Returns the answer to a prompt of ids: the ids, and their text if the run has a tokenizer."""
    answer = {"prompt_ids": [int(token) for token in prompt], "tokens": [int(token) for token in tokens]}
    if exp.tokenizer.kind == tokenizers.IDS:
        return answer
    if exp.config.model.kind == "decoder":
        return {**answer, "text": prompting.continuation(exp.tokenizer, answer["prompt_ids"], tokens)}
    return {**answer, "text": exp.tokenizer.decode(tokens)}


def _say_ids(answer: dict[str, Any]) -> None:
    report.say(" -> ".join(",".join(map(str, answer[name])) for name in ("prompt_ids", "tokens")))


def _continue(request: Request, exp: Experiment, params: Params, prompts: list[Prompt]) -> list[dict[str, Any]]:
    """Continues prompts with a decoder; the text of a single prompt is printed while it is generated."""
    tokenizer, seq2seq = exp.tokenizer, _seq2seq(exp)
    streams = len(prompts) == 1 and isinstance(prompts[0], str) and not request.json and seq2seq is None
    ids: list[int] = []
    printed = ""

    def show(row: int, tokens: np.ndarray) -> None:
        nonlocal printed
        if not ids:
            print(prompts[0], end="")
        ids.extend(int(token) for token in tokens)
        more = prompting.readable(tokenizer, rows[0], ids, printed)
        printed += more
        print(more, end="", flush=True)

    text_of = lambda row, tokens: prompting.continuation(tokenizer, row, tokens)
    wrap, shown = exp.config.conventions.text, "{}{}\n"
    if seq2seq is not None:
        # A target is a text of its own, not the rest of its source.
        text_of, wrap, shown = lambda row, tokens: tokenizer.decode(tokens), seq2seq.source, "{}\n  -> {}"
    encode = lambda prompt: wrap(prompting.decoder_prompt(_reader(exp), _source(exp, prompt)))
    rows = [encode(prompt) if isinstance(prompt, str) else prompt for prompt in prompts]
    settings = _settings(request, exp, max(map(len, rows)))
    vocab = exp.product.module.config.embed.vocab or 0
    if not (all(map(len, rows)) or 0 <= settings["bos"] < vocab):
        raise InputError(
            f"an empty prompt starts from id {settings['bos']}, but the model's vocabulary is 0..{vocab - 1}; give "
            "--prompt='...'"
        )
    outputs = generate(exp.product.module, params, rows, on_tokens=show if streams else None, **settings)
    if streams:
        print()
    answers = []
    for prompt, row, output in zip(prompts, rows, outputs, strict=True):
        if not isinstance(prompt, str):
            answers.append({**_ids_answer(exp, prompt, output.tokens), "finished": bool(output.finished)})
            if not request.json:
                _say_ids(answers[-1])
            continue
        text = text_of(row, output.tokens)
        answers.append({"prompt": prompt, "text": text, "finished": bool(output.finished)})
        if not streams and not request.json:
            report.say(shown.format(prompt, text))
    return answers


def _restore(request: Request, exp: Experiment, params: Params, prompts: list[Prompt]) -> list[dict[str, Any]]:
    """Replaces the sentinels of prompts by spans with an encoder-decoder, or answers prompts without sentinels."""
    tokenizer = exp.tokenizer
    encode = lambda prompt: prompting.span_prompt(_reader(exp), _source(exp, prompt))
    wrap = lambda ids: exp.config.conventions.source(ids, tokenizer.eos)
    sources = [wrap(encode(prompt)) if isinstance(prompt, str) else prompt for prompt in prompts]
    outputs = generate(exp.product.module, params, sources, **_settings(request, exp, 0))
    answers = []
    for prompt, source, output in zip(prompts, sources, outputs, strict=True):
        if not isinstance(prompt, str):
            answers.append(_ids_answer(exp, prompt, output.tokens))
            if not request.json:
                _say_ids(answers[-1])
            continue
        ids = prompting.spans(tokenizer, output.tokens)
        sentinels = [int(token) for token in tokenizer.sentinels if token in source]
        spans = {tokenizer.piece(token): tokenizer.decode(ids.get(token, [])) for token in sentinels}
        text = prompting.restored(tokenizer, source, output.tokens) if sentinels else tokenizer.decode(output.tokens)
        answers.append({"prompt": prompt, "text": text, "spans": spans})
        if not request.json:
            report.say(f"{prompt}\n  -> {text}")
            for name, span in spans.items():
                report.say(f"     {name}: {span!r}")
    return answers


def _fill(request: Request, exp: Experiment, params: Params, prompts: list[Prompt]) -> list[dict[str, Any]]:
    """Fills masks with an encoder; answers list the most likely pieces of each mask."""
    tokenizer = exp.tokenizer
    rows = [prompting.masked_prompt(tokenizer, prompt) if isinstance(prompt, str) else prompt for prompt in prompts]
    mask = tokenizer.mask
    if mask is None:
        raise InputError(
            "the tokenizer of this run has no mask token, so there is nothing to fill; if the checkpoint has no "
            "tokenizer, import it again with --hf.mask_token_id=ID"
        )
    if unmasked := [row for row in rows if mask not in row]:
        raise InputError(f"--prompt_ids {','.join(map(str, unmasked[0]))} has no mask; the mask is id {mask}")
    forbidden = prompting.unwritable(tokenizer, exp.product.module.config.embed.vocab or 0)
    top = request.top_k or CANDIDATES
    filled = fill(
        exp.product.module, params, rows, mask=mask, pad=exp.padding, top=top, forbidden=forbidden, layout=exp.layout
    )
    answers = []
    for prompt, row, masks in zip(prompts, rows, filled, strict=True):
        choices = [(position, candidates[0][0]) for position, candidates in masks]
        ranked = [[(token, round(probability, 6)) for token, probability in candidates] for _, candidates in masks]
        pieces = [[(tokenizer.piece(token), probability) for token, probability in candidates] for candidates in ranked]
        if isinstance(prompt, str):
            answers.append({"prompt": prompt, "text": prompting.filled(tokenizer, row, choices), "masks": pieces})
        else:
            best = dict(choices)
            entry = _ids_answer(exp, prompt, [best.get(position, token) for position, token in enumerate(row)])
            answers.append({**entry, "masks": ranked})
        if not request.json:
            if isinstance(prompt, str):
                report.say(f"{prompt}\n  -> {answers[-1]['text']}")
            else:
                _say_ids(answers[-1])
            for number, candidates in enumerate(pieces):
                shares = "  ".join(f"{piece} {probability:.1%}" for piece, probability in candidates)
                report.say(f"     mask {number}: {shares}")
    return answers


def _settings(request: Request, exp: Experiment, prompt: int) -> dict[str, Any]:
    """Returns the arguments of `generate` for a prompt of this length, from the command line and the run."""
    embed = exp.config.model.embed
    room = max(embed.max_length - max(prompt, 1), 1) if embed.positions == "learned" else MOST_TOKENS
    max_tokens = min(MOST_TOKENS, room) if request.max_tokens is None else request.max_tokens
    temperature = 1.0 if request.temperature is None else request.temperature
    sampling = SamplingConfig(temperature=temperature, top_k=request.top_k, top_p=request.top_p)
    options = writing.options(exp, sentinels=exp.config.model.kind == "encoder_decoder" and _seq2seq(exp) is None)
    return {**options, "max_tokens": max_tokens, "sampling": sampling, "seed": request.seed or 0}


def _source(exp: Experiment, prompt: str) -> str:
    """The text that the model reads: of a run with the objective seq2seq, the prompt in the template of its sources."""
    return prompt if _seq2seq(exp) is None else writing.source(exp, prompt)


def _reader(exp: Experiment) -> tokenizers.Tokenizer:
    """The tokenizer of prompts."""
    return exp.tokenizer if _seq2seq(exp) is None else writing.source_tokenizer(exp)


def _seq2seq(exp: Experiment) -> Seq2Seq | None:
    """The objective of a run that was trained to write the target of a source."""
    return cast(Seq2Seq, exp.objective) if exp.config.objective.name == "seq2seq" else None
