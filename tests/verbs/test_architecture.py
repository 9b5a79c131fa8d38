"""What an architecture costs, without an array of it."""

import json

import pytest

from lm_jax.main import VERBS
from lm_jax.verbs.architecture import describe
from lm_jax.verbs.completion import answer
from tests.commands import lm_jax


def test_a_preset_is_shown_with_its_parameters_operations_memory_and_cache(capsys):
    assert lm_jax("inspect", "llama:2-70b", "--json") == 0
    shown = json.loads(capsys.readouterr().out)
    parameters = 68_976_648_192
    assert shown["parameters"] == parameters and shown["vocabulary"] == 32000
    assert shown["training_bytes"] == 16 * parameters
    assert shown["inference_bytes"] == {"float32": 4 * parameters, "bfloat16": 2 * parameters, "int8": parameters}
    # Keys and values of 8 heads of 128 in each of 80 layers, of two bytes.
    assert shown["cache_bytes"] == {"token": 2 * 8 * 128 * 80 * 2}
    # Chowdhery et al. 2022, appendix B: 6 N + 12 L H Q T, of all weights but those of the token table, which is looked
    # up, and of the norms.
    weights = parameters - 32000 * 8192 - (2 * 80 + 1) * 8192
    assert shown["flops"]["length"] == 2048
    assert shown["flops"]["training"] == 6 * weights + 12 * 80 * 64 * 128 * 2048
    assert shown["flops"]["forward"] == pytest.approx(shown["flops"]["training"] / 3)
    assert {"path": "token/embedding", "shape": [32000, 8192], "axes": ["vocab", "embed"]} in shown["tensors"]
    assert shown["config"]["stack"]["depth"] == 80 and shown["config"]["embed"]["vocab"] is None


def test_a_preset_without_a_size_is_shown_in_its_usual_one(capsys):
    assert lm_jax("inspect", "bert") == 0
    shown = capsys.readouterr().out
    assert "stack/layers/attention/query/kernel" in shown and "(12, 768, 12, 64)" in shown
    assert "bert:base, encoder (arXiv:1810.04805)" in shown and "110,106,428" in shown
    assert "1.76 GB" in shown and "440 MB in float32, 220 MB in bfloat16, 110 MB in int8" in shown
    # An encoder has none.
    assert "\ncache" not in shown


def test_both_sides_of_an_encoder_decoder_leave_keys_and_values():
    # 8 layers of 6 heads of 64.
    kept = 2 * 8 * 6 * 64 * 2
    assert describe("t5:small")["cache_bytes"] == {"token": kept, "source_token": kept}


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["lama:7b"], "lama:7b is neither the directory of a run nor a preset; did you mean llama?"),
        (["llama:8b"], "the size of llama is '8b'; expected one of tiny, 7b"),
        (["bert:base", "gpt2:xl"], "inspect shows one preset, or runs"),
        (["bert:base", "--config=gpt:tiny"], "inspect shows a recipe or runs"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_what_is_not_there_is_refused_in_one_line(words, expected, capsys):
    assert lm_jax("inspect", *words) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert expected in line


def test_a_directory_is_a_run_though_it_has_the_name_of_a_preset(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "bert").mkdir()
    assert lm_jax("inspect", "bert") == 2
    assert "metrics.jsonl" in capsys.readouterr().err


def test_presets_and_their_sizes_are_completed(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "gemma_run").mkdir()
    assert answer("lm-jax inspect gem", list(VERBS)) == ["gemma:", "gemma2:", "gemma3:", "gemma_run"]
    assert answer("lm-jax inspect gemma:", list(VERBS)) == ["gemma:tiny", "gemma:2b", "gemma:7b"]
