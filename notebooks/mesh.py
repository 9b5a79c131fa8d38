# %% [markdown]
# # Eight devices on any machine
#
# jax can divide a CPU into eight devices. They are slow, but they are sharded as eight accelerators would be, so a
# layout can be tried before a large machine is used. The flags have to be set before jax starts.

# %%
import os
import subprocess
import sys

os.environ["JAX_PLATFORMS"] = "cpu"
os.environ["XLA_FLAGS"] = "--xla_force_host_platform_device_count=8"

if "google.colab" in sys.modules:  # Write the address of the repository, or the name of an uploaded wheel.
    subprocess.run([sys.executable, "-m", "pip", "install", "--quiet", "git+<this repository>"], check=True)

from lm_jax.verbs import doctor

print(doctor.summary())

# %% [markdown]
# ## A mesh
#
# A mesh gives the devices three axes; their sizes are `config.mesh`:
#
# - `data`: each replica of the model reads a share of the batch,
# - `fsdp`: the batch is divided too, and so are the parameters: a device collects a layer when it needs it,
# - `tensor`: each matrix product is divided: by heads, by the inner features of a feed-forward layer, by the
#   vocabulary.

# %%
import jax
import matplotlib.pyplot as plt
import numpy as np
from matplotlib.patches import Rectangle

from lm_jax.parallel import mesh
from lm_jax.parallel.layout import Layout
from lm_jax.parallel.mesh import MeshConfig

layout = Layout(mesh.make(MeshConfig(data=2, fsdp=2, tensor=2)))
print(dict(layout.mesh.shape))

# %% [markdown]
# Models name their axes, such as `("batch", "length")`, and the rules of the layout map each name to axes of the
# mesh. A picture is an array and its shards; the numbers are the devices that hold a shard. Two devices hold the same
# shard if a mesh axis divides no axis of the array.


# %%
def draw(arrays):
    """Draws the shards of two-dimensional arrays, given as title: (shape, sharding)."""
    figure, axes = plt.subplots(1, len(arrays), figsize=(3.2 * len(arrays), 2.6), layout="constrained", squeeze=False)
    for axis, (title, (shape, sharding)) in zip(axes[0], arrays.items()):
        shards = {}
        for device, index in sharding.devices_indices_map(shape).items():
            (top, bottom, _), (left, right, _) = (part.indices(size) for part, size in zip(index, shape))
            shards.setdefault((left, top, right - left, bottom - top), []).append(device.id)
        for number, ((left, top, width, height), devices) in enumerate(shards.items()):
            axis.add_patch(Rectangle((left, top), width, height, facecolor=f"C{number}", alpha=0.4, edgecolor="black"))
            axis.text(left + width / 2, top + height / 2, ", ".join(map(str, devices)), ha="center", va="center")
        axis.set(title=title, xlim=(0, shape[1]), ylim=(shape[0], 0), xticks=[0, shape[1]], yticks=[0, shape[0]])
    plt.show()


shapes = {("batch", "length"): (16, 64), ("embed", "mlp"): (64, 256), ("vocab", "embed"): (1024, 64)}
for axes in shapes:
    print(axes, "->", layout.spec(axes))
draw({", ".join(axes): (shape, layout.sharding(axes)) for axes, shape in shapes.items()})

# %% [markdown]
# ## The same loss on one device and on eight
#
# An `Experiment` builds the parts of a run. This is the whole loop of a training, for three steps: the state and the
# batches are sharded, the step is compiled for the layout, and metrics are sums, divided last.

# %%
from lm_jax import experiment, flags
from lm_jax.core.sums import means
from lm_jax.experiment import Experiment

recipe = experiment.complete(flags.load_recipe("gpt:tiny"))
recipe.data.workers = 1
text = experiment.prepare(experiment.parse(recipe))


def losses(devices, **axes):
    recipe.mesh = axes
    exp = Experiment(experiment.parse(recipe), text.tokenizer, text.store, devices)
    state, step, batches = exp.fresh_state(), exp.train_step(), exp.feed.batches(0)
    values = []
    for _ in range(3):
        state, sums = step(state, exp.put(next(batches)))
        values.append(means(sums)["loss"])
    return values, exp, state


one, *_ = losses(jax.devices()[:1], data=1, fsdp=1, tensor=1)
print("one device                    ", np.round(one, 4))
for axes in (dict(data=8, fsdp=1, tensor=1), dict(data=2, fsdp=2, tensor=2)):
    values, exp, state = losses(jax.devices(), **axes)
    np.testing.assert_allclose(values, one, rtol=1e-5)  # float32: sums in another order
    print(f"{axes}", np.round(values, 4))

# %% [markdown]
# The losses agree up to the order of float32 sums: the layout is a matter of memory and speed, not of the result.
#
# ## What a device holds
#
# The parameters of the last run, and the share of each that lies on one device. The norms are small, and every device
# holds them whole.

# %%
from lm_jax.core.trees import named_leaves

for name, leaf in named_leaves(state.params["model"]):
    share = np.prod(leaf.sharding.shard_shape(leaf.shape)) / leaf.size
    print(f"{name:42} {str(leaf.shape):18} {str(leaf.sharding.spec):38} 1/{1 / share:.0f}")

# %% [markdown]
# The arrays themselves, as the step left them: the rows of the batch, and the token table with its first moment,
# which is sharded like it.

# %%
import optax

rows = exp.put(next(exp.feed.batches(0)))["tokens"]
table = state.params["model"]["token"]["embedding"]
moments = optax.tree_utils.tree_get(state.opt_state, "mu")["model"]["token"]["embedding"]
draw({name: (x.shape, x.sharding) for name, x in {"batch": rows, "token table": table, "its moment": moments}.items()})

# %% [markdown]
# ## An axis that cannot be divided
#
# The model has two heads, so they cannot be divided over four devices. The error comes before any array is allocated
# and says what to do.

# %%
from lm_jax.core.config import InputError

recipe.mesh = dict(data=2, fsdp=1, tensor=4)
try:
    Experiment(experiment.parse(recipe), text.tokenizer, text.store).check()
except InputError as error:
    print(error)

# %% [markdown]
# On a machine with accelerators the same three numbers are flags of a run: `lm-jax train --config=llama:7b
# --config.mesh.fsdp=-1 --config.mesh.data=1`. `--config.rules.stream=tensor` adds sequence parallelism.
