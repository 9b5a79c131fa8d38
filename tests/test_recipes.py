"""Every recipe's tiny variant trains; every variant of every recipe is a complete configuration."""

import json

import pytest

from lm_jax import experiment, flags
from tests.commands import GOLDEN, golden_flags, lm_jax

STEPS = 6
RECIPES = {file.stem: flags.about_recipe(file)[1] for file in flags.recipe_folder().glob("*.py")}


@pytest.mark.parametrize("recipe", sorted(RECIPES))
def test_tiny_trains_along_its_golden_losses_and_evaluates(recipe, tmp_path):
    run = tmp_path / "run"
    smaller = [
        f"--config.train.steps={STEPS}",
        "--config.optimizer.schedule.warmup=1",
        "--config.evaluate.batches=1",
        "--config.log.every=1",
    ]

    assert (
        lm_jax("train", f"--config={recipe}:tiny", f"--workdir={run}", *golden_flags(tmp_path / "store"), *smaller) == 0
    )

    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    losses = [line["train/loss"] for line in lines if "train/loss" in line]
    golden = json.loads((GOLDEN / "losses.json").read_text())[recipe]
    # Other compilers and devices sum float32 in other orders: at first the sixth digit differs.
    assert losses == pytest.approx(golden, rel=1e-3)
    assert any("val/loss" in line for line in lines)
    assert {path.name for path in run.iterdir()} >= {
        "config.json",
        "environment.json",
        "model_info.txt",
        "tokenizer",
        "checkpoints",
    }


@pytest.mark.parametrize(
    "name", [f"{recipe}:{variant}" for recipe, variants in RECIPES.items() for variant in variants]
)
def test_every_variant_is_a_complete_configuration(name):
    config, changed = flags.configure(flags.load_recipe(name), [])
    typed = experiment.parse(config)
    assert not changed
    assert experiment.as_json(experiment.parse(experiment.as_json(typed))) == experiment.as_json(typed)
