"""Prompts: converts text to the inputs of each kind of model, and generated ids to text.

Tokenizers encode text literally, without special ids; here, markers such as `<mask>` are replaced by special ids.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

import numpy as np

from lm_jax.core.config import InputError
from lm_jax.data.tokenizers import IDS, Tokenizer

MASK = "<mask>"
SENTINEL = re.compile(r"<extra_id_(\d+)>")


def parse_ids(text: str) -> np.ndarray:
    """Parses ids such as `1,2,3`.

    Raises:
      InputError: the text is not a list of numbers.
    """
    words = text.replace(",", " ").split()
    if not words or not all(word.isascii() and word.isdigit() for word in words):
        raise InputError(f"--prompt_ids is {_short(text)}; expected token ids, such as 1,2,3")
    return np.array([*map(int, words)], np.int64)


def decoder_prompt(tokenizer: Tokenizer, text: str) -> np.ndarray:
    """The ids of a text, without special tokens, for a decoder to continue."""
    return tokenizer.encode(text)


def masked_prompt(tokenizer: Tokenizer, text: str) -> np.ndarray:
    """`[CLS] text [SEP]`, with the mask id for every `<mask>` (or the tokenizer's own mask token).

    Raises:
      InputError: the text has no mask, or the tokenizer lacks a special token.
    """
    cls, sep, mask = tokenizer.cls, tokenizer.sep, tokenizer.mask
    if cls is None or sep is None or mask is None:
        raise InputError("the tokenizer has no [CLS], [SEP] or mask token; use an encoder's tokenizer")
    name = tokenizer.piece(mask)
    parts = re.split(f"{re.escape(MASK)}|{re.escape(name)}", text)
    if len(parts) == 1:
        raise InputError(f"--prompt {_short(text)} has no {name}; write {name} for each piece to fill in")
    ids = _joined(tokenizer, parts, [mask] * (len(parts) - 1))
    return np.concatenate([[cls], ids, [sep]]).astype(np.int32)


def span_prompt(tokenizer: Tokenizer, text: str) -> np.ndarray:
    """The ids of a source with sentinels for `<extra_id_0>`, `<extra_id_1>`, ..., and masks for `<mask>`, without EOS.

    The tokenizer's own mask token is a mask too; without a mask, `<mask>` is text.

    Raises:
      InputError: a sentinel that the tokenizer lacks, or one that appears twice.
    """
    mask = tokenizer.mask
    masks: dict[str, int] = {} if mask is None else {MASK: mask, tokenizer.piece(mask): mask}
    gaps = list(re.finditer("|".join([SENTINEL.pattern, *map(re.escape, masks)]), text))
    numbers = [int(gap[1]) for gap in gaps if gap[1]]
    for number in numbers:
        if number >= len(tokenizer.sentinels):
            has = f"only {len(tokenizer.sentinels)}, from <extra_id_0>" if len(tokenizer.sentinels) else "no sentinels"
            raise InputError(f"--prompt {_short(text)} has <extra_id_{number}>, but the tokenizer has {has}")
    if len(set(numbers)) < len(numbers):
        raise InputError(f"--prompt {_short(text)} has a sentinel twice; number them <extra_id_0>, <extra_id_1>, ...")
    ends = [0, *(at for gap in gaps for at in gap.span()), len(text)]
    parts = [text[start:stop] for start, stop in zip(ends[::2], ends[1::2], strict=True)]
    ids = [int(tokenizer.sentinels[int(gap[1])]) if gap[1] else masks[gap[0]] for gap in gaps]
    return _joined(tokenizer, parts, ids)


def spans(tokenizer: Tokenizer, tokens: Sequence[int] | np.ndarray) -> dict[int, list[int]]:
    """The generated ids after each sentinel, up to EOS; if a sentinel is generated twice, its first span counts."""
    sentinels = {int(token) for token in tokenizer.sentinels}
    by_sentinel: dict[int, list[int]] = {}
    current: list[int] = []
    for token in map(int, tokens):
        if token == tokenizer.eos:
            break
        if token in sentinels:
            current = []
            by_sentinel.setdefault(token, current)
        else:
            current.append(token)
    return by_sentinel


def restored(tokenizer: Tokenizer, source: Sequence[int] | np.ndarray, tokens: Sequence[int] | np.ndarray) -> str:
    """The text of `source` with generated spans for sentinels; a sentinel without a span is shown by name."""
    by_sentinel = spans(tokenizer, tokens)
    sentinels = {int(token) for token in tokenizer.sentinels}
    text, ids = "", []
    for token in map(int, source):
        if token not in sentinels:
            ids.append(token)
        elif token in by_sentinel:
            ids += by_sentinel[token]
        else:
            text += tokenizer.decode(ids) + tokenizer.piece(token)
            ids = []
    return text + tokenizer.decode(ids)


def filled(tokenizer: Tokenizer, row: np.ndarray, choices: Sequence[tuple[int, int]]) -> str:
    """The text of a row with the (position, id) pairs of `choices` filled in."""
    row = np.array(row)
    for position, token in choices:
        row[position] = token
    return tokenizer.decode(row)


def continuation(tokenizer: Tokenizer, prompt: Sequence[int] | np.ndarray, tokens: Sequence[int] | np.ndarray) -> str:
    """The text of `tokens` after a prompt: the text of both, minus the text of the prompt.

    Many tokenizers would drop the space before the first word if `tokens` were decoded alone.
    """
    text = tokenizer.decode([*map(int, prompt), *map(int, tokens)])
    # A prompt may end within a character, which the first tokens complete.
    before = tokenizer.decode(prompt).rstrip("\ufffd")
    return text.removeprefix(before) if text.startswith(before) else tokenizer.decode(tokens)


def readable(
    tokenizer: Tokenizer, prompt: Sequence[int] | np.ndarray, tokens: Sequence[int] | np.ndarray, shown: str = ""
) -> str:
    """The text to print after `shown` while generating; a character is held back until all its tokens exist."""
    return continuation(tokenizer, prompt, tokens).rstrip("\ufffd").removeprefix(shown)


def unwritable(tokenizer: Tokenizer, vocab: int, *, sentinels: bool = False) -> tuple[int, ...]:
    """Ids that a model with `vocab` ids must not generate: special ids except EOS, and ids that the tokenizer lacks.

    `sentinels` allows sentinels, for a model trained on span corruption.
    """
    if tokenizer.kind == IDS:
        # Without pieces, no id is known to be special.
        return ()
    special = tokenizer.special.copy()
    # EOS is allowed even in families where it is also the padding or the separator.
    special[tokenizer.eos] = False
    special[tokenizer.sentinels] = not sentinels
    return (*np.flatnonzero(special).tolist(), *range(tokenizer.vocab_size, vocab))


def _joined(tokenizer: Tokenizer, texts: Sequence[str], between: Sequence[int]) -> np.ndarray:
    """The ids of the texts, joined by the ids `between`."""
    first, *others = tokenizer.encode_parts(texts)
    parts = [first]
    for token, ids in zip(between, others, strict=True):
        parts += [np.array([token], np.int32), ids]
    return np.concatenate(parts)


def _short(text: str) -> str:
    return repr(text if len(text) <= 40 else text[:37] + "...")
