"""How `config.mesh=auto` divides one model of each kind over four topologies, as golden/shardings.json has it.

After a change that should divide them differently, write the file again and read what differs:
`python tests/parallel/test_shardings.py`.
"""

import dataclasses
import itertools
import json
from pathlib import Path

import pytest

from lm_jax import experiment, flags
from lm_jax.core.chips import CHIPS, KINDS
from lm_jax.core.trees import named_leaves
from lm_jax.experiment import automatic, planning
from lm_jax.plan import topology
from lm_jax.plan.ranking import Device

FILE = Path(__file__).parents[1] / "golden" / "shardings.json"
RECIPES = ("bert:large", "llama:7b", "t5:xxl")
TOPOLOGIES = ("v5e:4x4", "v5e:16x16", "v5p:4x4x4", "v6e:8x16")
ROWS_A_DEVICE = 8


@dataclasses.dataclass(frozen=True)
class Named:
    """What a mesh reads of a device."""

    id: int
    coords: tuple[int, ...]
    device_kind: str
    platform: str = "tpu"
    core_on_chip: int = 0
    process_index: int = 0
    slice_index: int = 0


def devices(name):
    """The devices of a topology without its compiler."""
    family, shape = topology.split(name)
    kind = next(kind for kind, each in KINDS.items() if each == family)
    places = itertools.product(*map(range, (*shape, 1)[:3]))
    return [Named(index, place, kind) for index, place in enumerate(places)]


def divided(recipe, name):
    """Mesh, what layers keep, micro-batches; of every parameter its shape, that of a device's part, and its axes."""
    found, chip = devices(name), CHIPS[topology.split(name)[0]]
    words = ["--config.mesh=auto", f"--config.data.batch={ROWS_A_DEVICE * len(found)}"]
    config = experiment.parse(flags.configure(flags.load_recipe(recipe), words)[0])
    device = Device(limit_bytes=chip.usable_bytes, chip=chip)
    exp, _ = automatic.chosen(planning.without_text(config, found), device)
    mesh = exp.layout.mesh
    parameters = {
        path: " ".join(map(str, (leaf.shape, leaf.sharding.shard_shape(leaf.shape), tuple(leaf.sharding.spec))))
        for path, leaf in named_leaves(exp.state_like.params)
    }
    return {
        "mesh": dict(mesh.shape),
        "first_row": [device.id for device in mesh.devices[0, :4, 0].flat],
        "remat": {key: stack.remat for key, stack in automatic.stacks(exp.config)},
        "accumulate": exp.config.train.accumulate,
        "parameters": parameters,
    }


@pytest.mark.usefixtures("untyped")
@pytest.mark.parametrize("name", TOPOLOGIES)
@pytest.mark.parametrize("recipe", RECIPES)
def test_a_model_is_divided_as_before(recipe, name):
    assert divided(recipe, name) == json.loads(FILE.read_text())[recipe][name]


if __name__ == "__main__":
    every = {recipe: {name: divided(recipe, name) for name in TOPOLOGIES} for recipe in RECIPES}
    FILE.write_text(json.dumps(every, indent=1) + "\n")
