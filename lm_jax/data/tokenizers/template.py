"""Special ids that a published tokenizer puts around a text: LLaMA's `<s>`, T5's `</s>`, BART's `<s> ... </s>`.

The post-processor of a tokenizer.json defines them, unless the tokenizer_config.json beside it has `add_bos_token` or
`add_eos_token`. For other files the tokenizer's class or the model's type determines them.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from lm_jax.data.tokenizers.base import Tokenizer
from lm_jax.data.tokenizers.huggingface import library_tokenizer
from lm_jax.data.tokenizers.loading import is_ours, read_config


class Template(NamedTuple):
    """Ids before and after every text, and between the two texts of a pair."""

    before: tuple[int, ...] = ()
    after: tuple[int, ...] = ()
    between: tuple[int, ...] = ()


_BERT = ("bert", "distilbert", "electra", "albert", "deberta", "modernbert")
# How tokenizer classes or model types begin, and the roles of the ids of a `Template`.
_CLASSES: tuple[tuple[tuple[str, ...], tuple[tuple[str, ...], ...]], ...] = (
    (("llama", "codellama", "gemma", "mistral"), (("bos",), (), ("bos",))),
    (("t5", "mt5", "umt5"), ((), ("eos",), ("eos",))),
    (("pegasus", "marian"), ((), ("eos",), ())),
    (("roberta", "xlmroberta", "xlm-roberta", "bart", "longformer"), (("cls",), ("sep",), ("sep", "sep"))),
    (_BERT, (("cls",), ("sep",), ("sep",))),
    (("xlnet",), ((), ("sep", "cls"), ("sep",))),
)


def template(path: Path | str, tokenizer: Tokenizer, family: str = "") -> Template:
    """Return the ids that the tokenizer loaded from a directory or file puts around every text, and between two.

    `family`: `model_type` of its model, for files that do not name the tokenizer's class.
    """
    path = Path(path)
    directory = path if path.is_dir() else path.parent
    if is_ours(path):
        return Template()
    config = read_config(directory)
    if "add_bos_token" in config or "add_eos_token" in config:
        before = ["bos"] if config.get("add_bos_token") else []
        after = ["eos"] if config.get("add_eos_token") else []
        return _of_roles(tokenizer, (before, after, after + before))
    file = path if path.suffix == ".json" else directory / "tokenizer.json"
    if file.is_file():
        return _library_template(file)
    name = (config.get("tokenizer_class") or family).lower()
    for prefixes, roles in _CLASSES:
        if name.startswith(prefixes):
            return _of_roles(tokenizer, roles)
    return Template()


def _of_roles(tokenizer: Tokenizer, roles: Sequence[Sequence[str]]) -> Template:
    return Template(*(_ids(tokenizer, names) for names in roles))


def _ids(tokenizer: Tokenizer, roles: Sequence[str]) -> tuple[int, ...]:
    # RoBERTa's files name the same two tokens bos and eos, or cls and sep.
    fallbacks = {"cls": tokenizer.bos, "sep": tokenizer.eos}
    tokens = [getattr(tokenizer, role) for role in roles]
    ids = [fallbacks.get(role) if token is None else token for role, token in zip(roles, tokens, strict=True)]
    return tuple(int(token) for token in ids if token is not None)


def _library_template(file: Path) -> Template:
    library = library_tokenizer(file.read_bytes())
    alone, pair = library.encode("a"), library.encode("a", "a")
    # special_tokens_mask is 1 for tokens that the library added, 0 for tokens of the text.
    text = [index for index, special in enumerate(alone.special_tokens_mask) if not special]
    first, second = ([at for at, number in enumerate(pair.sequence_ids) if number == side] for side in (0, 1))
    if not (text and first and second):
        return Template()
    between = pair.ids[first[-1] + 1 : second[0]]
    return Template(tuple(alone.ids[: text[0]]), tuple(alone.ids[text[-1] + 1 :]), tuple(between))
