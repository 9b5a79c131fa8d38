"""FLOPs of a run are those of the matrix products in its train step, lowered for a TPU."""

import functools

import jax
import optax
import programs
import pytest
from ml_collections import ConfigDict

from lm_jax import experiment, flags
from lm_jax.core.config import Tree
from lm_jax.data import tokenizers
from lm_jax.data.pipeline import KEYS
from lm_jax.experiment import Experiment
from lm_jax.models import cpu
from lm_jax.models.presets import PRESETS
from lm_jax.objectives import cross_entropy
from lm_jax.objectives.base import Field
from lm_jax.train import state
from lm_jax.train.step import make_train_step
from tests.commands import GOLDEN

RECIPES = {file.stem: flags.about_recipe(file)[1] for file in sorted(flags.recipe_folder().glob("*.py"))}
# The program is counted without loops over layers or blocks, and without recomputed activations. Only the count of keys
# within a window differs from that of a dense kernel.
PLAIN = {"scan": "never", "remat": "none", "kernel": "dense", "window": None, "stride": None}
OBJECTIVES = {
    "encoder": {"name": "masked", "masked": {"next_sentence": False}},
    "decoder": {"name": "causal"},
    "encoder_decoder": {"name": "span"},
}
# The presets whose layers differ most from those of the recipes.
QUICK = ("albert", "xlnet", "deberta", "modernbert")
LABELS = Tree(tags=("O", "B-X", "I-X"), label=("no", "yes"))
# Layers of two kinds, one of them with experts.
EXPERTS = {"feedforward": {"bias": False, "experts": {"count": 4, "top": 2}}}
MIXED = {"stack.kinds": {"sparse": EXPERTS}, "stack.pattern": ("sparse", "block")}


def plain(tree):
    """Model settings without loops."""
    return {name: plain(value) if isinstance(value, dict) else PLAIN.get(name, value) for name, value in tree.items()}


def as_experiment(recipe):
    """The experiment of a recipe, with the golden tokenizer."""
    config = experiment.as_json(experiment.parse(flags.configure(recipe, [])[0]))
    config |= {name: plain(config[name]) for name in ("model", "models")}
    tokenizer = tokenizers.extend(
        _tokenizer(), config["data"]["tokenizer"]["add"] + config["data"]["tokenizer"]["markers"]
    )
    return Experiment(experiment.parse(config), tokenizer, saved_labels=LABELS)


_tokenizer = functools.cache(lambda: tokenizers.load(GOLDEN / "tokenizer"))


def ratio(exp):
    """FLOPs of a step over the operations of the matrix products of its program."""
    objective, models, rows = exp.objective, exp.models, exp.config.data.batch
    optimizer = optax.identity()

    def first(params, frozen):
        carry = state.empty_carry(objective.carry, rows)
        return state.create(params, optimizer, loss_scaled=False, frozen=frozen, carry=carry)

    fields = {**objective.spec, KEYS: Field(shape=(2,), dtype="uint32")}
    batch = {name: jax.ShapeDtypeStruct((rows, *field.shape), field.dtype) for name, field in fields.items()}
    step = make_train_step(objective, models, optimizer)
    text = programs.lower_for_tpu(step, jax.eval_shape(first, *models.split(models.shapes)), batch)
    return exp.flops() * rows / programs.product_flops(text)


@pytest.fixture(autouse=True)
def on_tpu(monkeypatch):
    """Traces the code paths of a TPU, and logits in one chunk."""
    monkeypatch.setattr(cpu, "platform", lambda: "tpu")
    monkeypatch.setattr(cross_entropy, "MOST_CHUNKS", 1)


@pytest.mark.parametrize("name", [f"{name}:tiny" for name in RECIPES if "tiny" in RECIPES[name]])
def test_flops_of_a_recipe_are_those_of_its_program(name):
    assert ratio(as_experiment(flags.load_recipe(name))) == pytest.approx(1, abs=0.02)


@pytest.mark.parametrize(
    ("preset", "over"),
    [pytest.param(name, {}, id=name, marks=[] if name in QUICK else pytest.mark.slow) for name in PRESETS]
    + [pytest.param("gpt2", MIXED, id="mixed")],
)
def test_flops_of_a_preset_are_those_of_its_program(preset, over):
    tree = PRESETS[preset].build("tiny")
    with tree.unlocked():
        tree.update_from_flattened_dict(over)
    recipe = ConfigDict({"model": tree, "objective": OBJECTIVES[tree.kind], "data": {"length": 64, "batch": 16}})
    assert ratio(as_experiment(recipe)) == pytest.approx(1, abs=0.02)
