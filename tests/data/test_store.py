import hashlib
import json
import os
import random
import signal
import subprocess
import sys
import textwrap
import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from lm_jax.core.config import InputError
from lm_jax.data import store, texts, tokenizers
from lm_jax.data.clean.chain import CleanConfig
from lm_jax.data.sources import SourceConfig
from lm_jax.data.store import Store
from lm_jax.data.tokenizers import TokenizerConfig

BYTES = TokenizerConfig(kind="bytes")


def small_units(monkeypatch, size):
    monkeypatch.setattr(texts, "UNIT_BYTES", (size, size))


def tree(directory):
    """Returns the contents of all files of a store but the lock, by name."""
    paths = sorted(path for path in directory.rglob("*") if path.is_file() and path.name != "lock")
    return {str(path.relative_to(directory)): path.read_bytes() for path in paths}


def write(path, documents):
    path.write_text("".join(json.dumps({"text": document}) + "\n" for document in documents))
    return SourceConfig(path=str(path))


def test_the_store_holds_every_document_followed_by_eos(golden, golden_store, golden_tokenizer):
    documents = [part.strip("\n") for part in (golden / "text.txt").read_text().split("\n\n")]

    bounds = zip(golden_store.document_starts.tolist(), golden_store.document_stops().tolist(), strict=True)
    stored = [golden_store.read(start, stop) for start, stop in bounds]

    assert golden_store.documents == len(documents)
    assert [golden_tokenizer.decode(ids) for ids in stored] == documents
    assert all(ids[-1] == golden_tokenizer.eos for ids in stored)
    assert golden_store.tokens == sum(map(len, stored))
    assert golden_store.bytes == sum(len(document.encode()) for document in documents)
    assert golden_store.dtype == np.dtype("<u2")
    assert golden_store.tokenizer.fingerprint == golden_tokenizer.fingerprint


def test_sentences_start_at_their_first_token(golden_store, golden_tokenizer):
    starts = golden_store.sentence_starts
    first = golden_tokenizer.decode(golden_store.read(int(starts[0]), int(starts[1])))
    second = golden_tokenizer.decode(golden_store.read(int(starts[1]), int(starts[2])))

    assert first == "The lighthouse keeper polished a sack of barley although the wind was rising."
    assert second.startswith(" When the tide was low,") and second.endswith(".")
    assert np.isin(golden_store.document_starts, starts).all()
    assert (np.diff(starts) > 0).all()


def test_any_range_of_tokens_can_be_read(golden_store):
    full = golden_store.read(0, golden_store.tokens)

    assert len(full) > 2 * store.RECORD_TOKENS
    for start, stop in [(0, 0), (0, 1), (4095, 4097), (4096, 8192), (100, 20_000), (len(full) - 1, len(full))]:
        assert np.array_equal(golden_store.read(start, stop), full[start:stop])
    with pytest.raises(ValueError, match="do not lie in"):
        golden_store.read(0, golden_store.tokens + 1)


def test_threads_read_a_store_whose_cache_is_too_small(golden_store):
    full = golden_store.read(0, golden_store.tokens)
    small_cache = Store.open(golden_store.directory, cache_bytes=1)
    starts = np.random.default_rng(0).integers(0, len(full) - 300, 400).tolist()

    with ThreadPoolExecutor(8) as pool:
        rows = list(pool.map(lambda start: small_cache.read(start, start + 300), starts))

    assert all(np.array_equal(row, full[start : start + 300]) for row, start in zip(rows, starts, strict=True))


def test_the_store_is_a_tfds_dataset_in_order(golden_store):
    import tensorflow_datasets as tfds

    records = tfds.builder_from_directory(str(golden_store.directory)).as_data_source(split="train")

    tokens = np.concatenate([np.frombuffer(records[i]["tokens"], golden_store.dtype) for i in range(len(records))])
    assert np.array_equal(tokens, golden_store.read(0, golden_store.tokens))


def test_the_store_does_not_depend_on_the_number_of_workers(tmp_path, monkeypatch, golden):
    small_units(monkeypatch, 6_000)
    source = SourceConfig(path=str(golden / "text.txt"), document="paragraph")

    one, two = (
        store.prepare(tmp_path / str(count), source, CleanConfig(), TokenizerConfig(vocab=512), workers=count)
        for count in (1, 2)
    )

    assert len(json.loads((one.directory / "dataset_info.json").read_text())["splits"][0]["shardLengths"]) > 5
    assert tree(tmp_path / "1") == tree(tmp_path / "2")
    assert two.fingerprint == one.fingerprint


KILLED = """
    import os, signal, sys
    sys.path.insert(0, {repository!r})
    from lm_jax.data import store, texts
    from lm_jax.data.clean.chain import CleanConfig
    from lm_jax.data.sources import SourceConfig
    from lm_jax.data.tokenizers import TokenizerConfig
    texts.UNIT_BYTES = (3000, 3000)
    def progress(stage, done, whole):
        if stage == {stage!r} and done >= 3:
            os.kill(os.getpid(), signal.SIGKILL)
    source = SourceConfig(path={path!r}, document="paragraph")
    store.prepare({root!r}, source, CleanConfig(), TokenizerConfig(vocab=512), workers={workers}, progress=progress)
"""


@pytest.mark.parametrize("workers", [1, 2])
def test_killed_preparation_resumes_with_the_same_result(tmp_path, monkeypatch, repository, golden, workers):
    path = str(golden / "text.txt")
    for stage in ("cleaning", "tokenising"):
        script = KILLED.format(
            repository=str(repository), stage=stage, path=path, root=str(tmp_path / "killed"), workers=workers
        )
        # A script from standard input has no main module that workers could import.
        process = subprocess.run(
            [sys.executable, "-"], input=textwrap.dedent(script), text=True, capture_output=True, timeout=60
        )
        assert process.returncode == -signal.SIGKILL, process.stderr
    assert list((tmp_path / "killed" / "tokens").glob("*/parts/*.json"))
    assert not list((tmp_path / "killed" / "tokens").glob("*/store.json"))
    small_units(monkeypatch, 3000)
    source = SourceConfig(path=path, document="paragraph")
    stages = []
    progress = lambda *arguments: stages.append(arguments)

    for root in ("killed", "undisturbed"):
        store.prepare(tmp_path / root, source, CleanConfig(), TokenizerConfig(vocab=512), progress=progress)

    assert tree(tmp_path / "killed") == tree(tmp_path / "undisturbed")
    # Finished units are not tokenised again.
    tokenised = [done for stage, done, _ in stages if stage == "tokenising"]
    assert tokenised[0] >= 3
    assert len([stage for stage, *_ in stages if stage == "training the tokenizer"]) == 1


def test_a_finished_store_is_reused(tmp_path, golden):
    source = SourceConfig(path=str(golden / "text.txt"))
    first = store.prepare(tmp_path, source, CleanConfig(), BYTES)
    before = {path: os.stat(path).st_mtime_ns for path in tmp_path.rglob("*") if path.name != "lock"}

    second = store.prepare(tmp_path, source, CleanConfig(), BYTES)

    assert second.fingerprint == first.fingerprint
    assert {path: os.stat(path).st_mtime_ns for path in tmp_path.rglob("*") if path.name != "lock"} == before


def test_another_text_cleaning_or_tokenizer_gives_another_store(tmp_path):
    source = write(tmp_path / "rows.jsonl", ["one two", "three\r\nfour"])
    settings = [(CleanConfig(), BYTES), (CleanConfig(steps=()), BYTES)]
    settings += [(CleanConfig(), TokenizerConfig(kind="bytes", sentinels=1))]
    fingerprints = {store.prepare(tmp_path, source, *setting).fingerprint for setting in settings}

    write(tmp_path / "rows.jsonl", ["one two", "three\r\nfive"])
    fingerprints.add(store.prepare(tmp_path, source, *settings[0]).fingerprint)

    assert len(fingerprints) == 4


def test_concurrent_preparation_gives_one_store(tmp_path, golden):
    source = SourceConfig(path=str(golden / "text.txt"), document="paragraph")
    tokens, stages = [], []

    def prepare():
        progress = lambda stage, *_: stages.append(stage)
        prepared = store.prepare(tmp_path, source, CleanConfig(), BYTES, progress=progress)
        tokens.append(prepared.read(0, prepared.tokens))

    threads = [threading.Thread(target=prepare) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert len(tokens) == 3
    assert np.array_equal(tokens[0], tokens[1]) and np.array_equal(tokens[0], tokens[2])
    assert stages.count("cleaning") == 1


def test_the_first_of_equal_documents_stays_with_any_number_of_workers(tmp_path, monkeypatch):
    small_units(monkeypatch, 20)
    documents = ["alpha beta gamma", "delta", "alpha beta gamma  ", "epsilon zeta eta theta", "delta", "DELTA", " "]
    source = write(tmp_path / "rows.jsonl", documents)
    unique = ["alpha beta gamma", "delta", "epsilon zeta eta theta", "DELTA"]

    for workers in (1, 2):
        cleaned = texts.prepare(tmp_path / str(workers), source, CleanConfig(), workers=workers)
        assert list(cleaned) == unique
        assert cleaned.report["read"] == {"documents": 7, "bytes": sum(map(len, documents))}
        assert cleaned.report["dropped"]["duplicate"] == {"documents": 2, "bytes": 21}
        assert cleaned.report["dropped"]["empty"] == {"documents": 1, "bytes": 1}
        assert cleaned.report["kept"] == {"documents": 4, "bytes": sum(map(len, unique))}
        assert cleaned.documents == 4
    all_documents = texts.prepare(tmp_path, source, CleanConfig(deduplicate=False))
    assert all_documents.documents == 6


@pytest.mark.parametrize("content", [b"", b"\n\n \n", b"\x00\x01"])
def test_an_empty_corpus_is_refused(tmp_path, content):
    (tmp_path / "text.txt").write_bytes(content)

    with pytest.raises(InputError, match="config.data.path: nothing is left") as caught:
        store.prepare(tmp_path / "root", SourceConfig(path=str(tmp_path / "text.txt")), CleanConfig(), BYTES)

    assert "\n" not in str(caught.value)


def test_the_error_of_a_damaged_source_reaches_the_caller(tmp_path, monkeypatch):
    small_units(monkeypatch, 10)
    path = tmp_path / "rows.jsonl"
    path.write_text('{"text": "some words here"}\n' * 3 + '{"text": \n')

    for workers in (1, 2):
        with pytest.raises(InputError, match="rows.jsonl line 4 is not JSON"):
            store.prepare(tmp_path / "root", SourceConfig(path=str(path)), CleanConfig(), BYTES, workers=workers)


def test_tokenizers_from_before_the_setting_vocab_at_most_are_reused(tmp_path):
    cleaned = texts.prepare(tmp_path, write(tmp_path / "rows.jsonl", ["one two", "three"]), CleanConfig())
    store.find_tokenizer(tmp_path, TokenizerConfig(kind="bytes", vocab=512), cleaned)
    settings = dict(kind="bytes", vocab=512, path="", sentinels=0, character_coverage=0.9995, split_digits=False)
    settings |= dict(lowercase=True, sample_bytes=10_000_000)
    described = json.dumps([store.VERSION, cleaned.fingerprint, settings])

    assert (tmp_path / "tokenizers" / hashlib.sha256(described.encode()).hexdigest()[:32]).exists()
    for config in (TokenizerConfig(kind="bytes"), TokenizerConfig(kind="bytes", vocab_at_most=9)):
        store.find_tokenizer(tmp_path, config, cleaned)
    assert len(list((tmp_path / "tokenizers").iterdir())) == 3


def test_a_store_of_few_or_unknown_tokens_warns_with_a_setting(tmp_path):
    letters = "".join(random.Random(0).choices("ACGT", k=3000))
    sources = {name: write(tmp_path / f"{name}.jsonl", [text]) for name, text in
               (("letters", letters), ("words", "some words " * 99), ("blank", "a" + " \n" * 999 + "b"))}  # fmt: skip
    warnings = {
        (name, kind): store.prepare(tmp_path, source, CleanConfig(steps=()), TokenizerConfig(kind=kind)).warnings()
        for name, source in sources.items()
        for kind in ("wordpiece", "bytes", "unigram")
    }

    (unknown,) = warnings.pop(("letters", "wordpiece"))
    assert "1 of 1 tokens of the text are unknown" in unknown and "config.data.tokenizer.kind=unigram" in unknown
    (few,) = warnings.pop(("blank", "wordpiece"))
    assert "only 2 tokens" in few and "\n" not in few
    assert not any(warnings.values())


def test_unknown_tokens_are_counted_and_stores_without_a_count_are_read(tmp_path):
    source = write(tmp_path / "rows.jsonl", ["abcab", "xyz"])
    prepared = store.prepare(tmp_path, source, CleanConfig(), TokenizerConfig(kind="characters", vocab=10))
    manifest = json.loads((prepared.directory / "store.json").read_text())

    # The vocabulary has three characters, one of them the line break, which is frequent.
    assert prepared.unknown == manifest.pop("unknown") == 4
    (warning,) = Store(prepared.directory, {**manifest, "unknown": 5}).warnings()
    assert "5 of 8 tokens of the text are unknown" in warning
    assert Store(prepared.directory, manifest).unknown == 0 and not Store(prepared.directory, manifest).warnings()


def test_a_damaged_store_is_refused(tmp_path, golden):
    source = SourceConfig(path=str(golden / "text.txt"))
    prepared = store.prepare(tmp_path, source, CleanConfig(), BYTES)
    shard = next(prepared.directory.glob("*.array_record*"))
    os.truncate(shard, 100)

    with pytest.raises(InputError, match="is damaged or missing; delete"):
        store.prepare(tmp_path, source, CleanConfig(), BYTES)
    with pytest.raises(InputError, match="no finished token store"):
        Store.open(tmp_path)


def test_large_vocabularies_are_stored_in_four_bytes():
    for sentinels, dtype in ((0, "<u2"), (1 << 16, "<u4")):
        assert store._dtype(tokenizers.train(TokenizerConfig(kind="bytes", sentinels=sentinels), [])) == np.dtype(dtype)


def test_the_root_is_configured_or_from_the_environment(monkeypatch, tmp_path):
    monkeypatch.setenv("LM_JAX_CACHE", str(tmp_path))
    assert store.default_root() == tmp_path
    assert str(store.default_root("/somewhere")) == "/somewhere"
    monkeypatch.delenv("LM_JAX_CACHE")
    assert store.default_root().parts[-2:] == (".cache", "lm_jax")


def test_real_texts_are_decoded_exactly(shared_data, tmp_path):
    path = shared_data / "zh_classical_modern" / "pairs_dev.tsv.xz"
    if not path.exists():
        pytest.skip(f"no {path.name} beside the repository")
    import lzma

    with lzma.open(path) as file:
        lines = file.read(400_000).splitlines()[:-1]
    (tmp_path / "pairs.txt").write_bytes(b"\n".join(lines))
    source = SourceConfig(path=str(tmp_path / "pairs.txt"))
    prepared = store.prepare(tmp_path, source, CleanConfig(steps=()), TokenizerConfig(vocab=4000))

    text = prepared.tokenizer.decode(prepared.read(0, prepared.tokens))

    assert text.encode() == b"\n".join(lines)


def test_no_worker_and_no_preparation_imports_jax(repository):
    script = "import sys; from lm_jax.data import config, pipeline, texts, store, workers; print('jax' in sys.modules)"

    printed = subprocess.run([sys.executable, "-c", script], cwd=repository, capture_output=True, text=True, check=True)

    assert printed.stdout.strip() == "False"
