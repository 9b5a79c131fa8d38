"""Exports of runs that were trained here: weights, special ids, a tokenizer."""

import json

import pytest
import workdirs
from commands import lm_jax

from lm_jax.data import tokenizers
from lm_jax.data.tokenizers import TokenizerConfig, interchange
from lm_jax.verbs import exporting


@pytest.fixture(scope="module")
def tokenizer(repository):
    return tokenizers.load(repository / "tests" / "golden" / "tokenizer")


@pytest.fixture(scope="module")
def workdir(tokenizer, tmp_path_factory):
    """A run of a GPT-2 with one layer."""
    workdir = tmp_path_factory.mktemp("run")
    workdirs.draw(workdir, "gpt2", tokenizer, stack__depth=1, embed__max_length=32)
    return workdir


def test_a_run_is_written_with_its_special_ids_and_a_tokenizer_that_others_read(workdir, tokenizer, tmp_path, capsys):
    output = tmp_path / "exported"
    assert lm_jax("export", f"--workdir={workdir}", f"--output={output}") == 0
    report = capsys.readouterr().out
    count = len(exporting.TEXTS)
    assert f"the same ids for {count} of {count} texts" in report and "overlap by 100.0%" in report

    config = json.loads((output / "config.json").read_text())
    # An empty prompt starts from the EOS of the document before it.
    expected = {"bos": tokenizer.eos, "eos": tokenizer.eos, "pad": tokenizer.pad, "mask": tokenizer.mask}
    assert {role: config[f"{role}_token_id"] for role in expected} == expected
    generation = json.loads((output / "generation_config.json").read_text())
    assert generation["bos_token_id"] == generation["eos_token_id"] == tokenizer.eos and generation["max_length"] == 32
    assert tokenizer.eos not in generation["suppress_tokens"] and tokenizer.mask in generation["suppress_tokens"]

    assert not tokenizers.is_saved(output)
    exported = tokenizers.load(output)
    for text in exporting.TEXTS:
        assert exported.encode(text).tolist() == tokenizer.encode(text).tolist(), text


def test_a_tokenizer_that_gives_other_ids_is_refused(workdir, tokenizer, tmp_path, capsys, monkeypatch):
    other = tokenizers.train(TokenizerConfig(kind="bytes"), [])
    monkeypatch.setattr(exporting, "_load_tokenizer", lambda output: other)
    output = tmp_path / "exported"
    assert lm_jax("export", f"--workdir={workdir}", f"--output={output}") == 2
    report = capsys.readouterr().err
    assert report.count("\n") == 1 and "other ids" in report and "was not written" in report
    assert not output.exists()


def test_texts_with_other_ids_are_reported(tokenizer, monkeypatch):
    other = tokenizers.train(TokenizerConfig(kind="bytes"), [])
    assert exporting.differing(tokenizer, tokenizer) == []
    assert exporting.TEXT in exporting.differing(tokenizer, other)
    assert "" not in exporting.differing(tokenizer, other)


def test_a_fork_with_another_tokenizer_does_not_export_the_imported_one(tokenizer, tmp_path):
    for name, content in interchange.files(tokenizer, "decoder").items():
        (tmp_path / name).write_bytes(content)
    other = tokenizers.train(TokenizerConfig(kind="bytes"), [])
    assert exporting._keeps_imported_tokenizer(tmp_path, tokenizers.load(tmp_path))
    assert not exporting._keeps_imported_tokenizer(tmp_path, other)
    assert not exporting._keeps_imported_tokenizer(tmp_path / "nothing", other)


def test_a_roberta_keeps_the_padding_token_of_its_tokenizer(tokenizer, tmp_path, capsys):
    workdirs.draw(tmp_path / "run", "roberta", tokenizer, stack__depth=1, embed__max_length=32)
    assert lm_jax("export", f"--workdir={tmp_path / 'run'}", f"--output={tmp_path / 'exported'}") == 0
    config = json.loads((tmp_path / "exported" / "config.json").read_text())
    assert config["pad_token_id"] == tokenizer.pad == 0
    assert config["max_position_embeddings"] == 32 + 1
    # RoBERTa has one token type for both texts of a pair.
    inputs = json.loads((tmp_path / "exported" / "tokenizer_config.json").read_text())["model_input_names"]
    assert "token_type_ids" not in inputs


def test_hidden_states_are_compared_if_the_class_has_no_lm_head(tokenizer, tmp_path, capsys):
    workdirs.draw(tmp_path / "run", "electra", tokenizer, stack__depth=1)
    assert lm_jax("export", f"--workdir={tmp_path / 'run'}", f"--output={tmp_path / 'exported'}") == 0
    report = capsys.readouterr().out
    assert "hidden states differ by at most" in report and "ElectraModel has no LM head" in report
