"""One family of Hugging Face checkpoints as data: what a table defines."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Collection, Mapping
from typing import Any

from lm_jax.interop.heads import Heads
from lm_jax.interop.rules import Rules
from lm_jax.interop.settings import Settings
from lm_jax.models.config import ModelConfig


@dataclasses.dataclass(frozen=True, kw_only=True)
class Family:
    """A family as data.

    Attributes:
      config: converts Hugging Face settings to ours; refuses what it does not support.
      weights: rules of a model of ours and the Hugging Face class that stores it. Paths that begin with `extra/` are
        parameters that our model lacks.
      heads: heads that our models lack, by the suffix of the class (`ForTokenClassification`).
      learned: rules for the parameters of the class in memory, where it splits them differently from its files.
      settings: converts our settings to Hugging Face's; None: only imported models can be exported. `tree_for` takes
        the first family of `TABLES` whose `config` reads the result back as the same function. The key `tensors` lists
        tensor names that `config` looks for in a checkpoint.
      prefix: prefix of tensor names that a class with a head adds to those of the bare model.
      ignored: regular expressions; tensors whose whole names match are not loaded.
      copies: tensors that some releases leave out, and the tensor that each equals.
      marks: by class, the tensor that distinguishes it from another class with the same model.
      renamed: tensor names of later releases to the table's.
      spelled: from config.json and the tensor names of a checkpoint (no names while it is being written), the
        checkpoint's own names to the table's.
      still_padding: whether the padding token's embedding gets no gradient (torch's `padding_idx`).
      blind_padding: whether padding attends to nothing (DeBERTa), instead of to all that is not padding.
      smoothing: the field of config.json with the label smoothing of the loss; empty: none.
      starts: the field of config.json with the token that a decoder starts from; empty: `decoder_start_token_id`, or
        else padding.
      tokenizer: the class that transformers' AutoTokenizer uses for the family even if tokenizer_config.json names
        another; empty: the class that the file names.
      counted: which tokens positions count: `all`, `attended` (by the attention mask) or `real` ones (not padding).
    """

    config: Callable[[Settings], ModelConfig]
    weights: Callable[[Any, str], Rules]
    heads: Heads = dataclasses.field(default_factory=dict)
    learned: Callable[[Any, str], Rules] | None = None
    settings: Callable[[Any], dict[str, Any]] | None = None
    prefix: str = ""
    ignored: tuple[str, ...] = ()
    copies: Mapping[str, str] = dataclasses.field(default_factory=dict)
    marks: Mapping[str, str] = dataclasses.field(default_factory=dict)
    renamed: Mapping[str, str] = dataclasses.field(default_factory=dict)
    spelled: Callable[[Mapping[str, Any], Collection[str]], Mapping[str, str]] = lambda tree, names: {}
    still_padding: bool = False
    blind_padding: bool = False
    smoothing: str = ""
    starts: str = ""
    tokenizer: str = ""
    counted: str = "all"
