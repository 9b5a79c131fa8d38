"""Tokenizers behind one interface: sentencepiece, WordPiece, byte-level BPE, bytes, characters; trained or loaded.

`Tokenizer` names the special ids and holds tables over the vocabulary; a backend for each library finds the pieces.
"""

from lm_jax.data.tokenizers.base import SPECIALS, Tokenizer, TokenizerConfig
from lm_jax.data.tokenizers.extended import extend
from lm_jax.data.tokenizers.loading import cased, is_ours, is_saved, load, refuse_ids
from lm_jax.data.tokenizers.simple import IDS, NO_TEXT, ids_tokenizer
from lm_jax.data.tokenizers.template import template
from lm_jax.data.tokenizers.training import KINDS, train

__all__ = [
    "IDS",
    "KINDS",
    "NO_TEXT",
    "SPECIALS",
    "Tokenizer",
    "TokenizerConfig",
    "cased",
    "extend",
    "ids_tokenizer",
    "is_ours",
    "is_saved",
    "load",
    "refuse_ids",
    "template",
    "train",
]
