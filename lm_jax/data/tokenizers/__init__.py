"""Tokenizers, trained or loaded, with one interface: sentencepiece, WordPiece, byte-level BPE, bytes, characters.

`Tokenizer` holds the special ids and tables over the vocabulary; a backend for each library splits text into pieces.
"""

from lm_jax.data.tokenizers.base import SPECIALS, Tokenizer, TokenizerConfig
from lm_jax.data.tokenizers.extended import extend, within
from lm_jax.data.tokenizers.loading import cased, is_ours, is_saved, load, refuse_ids
from lm_jax.data.tokenizers.simple import IDS, NEEDS_IDS, ids_tokenizer, placeholder
from lm_jax.data.tokenizers.template import Template, template
from lm_jax.data.tokenizers.training import KINDS, train

__all__ = [
    "IDS",
    "KINDS",
    "NEEDS_IDS",
    "SPECIALS",
    "Template",
    "Tokenizer",
    "TokenizerConfig",
    "cased",
    "extend",
    "ids_tokenizer",
    "is_ours",
    "is_saved",
    "load",
    "placeholder",
    "refuse_ids",
    "template",
    "train",
    "within",
]
