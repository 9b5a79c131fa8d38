"""A tokenizer with tokens added behind its vocabulary: markers of a chat, words of a domain.

Unlike special tokens they are text: wherever a text has one of them, it is that one token. What lies between them is
cut as before, so that all other ids stay.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

import numpy as np
from jaxtyping import Int

from lm_jax.core.config import InputError
from lm_jax.data.tokenizers.base import ROLES, Backend, Encoded, Tokenizer, Vocabulary

# The key of `Tokenizer.options` that lists them.
OPTION = "more"


def extend(tokenizer: Tokenizer, names: Sequence[str]) -> Tokenizer:
    """`tokenizer` with a token for each of `names`; the ids of those that it has no piece for follow its own, in order.

    Raises:
      InputError: a name is empty, stands twice, or is that of a special token.
    """
    for name in names:
        if not name.strip() or list(names).count(name) > 1:
            raise InputError(f"config.data.tokenizer.add holds {name!r}; expected different tokens, none of them blank")
    pieces = tokenizer.pieces
    special = {pieces[index] for index in np.flatnonzero(tokenizer.special)}
    if taken := [name for name in names if name in special]:
        raise InputError(f"config.data.tokenizer.add holds {taken[0]!r}, which is a special token of the tokenizer")
    had = tokenizer.options.get(OPTION, [])
    listed = [*had, *(name for name in names if name not in had)]
    if listed == had:
        return tokenizer
    backend = tokenizer.backend
    base = backend.base if isinstance(backend, Extended) else backend
    known = {piece: index for index, piece in reversed([*enumerate(pieces)]) if piece}
    names = [name for name in listed if name not in known]
    ids = {name: known[name] if name in known else tokenizer.vocab_size + names.index(name) for name in listed}
    roles = {role: getattr(tokenizer, role) for role in ROLES if getattr(tokenizer, role) is not None}
    grow = lambda table, values: np.concatenate([table, np.array(values, table.dtype)])
    vocabulary = Vocabulary(
        pieces=[*pieces, *names],
        special=grow(tokenizer.special, [False] * len(names)),
        lengths=grow(tokenizer.lengths, [len(name.encode()) for name in names]),
        starts_word=grow(tokenizer.starts_word, [True] * len(names)),
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
    """A backend, and tokens that are looked for in a text before it."""

    def __init__(self, base: Backend, ids: Mapping[str, int], between: str):
        """`ids` are those of the added names; `between` is what stands around names when ids become text."""
        self.base, self.ids, self._between = base, dict(ids), between
        self._names = {token: name for name, token in ids.items()}
        self._added = np.array(sorted(self._names), np.int64)
        longest = sorted(ids, key=len, reverse=True)
        self._find = re.compile("(" + "|".join(map(re.escape, longest)) + ")")
        self.lossless = base.lossless and not between

    def encode(self, texts: Sequence[str]) -> Encoded:
        """See `Backend`."""
        return self._joined(texts, located=False)

    def locate(self, texts: Sequence[str]) -> Encoded:
        """See `Backend`."""
        return self._joined(texts, located=True)

    def decode(self, ids: Int[np.ndarray, " tokens"]) -> str:
        """See `Backend`."""
        added = np.flatnonzero(np.isin(ids, self._added))
        parts, at = [], 0
        for index in added.tolist():
            parts += [self.base.decode(ids[at:index]), self._names[int(ids[index])]]
            at = index + 1
        parts.append(self.base.decode(ids[at:]))
        return self._between.join(filter(None, parts)) if len(parts) > 1 else parts[0]

    def _joined(self, texts: Sequence[str], *, located: bool) -> Encoded:
        """The texts' ids: stretches between names in one call of the backend, and the names between them."""
        pieces = [self._find.split(text) for text in texts]
        stretches = [stretch for piece in pieces for stretch in piece[::2]]
        made = self.base.locate(stretches) if located else self.base.encode(stretches)
        stops = np.cumsum(made.counts)
        tokens: list[np.ndarray] = []
        starts: list[np.ndarray] = []
        counts, number, at, own = [], 0, 0, 0
        for piece in pieces:
            first = len(tokens)
            for place, part in enumerate(piece):
                if place % 2:
                    tokens.append(np.array([self.ids[part]], np.int32))
                    starts.append(np.array([at], np.int64))
                else:
                    cut = slice(int(stops[number] - made.counts[number]), int(stops[number]))
                    tokens.append(made.tokens[cut])
                    if made.starts is not None:
                        starts.append(made.starts[cut].astype(np.int64) - own + at)
                    own += len(part.encode()) + 1
                    number += 1
                at += len(part.encode())
            counts.append(sum(map(len, tokens[first:])))
            at += 1
        whole = np.concatenate([np.zeros(0, np.int32), *tokens])
        places = np.concatenate([np.zeros(0, np.int64), *starts]) if located else None
        return Encoded(whole, np.array(counts, np.int64), places)
