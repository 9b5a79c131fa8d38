"""What a tokenizer from elsewhere puts around a text: LLaMA's `<s>`, T5's `</s>`, BART's `<s> ... </s>`.

A tokenizer.json says so in its post-processor, and `add_bos_token` or `add_eos_token` in the tokenizer_config.json
beside it replace that. Other files are run by a class that knows.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from lm_jax.data.tokenizers.base import Tokenizer
from lm_jax.data.tokenizers.huggingface import opened
from lm_jax.data.tokenizers.loading import is_ours, read_config

Template = tuple[tuple[int, ...], tuple[int, ...]]

# What names of classes, or of model types, begin with, and the roles before and after a text.
_CLASSES: tuple[tuple[tuple[str, ...], tuple[str, ...], tuple[str, ...]], ...] = (
    (("llama", "codellama", "gemma", "mistral"), ("bos",), ()),
    (("t5", "mt5", "umt5", "pegasus", "marian"), (), ("eos",)),
    (("roberta", "bart", "longformer", "bert", "distilbert", "electra", "albert"), ("cls",), ("sep",)),
    (("xlnet",), (), ("sep", "cls")),
)


def template(path: Path | str, tokenizer: Tokenizer, family: str = "") -> Template:
    """The ids that a tokenizer puts before and after every text.

    Args:
      path: its directory or file.
      tokenizer: the same, loaded.
      family: `model_type` of the model that it belongs to, for files that do not name their class.
    """
    path = Path(path)
    directory = path if path.is_dir() else path.parent
    if is_ours(path):
        return (), ()
    config = read_config(directory)
    if "add_bos_token" in config or "add_eos_token" in config:
        around = (["bos"] if config.get("add_bos_token") else [], ["eos"] if config.get("add_eos_token") else [])
        return _ids(tokenizer, around[0]), _ids(tokenizer, around[1])
    file = path if path.suffix == ".json" else directory / "tokenizer.json"
    if file.is_file():
        return _around(file)
    name = (config.get("tokenizer_class") or family).lower()
    for beginnings, before, after in _CLASSES:
        if name.startswith(beginnings):
            return _ids(tokenizer, before), _ids(tokenizer, after)
    return (), ()


def _ids(tokenizer: Tokenizer, roles: Sequence[str]) -> tuple[int, ...]:
    # RoBERTa's files call the same tokens bos and eos, or cls and sep.
    other = {"cls": tokenizer.bos, "sep": tokenizer.eos}
    found = [getattr(tokenizer, role) for role in roles]
    ids = [other.get(role) if one is None else one for role, one in zip(roles, found, strict=True)]
    return tuple(int(one) for one in ids if one is not None)


def _around(file: Path) -> Template:
    """What the library adds to a text."""
    added = opened(file.read_bytes()).encode("a")
    # 1: the library added it, 0: it is the text's own.
    own = [index for index, special in enumerate(added.special_tokens_mask) if not special]
    if not own:
        return (), ()
    return tuple(added.ids[: own[0]]), tuple(added.ids[own[-1] + 1 :])
