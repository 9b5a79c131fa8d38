"""The screen that compares runs: what it shows, what it leaves out, and that it fits."""

import copy
import functools
import re

import pytest

from lm_jax import experiment, flags
from lm_jax.verbs import comparing
from lm_jax.verbs.comparing import LINES, WIDTH, Run


@functools.cache
def configuration(recipe):
    config, _ = flags.configure(flags.load_recipe(recipe), [])
    return experiment.as_json(experiment.parse(config))


def run(recipe, changes=None, *, steps=10, loss=3.0, values=None):
    """A run of a recipe with changed settings and invented results: a log line every ten steps, of ten seconds each."""
    config = copy.deepcopy(configuration(recipe))
    for key, value in (changes or {}).items():
        *sections, name = key.split(".")
        functools.reduce(dict.__getitem__, sections, config)[name] = value
    rates = [{"step": n, "train/tokens": 1000 * n, "train/tokens_per_second": 1000.0} for n in range(10, steps + 1, 10)]
    metrics = {f"val/{name}": value for name, value in {"loss": loss, "perplexity": 9.0, **(values or {})}.items()}
    return Run([*rates, {"step": steps, **metrics}], comparing.read_settings(config), "123,456")


def rows(lines):
    """The cells of the lines by their first word, or by their words before two spaces."""
    return {line.split("  ")[0]: line.split("  ", 1)[-1].split() for line in lines}


def settings(lines):
    """The lines about the configurations."""
    return lines[lines.index("settings that differ") + 1 :] if "settings that differ" in lines else []


def test_results_are_side_by_side():
    runs = {"a": run("gpt:tiny", {"train.steps": 20}, steps=20), "b": run("gpt:tiny", {"train.steps": 20}, loss=2.5)}
    cells = rows(comparing.screen(runs))
    assert cells[""] == ["a", "b"] and cells["val/loss"] == ["3.0000", "2.5000"]
    assert cells["steps"] == ["20", "10", "of", "20"] and cells["parameters"] == ["123,456"] * 2
    assert cells["tokens per second"] == ["1,000"] * 2 and cells["time in training steps"] == ["0:00:20", "0:00:10"]
    assert "val/perplexity" not in cells, "a function of the loss"


def test_of_the_other_metrics_those_that_all_runs_have_and_bits_per_byte_are_shown():
    a, b = {"common": 1.0, "bits_per_byte": 2.0}, {"common": 1.5, "other": 1.0}
    cells = rows(comparing.screen({"a": run("gpt:tiny", values=a), "b": run("gpt:tiny", values=b)}))
    assert cells["val/common"] == ["1.0000", "1.5000"] and cells["val/bits_per_byte"] == ["2.0000", "-"]
    assert "val/other" not in cells


def test_the_best_validation_loss_is_shown_if_it_is_not_the_last():
    last = run("gpt:tiny", loss=3.0)
    worse = Run([{"step": 5, "val/loss": 2.0}, *last.entries], last.settings)
    cells = rows(comparing.screen({"a": worse, "b": last}))
    assert cells["val/loss best"] == ["2.0000", "3.0000"] and cells["val/loss best at"] == ["5", "10"]
    assert "val/loss best" not in rows(comparing.screen({"a": last, "b": last}))


def test_settings_that_differ_are_shown_in_the_order_of_their_sections():
    a = run("gpt:tiny", {"data.store": "/a", "data.workers": 1})
    b = run("gpt:tiny", {"data.store": "/b", "log.every": 1, "seed": 3, "model.stack.depth": 4})
    shown = [line.split() for line in settings(comparing.screen({"a": a, "b": b}))]
    assert shown == [["model.stack.depth", "2", "4"], ["seed", "0", "3"], ["log.every", "10", "1"]]
    assert comparing.screen({"a": a, "b": a})[-1] == "settings: no difference"


def test_settings_that_no_run_reads_are_left_out():
    a = run("gpt:tiny", {"data.tokenizer.path": "/a", "data.tokenizer.vocab_at_most": 99})
    other = {"optimizer.lion.b1": 0.5, "objective.span.rate": 0.9, "model.stack.block.attention.rotary.theta": 5.0}
    b = run("gpt:tiny", {"data.tokenizer.path": "/b", **other})
    assert [line.split() for line in settings(comparing.screen({"a": a, "b": b}))] == [
        ["data.tokenizer.path", "/a", "/b"]
    ]


def test_settings_that_only_one_run_reads_are_one_line_per_section():
    lines = settings(comparing.screen({"a": run("gpt:tiny"), "b": run("gpt:tiny", {"optimizer.name": "lion"})}))
    assert lines[0].split() == ["optimizer.name", "adamw", "lion"]
    assert lines[1:] == ["optimizer: 4 settings of a only (adamw), 3 settings of b only (lion)"]


def test_other_kinds_of_models_and_objectives_are_one_line_and_the_rest_is_compared():
    *shown, line = settings(comparing.screen({"a": run("gpt:tiny"), "b": run("bert:tiny")}))
    assert line == "model: decoder against encoder; objective: causal against masked; their settings are not compared"
    keys = ["optimizer.learning_rate", "optimizer.schedule.name", "optimizer.schedule.final"]
    assert [line.split()[0] for line in shown] == keys


def test_three_kinds_of_models_are_a_table_of_results_and_one_line():
    lines = comparing.screen({name: run(f"quickstart:{name}") for name in ("gpt", "bert", "t5")})
    assert lines[0].split() == ["gpt", "bert", "t5"] and not settings(lines)
    assert lines[-1] == "model: decoder against encoder against encoder_decoder; their settings are not compared"


@pytest.mark.parametrize("other", ["gpt:small", "llama:tiny", "bert:tiny", "t5:base", "electra:tiny"])
def test_two_runs_fit_a_screen(other):
    values = dict.fromkeys("pqrstuvw", 1.0)
    a = run("gpt:tiny", {"data.path": f"{'long/' * 30}a.txt"}, values=values)
    b = run(other, {"data.path": f"{'long/' * 30}b.txt"}, values=values)
    lines = comparing.screen({"a" * 50: a, "b" * 50: b})
    assert len(lines) < LINES, "inspect adds a line"
    assert max(map(len, lines)) <= WIDTH
    path = next(line for line in lines if line.startswith("data.path")).split()
    assert path[1:] == ["...ng/a.txt", "...ng/b.txt"], "the ends, which differ"


def test_a_cut_list_says_how_many_settings_are_missing():
    a, b = run("gpt:tiny"), run("llama:tiny")
    shown = settings(comparing.screen({"a": a, "b": b}))
    cut = next(index for index, line in enumerate(shown) if line.startswith("..."))
    missing = len(comparing.differences({"a": a.settings, "b": b.settings})) - cut
    assert shown[cut] == f"... and {missing} more; --json prints all"


def test_a_cut_list_has_settings_of_every_section():
    counts = {"model": 30, "optimizer": 3, "train": 1}
    every = [(f"{section}.{index}", ["1", "2"]) for section, count in counts.items() for index in range(count)]
    names = [name for name, _ in comparing.fitting(every, 7)]
    assert names == ["model.0", "model.1", "model.2", "optimizer.0", "optimizer.1", "optimizer.2", "train.0"]


def test_numbers_that_would_look_equal_keep_their_digits():
    rates = (0.0012345678, 0.0012345679)
    runs = {str(rate): run("gpt:tiny", {"optimizer.learning_rate": rate}) for rate in rates}
    assert settings(comparing.screen(runs))[0].split()[1:] == list(runs)


def test_many_runs_are_shown_in_blocks_of_a_screens_width():
    lines = comparing.screen({f"run{seed}": run("gpt:tiny", {"seed": seed}) for seed in range(6)})
    labels = [line.split() for line in lines if line.lstrip().startswith("run")]
    assert labels == [["run0", "run1", "run2", "run3"], ["run4", "run5"]]
    assert [line.split()[1:] for line in lines if line.startswith("seed")] == [list("0123"), list("45")]


def test_a_run_without_a_configuration_is_named():
    lines = comparing.screen({"a": run("gpt:tiny"), "b": Run([{"step": 1, "val/loss": 2.0}], {})})
    assert lines[-1] == "b has no config.json to compare" and not settings(lines)


def test_settings_of_another_version_fit_a_screen_too():
    a = run("gpt:tiny")
    lines = comparing.screen({"a": a, "b": Run(a.entries, {f"{section}.x": 1 for section in "abcdefghijklmn"})})
    assert len(lines) < LINES and re.fullmatch(r"\.\.\. and \d+ more; --json prints all", lines[-1])
