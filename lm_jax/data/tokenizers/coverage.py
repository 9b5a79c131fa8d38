"""How much of a text its tokens still say: warnings where that is next to nothing."""

from __future__ import annotations

from lm_jax.data.tokenizers.base import Tokenizer

# Pieces that are learned here have at most 16 characters, 48 bytes of Chinese; English text has 3 to 5 bytes a token.
_MOST_BYTES = 50
_MOST_UNKNOWN = 0.5
_KEY = "config.data.tokenizer"

# What helps, by kind; the others have a piece for every byte.
_ADVICE = {
    "wordpiece": f"words of more than 100 characters are unknown as a whole; set {_KEY}.kind=unigram, or bytes",
    "characters": f"raise {_KEY}.vocab_at_most, or {_KEY}.vocab where it is set",
}


def warnings(tokenizer: Tokenizer, *, tokens: int, unknown: int, size_bytes: int) -> list[str]:
    """What to say of a tokenizer and a text that do not fit each other: at most a line.

    Args:
      tokenizer: what the text was tokenised with.
      tokens: how many the text has, without the [EOS] of its documents.
      unknown: how many of them are unknown.
      size_bytes: of the text.
    """
    loaded = f"name another tokenizer in {_KEY}.path, or leave it empty to train one"
    if unknown > _MOST_UNKNOWN * tokens:
        advice = _ADVICE.get(tokenizer.kind, loaded)
        return [f"{unknown:,} of {tokens:,} tokens of the text are unknown ([UNK]): {advice}"]
    if size_bytes > _MOST_BYTES * tokens:
        advice = _ADVICE.get(tokenizer.kind, f"set {_KEY}.kind=bytes, or look at the text")
        return [f"the text of {size_bytes:,} bytes has only {tokens:,} tokens: {advice}"]
    return []
