"""Trains a model of each kind on the documentation of the installed Python, and scores it on documents it has not read.

    python launch/quickstart.py [--output=runs/quickstart] [--seed=0] [--steps=N]

`make quickstart` runs it: a few minutes on two cores, without a download. The decoder continues a prompt, the encoder
fills blanks, the encoder-decoder restores spans, each before and after training; OUTPUT/examples.txt shows more.
"""

from __future__ import annotations

import argparse
import dataclasses
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from lm_jax import experiment, flags
from lm_jax.core.trees import Params
from lm_jax.data import rows
from lm_jax.decode import prompting
from lm_jax.decode.fill import fill
from lm_jax.decode.generate import generate
from lm_jax.decode.sampling import GREEDY, SamplingConfig
from lm_jax.experiment import Experiment
from lm_jax.flags import Request
from lm_jax.main import INTERRUPTED
from lm_jax.train import curves, metrics
from lm_jax.verbs.runs import restore_model

KINDS = {"gpt": "decoder", "bert": "encoder", "t5": "encoder-decoder"}
PROMPT = "Return a new string"
QUESTIONS = 100  # Blanks, and spans.
SHORTEST, LONGEST = 10, 48  # Tokens of a sentence with a blank or a span.
SPAN, ANSWER = 3, 6  # Tokens of a span, and tokens to generate from its start.
SCORED, CANDIDATES = 5, 100  # Likeliest pieces of a blank: those that count, and those among which words are shown.
WIDTH = 150  # Characters of a line of the closing screen.


@dataclasses.dataclass(frozen=True)
class Question:
    """A sentence with a gap for the tokens start..stop-1."""

    sentence: np.ndarray
    start: int
    stop: int

    def source(self, mask: int) -> np.ndarray:
        """The sentence with one mask for its gap."""
        return np.concatenate([self.sentence[: self.start], [mask], self.sentence[self.stop :]])

    @property
    def answer(self) -> np.ndarray:
        """The tokens of the gap."""
        return self.sentence[self.start : self.stop]


def main() -> int:
    """Train, score, and print one screen."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", default="runs/quickstart", type=Path, help="folder of the runs")
    parser.add_argument("--seed", default=0, type=int, help="of the parameters and the batches")
    parser.add_argument("--steps", type=int, help="of each model, instead of those of its recipe")
    args = parser.parse_args()
    started = time.monotonic()
    if code := train(args.output, args.seed, args.steps):
        return code
    print("answering with each model, untrained and trained ...", file=sys.stderr)
    runs = {recipe: experiment.prepare(experiment.load(args.output / recipe).config) for recipe in KINDS}
    asked = {"gpt": [], "bert": blanks(runs["bert"]), "t5": spans(runs["t5"])}
    answer = {"gpt": continued, "bert": filled, "t5": restored}
    before, after = (
        {name: answer[name](exp, weights(exp, args.output / name, trained), asked[name]) for name, exp in runs.items()}
        for trained in (False, True)
    )
    curves.plot([args.output / recipe for recipe in KINDS], args.output / "loss.png", ("loss", "masked_accuracy"))
    pages = [page for recipe in ("bert", "t5") for page in examples(runs[recipe], recipe, asked[recipe], before, after)]
    (args.output / "examples.txt").write_text("\n".join(pages) + "\n", encoding="utf-8")
    print("\n".join(screen(runs, asked, before, after, args.output)))
    print(f"This took {time.monotonic() - started:.0f} s.")
    return 0


def train(output: Path, seed: int, steps: int | None) -> int:
    """Train the recipes with `lm-jax train`, all at once, with output to files; return 0, or a failure's exit code.

    Together they are done sooner: while one compiles on one core, another trains on the other.
    """
    output.mkdir(parents=True, exist_ok=True)
    processes, bars = {}, {}
    for place, (recipe, kind) in enumerate(KINDS.items()):
        total = steps or flags.load_recipe(f"quickstart:{recipe}").train.steps
        command = [sys.executable, "-m", "lm_jax.main", "train", f"--config=quickstart:{recipe}"]
        command += [f"--workdir={output / recipe}", f"--config.seed={seed}", f"--config.train.steps={total}"]
        with (output / f"{recipe}.log").open("w") as log:
            processes[recipe] = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT)
        options = dict(desc=f"{kind:15}", bar_format="{desc} {bar} {percentage:3.0f}% {elapsed}", disable=None)
        bars[recipe] = tqdm(total=total, position=place, **options)
    try:
        while any([process.poll() is None for process in processes.values()]):
            time.sleep(0.5)
            for recipe, bar in bars.items():
                entries = metrics.read(output / recipe) if (output / recipe / metrics.FILE).exists() else []
                bar.update(max((entry["step"] for entry in entries), default=0) - bar.n)
    finally:
        # The terminal interrupts them too, and they save their state.
        codes = {recipe: process.wait() for recipe, process in processes.items()}
        for bar in bars.values():
            bar.close()
    for recipe, kind in KINDS.items():
        if codes[recipe]:
            log = output / f"{recipe}.log"
            end = "\n".join(log.read_text().splitlines()[-5:])
            print(f"training the {kind} failed; {log} ends:\n{end}", file=sys.stderr)
        elif not sys.stderr.isatty():
            print(f"trained the {kind}", file=sys.stderr)
    # The code of a killed process is negative.
    return next((code for code in codes.values() if code), 0)


def weights(exp: Experiment, workdir: Path, trained: bool) -> Params:
    """Return the parameters of a run after training, or those that it began with."""
    if trained:
        return restore_model(Request(verb="generate", workdir=str(workdir)), exp)[1]
    # The program that drew the parameters in training, which is cached.
    ((name, model),) = exp.models.models.items()
    return model.merge(exp.models.parameters(name, exp.fresh_state().params))


def continued(exp: Experiment, params: Params, _: list[Question]) -> str:
    """Continue the prompt with a decoder."""
    ids, tokenizer = prompting.decoder_prompt(exp.tokenizer, PROMPT), exp.tokenizer
    forbidden = prompting.unwritable(tokenizer, exp.product.module.config.embed.vocab)
    sampling = SamplingConfig(temperature=0.7, top_p=0.9)
    options = dict(max_tokens=60, sampling=sampling, seed=0, pad=exp.padding, eos=None, bos=tokenizer.eos)
    (output,) = generate(exp.product.module, params, [ids], forbidden=forbidden, **options)
    return prompting.continuation(tokenizer, ids, output.tokens)


def filled(exp: Experiment, params: Params, asked: list[Question]) -> list[list[int]]:
    """Return the likeliest tokens of each blank, likeliest first."""
    tokenizer = exp.tokenizer
    sources = [[tokenizer.cls, *question.source(tokenizer.mask), tokenizer.sep] for question in asked]
    forbidden = prompting.unwritable(tokenizer, exp.product.module.config.embed.vocab)
    options = dict(mask=tokenizer.mask, pad=exp.padding, top=CANDIDATES, forbidden=forbidden)
    masks = fill(exp.product.module, params, sources, **options)
    return [[token for token, _ in candidates] for ((_, candidates),) in masks]


def restored(exp: Experiment, params: Params, asked: list[Question]) -> list[list[int]]:
    """Return the likeliest tokens, one after the other, from the start of each span, given the text before it."""
    tokenizer, module = exp.tokenizer, exp.product.module
    sources = [exp.config.conventions.source(question.source(tokenizer.mask), tokenizer.eos) for question in asked]
    openings = [question.sentence[: question.start] for question in asked]
    forbidden = prompting.unwritable(tokenizer, module.config.embed.vocab)
    options = dict(max_tokens=ANSWER, sampling=GREEDY, seed=0, pad=exp.padding, eos=None, bos=tokenizer.eos)
    outputs = generate(module, params, sources, openings=openings, forbidden=forbidden, **options)
    return [output.tokens.tolist() for output in outputs]


def sentences(exp: Experiment) -> Iterator[np.ndarray]:
    """Yield the sentences of the held-out documents, in random but fixed order."""
    store = exp.store
    documents = rows.documents(store, "validation", *rows.span(store.tokens, "validation", exp.config.data.validation))
    start = int(store.document_starts[documents][0])
    starts = store.sentence_starts[np.searchsorted(store.sentence_starts, start) :]
    sizes = np.diff(starts, append=store.tokens)
    fitting = np.flatnonzero((sizes >= SHORTEST) & (sizes <= LONGEST))
    order = np.random.default_rng(0).permutation(fitting)
    texts = (store.read(int(starts[number]), int(starts[number] + sizes[number])) for number in order)
    yield from (text[text != exp.tokenizer.eos] for text in texts)


def words(exp: Experiment, sentence: np.ndarray) -> list[tuple[int, int]]:
    """Return start and stop of the words of a sentence: letters between pieces that begin a word or are punctuation."""
    pieces = [exp.tokenizer.piece(int(token)) for token in sentence]
    letters = [piece.lstrip("\u2581").isalpha() for piece in pieces]
    begins = [exp.tokenizer.starts_word[token] or not letter for token, letter in zip(sentence, letters, strict=True)]
    starts = [*np.flatnonzero(begins), len(sentence)]
    return [(start, stop) for start, stop in zip(starts[:-1], starts[1:], strict=True) if letters[start]]


def blanks(exp: Experiment) -> list[Question]:
    """Return sentences with a blank for a word of one piece and at least two letters."""

    def gaps(sentence: np.ndarray) -> list[tuple[int, int]]:
        long = lambda start: len(exp.tokenizer.decode(sentence[start : start + 1]).strip()) > 1
        return [(start, stop) for start, stop in words(exp, sentence) if stop == start + 1 and long(start)]

    return questions(exp, gaps)


def spans(exp: Experiment) -> list[Question]:
    """Return sentences with a gap of `SPAN` tokens at any place, as in training."""
    return questions(exp, lambda sentence: [(start, start + SPAN) for start in range(len(sentence) - SPAN)])


def questions(exp: Experiment, gaps: Callable[[np.ndarray], list[tuple[int, int]]]) -> list[Question]:
    """Return `QUESTIONS` sentences with one of their `gaps`, but not at their ends; both are drawn by a fixed seed."""
    rng, chosen, source = np.random.default_rng(1), [], sentences(exp)
    while len(chosen) < QUESTIONS:
        sentence = next(source)
        inside = [(start, stop) for start, stop in gaps(sentence) if 0 < start and stop < len(sentence)]
        if inside:
            chosen.append(Question(sentence, *inside[rng.integers(len(inside))]))
    return chosen


def right(recipe: str, asked: list[Question], answers: list[list[int]]) -> list[bool]:
    """Return whether each answer is right: a blank's word is among five pieces, or a span begins with the right one."""
    most = SCORED if recipe == "bert" else 1
    return [int(question.answer[0]) in answer[:most] for question, answer in zip(asked, answers, strict=True)]


def marked(exp: Experiment, question: Question) -> str:
    """Format a sentence with its gap in square brackets."""
    end = exp.tokenizer.decode(question.sentence[: question.stop])
    start = exp.tokenizer.decode(question.sentence[: question.start])
    rest = exp.tokenizer.decode(question.sentence).removeprefix(end)
    return f"{start} [{end.removeprefix(start).strip()}]{rest}".strip()


def shown(exp: Experiment, recipe: str, answer: list[int]) -> str:
    """Format an answer: five words for a blank, or the text from the start of a span.

    Pieces that continue a word are not shown, although they count: a reader cannot judge them.
    """
    if recipe == "bert":
        texts = [exp.tokenizer.decode([token]).strip() for token in answer if exp.tokenizer.starts_word[token]]
        return ", ".join([text for text in texts if text.isalpha()][:SCORED])
    return exp.tokenizer.decode(answer).strip()


def examples(
    exp: Experiment, recipe: str, asked: list[Question], before: dict[str, Any], after: dict[str, Any]
) -> list[str]:
    """Return the first ten questions with their answers before and after training."""
    what = {
        "bert": f"a blank in brackets, and likely words; {SCORED} pieces count, some of which only continue a word",
        "t5": "a span in brackets, and the text from its start; the first piece counts",
    }
    lines = [f"== {KINDS[recipe]}: {what[recipe]}"]
    for question, first, last in list(zip(asked, before[recipe], after[recipe], strict=True))[:10]:
        lines += ["", marked(exp, question)]
        lines += [f"  untrained  {shown(exp, recipe, first)}", f"  trained    {shown(exp, recipe, last)}"]
    return [*lines, ""]


def screen(
    runs: dict[str, Experiment],
    asked: dict[str, list[Question]],
    before: dict[str, Any],
    after: dict[str, Any],
    output: Path,
) -> list[str]:
    """Return the closing screen: what was trained, before and after, scores, and what to type next."""
    results = {recipe: [line for line in metrics.read(output / recipe) if "val/loss" in line][-1] for recipe in KINDS}
    bits, accuracy = results["gpt"]["val/bits_per_byte"], results["bert"]["val/masked_accuracy"]
    lines = ["", "Three models have read the documentation of this Python. On documents that they have not read:", ""]
    lines += [f"decoder          {bits:.2f} bits a byte (lower is better); it continues {PROMPT!r}"]
    for name, answers in (("untrained", before), ("trained", after)):
        lines += [f"  {name:14} " + f"{PROMPT}{answers['gpt']}".replace("\n", " ")[:WIDTH]]
    what = {"bert": "blanks have the right word among five pieces", "t5": "spans begin with the right piece"}
    for recipe, scored in what.items():
        first, last = (right(recipe, asked[recipe], answers[recipe]) for answers in (before, after))
        lines += ["", f"{KINDS[recipe]:16} {sum(last)} of {QUESTIONS} {scored}; untrained {sum(first)}"]
        if recipe == "bert":
            lines[-1] += f"; masked accuracy {accuracy:.2f}"
        exp, number = runs[recipe], last.index(True) if any(last) else 0
        question = asked[recipe][number]
        lines += [f"  {'the text':14} {marked(exp, question)}"]
        for name, answers in (("untrained", before), ("trained", after)):
            lines += [f"  {name:14} {shown(exp, recipe, answers[recipe][number])}"[:WIDTH]]
    lines += ["", f"Loss curves: {output / 'loss.png'}; the first ten answers of each kind: {output / 'examples.txt'}"]
    lines += ["Your own text: lm-jax train --config=gpt:tiny --config.data.path=my.txt --workdir=runs/mine"]
    return lines


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        print("\ninterrupted; the same command goes on where it stopped", file=sys.stderr)
        sys.exit(INTERRUPTED)
