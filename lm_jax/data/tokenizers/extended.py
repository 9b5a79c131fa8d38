"""Adds tokens to a tokenizer, such as chat markers or words of a domain.

Unlike special tokens, added tokens are text: each occurrence in a text becomes one token. Markers are tokens in the
template around a text alone: in the text they are spelled, so that nobody can end a message by writing its marker. The
text between tokens is encoded as before, and all ids of the vocabulary stay the same.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping, Sequence

import numpy as np
from jaxtyping import Int

from lm_jax.core.config import InputError
from lm_jax.data.tokenizers.base import ROLES, Backend, Encoded, Tokenizer, Vocabulary

# The keys of `Tokenizer.options` that list the added tokens, and those of them that are markers.
OPTION, MARKERS = "more", "markers"


def extend(tokenizer: Tokenizer, names: Sequence[str], markers: Collection[str] = ()) -> Tokenizer:
    """Return `tokenizer` with a token for each name; a name that is not a piece yet gets the next id.

    `markers` are those of the names that are tokens in templates alone; such a name may be a special token.

    Raises:
      InputError: a name is blank or repeated, or the name of a special token and no marker.
    """
    for name in names:
        if not name.strip() or list(names).count(name) > 1:
            key = f"config.data.tokenizer.{'markers' if name in markers else 'add'}"
            raise InputError(f"{key} holds {name!r}; expected distinct tokens that are not blank")
    pieces = tokenizer.pieces
    special = {pieces[index] for index in np.flatnonzero(tokenizer.special)}
    if taken := [name for name in names if name in special and name not in markers]:
        raise InputError(
            f"config.data.tokenizer.add holds {taken[0]!r}, which is a special token of the tokenizer; leave it out, "
            "or put it into config.data.tokenizer.markers if templates hold it"
        )
    previous, marked = (tokenizer.options.get(key, []) for key in (OPTION, MARKERS))
    listed = [*previous, *(name for name in names if name not in previous)]
    now_marked = [name for name in listed if name in markers or (name in marked and name not in names)]
    if (listed, now_marked) == (previous, marked):
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
    options = {key: value for key, value in tokenizer.options.items() if key != MARKERS}
    return Tokenizer(
        tokenizer.kind,
        tokenizer.content,
        {**options, OPTION: listed, **({MARKERS: now_marked} if now_marked else {})},
        file=tokenizer.file,
        roles=roles,
        sentinels=tokenizer.sentinels.tolist(),
        vocabulary=vocabulary,
        backend=Extended(base, ids, " " if tokenizer.kind == "wordpiece" else "", now_marked),
    )


def within(tokenizer: Tokenizer, sides: tuple[str, str]) -> Tokenizer:
    """Return a tokenizer of texts in a template: the markers of the template are tokens, those of the texts are not.

    Args:
      tokenizer: any tokenizer; it is returned itself if the template holds no marker.
      sides: what the template puts before and after each text; see `templates.split`.
    """
    backend = tokenizer.backend
    ids = {name: backend.ids[name] for name in backend.markers} if isinstance(backend, Extended) else {}
    before, after = (len(_pattern(ids).findall(side)) for side in sides)
    if not before and not after:
        return tokenizer
    return tokenizer.encoding_with(Extended(_Literal(tokenizer), ids, "", outer=(before, after)))


def _pattern(names: Iterable[str]) -> re.Pattern[str]:
    """Return a pattern of any of the names, the longest first; it has one group."""
    return re.compile("(" + ("|".join(map(re.escape, sorted(names, key=len, reverse=True))) or "(?!)") + ")")


class _Literal:
    """A backend that encodes text with a tokenizer, without special ids and markers."""

    def __init__(self, tokenizer: Tokenizer):
        self.encode = self.locate = tokenizer.encode_with_starts
        self.decode, self.lossless = tokenizer.backend.decode, tokenizer.lossless


class Extended:
    """A backend that splits texts at the added tokens, and encodes the rest with the backend `base`."""

    def __init__(
        self,
        base: Backend,
        ids: Mapping[str, int],
        between: str,
        markers: Collection[str] = (),
        outer: tuple[int, int] | None = None,
    ):
        """Build the backend.

        Args:
          base: encodes the text between names.
          ids: ids by added name.
          between: decoding puts it between names and the text around them.
          markers: names that are not looked for.
          outer: numbers of names at the beginning and at the end of each text that are tokens; None: all are.
        """
        self.base, self.ids, self.markers, self._between, self._outer = base, dict(ids), markers, between, outer
        self._names = {token: name for name, token in ids.items()}
        self._added = np.array(sorted(self._names), np.int64)
        self._pattern = _pattern(name for name in ids if name not in markers)
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

    def _split(self, text: str) -> list[str]:
        """Split a text at the names that are tokens: stretches of text at even places, names at odd ones."""
        parts = self._pattern.split(text)
        if self._outer is None or len(parts) // 2 <= sum(self._outer):
            return parts
        start, stop = 2 * self._outer[0], len(parts) - 2 * self._outer[1]
        return [*parts[:start], "".join(parts[start:stop]), *parts[stop:]]

    def _encode(self, texts: Sequence[str], *, located: bool) -> Encoded:
        """Encode the stretches of text between names in one call of `base`, and insert the ids of the names."""
        splits = [self._split(text) for text in texts]
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
