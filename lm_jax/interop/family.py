"""A family of Hugging Face checkpoints, as data that a table in `tables` defines."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Collection, Mapping
from typing import Any

from lm_jax.core.config import InputError
from lm_jax.interop import heads
from lm_jax.interop.heads import Head, Heads
from lm_jax.interop.rules import Rules
from lm_jax.interop.settings import Settings
from lm_jax.models.config import ModelConfig
from lm_jax.models.task import TaskHeadConfig


@dataclasses.dataclass(frozen=True, kw_only=True)
class Family:
    """A family of checkpoints: its settings, tensors, heads and exceptions.

    Attributes:
      config: converts config.json to our configuration; refuses unsupported settings.
      weights: builds the rules, from our configuration and the name of the Hugging Face class. Paths that begin with
        `extra/` are parameters that our model lacks.
      heads: heads of tasks, by the suffix of the class (`ForTokenClassification`).
      pooler: the pooler that checkpoints of the bare model may have.
      parameter_rules: builds the rules for the class's parameters in memory, if its files split them differently.
      settings: converts our configuration to config.json; None: only imported models are exported. `tree_for` takes the
        first family of `TABLES` whose `config` reads the result back as the same function. The key `tensors` lists
        tensor names that `config` looks for in a checkpoint.
      prefix: prefix that classes with a head add to the tensor names of the bare model.
      ignored: regular expressions; tensors whose whole names match are not loaded.
      copies: tensors that some releases leave out, and the tensor that each equals.
      distinguishing: for some classes, the tensor that tells them from another class with the same model.
      later_names: maps tensor names of later releases to the table's.
      aliases_of: maps a checkpoint's own tensor names to the table's, from its config.json and tensor names (none on
        export).
      frozen_padding: whether the padding token's embedding gets no gradient (torch's `padding_idx`).
      isolated_padding: whether padding attends to nothing (DeBERTa), rather than to all tokens that are not padding.
      smoothing_field: the field of config.json with the loss's label smoothing; empty: none.
      start_field: the field of config.json with a decoder's start token; empty: `decoder_start_token_id` or padding.
      tokenizer: the class that transformers' AutoTokenizer uses for the family even if tokenizer_config.json names
        another; empty: the class that the file names.
      position_tokens: tokens that positions count: `all`, `attended` (by the attention mask) or `real` (not padding).
    """

    config: Callable[[Settings], ModelConfig]
    weights: Callable[[Any, str], Rules]
    heads: Heads = dataclasses.field(default_factory=dict)
    pooler: Head | None = None
    parameter_rules: Callable[[Any, str], Rules] | None = None
    settings: Callable[[Any], dict[str, Any]] | None = None
    prefix: str = ""
    ignored: tuple[str, ...] = ()
    copies: Mapping[str, str] = dataclasses.field(default_factory=dict)
    distinguishing: Mapping[str, str] = dataclasses.field(default_factory=dict)
    later_names: Mapping[str, str] = dataclasses.field(default_factory=dict)
    aliases_of: Callable[[Mapping[str, Any], Collection[str]], Mapping[str, str]] = lambda tree, names: {}
    frozen_padding: bool = False
    isolated_padding: bool = False
    smoothing_field: str = ""
    start_field: str = ""
    tokenizer: str = ""
    position_tokens: str = "all"

    def head(self, architecture: str, tree: Mapping[str, Any]) -> Head | None:
        """The head of a task, or the pooler, that a class may have; None for classes with an LM head."""
        return self.pooler if heads.bare(architecture) else heads.of(self.heads, architecture, tree)

    def configure(self, hf: Settings) -> ModelConfig:
        """Our configuration of a checkpoint, with the head of its class.

        A checkpoint without such a head gets the settings of the family's sequence classifier, so that a task of a
        later run adds the family's own layers.
        """
        config, tree = self.config(hf), hf.tree
        architecture = (tree.get("architectures") or [""])[0]
        head = self.head(architecture, tree)
        if head is not None and head.out:
            return dataclasses.replace(
                config, task=head.settings(tree, heads.fixed_classes(architecture) or hf.labels())
            )
        try:
            sequences, tokens = (heads.of(self.heads, name, tree) for name in (heads.SEQUENCES, heads.TOKENS))
        except InputError:
            return config  # The classifiers of the class are not supported, but this checkpoint has none.
        task = TaskHeadConfig() if sequences is None else sequences.settings(tree)
        pools = head is not None and f"{head.dense}.weight" in hf.tensors
        layered = tokens is not None and bool(tokens.dense)
        return dataclasses.replace(config, task=dataclasses.replace(task, pooler=pools, tokens=layered))

    def rules(self, config: ModelConfig, architecture: str, tree: Mapping[str, Any]) -> Rules:
        """The rules of all parameters of a model that `configure` returns."""
        head = self.head(architecture, tree) if config.task.exists else None
        return self.weights(config, architecture) + heads.rules(head)
