"""Adds tokens to a tokenizer, such as chat markers or words of a domain.

Unlike special tokens, added tokens are text: each occurrence in a text becomes one token. The text between them is
encoded as before, and all ids of the vocabulary stay the same.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

import numpy as np
from jaxtyping import Int

from lm_jax.core.config import InputError
from lm_jax.data.tokenizers.base import ROLES, Backend, Encoded, Tokenizer, Vocabulary

# The key of `Tokenizer.options` that lists the added tokens.
OPTION = "more"


def extend(tokenizer: Tokenizer, names: Sequence[str]) -> Tokenizer:
    """Return `tokenizer` with a token for each name; a name that is not a piece yet gets the next id.

    Raises:
      InputError: a name is blank, repeated, or the name of a special token.
    """
    for name in names:
        if not name.strip() or list(names).count(name) > 1:
            raise InputError(f"config.data.tokenizer.add holds {name!r}; expected distinct tokens that are not blank")
    pieces = tokenizer.pieces
    special = {pieces[index] for index in np.flatnonzero(tokenizer.special)}
    if taken := [name for name in names if name in special]:
        raise InputError(f"config.data.tokenizer.add holds {taken[0]!r}, which is a special token of the tokenizer")
    previous = tokenizer.options.get(OPTION, [])
    listed = [*previous, *(name for name in names if name not in previous)]
    if listed == previous:
        return tokenizer
    backend = tokenizer.backend
    base = backend.base if isinstance(backend, Extended) else backend
    index_of = {piece: index for index, piece in reversed([*enumerate(pieces)]) if piece}
    names = [name for name in listed if name not in index_of]
    ids = {name: index_of[name] if name in index_of else tokenizer.vocab_size + names.index(name) for name in listed}
    roles = {role: getattr(tokenizer, role) for role in ROLES if getattr(tokenizer, role) is not None}
    grow = lambda table, values: np.concatenate([table, np.array(values, table.dtype)])
    vocabulary = Vocabulary(
        pieces=[*pieces, *names],
        special=grow(tokenizer.special, [False] * len(names)),
        lengths=grow(tokenizer.lengths, [len(name.encode()) for name in names]),
        starts_word=grow(tokenizer.starts_word, [True] * len(names)),
        texts=[*tokenizer.texts, *(name.encode() for name in names)],
        carries_space=tokenizer.carries_space,
        prefix_space=tokenizer.prefix_space,
    )
    return Tokenizer(
        tokenizer.kind,
        tokenizer.content,
        {**tokenizer.options, OPTION: listed},
        file=tokenizer.file,
        roles=roles,
        sentinels=tokenizer.sentinels.tolist(),
        vocabulary=vocabulary,
        backend=Extended(base, ids, " " if tokenizer.kind == "wordpiece" else ""),
    )


class Extended:
    """A backend that splits texts at the added tokens, and encodes the rest with the backend `base`."""

    def __init__(self, base: Backend, ids: Mapping[str, int], between: str):
        """`ids`: ids by added name. `between`: decoding puts it between names and the text around them."""
        self.base, self.ids, self._between = base, dict(ids), between
        self._names = {token: name for name, token in ids.items()}
        self._added = np.array(sorted(self._names), np.int64)
        longest_first = sorted(ids, key=len, reverse=True)
        self._pattern = re.compile("(" + "|".join(map(re.escape, longest_first)) + ")")
        self.lossless = base.lossless and not between

    def encode(self, texts: Sequence[str]) -> Encoded:
        """See `Backend`."""
        return self._encode(texts, located=False)

    def locate(self, texts: Sequence[str]) -> Encoded:
        """See `Backend`."""
        return self._encode(texts, located=True)

    def decode(self, ids: Int[np.ndarray, " tokens"]) -> str:
        """See `Backend`."""
        added = np.flatnonzero(np.isin(ids, self._added))
        parts, start = [], 0
        for index in added.tolist():
            parts += [self.base.decode(ids[start:index]), self._names[int(ids[index])]]
            start = index + 1
        parts.append(self.base.decode(ids[start:]))
        return self._between.join(filter(None, parts)) if len(parts) > 1 else parts[0]

    def _encode(self, texts: Sequence[str], *, located: bool) -> Encoded:
        """Encode the stretches of text between names in one call of `base`, and insert the ids of the names."""
        splits = [self._pattern.split(text) for text in texts]
        stretches = [stretch for split in splits for stretch in split[::2]]
        encoded = self.base.locate(stretches) if located else self.base.encode(stretches)
        stops = np.cumsum(encoded.counts)
        tokens, starts, counts = [], [], []
        # `offset`: bytes before a part in the joined texts; `stretch_offset`: in the joined stretches.
        number, offset, stretch_offset = 0, 0, 0
        for split in splits:
            first = len(tokens)
            for index, part in enumerate(split):
                if index % 2:
                    tokens.append(np.array([self.ids[part]], np.int32))
                    starts.append(np.array([offset], np.int64))
                else:
                    span = slice(int(stops[number] - encoded.counts[number]), int(stops[number]))
                    tokens.append(encoded.tokens[span])
                    if encoded.starts is not None:
                        starts.append(encoded.starts[span].astype(np.int64) - stretch_offset + offset)
                    stretch_offset += len(part.encode()) + 1
                    number += 1
                offset += len(part.encode())
            counts.append(sum(map(len, tokens[first:])))
            offset += 1
        all_tokens = np.concatenate([np.zeros(0, np.int32), *tokens])
        all_starts = np.concatenate([np.zeros(0, np.int64), *starts]) if located else None
        return Encoded(all_tokens, np.array(counts, np.int64), all_starts)
