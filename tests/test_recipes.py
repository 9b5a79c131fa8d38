"""Every published model's tiny variant trains; every variant of every recipe is a complete configuration."""

import ast
import json

import laws
import pytest
import workdirs

from lm_jax import experiment, flags
from lm_jax.core.config import InputError
from tests import test_tasks
from tests.commands import GOLDEN, lm_jax, recipe_flags

STEPS = 6
FILES = {file.stem: file for file in sorted(flags.recipe_folder().glob("*.py"))}
RECIPES = {recipe: flags.about_recipe(file)[1] for recipe, file in FILES.items()}
# Recipes of tasks, which need a table, are in test_tasks.py.
TASKS = {getattr(recipe, "values", recipe)[0] for recipe in test_tasks.RECIPES}
TINY = [recipe for recipe, variants in RECIPES.items() if "tiny" in variants and recipe not in TASKS]
MOVED = {
    "gpt:shakespeare_char": "speedrun:nanogpt",
    "gpt:shakespeare_speedrun": "speedrun:record",
    **{f"{recipe}:{demo}": f"{demo}:{recipe}" for recipe in ("gpt", "bert", "t5") for demo in ("novels", "quickstart")},
    **{f"{recipe}:chinese": f"chinese:{recipe}" for recipe in ("gpt", "bert")},
}


# Like another recipe in all but a part that tests of its objective cover.
ALIKE = ("mcbert", "spanbert", "ul2")


@pytest.mark.parametrize(
    "recipe", [pytest.param(recipe, marks=pytest.mark.slow) if recipe in ALIKE else recipe for recipe in TINY]
)
def test_tiny_trains_along_its_golden_losses_and_evaluates(recipe, tmp_path):
    run = tmp_path / "run"
    smaller = [
        f"--config.train.steps={STEPS}",
        "--config.optimizer.schedule.warmup=1",
        "--config.evaluate.batches=1",
        "--config.log.every=1",
    ]

    words = [f"--config={recipe}:tiny", f"--workdir={run}", *recipe_flags(recipe, tmp_path), *smaller]
    assert lm_jax("train", *words) == 0

    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    losses = [line["train/loss"] for line in lines if "train/loss" in line]
    golden = json.loads((GOLDEN / "losses.json").read_text())[recipe]
    # Compilers and devices sum float32 in different orders: losses first differ in the sixth digit.
    assert losses == pytest.approx(golden, rel=1e-3)
    assert any("val/loss" in line for line in lines)
    files = {path.name for path in run.iterdir()}
    assert files >= {"config.json", "environment.json", "model_info.txt", "tokenizer", "checkpoints"}


@pytest.mark.slow
@pytest.mark.parametrize(("axes", "stream"), [((2, 2, 2), ""), ((2, 2, 2), "tensor"), ((1, 8, 1), "")])
@pytest.mark.parametrize("recipe", TINY)
def test_no_step_on_a_mesh_copies_an_array_to_every_device(recipe, axes, stream, tmp_path):
    mesh = [f"--config.mesh.{name}={size}" for name, size in zip(("data", "fsdp", "tensor"), axes, strict=True)]
    words = [*recipe_flags(recipe, tmp_path), *mesh, f"--config.rules.stream={stream}", "--config.data.batch=16"]
    config, _ = flags.configure(flags.load_recipe(f"{recipe}:tiny"), [word for word in words if "config" in word])
    exp = experiment.prepare(experiment.parse(config))
    try:
        exp.check()
    except InputError as error:
        pytest.skip(str(error))
    with laws.nothing_rematerialised():
        exp.train_step().lower(exp.state_like, exp.batch_like).compile(laws.QUICK)


@pytest.mark.parametrize(
    "name", [f"{recipe}:{variant}" for recipe, variants in RECIPES.items() for variant in variants]
)
def test_every_variant_is_a_complete_configuration(name, tmp_path):
    config, changed = flags.configure(flags.load_recipe(name), [], fork=str(workdirs.configure(tmp_path)))
    typed = experiment.parse(config)
    assert not changed
    assert experiment.as_json(experiment.parse(experiment.as_json(typed))) == experiment.as_json(typed)


@pytest.mark.parametrize("recipe", RECIPES)
def test_a_recipe_is_a_page_that_does_not_branch(recipe):
    tree = ast.parse(FILES[recipe].read_text())

    page = ast.get_docstring(tree) or ""
    assert all(f"\n{part}:" in page for part in ("Paper", "Hardware", "Command", "Expected"))
    branches = (ast.If, ast.IfExp, ast.Match, ast.Compare, ast.BoolOp, ast.While, ast.Try)
    assert not [node.lineno for node in ast.walk(tree) if isinstance(node, branches)]


@pytest.mark.parametrize(("before", "now"), MOVED.items())
def test_a_recipe_that_moved_loads_by_its_old_name_and_reports_the_new_one(before, now, capsys):
    assert flags.load_recipe(before).to_json() == flags.load_recipe(now).to_json()
    assert f"--config={before} is now --config={now}" in capsys.readouterr().err
