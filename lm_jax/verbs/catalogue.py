"""`lm-jax list`: recipes, presets, and the choices of every setting that takes a name."""

from __future__ import annotations

from typing import Any

from lm_jax import flags
from lm_jax.adapt import METHODS
from lm_jax.data.clean.chain import CleanConfig
from lm_jax.data.plans import PLANS
from lm_jax.data.tokenizers import KINDS as TOKENIZERS
from lm_jax.flags import Request
from lm_jax.models.attention import masks
from lm_jax.models.attention.config import POSITIONS
from lm_jax.models.attention.kernels import KERNELS
from lm_jax.models.attention.positions import SINUSOIDS
from lm_jax.models.attention.rotary import SCALINGS
from lm_jax.models.feedforward.dense import ACTIVATIONS
from lm_jax.models.initializers import SCHEMES
from lm_jax.models.presets import PRESETS
from lm_jax.models.presets.counts import PARAMETERS
from lm_jax.models.stack.block import PLACEMENTS
from lm_jax.objectives import OBJECTIVES
from lm_jax.train.optimizers import OPTIMIZERS
from lm_jax.train.schedules import SCHEDULES
from lm_jax.verbs import report


def run(request: Request) -> int:
    """Prints recipes with their variants, presets with their papers and sizes, and all choices."""
    recipes = {file.stem: flags.about_recipe(file) for file in sorted(flags.recipe_folder().glob("*.py"))}
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
        "adaptation": METHODS,
        "optimizer": OPTIMIZERS,
        "schedule": SCHEDULES,
    }
    names = {setting: list(table) for setting, table in choices.items()}
    if request.json:
        listed = {name: {"about": about, "variants": variants} for name, (about, variants) in recipes.items()}
        report.document({"recipes": listed, "presets": _presets(), "choices": names})
        return 0
    report.say("recipes (--config=NAME:VARIANT)")
    for name, (about, variants) in recipes.items():
        report.say(f"  {name:<14}{about}\n  {'':<14}{', '.join(variants)}")
    report.say("architectures (lm-jax inspect NAME:SIZE), with parameter counts")
    for name, preset in _presets().items():
        sizes = (_size(size, facts["parameters"]) for size, facts in preset["sizes"].items())
        report.say(f"  {name:<18}{preset['paper']}\n  {'':<18}{', '.join(sizes)}")
    report.say("choices")
    for setting, table in names.items():
        report.say(f"  {setting:<20}{', '.join(table)}")
    return 0


def _presets() -> dict[str, Any]:
    """Returns each preset's paper and sizes; `parameters` is None for sizes that were not released."""
    presets = {}
    for name, preset in PRESETS.items():
        counts = PARAMETERS.get(name, {})
        sizes = {size: {"parameters": counts.get(size), "vocabulary": preset.vocabulary(size)} for size in preset.sizes}
        presets[name] = {"paper": preset.paper, "sizes": sizes}
    return presets


def _size(name: str, parameters: int | None) -> str:
    """Formats a size with its number of parameters in millions or billions."""
    if parameters is None:
        return name
    return f"{name} {parameters / 1e9:.3g}B" if parameters >= 1e9 else f"{name} {parameters / 1e6:.3g}M"
