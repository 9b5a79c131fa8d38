"""Warns of tokenizers that do not fit their text: most tokens are unknown, or each represents very many bytes."""

from __future__ import annotations

from lm_jax.data.tokenizers.base import Tokenizer

# Pieces trained here have at most 16 characters, 48 bytes of Chinese; English text has 3 to 5 bytes per token.
_MAX_BYTES_PER_TOKEN = 50
_MAX_UNKNOWN_SHARE = 0.5
_KEY = "config.data.tokenizer"

# Advice for the kinds trained here that lack a piece for every byte.
_ADVICE = {
    "wordpiece": f"words of more than 100 characters become one [UNK]; set {_KEY}.kind=unigram, or bytes",
    "characters": f"raise {_KEY}.vocab_at_most, or {_KEY}.vocab where it is set",
}


def warnings(tokenizer: Tokenizer, *, tokens: int, unknown: int, size_bytes: int) -> list[str]:
    """Return a list of one warning if a tokenizer does not fit a text, else an empty list.

    The text has `size_bytes` bytes and `tokens` tokens without the [EOS] of its documents, `unknown` of them [UNK].
    """
    if unknown > _MAX_UNKNOWN_SHARE * tokens:
        advice = _ADVICE.get(tokenizer.kind, f"name another tokenizer in {_KEY}.path, or leave it empty to train one")
        return [f"{unknown:,} of {tokens:,} tokens of the text are unknown ([UNK]): {advice}"]
    if size_bytes > _MAX_BYTES_PER_TOKEN * tokens:
        advice = _ADVICE.get(tokenizer.kind, f"set {_KEY}.kind=bytes, or look at the text")
        return [f"the text of {size_bytes:,} bytes has only {tokens:,} tokens: {advice}"]
    return []
