"""Plots have a panel per metric and a curve per run."""

import io
import math
from pathlib import Path

import pytest

from lm_jax.core.config import InputError
from lm_jax.train import curves
from lm_jax.train.logging import Logger


def run(directory, *, steps=100):
    with Logger(directory, total=steps, names=["jsonl"], stream=io.StringIO()) as logger:
        for step in range(1, steps + 1):
            noise = 0.2 * math.sin(step * len(directory.name))
            logger.write(
                step,
                {
                    "train/loss": math.nan if step == 7 else 5 / step**0.3 + noise,
                    "train/gradient_norm": 1 + noise,
                    "train/learning_rate": 1e-3,
                    "train/tokens_per_second": 1e4,
                    "train/tokens": step,
                    "train/masked": 0.1,
                },
            )
            if step % 25 == 0:
                logger.write(step, {"val/loss": 5.2 / step**0.3, "val/perplexity": 9.0})
    return directory


def test_there_is_a_panel_for_every_metric_and_a_curve_for_every_run(tmp_path, monkeypatch):
    from matplotlib.figure import Figure

    legends = {}
    save = Figure.savefig

    def remember(figure, path, **options):
        legends.update({axes.get_ylabel(): axes.get_legend_handles_labels()[1] for axes in figure.axes})
        save(figure, path, **options)

    monkeypatch.setattr(Figure, "savefig", remember)
    path = curves.plot([run(tmp_path / "bert"), run(tmp_path / "gpt")], tmp_path / "plots" / "both.png")

    assert path == tmp_path / "plots" / "both.png" and path.read_bytes().startswith(b"\x89PNG")
    assert [file.name for file in path.parent.iterdir()] == ["both.png"]
    assert list(legends) == ["loss", "learning rate", "gradient norm", "tokens per second", "masked"]
    assert legends["loss"] == ["bert train", "bert validation", "gpt train", "gpt validation"]
    assert legends["learning rate"] == ["bert train", "gpt train"]


def test_runs_with_the_same_name_are_labelled_by_their_paths():
    assert curves.labels([Path("a/run"), Path("b/run"), Path("b/other")]) == ["a/run", "b/run", "other"]


def test_a_directory_without_losses_is_refused(tmp_path):
    with pytest.raises(InputError, match=r"no metrics\.jsonl"):
        curves.plot(tmp_path / "nothing", tmp_path / "no.png")
    (tmp_path / "metrics.jsonl").write_text('{"step": 1, "train/tokens": 3}\n')
    with pytest.raises(InputError, match="train first"):
        curves.plot(tmp_path, tmp_path / "no.png")
    assert not (tmp_path / "no.png").exists()


def test_without_a_metric_that_a_run_has_there_is_no_picture(tmp_path):
    directory = run(tmp_path / "gpt", steps=2)
    assert curves.plot(directory, tmp_path / "plots" / "no.png", ["masked_accuracy"]) is None
    assert not (tmp_path / "plots").exists()
    path = curves.plot(directory, tmp_path / "some.png", ["masked_accuracy", "masked"])
    assert path == tmp_path / "some.png" and path.read_bytes().startswith(b"\x89PNG")


def test_smoothing_has_no_bias_at_the_start():
    assert curves.smoothed([3.0] * 200) == pytest.approx([3.0] * 200)
    assert curves.smoothed([1.0, 2.0]) == [1.0, 2.0]
