"""`inspect` of presets: parameters, operations and memory, without allocating arrays."""

import json

import pytest

from lm_jax.main import VERBS
from lm_jax.verbs.architecture import describe
from lm_jax.verbs.completion import answer
from tests.commands import lm_jax


def test_inspect_prints_parameters_operations_memory_and_cache_of_a_preset(capsys):
    assert lm_jax("inspect", "llama:2-70b", "--json") == 0
    facts = json.loads(capsys.readouterr().out)
    parameters = 68_976_648_192
    assert facts["parameters"] == parameters and facts["vocabulary"] == 32000
    assert facts["training_bytes"] == 16 * parameters
    assert facts["inference_bytes"] == {"float32": 4 * parameters, "bfloat16": 2 * parameters, "int8": parameters}
    # Keys and values of 8 heads of 128 in each of 80 layers, of two bytes.
    assert facts["cache_bytes"] == {"token": 2 * 8 * 128 * 80 * 2}
    # Chowdhery et al. 2022, appendix B: 6 N + 12 L H Q T, without the embedding table and the norms, which multiply no
    # matrices.
    weights = parameters - 32000 * 8192 - (2 * 80 + 1) * 8192
    assert facts["flops"]["length"] == 2048
    assert facts["flops"]["training"] == 6 * weights + 12 * 80 * 64 * 128 * 2048
    assert facts["flops"]["forward"] == pytest.approx(facts["flops"]["training"] / 3)
    assert {"path": "token/embedding", "shape": [32000, 8192], "axes": ["vocab", "embed"]} in facts["tensors"]
    assert facts["config"]["stack"]["depth"] == 80 and facts["config"]["embed"]["vocab"] is None


def test_a_preset_without_a_size_has_its_default_size(capsys):
    assert lm_jax("inspect", "bert") == 0
    output = capsys.readouterr().out
    assert "stack/layers/attention/query/kernel" in output and "(12, 768, 12, 64)" in output
    assert "bert:base, encoder (arXiv:1810.04805)" in output and "110,106,428" in output
    assert "1.76 GB" in output and "440 MB in float32, 220 MB in bfloat16, 110 MB in int8" in output
    # An encoder has no KV cache.
    assert "\ncache" not in output


def test_source_tokens_of_an_encoder_decoder_are_cached_too():
    # 8 layers of 6 heads of 64.
    per_token = 2 * 8 * 6 * 64 * 2
    assert describe("t5:small")["cache_bytes"] == {"token": per_token, "source_token": per_token}


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
def test_wrong_arguments_are_refused_in_one_line(words, expected, capsys):
    assert lm_jax("inspect", *words) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert expected in line


def test_a_directory_with_the_name_of_a_preset_is_a_run(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "bert").mkdir()
    assert lm_jax("inspect", "bert") == 2
    assert "metrics.jsonl" in capsys.readouterr().err


def test_presets_and_their_sizes_are_completed(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "gemma_run").mkdir()
    assert answer("lm-jax inspect gem", list(VERBS)) == ["gemma:", "gemma2:", "gemma3:", "gemma_run"]
    assert answer("lm-jax inspect gemma:", list(VERBS)) == ["gemma:tiny", "gemma:2b", "gemma:7b"]
