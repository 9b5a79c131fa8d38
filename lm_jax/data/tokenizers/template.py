"""Special ids that a published tokenizer puts around a text: LLaMA's `<s>`, T5's `</s>`, BART's `<s> ... </s>`.

The post-processor of a tokenizer.json defines them, unless the tokenizer_config.json beside it has `add_bos_token` or
`add_eos_token`. For other files the tokenizer's class or the model's type determines them.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from lm_jax.data.tokenizers.base import Tokenizer
from lm_jax.data.tokenizers.huggingface import library_tokenizer
from lm_jax.data.tokenizers.loading import is_ours, read_config

Template = tuple[tuple[int, ...], tuple[int, ...]]

# How tokenizer classes or model types begin, and the roles of the ids before and after a text.
_CLASSES: tuple[tuple[tuple[str, ...], tuple[str, ...], tuple[str, ...]], ...] = (
    (("llama", "codellama", "gemma", "mistral"), ("bos",), ()),
    (("t5", "mt5", "umt5", "pegasus", "marian"), (), ("eos",)),
    (("roberta", "bart", "longformer", "bert", "distilbert", "electra", "albert"), ("cls",), ("sep",)),
    (("xlnet",), (), ("sep", "cls")),
)


def template(path: Path | str, tokenizer: Tokenizer, family: str = "") -> Template:
    """Return the ids that the tokenizer loaded from a directory or file puts before and after every text.

    `family`: `model_type` of its model, for files that do not name the tokenizer's class.
    """
    path = Path(path)
    directory = path if path.is_dir() else path.parent
    if is_ours(path):
        return (), ()
    config = read_config(directory)
    if "add_bos_token" in config or "add_eos_token" in config:
        roles = (["bos"] if config.get("add_bos_token") else [], ["eos"] if config.get("add_eos_token") else [])
        return _ids(tokenizer, roles[0]), _ids(tokenizer, roles[1])
    file = path if path.suffix == ".json" else directory / "tokenizer.json"
    if file.is_file():
        return _library_template(file)
    name = (config.get("tokenizer_class") or family).lower()
    for prefixes, before, after in _CLASSES:
        if name.startswith(prefixes):
            return _ids(tokenizer, before), _ids(tokenizer, after)
    return (), ()


def _ids(tokenizer: Tokenizer, roles: Sequence[str]) -> tuple[int, ...]:
    # RoBERTa's files name the same two tokens bos and eos, or cls and sep.
    fallbacks = {"cls": tokenizer.bos, "sep": tokenizer.eos}
    tokens = [getattr(tokenizer, role) for role in roles]
    ids = [fallbacks.get(role) if token is None else token for role, token in zip(roles, tokens, strict=True)]
    return tuple(int(token) for token in ids if token is not None)


def _library_template(file: Path) -> Template:
    encoded = library_tokenizer(file.read_bytes()).encode("a")
    # special_tokens_mask is 1 for tokens that the library added, 0 for tokens of the text.
    text = [index for index, special in enumerate(encoded.special_tokens_mask) if not special]
    if not text:
        return (), ()
    return tuple(encoded.ids[: text[0]]), tuple(encoded.ids[text[-1] + 1 :])
