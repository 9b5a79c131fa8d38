"""From text to what each kind of model reads, and from what it writes back to text.

Text is encoded literally and never yields special ids: markers are found here and replaced by their ids.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

import numpy as np

from lm_jax.core.config import InputError
from lm_jax.data.tokenizers import IDS, Tokenizer

MASK = "<mask>"
SENTINEL = re.compile(r"<extra_id_(\d+)>")


def given_ids(text: str) -> np.ndarray:
    """The ids of `1,2,3`.

    Raises:
      InputError: it is no list of numbers.
    """
    words = text.replace(",", " ").split()
    if not words or not all(word.isascii() and word.isdigit() for word in words):
        raise InputError(f"--prompt_ids is {_short(text)}; expected token ids, such as 1,2,3")
    return np.array([*map(int, words)], np.int64)


def decoder_prompt(tokenizer: Tokenizer, text: str) -> np.ndarray:
    """The ids that a decoder continues: the text's own, nothing added."""
    return tokenizer.encode(text)


def masked_prompt(tokenizer: Tokenizer, text: str) -> np.ndarray:
    """`[CLS] text [SEP]` with a mask for every `<mask>` (or the tokenizer's own name of it) in the text.

    Raises:
      InputError: the text has no mask.
    """
    cls, sep, mask = tokenizer.cls, tokenizer.sep, tokenizer.mask
    if cls is None or sep is None or mask is None:
        raise InputError("the tokenizer has no [CLS], [SEP] or mask to fill masks with; use the one of an encoder")
    name = tokenizer.piece(mask)
    stretches = re.split(f"{re.escape(MASK)}|{re.escape(name)}", text)
    if len(stretches) == 1:
        raise InputError(f"--prompt {_short(text)} has no {MASK}; write {MASK} where the model is to fill in a piece")
    ids = _joined(tokenizer, stretches, [mask] * (len(stretches) - 1))
    return np.concatenate([[cls], ids, [sep]]).astype(np.int32)


def span_prompt(tokenizer: Tokenizer, text: str) -> np.ndarray:
    """The text of a source with sentinels for `<extra_id_0>`, `<extra_id_1>`, ...; what comes around it is not there.

    Raises:
      InputError: a sentinel that the tokenizer does not have, or the same one twice.
    """
    stretches = SENTINEL.split(text)
    numbers = [int(number) for number in stretches[1::2]]
    for number in numbers:
        if number >= len(tokenizer.sentinels):
            has = f"only {len(tokenizer.sentinels)}, from <extra_id_0>" if len(tokenizer.sentinels) else "none"
            raise InputError(f"--prompt {_short(text)} has <extra_id_{number}>, but the tokenizer has {has}")
    if len(set(numbers)) < len(numbers):
        raise InputError(f"--prompt {_short(text)} has a sentinel twice; number them <extra_id_0>, <extra_id_1>, ...")
    return _joined(tokenizer, stretches[::2], [int(tokenizer.sentinels[number]) for number in numbers])


def spans(tokenizer: Tokenizer, tokens: Sequence[int] | np.ndarray) -> dict[int, list[int]]:
    """The ids that an encoder-decoder wrote after each sentinel, up to EOS; of one written twice the first counts."""
    known = {int(token) for token in tokenizer.sentinels}
    found: dict[int, list[int]] = {}
    current: list[int] = []
    for token in map(int, tokens):
        if token == tokenizer.eos:
            break
        if token in known:
            current = []
            found.setdefault(token, current)
        else:
            current.append(token)
    return found


def restored(tokenizer: Tokenizer, source: Sequence[int] | np.ndarray, tokens: Sequence[int] | np.ndarray) -> str:
    """The text of `source` with every sentinel replaced by the span that was written for it.

    A sentinel that nothing was written for stays visible as its name.
    """
    found = spans(tokenizer, tokens)
    known = {int(token) for token in tokenizer.sentinels}
    text, stretch = "", []
    for token in map(int, source):
        if token not in known:
            stretch.append(token)
        elif token in found:
            stretch += found[token]
        else:
            text += tokenizer.decode(stretch) + tokenizer.piece(token)
            stretch = []
    return text + tokenizer.decode(stretch)


def filled(tokenizer: Tokenizer, row: np.ndarray, choices: Sequence[tuple[int, int]]) -> str:
    """The text of a row with each (position, id) of `choices` put in."""
    row = np.array(row)
    for position, token in choices:
        row[position] = token
    return tokenizer.decode(row)


def continuation(tokenizer: Tokenizer, prompt: Sequence[int] | np.ndarray, tokens: Sequence[int] | np.ndarray) -> str:
    """The text of `tokens` where they follow a prompt: that of the whole, less that of the prompt.

    Decoded alone, they would lose the space before their first word in many tokenizers.
    """
    whole = tokenizer.decode([*map(int, prompt), *map(int, tokens)])
    # A prompt may end within a character, which the first tokens complete.
    before = tokenizer.decode(prompt).rstrip("\ufffd")
    return whole.removeprefix(before) if whole.startswith(before) else tokenizer.decode(tokens)


def readable(
    tokenizer: Tokenizer, prompt: Sequence[int] | np.ndarray, tokens: Sequence[int] | np.ndarray, shown: str = ""
) -> str:
    """What to print of a text that is still being written, after `shown`.

    A character of several tokens is held back until its last has come.
    """
    return continuation(tokenizer, prompt, tokens).rstrip("\ufffd").removeprefix(shown)


def unwritable(tokenizer: Tokenizer, vocab: int, *, sentinels: bool = False) -> tuple[int, ...]:
    """Ids that a model must not write: special ones but EOS, those without a piece, and sentinels unless allowed.

    Args:
      tokenizer: whose ids they are.
      vocab: rows of the model's table, which may be more than the tokenizer has.
      sentinels: whether the model writes sentinels, as one that restores spans does.
    """
    if tokenizer.kind == IDS:
        # Nothing is known of any id.
        return ()
    special = tokenizer.special.copy()
    # Of families that have no other, the token that ends a text also pads or separates: it may be written.
    special[tokenizer.eos] = False
    special[tokenizer.sentinels] = not sentinels
    return (*np.flatnonzero(special).tolist(), *range(tokenizer.vocab_size, vocab))


def _joined(tokenizer: Tokenizer, stretches: Sequence[str], between: Sequence[int]) -> np.ndarray:
    """The ids of each stretch of text with the ids `between` them."""
    if tokenizer.carries_space:
        # The removed word brought its space along: the model has never seen one before a mask.
        stretches = [*(stretch.removesuffix(" ") for stretch in stretches[:-1]), stretches[-1]]
    if tokenizer.prefix_space:
        # The tokenizer puts this space there itself.
        stretches = [stretches[0], *(stretch.removeprefix(" ") for stretch in stretches[1:])]
    parts = [tokenizer.encode(stretches[0])]
    for token, stretch in zip(between, stretches[1:], strict=True):
        parts += [np.array([token], np.int32), tokenizer.encode(stretch)]
    return np.concatenate(parts)


def _short(text: str) -> str:
    return repr(text if len(text) <= 40 else text[:37] + "...")
