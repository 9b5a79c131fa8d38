# %% [markdown]
# # Eight devices on any machine
#
# jax can divide a CPU into eight devices. They are slow, but they are sharded as eight accelerators would be, so a layout can be
# tried before a large machine is used. The flags have to be set before jax starts.

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
# - `tensor`: each matrix product is divided: by heads, by the inner features of a feed-forward layer, by the vocabulary.

# %%
import jax
import numpy as np

from lm_jax.parallel import mesh
from lm_jax.parallel.layout import Layout
from lm_jax.parallel.mesh import MeshConfig

layout = Layout(mesh.make(MeshConfig(data=2, fsdp=2, tensor=2)))
print(dict(layout.mesh.shape))

# %% [markdown]
# Models name their axes, such as `("batch", "embed")`, and the rules of the layout map each name to axes of the mesh. The numbers in the pictures are
# devices: a batch [8, 64] is in four shards, each on two devices, and a kernel [64, 256] of a feed-forward layer is in four shards as well.

# %%
for shape, axes in {(8, 64): ("batch", "length"), (64, 256): ("embed", "mlp"), (1024, 64): ("vocab", "embed")}.items():
    sharding = layout.sharding(axes)
    print(f"{axes} -> {sharding.spec}")
    jax.debug.visualize_sharding(shape, sharding)

# %% [markdown]
# ## The same loss on one device and on eight
#
# An `Experiment` builds the parts of a run. This is the whole loop of a training, for three steps: the state and the batches are sharded, the step is
# compiled for the layout, and metrics are sums, divided last.

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
for axes in (dict(data=8, fsdp=1, tensor=1), dict(data=1, fsdp=8, tensor=1), dict(data=2, fsdp=2, tensor=2)):
    values, exp, state = losses(jax.devices(), **axes)
    np.testing.assert_allclose(values, one, rtol=1e-5)  # float32: sums in another order
    print(f"{axes}", np.round(values, 4))

# %% [markdown]
# The losses agree up to the order of float32 sums: the layout is a matter of memory and speed, not of the result.
#
# ## What a device holds
#
# The parameters of the last run, and the share of each that lies on one device. Biases and norms are small, so most of them are not divided.

# %%
from lm_jax.core.trees import named_leaves

for name, leaf in named_leaves(state.params["model"]):
    share = np.prod(leaf.sharding.shard_shape(leaf.shape)) / leaf.size
    print(f"{name:42} {str(leaf.shape):18} {str(leaf.sharding.spec):38} 1/{1 / share:.0f}")

# %% [markdown]
# The optimizer's moments are sharded like their parameters. A batch is sharded over `data` and `fsdp`:

# %%
jax.debug.visualize_array_sharding(exp.put(next(exp.feed.batches(0)))["tokens"])

# %% [markdown]
# ## An axis that cannot be divided
#
# The model has two heads, so they cannot be divided over four devices. The error comes before any array is allocated and says what to do.

# %%
from lm_jax.core.config import InputError

recipe.mesh = dict(data=2, fsdp=1, tensor=4)
try:
    Experiment(experiment.parse(recipe), text.tokenizer, text.store).check()
except InputError as error:
    print(error)

# %% [markdown]
# On a machine with accelerators the same three numbers are flags of a run: `lm-jax train --config=llama:7b --config.mesh.fsdp=-1 --config.mesh.data=1`.
# `--config.rules.stream=tensor` adds sequence parallelism.
