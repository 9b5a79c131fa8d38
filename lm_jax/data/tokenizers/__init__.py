"""Tokenizers behind one interface: sentencepiece, WordPiece, byte-level BPE, bytes, characters; trained or loaded.

`Tokenizer` names the special ids and holds tables over the vocabulary; a backend for each library finds the pieces.
"""

from lm_jax.data.tokenizers.base import (
    BOS,
    CLS,
    EOS,
    MASK,
    PAD,
    SEP,
    SPECIALS,
    UNK,
    Encoded,
    Tokenizer,
    TokenizerConfig,
)
from lm_jax.data.tokenizers.extended import extend
from lm_jax.data.tokenizers.loading import is_saved, load
from lm_jax.data.tokenizers.template import template
from lm_jax.data.tokenizers.training import KINDS, train

__all__ = [
    "BOS",
    "CLS",
    "EOS",
    "KINDS",
    "MASK",
    "PAD",
    "SEP",
    "SPECIALS",
    "UNK",
    "Encoded",
    "Tokenizer",
    "TokenizerConfig",
    "extend",
    "is_saved",
    "load",
    "template",
    "train",
]
