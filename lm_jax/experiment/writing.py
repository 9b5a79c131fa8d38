"""Texts that a run writes: the settings of its decoding, and the targets of many sources."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from lm_jax.core.trees import Params
from lm_jax.data import columns, templates, tokenizers
from lm_jax.data.clean import chain
from lm_jax.data.tables import Records
from lm_jax.data.tokenizers import Tokenizer
from lm_jax.decode import prompting, rectangles
from lm_jax.decode.generate import Generated, generate
from lm_jax.decode.sampling import GREEDY, SamplingConfig
from lm_jax.decode.weights import unstacked
from lm_jax.models.model import Model
from lm_jax.objectives.roles import Models
from lm_jax.objectives.seq2seq import Seq2Seq
from lm_jax.train.state import Weights

if TYPE_CHECKING:
    from lm_jax.experiment.pieces import Experiment


def options(exp: Experiment, *, sentinels: bool = False) -> dict[str, Any]:
    """The arguments of `generate` that follow from a run.

    Args:
      exp: the run, whose product writes.
      sentinels: whether sentinels may be written, as by a model trained on span corruption.
    """
    tokenizer, conventions = exp.tokenizer, exp.config.conventions
    vocab = exp.product.module.config.embed.vocab or 0
    unwritable = () if conventions.foreign else prompting.unwritable(tokenizer, vocab, sentinels=sentinels)
    return dict(
        pad=exp.padding,
        eos=conventions.ends or (None if conventions.foreign else tokenizer.eos),
        # Packed text has no BOS: a document follows the EOS of the previous one.
        bos=tokenizer.eos if conventions.empty is None else conventions.empty,
        start=conventions.start,
        first=conventions.first,
        last=conventions.last,
        forbidden=(*unwritable, *conventions.suppressed),
        forbidden_first=conventions.suppressed_first,
        layout=exp.layout if exp.layout.mesh.size > 1 else None,
    )


def sides(exp: Experiment, column: str) -> tuple[str, str]:
    """What the template of a column of text puts before and after each entry."""
    config = columns.parse(exp.config.data.columns).get(column, columns.ColumnConfig())
    return templates.split(config.template, f"{columns.KEY}.{column}.template")


def source_tokenizer(exp: Experiment) -> Tokenizer:
    """The tokenizer of the sources of a run with the objective seq2seq, which finds the markers of their template."""
    return tokenizers.within(exp.tokenizer, sides(exp, cast(Seq2Seq, exp.objective).config.source))


def source(exp: Experiment, prompt: str) -> str:
    """A prompt as the sources of a run with the objective seq2seq are: in their template, which is cleaned with it."""
    before, after = sides(exp, cast(Seq2Seq, exp.objective).config.source)
    return chain.apply(before + prompt + after, exp.config.data.clean) if before or after else prompt


@dataclasses.dataclass(frozen=True)
class Writing:
    """Writes the targets of sources.

    Attributes:
      objective: how sources are read.
      tokenizer: turns targets to text.
      models: those of the run; the product writes.
      rows: the rows of the sources.
      batch: sources that are read together.
      options: other arguments of `generate`.
    """

    objective: Seq2Seq
    tokenizer: Tokenizer
    models: Models
    rows: Records
    batch: int
    options: Mapping[str, Any]

    def texts(self, weights: Weights, rows: Records) -> list[str]:
        """The text of the target of each record of `rows`; a draw depends on the seed and on the record's number."""
        rng, source = np.random.default_rng(0), self.objective.config.source
        sources = [self.objective.source(np.asarray(rows.row(index, 0, rng)[source])) for index in range(len(rows))]
        model = self.models.models[self.models.product]
        params = self.models.parameters(self.models.product, weights.params, weights.frozen)
        generated = self._generated(model, model.merge(params), sources, rows.numbers)
        return [self.tokenizer.decode(each.tokens) for each in generated]

    def described(self, weights: Weights, rows: Records) -> list[dict[str, Any]]:
        """The `text` for each record of `rows`, as `lm-jax predict` writes it."""
        return [{"text": text} for text in self.texts(weights, rows)]

    def _generated(
        self, model: Model, params: Params, sources: list[np.ndarray], numbers: np.ndarray
    ) -> list[Generated]:
        """The continuation of each source; sources of similar length share a batch."""
        params, generated = unstacked(model.module, params), dict[int, Generated]()
        by_length = sorted(range(len(sources)), key=lambda index: -len(sources[index]))
        for first in range(0, len(by_length), self.batch):
            chosen = by_length[first : first + self.batch]
            # As many as in the other batches, so that no other program is compiled for the last one.
            padded = [*chosen, *[chosen[-1]] * (min(self.batch, len(sources)) - len(chosen))]
            results = generate(
                model.module,
                params,
                [sources[index] for index in padded],
                numbers=[int(numbers[index]) for index in padded],
                **{**self.options, "max_tokens": self._most(model, params, len(sources[chosen[0]]))},
            )
            generated |= zip(chosen, results, strict=False)
        return [generated[index] for index in range(len(sources))]

    def _most(self, model: Model, params: Params, source: int) -> int:
        """The largest number of tokens after a source of a number of tokens."""
        most, limit = self.options["max_tokens"], rectangles.longest(model.module.config.embed, params)
        # The longest row of training has one token more than there are positions: its last one is never read.
        over = model.module.config.kind == "decoder" and limit is not None and source + most == limit + 1
        return max(most - over, 1)


def of(exp: Experiment, sampling: SamplingConfig = GREEDY, max_tokens: int | None = None, seed: int = 0) -> Writing:
    """What writes targets for the sources of the validation split; by default, as long as targets may be.

    The objective of the run is seq2seq.
    """
    objective, rows = cast(Seq2Seq, exp.objective), cast(Records, exp.feed.rows("validation"))
    most = objective.target_length if max_tokens is None else max_tokens
    settings = {**options(exp), "sampling": sampling, "max_tokens": most, "seed": seed}
    return Writing(objective, exp.tokenizer, exp.models, rows, exp.config.data.batch, settings)
