"""`lm-jax features`: the vectors of texts, which are hidden states of any layer, in the order of the rows.

A run of a task reads the columns of its rows without those of the answers, and any other run one text: the field `text`
of a table or of JSON, or each line of plain text. An encoder-decoder's vectors are those of its encoder.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import numpy as np

from lm_jax import experiment
from lm_jax.core.config import InputError, Tree, lookup
from lm_jax.data import atomic, sources, tokenizers
from lm_jax.data.columns import Columns
from lm_jax.data.mixture import MixtureConfig
from lm_jax.experiment import Experiment, vectors
from lm_jax.experiment.vectors import Vectors
from lm_jax.flags import Request
from lm_jax.objectives.embed import Embed
from lm_jax.objectives.framing import Framing
from lm_jax.objectives.seq2seq import Seq2Seq
from lm_jax.objectives.task import Task
from lm_jax.verbs import report
from lm_jax.verbs.runs import one_model, open_run, restore_model
from lm_jax.verbs.vectors import FORMATS, Chunk, Table, write

# Records that are read, computed and written together.
CHUNK = 1024
DTYPES = {"float32": np.float32, "float16": np.float16}


def run(request: Request) -> int:
    """Writes `--output`."""
    if not request.input or not request.output:
        raise InputError("features needs --input=ROWS and --output=FILE.npz or FILE.parquet")
    output = Path(request.output)
    atomic.check_file(output, "--output")
    lookup(FORMATS, output.suffix, "the end of --output")
    lookup(vectors.POOLS, request.pool, "--pool")
    dtype = np.dtype(lookup(DTYPES, request.dtype, "--dtype"))
    opened = open_run(request)
    exp = one_model(request, opened)
    layer = vectors.number(exp.product.module, request.layer)
    texts, ids = columns_of(request, exp)
    corpus, framing = read(exp, request.input, (*texts, *ids)), _framing(exp, len(texts))
    step, params = restore_model(request, opened)
    computed = Vectors(
        module=exp.product.module,
        params=params,
        framing=framing,
        pad=exp.padding,
        batch=exp.config.data.batch,
        layer=layer,
        pool=request.pool,
        normalise=request.normalise,
        layout=exp.layout if exp.layout.mesh.size > 1 else None,
    )
    width, ragged = exp.product.module.config.embed.width, request.pool == "none"
    rows = int(_lengths(corpus, texts, framing).sum()) if ragged else corpus.records
    names = [corpus.id(ids[0], record) for record in range(corpus.records)] if ids else []
    table = Table((rows, width), dtype, ragged, names)
    write(output, table, chunks(corpus, texts, computed, table))
    report.say(f"step {step} of {request.workdir}: vectors of {corpus.records:,} rows in {output}")
    if empty := corpus.records - len(corpus.rows):
        what = "no vector" if ragged else "a vector of NaN"
        report.warn(f"{empty:,} of them have {what}, because a column of the row is empty")
    return 0


def columns_of(request: Request, exp: Experiment) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The one or two columns of text to read, and the column of ids, if there is one.

    Raises:
      InputError: another number of columns of text, or a column of another kind.
    """
    kinds = {name: column.get("kind", "text") for name, column in exp.config.data.columns.items()}
    objective, named = exp.objective, request.column
    if not named:
        reads = objective.reads.columns if kinds else {exp.config.data.field: 1}
        answers = objective.answer_columns if isinstance(objective, (Task, Seq2Seq)) else ()
        texts = [name for name, most in reads.items() if most and name not in answers]
        # The texts of a pair have a vector each.
        texts = texts[:1] if isinstance(objective, Embed) else texts
        named = (*texts, *(name for name, kind in kinds.items() if kind == "id"))
    if others := [name for name in named if kinds.get(name, "text") not in ("text", "id")]:
        raise InputError(f"--column={others[0]} is of the kind {kinds[others[0]]!r}; name columns of text, or of ids")
    texts, ids = (tuple(name for name in named if (kinds.get(name) == "id") == is_id) for is_id in (False, True))
    if not 1 <= len(texts) <= 2 or len(ids) > 1:
        raise InputError(
            f"a row has one text or a pair of texts, but there are {len(texts)} columns of text "
            f"({', '.join(texts) or 'none'}) and {len(ids)} of ids; choose with --column=NAME"
        )
    return texts, ids


def read(exp: Experiment, path: str, names: tuple[str, ...]) -> Columns:
    """The columns of a file, with the settings that the run's columns of these names have.

    Raises:
      InputError: the file lacks a column, or the run has no tokenizer.
    """
    if exp.tokenizer.kind == tokenizers.IDS:
        raise InputError(tokenizers.NEEDS_IDS)
    data = exp.config.data.without_dev()
    columns = {name: {**data.columns.get(name, {}), "path": ""} for name in names}
    # The format of a run's columns, but not that of a pretraining text.
    form = data.format if data.columns else sources.SourceConfig.format
    data = dataclasses.replace(data, path=path, format=form, mixture=MixtureConfig())
    if not sources.has_fields(data.source()):
        first, *others = names
        if others:
            raise InputError(
                f"{path} is plain text, which has one column, but the rows have {', '.join(names)}; give JSON or a "
                "table, or choose with --column=NAME"
            )
        if first not in (*data.columns, data.field):
            raise InputError(f"{path} is plain text, which has no column {first!r}; leave out --column")
    data = dataclasses.replace(data, columns=Tree(columns), field=sources.SourceConfig.field, validation=1.0)
    prepared = experiment.prepare(dataclasses.replace(exp.config, data=data), tokenizer=exp.tokenizer)
    return cast(Columns, prepared.store)


def chunks(corpus: Columns, texts: tuple[str, ...], computed: Vectors, table: Table) -> Iterator[Chunk]:
    """The vectors of all records, `CHUNK` by `CHUNK`.

    Raises:
      InputError: a value is too large for the type.
    """
    most = computed.framing.length
    for start in range(0, corpus.records, CHUNK):
        stop = min(start + CHUNK, corpus.records)
        records = corpus.rows[slice(*np.searchsorted(corpus.rows, [start, stop]))].tolist()
        results = computed.of([[_tokens(corpus, name, record, most) for name in texts] for record in records])
        lengths = np.zeros(stop - start, np.int64)
        lengths[np.array(records, int) - start] = [len(tokens) for tokens, _ in results]
        tokens = np.concatenate([np.zeros(0, np.int32), *(tokens for tokens, _ in results)])
        if table.ragged:
            values = np.concatenate([np.zeros((0, table.shape[1]), np.float32), *(vectors for _, vectors in results)])
        else:
            values = np.full((stop - start, table.shape[1]), np.nan, np.float32)
            values[np.array(records, int) - start] = np.reshape([vector for _, vector in results], (-1, table.shape[1]))
        with np.errstate(over="ignore"):
            cast = values.astype(table.dtype)
        if np.isinf(cast).any():
            raise InputError(f"--dtype={table.dtype} cannot hold {np.nanmax(np.abs(values)):.4g}; use --dtype=float32")
        yield Chunk(cast, lengths, tokens)


def _tokens(corpus: Columns, name: str, record: int, most: int) -> np.ndarray:
    return np.asarray(corpus.read(name, record, most))


def _lengths(corpus: Columns, texts: tuple[str, ...], framing: Framing) -> np.ndarray:
    """The tokens of the row of each record that has all columns."""
    sizes = np.stack([np.diff(corpus.bounds[name])[corpus.rows] - corpus.before - 1 for name in texts], 1)
    special = framing.length - framing.room(len(texts))
    return np.array([sum(framing.cut(row)) + special for row in np.minimum(sizes, framing.length).tolist()], np.int64)


def _framing(exp: Experiment, texts: int) -> Framing:
    objective: Any = exp.objective
    closing = objective.closing if isinstance(objective, Seq2Seq) else None
    return vectors.framing(exp.vocabulary, exp.config.model.kind, exp.config.data.length, texts, closing)
