"""`lm-jax list`: everything that can be named on the command line, with its choices."""

from __future__ import annotations

from lm_jax import flags
from lm_jax.data.clean.chain import CleanConfig
from lm_jax.data.rows import PLANS
from lm_jax.data.tokenizers import KINDS as TOKENIZERS
from lm_jax.flags import Request
from lm_jax.models import masks
from lm_jax.models.attention_config import POSITIONS
from lm_jax.models.block import PLACEMENTS
from lm_jax.models.feedforward import ACTIVATIONS
from lm_jax.models.initializers import SCHEMES
from lm_jax.models.kernels import KERNELS
from lm_jax.models.positions import SINUSOIDS
from lm_jax.models.presets import PRESETS
from lm_jax.models.rotary import SCALINGS
from lm_jax.objectives import OBJECTIVES
from lm_jax.train.optimizers import OPTIMIZERS
from lm_jax.train.schedules import SCHEDULES
from lm_jax.verbs import report


def run(request: Request) -> int:
    """Prints recipes with their variants, presets with their sizes, and every table of choices."""
    recipes = {file.stem: flags.about_recipe(file) for file in sorted(flags.recipe_folder().glob("*.py"))}
    presets = {name: list(sizes) for name, (_, sizes) in PRESETS.items()}
    choices = {
        "objective": OBJECTIVES,
        "tokenizer kind": TOKENIZERS,
        "row plan": PLANS,
        "cleaning": CleanConfig.__dataclass_fields__,
        "attention mask": masks.MASKS,
        "attention position": POSITIONS,
        "attention kernel": ("auto", *KERNELS),
        "rotary scaling": SCALINGS,
        "embedding positions": ("none", "learned", *SINUSOIDS),
        "norm placement": PLACEMENTS,
        "activation": ACTIVATIONS,
        "initialisation": SCHEMES,
        "optimizer": OPTIMIZERS,
        "schedule": SCHEDULES,
    }
    names = {what: list(table) for what, table in choices.items()}
    if request.json:
        listed = {name: {"about": about, "variants": variants} for name, (about, variants) in recipes.items()}
        report.document({"recipes": listed, "presets": presets, "choices": names})
        return 0
    report.say("recipes (--config=NAME:VARIANT)")
    for name, (about, variants) in recipes.items():
        report.say(f"  {name:<14}{about}\n  {'':<14}{', '.join(variants)}")
    report.say("architectures (lm_jax.models.presets)")
    for name, sizes in presets.items():
        report.say(f"  {name:<14}{', '.join(sizes)}")
    report.say("choices")
    for what, table in names.items():
        report.say(f"  {what:<20}{', '.join(table)}")
    return 0
