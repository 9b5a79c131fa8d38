"""`lm-jax list`: presets with papers and parameters, without tracing a model."""

import json

from tests.commands import lm_jax


def test_presets_are_listed_with_papers_and_parameters(capsys):
    assert lm_jax("list") == 0
    lines = [line.strip() for line in capsys.readouterr().out.splitlines()]
    at = lines.index("gpt2              Radford et al. 2019")
    assert lines[at + 1] == "tiny, mini 30M, small 124M, medium 355M, large 774M, xl 1.56B"


def test_json_has_exact_parameter_counts_and_vocabularies(capsys):
    assert lm_jax("list", "--json") == 0
    presets = json.loads(capsys.readouterr().out)["presets"]
    assert presets["pythia"]["paper"] == "arXiv:2304.01373"
    assert presets["pythia"]["sizes"]["12b"] == {"parameters": 11_846_072_320, "vocabulary": 50688}
    assert presets["bert"]["sizes"]["tiny"] == {"parameters": None, "vocabulary": 30522}


def test_listing_traces_no_model(monkeypatch, capsys):
    def refuse(*args, **options):
        raise AssertionError("a model is traced")

    monkeypatch.setattr("jax.eval_shape", refuse)
    assert lm_jax("list") == 0
