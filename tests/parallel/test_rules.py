"""Rules are settings, and every logical axis of a parameter has one."""

import jax
import pytest

from lm_jax import experiment, flags
from lm_jax.core.config import free_keys
from lm_jax.models.model import from_module
from lm_jax.models.transformer import build_transformer
from lm_jax.parallel.rules import Rules
from tests import tiny


def test_rules_are_set_on_the_command_line_and_may_change_on_resume():
    words = ["stream=tensor", "heads=()", "groups=", "batch=data,fsdp", "embed=('fsdp',)"]
    config, _ = flags.configure(flags.load_recipe("gpt:tiny"), [f"--config.rules.{word}" for word in words])
    assert experiment.parse(config).rules == Rules(stream=("tensor",), heads=(), groups=())
    assert "config.rules" in free_keys(experiment.ExperimentConfig)


@pytest.mark.parametrize("preset", ["deberta", "mixtral", "t5", "xlnet"])
def test_every_axis_of_a_parameter_has_a_name_and_a_rule(preset):
    over = {"block__neighbours__width": 3} if preset == "deberta" else {}
    axes = from_module(build_transformer(tiny.config(preset, over=tiny.everywhere(preset, scan="always", **over)))).axes
    for names in jax.tree.leaves(axes, is_leaf=lambda node: isinstance(node, tuple)):
        assert set(names) <= set(vars(Rules()))
