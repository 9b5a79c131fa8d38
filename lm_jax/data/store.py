"""The token store: a corpus as one sequence of tokens on disk, with random access.

The store is a TensorFlow Datasets dataset: array_record shards of records in corpus order, each of at most 4,096 tokens
as little-endian integers. Records are short because a row needs few tokens; there are many shards because many workers
write. A shard holds one unit of cleaned text; [EOS] ends every document. Beside the shards, arrays hold the positions
at which documents, sentences and records start.
"""

from __future__ import annotations

import collections
import dataclasses
import functools
import hashlib
import json
import shutil
import threading
from pathlib import Path
from typing import Any, cast

import numpy as np
from jaxtyping import Int

from lm_jax.core import host
from lm_jax.core.config import InputError
from lm_jax.data import atomic, sentences, sources, templates, texts, tokenizers, workers
from lm_jax.data.clean import chain
from lm_jax.data.clean import report as reports
from lm_jax.data.texts import Progress
from lm_jax.data.tokenizers import coverage

# Increment it when the same tokens would be stored differently.
VERSION = 3
RECORD_TOKENS = 4096
CACHE_BYTES = 256 << 20
DATASET = "lm_jax_tokens"


def default_root(configured: str = "") -> Path:
    """Return the root of prepared corpora: as configured, else $LM_JAX_CACHE, else ~/.cache/lm_jax."""
    return Path(configured).expanduser() if configured else host.cache_root()


def prepare(
    root: Path | str,
    source: sources.SourceConfig,
    clean: chain.CleanConfig,
    tokenizer: tokenizers.TokenizerConfig | tokenizers.Tokenizer,
    *,
    prefix: tuple[int, ...] = (),
    workers: int = 1,
    progress: Progress | None = None,
    aligned: bool = False,
) -> Store:
    """Return the token store of a source: an existing one under `root`, resumed if interrupted, or a new one.

    `tokenizer` may be the settings of a tokenizer to load, or to train on the cleaned text; the ids `prefix` start
    every document; for the rest see `texts.prepare`. The result does not depend on the number of workers.

    Raises:
      InputError: the source cannot be read, cleaning drops every document, or the vocabulary does not fit the text.
    """
    root = Path(root)
    cleaned = texts.prepare(root, source, clean, workers=workers, progress=progress, aligned=aligned)
    report_progress = progress or (lambda stage, done, total: None)
    if isinstance(tokenizer, tokenizers.TokenizerConfig):
        tokenizer = find_tokenizer(root, tokenizer, cleaned, report_progress)
    described = [VERSION, RECORD_TOKENS, cleaned.fingerprint, tokenizer.fingerprint, *([prefix] if prefix else [])]
    sides = templates.split(source.template, "template")
    fingerprint = hashlib.sha256(json.dumps(described).encode()).hexdigest()[:32]
    directory = root / "tokens" / fingerprint
    waiting = lambda: report_progress("waiting for another process to tokenise", 0, 0)
    with atomic.lock_unfinished(directory, "store.json", waiting) as unfinished:
        if unfinished:
            _write_store(directory, fingerprint, cleaned, tokenizer, prefix, sides, workers, report_progress)
        shutil.rmtree(directory / "parts", ignore_errors=True)
    return Store.open(directory)


def find_tokenizer(
    root: Path, config: tokenizers.TokenizerConfig, cleaned: texts.Texts | Any, progress: Progress | None = None
) -> tokenizers.Tokenizer:
    """Return the tokenizer of a config: loaded from its path, or trained once per text and stored below `root`.

    `cleaned` is an iterable of documents with a `fingerprint` and their total `bytes` (0: train on all of them).
    """
    if config.path:
        return tokenizers.train(config, ())
    settings = dataclasses.asdict(config)
    # Hash only the setting of the size that is in use, so that tokenizers from before there were two keep their hash.
    for name in ("vocab" if config.vocab is None else "vocab_at_most", "add", "markers", "anew"):
        del settings[name]
    described = json.dumps([VERSION, cleaned.fingerprint, settings])
    directory = root / "tokenizers" / hashlib.sha256(described.encode()).hexdigest()[:32]
    if not tokenizers.is_saved(directory):
        if progress is not None:
            progress("training the tokenizer", 0, 0)
        without = dataclasses.replace(config, add=(), markers=())
        tokenizers.train(without, cleaned, cleaned.bytes, progress).save(directory)
    return tokenizers.extend(tokenizers.load(directory), config.added, config.markers)


def _write_store(
    directory: Path,
    fingerprint: str,
    cleaned: texts.Texts,
    tokenizer: tokenizers.Tokenizer,
    prefix: tuple[int, ...],
    sides: tuple[str, str],
    count: int,
    progress: Progress,
) -> None:
    tokenizer.save(directory / "tokenizer")
    parts = directory / "parts"
    parts.mkdir(exist_ok=True)
    missing = [index for index in range(cleaned.units) if not (parts / f"{index:05d}.json").exists()]
    done = cleaned.units - len(missing)
    progress("tokenising", done, cleaned.units)
    for _ in workers.run(write_shard, (str(directory), str(cleaned.directory), prefix, sides), missing, count):
        done += 1
        progress("tokenising", done, cleaned.units)
    notes = [json.loads((parts / f"{index:05d}.json").read_bytes()) for index in range(cleaned.units)]
    offsets = np.cumsum([0, *(note["tokens"] for note in notes)]).astype(np.int64)
    for name in ("documents", "sentences"):
        _join(directory / f"{name}.npy", [parts / f"{index:05d}.{name}.npy" for index in range(len(notes))], offsets)
    starts = [np.arange(0, note["tokens"], RECORD_TOKENS) + at for note, at in zip(notes, offsets, strict=False)]
    atomic.write_array(directory / "records.npy", np.concatenate([*starts, offsets[-1:]]).astype(np.int64))
    _write_tfds_metadata(directory, [note["records"] for note in notes])
    shards = [_shard(index, len(notes)) for index in range(len(notes))]
    names = ["documents.npy", "sentences.npy", "records.npy", *shards]
    manifest = {
        "fingerprint": fingerprint,
        "tokens": int(offsets[-1]),
        "documents": cleaned.documents,
        "bytes": cleaned.bytes,
        # Notes of a preparation that an earlier release began lack the count.
        "unknown": sum(note.get("unknown", 0) for note in notes),
        "dtype": _dtype(tokenizer).str,
        "report": cleaned.report,
        "files": {name: (directory / name).stat().st_size for name in names},
    }
    atomic.write_json(directory / "store.json", manifest)


def write_shard(directory: str, cleaned: str, prefix: tuple[int, ...], sides: tuple[str, str], index: int) -> int:
    """Tokenise one unit of text, which is in a template with these `sides`, and write its shard, in a worker."""
    from array_record.python.array_record_module import ArrayRecordWriter

    tokenizer = tokenizers.within(_load_tokenizer(directory), sides)
    corpus = _open_texts(cleaned)
    tokens, document_starts, sentence_starts = _encode(tokenizer, prefix, corpus.unit(index))
    unknown = 0 if tokenizer.unk is None else int(np.count_nonzero(tokens == tokenizer.unk))
    tokens = tokens.astype(_dtype(tokenizer))
    parts = Path(directory) / "parts"
    with atomic.replace_atomically(Path(directory) / _shard(index, corpus.units)) as partial:
        # The default, zstd:3, takes three times as long and makes tokens no smaller.
        writer = ArrayRecordWriter(str(partial), "group_size:1,zstd:1")
        for start in range(0, len(tokens), RECORD_TOKENS):
            writer.write(_example(tokens[start : start + RECORD_TOKENS].tobytes()))
        writer.close()
    atomic.write_array(parts / f"{index:05d}.documents.npy", document_starts)
    atomic.write_array(parts / f"{index:05d}.sentences.npy", sentence_starts)
    note = {"tokens": len(tokens), "records": -(-len(tokens) // RECORD_TOKENS), "unknown": unknown}
    atomic.write_json(parts / f"{index:05d}.json", note)
    return index


def _encode(
    tokenizer: tokenizers.Tokenizer, prefix: tuple[int, ...], documents: list[str]
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return tokens of documents, each with prefix and [EOS], and the positions of document and sentence starts."""
    if not documents:
        return np.zeros(0, np.int32), np.zeros(0, np.int64), np.zeros(0, np.int64)
    # One call for all documents: a few calls for each short document would take longer than its encoding.
    encoded = tokenizer.encode_with_starts(documents)
    token_starts = cast(np.ndarray, encoded.starts)
    stops = np.cumsum(encoded.counts)
    before, added = len(prefix), len(prefix) + 1
    ends = stops + before + added * np.arange(len(documents))
    document_starts = np.concatenate([[0], ends[:-1] + 1])
    tokens = np.empty(len(encoded.tokens) + added * len(documents), np.int32)
    is_text = np.ones(len(tokens), bool)
    is_text[ends] = False
    tokens[ends] = tokenizer.eos
    for index, token in enumerate(prefix):
        is_text[document_starts + index] = False
        tokens[document_starts + index] = token
    tokens[is_text] = encoded.tokens
    # A sentence starts with the first token at or after its first byte, perhaps the first token of the next document,
    # which starts a sentence anyway.
    first = np.searchsorted(token_starts, sentences.starts("\n".join(documents).encode()).astype(token_starts.dtype))
    first = first[first < len(encoded.tokens)]
    is_start = np.zeros(len(tokens), bool)
    is_start[first + before + added * np.searchsorted(stops, first, "right")] = True
    is_start[document_starts] = True
    return tokens, document_starts.astype(np.int64), np.flatnonzero(is_start).astype(np.int64)


@functools.lru_cache(maxsize=1)
def _load_tokenizer(directory: str) -> tokenizers.Tokenizer:
    return tokenizers.load(Path(directory) / "tokenizer")


@functools.lru_cache(maxsize=1)
def _open_texts(directory: str) -> texts.Texts:
    return texts.open_texts(directory)


def _dtype(tokenizer: tokenizers.Tokenizer) -> np.dtype:
    return np.dtype("<u2" if tokenizer.vocab_size <= 1 << 16 else "<u4")


def _shard(index: int, count: int) -> str:
    return f"{DATASET}-train.array_record-{index:05d}-of-{count:05d}"


def _join(path: Path, parts: list[Path], offsets: Int[np.ndarray, " shards_and_one"]) -> None:
    """Join the positions of all shards into one array, shifted by the offset of each shard."""
    lengths = [len(np.load(part, mmap_mode="r")) for part in parts]
    with atomic.replace_atomically(path) as partial:
        joined = np.lib.format.open_memmap(partial, mode="w+", dtype=np.int64, shape=(sum(lengths),))
        start = 0
        for part, length, offset in zip(parts, lengths, offsets, strict=False):
            joined[start : start + length] = np.load(part) + offset
            start += length
        joined.flush()
        del joined


def _write_tfds_metadata(directory: Path, records: list[int]) -> None:
    """Describe the shards, in order, as the split `train` of a TFDS dataset."""
    import tensorflow_datasets as tfds
    from tensorflow_datasets.core import naming

    template = naming.ShardedFileTemplate(
        dataset_name=DATASET,
        split="train",
        filetype_suffix="array_record",
        data_dir=directory,  # type: ignore[arg-type]
    )
    split = tfds.core.SplitInfo(name="train", shard_lengths=records, num_bytes=0, filename_template=template)
    features = tfds.features.FeaturesDict({"tokens": tfds.features.Tensor(shape=(), dtype=np.object_)})
    tfds.folder_dataset.write_metadata(
        data_dir=directory, features=features, split_infos=[split], filename_template=template, check_data=False
    )


def _example(payload: bytes) -> bytes:
    """Serialise a tf.train.Example whose only feature, `tokens`, is the payload, without importing TFDS in workers."""
    return _field(_field(_field(b"tokens") + _field(_field(_field(payload)), number=2)))


def _field(payload: bytes, number: int = 1) -> bytes:
    """Serialise a length-delimited protocol buffer field."""
    size, length = bytearray(), len(payload)
    while length > 127:
        size.append(length & 127 | 128)
        length >>= 7
    size.append(length)
    return bytes([number << 3 | 2]) + bytes(size) + payload


class Store:
    """A finished token store.

    Attributes:
      directory: the folder of the files.
      fingerprint: hash of the text, its cleaning and the tokenizer.
      tokens, documents: number of tokens, including the [EOS] of every document, and of documents.
      bytes: UTF-8 bytes of the cleaned text.
      unknown: number of [UNK] tokens; 0 in stores of earlier releases, which did not count them.
      dtype: of the tokens on disk.
      report: counts of documents that cleaning read, kept, dropped and changed.
      document_starts: token positions, int64 [documents].
      sentence_starts: token positions, int64 [sentences], including the starts of documents.
    """

    def __init__(self, directory: Path, manifest: dict[str, Any], cache_bytes: int = CACHE_BYTES):
        self.directory = directory
        self.fingerprint: str = manifest["fingerprint"]
        self.tokens: int = manifest["tokens"]
        self.documents: int = manifest["documents"]
        self.bytes: int = manifest["bytes"]
        self.unknown: int = manifest.get("unknown", 0)
        self.dtype = np.dtype(manifest["dtype"])
        self.report: reports.Report = manifest["report"]
        self.document_starts = np.load(directory / "documents.npy", mmap_mode="r")
        self.sentence_starts = np.load(directory / "sentences.npy", mmap_mode="r")
        self._record_starts = np.load(directory / "records.npy")
        self._cache: collections.OrderedDict[int, np.ndarray] = collections.OrderedDict()
        self._capacity = max(1, cache_bytes // (4 * RECORD_TOKENS))
        self._lock = threading.Lock()

    @classmethod
    def open(cls, directory: Path | str, cache_bytes: int = CACHE_BYTES) -> Store:
        """Open a store that `prepare` finished.

        Raises:
          InputError: there is no finished store, or a file is missing or has the wrong size.
        """
        directory = Path(directory)
        try:
            manifest = json.loads((directory / "store.json").read_bytes())
        except (OSError, ValueError) as error:
            raise InputError(f"{directory} holds no finished token store; prepare the data again") from error
        for name, size in manifest["files"].items():
            path = directory / name
            if not path.exists() or path.stat().st_size != size:
                raise InputError(f"{path} is damaged or missing; delete {directory} and prepare the data again")
        return cls(directory, manifest, cache_bytes)

    @functools.cached_property
    def tokenizer(self) -> tokenizers.Tokenizer:
        """The tokenizer of the store."""
        return tokenizers.load(self.directory / "tokenizer")

    def warnings(self) -> list[str]:
        """Return at most one line, which warns that most tokens are unknown or that they are few for the text."""
        tokens = self.tokens - self.documents
        return coverage.warnings(self.tokenizer, tokens=tokens, unknown=self.unknown, size_bytes=self.bytes)

    def document_stops(self) -> Int[np.ndarray, " documents"]:
        """Return the position after each document's [EOS]."""
        return np.append(self.document_starts[1:], self.tokens)

    def read(self, start: int, stop: int) -> Int[np.ndarray, " tokens"]:
        """Read the tokens start..stop-1 as int32; thread-safe."""
        if not 0 <= start <= stop <= self.tokens:
            raise ValueError(f"tokens {start}..{stop} do not lie in 0..{self.tokens}")
        result = np.empty(stop - start, np.int32)
        position, record = start, int(self._record_starts.searchsorted(start, "right")) - 1
        while position < stop:
            tokens = self._record(record)
            offset = position - int(self._record_starts[record])
            count = min(stop - position, len(tokens) - offset)
            result[position - start : position - start + count] = tokens[offset : offset + count]
            position, record = position + count, record + 1
        return result

    @functools.cached_property
    def _records(self) -> Any:
        import tensorflow_datasets as tfds

        builder = tfds.builder_from_directory(str(self.directory))
        return builder.as_data_source(split="train").data_source  # type: ignore[call-arg]

    def _record(self, index: int) -> Int[np.ndarray, " tokens"]:
        with self._lock:
            if (cached := self._cache.get(index)) is not None:
                self._cache.move_to_end(index)
                return cached
            source = self._records
        # The tokens end the serialised example; TFDS's parser takes three times as long as reading it.
        start, stop = [*self._record_starts[index : index + 2].tolist(), self.tokens][:2]
        size = (stop - start) * self.dtype.itemsize
        tokens = np.frombuffer(source[index][-size:], self.dtype).astype(np.int32)
        with self._lock:
            self._cache[index] = tokens
            while len(self._cache) > self._capacity:
                self._cache.popitem(last=False)
        return tokens
