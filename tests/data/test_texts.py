"""Cleaned text on disk: its fingerprint, its report, and the progress of its preparation."""

import json

import pytest

from lm_jax.core.config import InputError
from lm_jax.data import texts
from lm_jax.data.clean.chain import CleanConfig
from lm_jax.data.sources import SourceConfig


def source(path, content, **settings):
    path.write_bytes(content)
    return SourceConfig(path=str(path), **settings)


# Fingerprints of version 1, to which stores and checkpoints refer.
@pytest.mark.parametrize(
    ("content", "settings", "former"),
    [
        (b"plain \r\ntext\n", {}, "a3674a576884da8c72b23f5d751bc961"),
        (b"page 1\x0cpage 2\n", {"steps": ("whitespace",)}, "6d86d654614242e55327e236a3d422a7"),
    ],
)
def test_text_without_control_characters_keeps_the_fingerprint_of_version_1(tmp_path, content, settings, former):
    cleaned = texts.prepare(tmp_path, source(tmp_path / "t.txt", content), CleanConfig(**settings))

    assert cleaned.fingerprint == former
    # The directory differs between versions, so text of version 1 is not reused.
    assert cleaned.directory.name != former


def test_text_with_control_characters_has_a_new_fingerprint(tmp_path):
    cleaned = texts.prepare(tmp_path, source(tmp_path / "t.txt", b"page 1\x0cpage 2\n"), CleanConfig())

    assert list(cleaned) == ["page 1 page 2"]
    assert cleaned.fingerprint == cleaned.directory.name
    assert cleaned.fingerprint != "7c27a5bdff322073fc6a6d87e4cf2614"
    again = texts.prepare(tmp_path, source(tmp_path / "t.txt", b"page 1\x0cpage 2\n"), CleanConfig())
    assert (again.directory, again.fingerprint) == (cleaned.directory, cleaned.fingerprint)


def test_the_report_of_a_resumed_preparation_counts_all_bad_rows(tmp_path, monkeypatch):
    monkeypatch.setattr(texts, "UNIT_BYTES", (40, 40))
    rows = [json.dumps({"text": f"document {number}" if number % 3 else None}) for number in range(30)]
    data = source(tmp_path / "r.jsonl", "\n".join(rows).encode(), bad_rows="skip")

    class Killed(Exception):
        pass

    def kill(stage, done, total):
        if stage == "cleaning" and done == 3:
            raise Killed

    with pytest.raises(Killed):
        texts.prepare(tmp_path / "root", data, CleanConfig(), progress=kill)
    resumed = texts.prepare(tmp_path / "root", data, CleanConfig())
    uninterrupted = texts.prepare(tmp_path / "uninterrupted", data, CleanConfig())

    assert resumed.units > 3
    assert resumed.report == uninterrupted.report
    assert resumed.report["dropped"] == {"bad row ('text' is null)": {"documents": 10, "bytes": 150}}
    assert resumed.report["read"]["documents"] == 30
    assert resumed.documents == 20
    assert json.loads((resumed.directory / "texts.json").read_bytes())["report"] == uninterrupted.report


def test_a_corpus_of_bad_rows_is_refused_with_their_reasons(tmp_path):
    data = source(tmp_path / "r.jsonl", b'{"body": "a"}\n{"body": "b"}\n', bad_rows="skip")

    message = r"nothing is left .*2 documents read, dropped: 2 bad row \(no field 'text'\)"
    with pytest.raises(InputError, match=message):
        texts.prepare(tmp_path / "root", data, CleanConfig())


def test_the_format_is_reported_once_and_a_field_of_plain_text_is_refused(tmp_path):
    data, stages = source(tmp_path / "r.json", b'[{"text": "a"}]'), []

    for _ in range(2):
        texts.prepare(tmp_path / "root", data, CleanConfig(), progress=lambda *arguments: stages.append(arguments))

    assert stages.count(("reading r.json: a JSON array", 0, 0)) == 1
    texts.prepare(tmp_path / "root", source(tmp_path / "t.txt", b"plain"), CleanConfig())
    with pytest.raises(InputError, match="config.data.field is 'body', but .*t.txt is plain text"):
        texts.prepare(tmp_path / "root", source(tmp_path / "t.txt", b"plain", field="body"), CleanConfig())
