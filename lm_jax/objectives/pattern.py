"""Pattern-verbaliser tuning: a label is the word that the model's own language model puts into a pattern.

PET (Schick and Schuetze 2021, arXiv:2001.07676), section 3.1: a pattern makes a cloze of a row, such as "{text} It was
{mask}.", a verbaliser has a word for each label, and a softmax over the scores of these words alone decides. Prompts
for decoders are those of LM-BFF (Gao et al. 2021, arXiv:2012.15723), section 3.

A word may have several tokens; its score is the sum of their log-probabilities. An encoder reads as many masks as the
longest word has tokens and predicts all in one pass, and a shorter word is read from the first ones (Schick and
Schuetze 2021, arXiv:2009.07118, section 3.1). A decoder reads each word behind the pattern, as in multiple choice, so
the sum is the log-probability of the word.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from lm_jax.core.config import InputError, Tree
from lm_jax.data import templates
from lm_jax.data.rows import Reads, Sizes
from lm_jax.data.tables import Records
from lm_jax.data.tokenizers import Tokenizer
from lm_jax.models.config import ModelConfig
from lm_jax.models.interface import Output
from lm_jax.models.model import Bound
from lm_jax.models.task import TaskHeadConfig
from lm_jax.objectives.base import Batch, Field, Vocabulary, Work, counted, padded
from lm_jax.objectives.framing import Framing, fields, frame
from lm_jax.objectives.task import OneOf, Outputs, softmax

KEY = "config.objective.pattern"
# The place of the answer in a template.
MASK = "mask"

Ids = Int[np.ndarray, "_"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class PatternConfig:
    """The pattern and the verbaliser.

    Attributes:
      template: text with the names of text columns in braces and one {mask}, where the word goes; {{ and }} are braces.
        For a decoder it ends with {mask}.
      words: LABEL=WORD for each label; empty: each label is its own word.
      label: the column of the labels.
    """

    template: str = "{text} {mask}"
    words: tuple[str, ...] = ()
    label: str = "label"

    def __post_init__(self):
        _, names = self.parts
        if names.count(MASK) != 1 or len(names) < 2:
            raise InputError(
                f"{KEY}.template is {self.template!r}; expected one {{{MASK}}}, where the word goes, and the name of a "
                f"text column in braces, such as '{{text}} It was {{{MASK}}}.'"
            )
        _ = self.word_of

    @property
    def parts(self) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """The stretches of text of the template, and the names of the places between them."""
        return templates.parts(self.template, f"{KEY}.template")

    @property
    def columns(self) -> tuple[str, ...]:
        """The text columns, in the order of the template."""
        return tuple(name for name in self.parts[1] if name != MASK)

    @property
    def word_of(self) -> dict[str, str]:
        """The word of each label; empty: the labels themselves are the words."""
        pairs = [entry.rpartition("=") for entry in self.words]
        words = {label: word for label, _, word in pairs}
        if len(words) < len(pairs) or not all(label and word.strip() for label, _, word in pairs):
            raise InputError(
                f"{KEY}.words is {','.join(self.words)}; expected LABEL=WORD for each label, such as 1=great,0=terrible"
            )
        return words


@dataclasses.dataclass(frozen=True)
class Pattern(OneOf):
    """Rows [CLS] the pattern with masks [SEP]; of a decoder, the pattern and all tokens of a word but its last.

    Texts that are too long are cut, the longest first; the pattern never is.

    Example:
      >>> from lm_jax.data import tokenizers
      >>> tokenizer = tokenizers.train(tokenizers.TokenizerConfig(kind="bytes"), [])
      >>> vocabulary = Vocabulary(
      ...     size=263, pad=0, eos=3, cls=4, sep=5, mask=6, ordinary=(7, 263), tokenizer=tokenizer,
      ...     labels=Tree(label=("bad", "good")),
      ... )
      >>> pattern = Pattern(PatternConfig(template="{mask}: {text}", words=("bad=-", "good=+")), vocabulary, length=8)
      >>> row = pattern.features({"text": np.array([90, 91, 92]), "label": 1}, np.random.default_rng(0))
      >>> print(row["tokens"], row["positions"], row["answers"])
      [ 4  6 65 39 90 91 92  5] [1] 1
    """

    config: PatternConfig
    vocabulary: Vocabulary
    length: int
    kind: str = "encoder"

    kind_of_answers = "label"

    def __post_init__(self):
        if self.kind == "encoder":
            self.vocabulary.require("pattern", "mask")
        elif self.config.parts[1][-1] != MASK or self.config.parts[0][-1]:
            raise InputError(
                f"{KEY}.template is {self.config.template!r}, but a decoder predicts what follows a text; end it with "
                f"{{{MASK}}}"
            )
        self._check_words()
        _ = self.framing

    @property
    def answer_columns(self) -> tuple[str, ...]:
        """The column of the labels."""
        return (self.config.label,)

    @property
    def sequences(self) -> tuple[tuple[str, ...], ...]:
        """The texts of the pattern; sequences for several words have the same."""
        return (self.config.columns,)

    @functools.cached_property
    def labels(self) -> tuple[str, ...]:
        """The names of the labels, by id."""
        words = self.config.word_of
        names = tuple(self.vocabulary.labels.get(self.config.label, ())) or tuple(words)
        if len(names) < 2:
            raise InputError(f"the column {self.config.label!r} has {len(names)} labels; a pattern needs at least 2")
        if words and (missing := [name for name in names if name not in words]):
            raise InputError(f"{KEY}.words has no word for the label {missing[0]!r}; add {missing[0]}=WORD")
        return names

    @property
    def _tokenizer(self) -> Tokenizer:
        if self.vocabulary.tokenizer is None:
            raise InputError("the objective 'pattern' encodes text, and there is no tokenizer; name the model's own")
        return self.vocabulary.tokenizer

    @functools.cached_property
    def _stretches(self) -> list[Ids]:
        """The ids of the stretches of text around the places."""
        stretches, names = self.config.parts
        # A space before a text is kept, as a piece of its own, because the text was encoded without it.
        keeps = self._tokenizer.carries_space and not self._tokenizer.prefix_space
        doubled = [keeps and name != MASK and text.endswith(" ") for text, name in zip(stretches, names, strict=False)]
        spaced = [text + " " * more for text, more in zip(stretches, [*doubled, False], strict=True)]
        return [self._written(ids, self.config.template, "template") for ids in self._tokenizer.encode_parts(spaced)]

    @functools.cached_property
    def _words(self) -> list[Ids]:
        """The ids of the word of each label."""
        stretches, names = self.config.parts
        # Where pieces include the space before a word, the stretch before the word lacks it.
        space = " " * (self._tokenizer.carries_space and stretches[names.index(MASK)].endswith(" "))
        words = [self.config.word_of.get(label, label) for label in self.labels]
        return [self._written(self._tokenizer.encode_parts(["", space + word])[1], word, "words") for word in words]

    def _written(self, ids: Ids, text: str, name: str) -> Ids:
        if (self._tokenizer.unk is not None and self._tokenizer.unk in ids) or (name == "words" and not len(ids)):
            raise InputError(f"{KEY}.{name} has {text!r}, which the tokenizer cannot write; choose another text")
        return ids.astype(np.int32)

    def _check_words(self) -> None:
        """Refuses a word whose tokens begin another one's: its score would be at least as high in every row."""
        for one, ids in enumerate(self._words):
            for other, longer in enumerate(self._words):
                if one != other and np.array_equal(ids, longer[: len(ids)]):
                    same = "have the same tokens" if len(ids) == len(longer) else "begin with the same tokens"
                    names = " and ".join(repr(self.labels[label]) for label in (one, other))
                    raise InputError(f"{KEY}.words: the words of the labels {names} {same}; choose another word")

    @functools.cached_property
    def _longest(self) -> int:
        """The tokens of the longest word."""
        return max(map(len, self._words))

    @functools.cached_property
    def _targets(self) -> tuple[Int[np.ndarray, "labels tokens"], Float[np.ndarray, "labels tokens"]]:
        """The tokens of each word, and 1 for each but padding."""
        weights = [counted(len(ids), self._longest) for ids in self._words]
        return np.stack([padded(ids, self._longest) for ids in self._words]), np.stack(weights)

    @property
    def _rows(self) -> int:
        """Sequences of a row: a decoder reads words of several tokens one by one."""
        return len(self.labels) if self.kind == "decoder" and self._longest > 1 else 1

    @functools.cached_property
    def _fixed(self) -> int:
        """The tokens of a row that are neither text nor special tokens around it."""
        return sum(map(len, self._stretches)) + self._longest - (self.kind == "decoder")

    @functools.cached_property
    def framing(self) -> Framing:
        """The special tokens of a row, and the length that the pattern leaves."""
        texts = len(self.config.columns)
        whole = frame(self.vocabulary, self.kind, self.length, 1, "pattern")
        after = () if self.kind == "decoder" else whole.after
        framing = Framing(whole.before, (), after, self.length - self._fixed)
        if (room := framing.room(texts)) < texts:
            raise InputError(
                f"config.data.length {self.length} leaves {max(room, 0)} tokens for {texts} text{'s' * (texts > 1)} "
                f"beside the pattern and its special tokens; increase it, or shorten {KEY}.template"
            )
        return framing

    def lengths(self, sizes: Sizes) -> Int[np.ndarray, " rows"]:
        """The tokens of rows whose texts have these numbers of tokens."""
        return super().lengths(sizes) + self._fixed

    @property
    def reads(self) -> Reads:
        """Records with the texts of the pattern and a label."""
        columns = {**dict.fromkeys(self.config.columns, self.framing.room(1)), self.config.label: 0}
        return Reads(plan="columns", length=self.length, columns=Tree(columns), lengths=self.lengths)

    @property
    def spec(self) -> Mapping[str, Field]:
        """Fields of the features."""
        shape = (self.length,) if self._rows == 1 else (self._rows, self.length)
        return {
            **fields(*shape),
            "positions": Field(shape=(self._longest,)),
            "answers": Field(),
            "weights": Field(dtype="float32"),
        }

    @property
    def work(self) -> tuple[Work, ...]:
        """The model reads the sequences of a row and scores the tokens of words."""
        rows = self._rows
        return (Work(role="model", length=rows * self.length, scored=rows * self._longest, sequences=rows),)

    def head(self, config: TaskHeadConfig) -> TaskHeadConfig:
        """None: the model's own readout scores the words."""
        return dataclasses.replace(config, classes=0, pooler=False)

    def check(self, configs: Mapping[str, ModelConfig]) -> None:
        """Raises InputError if a model has no language model's head."""
        for config in configs.values():
            readout = config.readout
            if config.kind == "encoder" and not (readout.transform or readout.bias):
                raise InputError(
                    "config.objective.name is 'pattern', but the model has no masked-language-model head "
                    "(config.model.readout); use a run that was trained on, or imported with, masked tokens"
                )
            if getattr(config, "two_stream", False):
                raise InputError(
                    "config.objective.name is 'pattern', but the model predicts from a query stream "
                    "(config.model.two_stream), not from masks; use an encoder of masked tokens, or a decoder"
                )

    def features(self, row: Mapping[str, Any], rng: np.random.Generator) -> dict[str, np.ndarray]:
        """Arranges a row.

        Returns:
          `tokens`, `types` and `segments` [length], or [labels length] for a decoder and words of several tokens.
          `positions` [tokens of the longest word]: where they are predicted. `answers`, and `weights`: 0 if the row has
          no answer.
        """
        texts = [row[name] for name in self.config.columns]
        kept = [text[:size] for text, size in zip(texts, self.framing.cut([*map(len, texts)]), strict=True)]
        if self.kind == "encoder":
            masks = np.full(self._longest, self.vocabulary.mask, np.int32)
            tokens, first = self._arranged(kept, masks)
            rows = [np.concatenate([tokens, self.framing.after])]
        else:
            prompt, first = self._arranged(kept, np.zeros(0, np.int32))
            # The last token of the prompt predicts the first of a word.
            first -= 1
            rows = [np.concatenate([prompt, ids[:-1]]) for ids in self._words[: self._rows]]
        features = {
            "tokens": np.stack([padded(tokens, self.length, self.vocabulary.pad) for tokens in rows]),
            "types": np.zeros((len(rows), self.length), np.int32),
            "segments": np.stack([counted(len(tokens), self.length, np.int32) for tokens in rows]),
        }
        entry = row.get(self.config.label)
        return {
            **{name: array if self._rows > 1 else array[0] for name, array in features.items()},
            "positions": first + np.arange(self._longest, dtype=np.int32),
            "answers": np.asarray(0 if entry is None else entry, np.int32),
            "weights": np.array(entry is not None, np.float32),
        }

    def _arranged(self, texts: Sequence[Ids], answer: Ids) -> tuple[Ids, int]:
        """The ids of the pattern with texts and an answer, without the special ids after it; the answer's position."""
        parts, left, first = [np.array(self.framing.before, np.int32), self._stretches[0]], iter(texts), 0
        for name, stretch in zip(self.config.parts[1], self._stretches[1:], strict=True):
            if name == MASK:
                first = sum(map(len, parts))
            parts += [answer if name == MASK else next(left), stretch]
        return np.concatenate(parts).astype(np.int32), first

    def read(self, batch: Batch, pool: str) -> Int[Array, "sequences read"] | None:
        """The positions of the words, in each sequence."""
        return jnp.repeat(batch["positions"], self._rows, axis=0)

    def read_tokens(self, pool: str) -> int | None:
        """One for each token of the longest word."""
        return self._longest

    def outputs(self, model: Bound, output: Output, batch: Batch, dropout: jax.Array | None) -> Outputs:
        """`logits` [batch labels]: the log-probabilities of the words."""
        targets, weights = map(jnp.asarray, self._targets)
        log_p = jax.nn.log_softmax(model.readout(output.hidden).astype(jnp.float32))
        log_p = log_p.reshape(-1, self._rows, *log_p.shape[1:])
        # [batch sequences tokens vocab] and [labels tokens] to [batch labels tokens].
        sequences = np.arange(len(self.labels))[:, None] % self._rows if self._rows > 1 else np.zeros((1, 1), np.int32)
        chosen = log_p[:, sequences, np.arange(self._longest)[None], targets]
        return {"logits": (chosen * weights[None]).sum(-1)}

    def described(self, outputs: Mapping[str, np.ndarray], rows: Records) -> list[dict[str, Any]]:
        """`label` and the `scores` of all labels, which are probabilities."""
        scores = softmax(outputs["logits"].astype(np.float64)).tolist()
        return [
            {"label": self.labels[best], "scores": dict(zip(self.labels, row, strict=True))}
            for best, row in zip(self.answers_of(outputs, rows), scores, strict=True)
        ]
