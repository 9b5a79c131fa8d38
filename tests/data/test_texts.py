"""Cleaned text on disk: its name, what its report counts, and what its making says."""

import json

import pytest

from lm_jax.core.config import InputError
from lm_jax.data import texts
from lm_jax.data.clean.chain import CleanConfig
from lm_jax.data.sources import SourceConfig


def source(path, content, **settings):
    path.write_bytes(content)
    return SourceConfig(path=str(path), **settings)


# Of version 1, by which stores and checkpoints are known.
@pytest.mark.parametrize(
    ("content", "settings", "former"),
    [
        (b"plain \r\ntext\n", {}, "a3674a576884da8c72b23f5d751bc961"),
        (b"page 1\x0cpage 2\n", {"steps": ("whitespace",)}, "6d86d654614242e55327e236a3d422a7"),
    ],
)
def test_text_that_controls_leaves_keeps_the_fingerprint_of_version_1(tmp_path, content, settings, former):
    cleaned = texts.prepare(tmp_path, source(tmp_path / "t.txt", content), CleanConfig(**settings))

    assert cleaned.fingerprint == former
    # Where it lies says how it was made: text of version 1 is not taken for this.
    assert cleaned.directory.name != former


def test_text_that_controls_changes_has_a_fingerprint_of_its_own(tmp_path):
    cleaned = texts.prepare(tmp_path, source(tmp_path / "t.txt", b"page 1\x0cpage 2\n"), CleanConfig())

    assert list(cleaned) == ["page 1 page 2"]
    assert cleaned.fingerprint == cleaned.directory.name
    assert cleaned.fingerprint != "7c27a5bdff322073fc6a6d87e4cf2614"
    again = texts.prepare(tmp_path, source(tmp_path / "t.txt", b"page 1\x0cpage 2\n"), CleanConfig())
    assert (again.directory, again.fingerprint) == (cleaned.directory, cleaned.fingerprint)


def test_bad_rows_show_in_the_report_of_an_interrupted_and_resumed_preparation(tmp_path, monkeypatch):
    monkeypatch.setattr(texts, "UNIT_BYTES", (40, 40))
    rows = [json.dumps({"text": f"document {number}" if number % 3 else None}) for number in range(30)]
    data = source(tmp_path / "r.jsonl", "\n".join(rows).encode(), bad_rows="skip")

    class Killed(Exception):
        pass

    def kill(stage, done, whole):
        if stage == "cleaning" and done == 3:
            raise Killed

    with pytest.raises(Killed):
        texts.prepare(tmp_path / "root", data, CleanConfig(), progress=kill)
    resumed = texts.prepare(tmp_path / "root", data, CleanConfig())
    whole = texts.prepare(tmp_path / "whole", data, CleanConfig())

    assert resumed.units > 3
    assert resumed.report == whole.report
    assert resumed.report["dropped"] == {"bad row ('text' is null)": {"documents": 10, "bytes": 150}}
    assert resumed.report["read"]["documents"] == 30
    assert resumed.documents == 20
    assert json.loads((resumed.directory / "texts.json").read_bytes())["report"] == whole.report


def test_a_corpus_of_bad_rows_is_refused_with_their_reasons(tmp_path):
    data = source(tmp_path / "r.jsonl", b'{"body": "a"}\n{"body": "b"}\n', bad_rows="skip")

    with pytest.raises(
        InputError, match="nothing is left .*2 documents read, dropped: 2 bad row \\(no field 'text'\\)"
    ):
        texts.prepare(tmp_path / "root", data, CleanConfig())


def test_what_files_were_taken_for_is_told_once_and_settings_without_effect_always_refused(tmp_path):
    data, stages = source(tmp_path / "r.json", b'[{"text": "a"}]'), []

    for _ in range(2):
        texts.prepare(tmp_path / "root", data, CleanConfig(), progress=lambda *arguments: stages.append(arguments))

    assert stages.count(("reading r.json: a JSON array", 0, 0)) == 1
    texts.prepare(tmp_path / "root", source(tmp_path / "t.txt", b"plain"), CleanConfig())
    with pytest.raises(InputError, match="config.data.field is 'body', but .*t.txt is plain text"):
        texts.prepare(tmp_path / "root", source(tmp_path / "t.txt", b"plain", field="body"), CleanConfig())
