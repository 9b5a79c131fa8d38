"""What a table says about one family of Hugging Face checkpoints."""

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
      config: their settings to ours; refuses what it does not support.
      weights: rules of a model of ours, as the named class of theirs stores it. Paths that begin with `extra/` are
        what our model has not.
      heads: of classes whose head our model has not, by what follows the family in the class's name.
      learned: the same rules as parameters of their module, where those are cut otherwise than tensors in files.
      settings: ours to theirs, for models that were not imported; None where only imported ones can be exported.
      prefix: what the names of a model with a head have before those of the model without.
      ignored: regular expressions of whole names in checkpoints that hold nothing to be loaded.
      copies: tensors that some releases leave out because another, named here, is the same.
      marks: tensors that tell a class whose model is that of another from it, by the class.
      renamed: names that releases after the table's give to tensors, and the table's.
      spelled: names that a checkpoint gives to tensors, and the table's, from its config.json and its names (none while
        it is written).
      still_padding: whether reading the padding token gives its embedding no gradient (torch's `padding_idx`).
      blind_padding: whether padding sees nothing (DeBERTa), or all that is not padding.
      smoothing: the field of config.json with the label smoothing that is a part of the loss.
      starts: the field of config.json with the token that a decoder's text starts with; without one, the decoder's own
        start or padding.
      tokenizer: the class that transformers' AutoTokenizer takes for the family whatever tokenizer_config.json says; ""
        where it does as it is told.
      counted: what positions count: `all` tokens, `attended` ones (of the attention mask) or `real` ones (that are not
        padding).
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
