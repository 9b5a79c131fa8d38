# %% [markdown]
# # Inside a model
#
# What a transformer computes between its tokens and its logits: attention maps, hidden states, masks and positions.

# %%
import subprocess
import sys

if "google.colab" in sys.modules:  # Write the address of the repository, or the name of an uploaded wheel.
    subprocess.run([sys.executable, "-m", "pip", "install", "--quiet", "git+<this repository>"], check=True)

from lm_jax.verbs import doctor

print(doctor.summary())

# %% [markdown]
# A decoder is trained for 200 steps, because the attention of an untrained one is nearly uniform.

# %% tags=["live"]
from lm_jax.main import command

command("train --config=gpt:tiny --workdir=runs/gpt --config.train.steps=200 --config.data.workers=1")

# %% [markdown]
# A run is loaded as its configuration and tokenizer (`experiment.load`) and its parameters (`restore_model`). A model
# maps `Inputs` to `Output`, and `show` names what it returns from between the layers.

# %%
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np

from lm_jax import experiment, flags
from lm_jax.models.interface import Inputs
from lm_jax.verbs.runs import restore_model

run = experiment.load("runs/gpt")
_, params = restore_model(flags.parse("generate", ["--workdir=runs/gpt"]), run)
model, tokenizer = run.product.module, run.tokenizer

tokens = tokenizer.encode("Return the number of items in the list.")[None]
pieces = [tokenizer.piece(token) for token in tokens[0].tolist()]
output = model.apply({"params": params}, Inputs(tokens=tokens), logits=True, show=("hidden", "attention"))
print("tokens   ", pieces)
print("hidden   ", [x.shape for x in output.shown.hidden], "before the first layer and after each")
print("attention", [x.shape for x in output.shown.attention], "batch, heads, query, key")
print("logits   ", output.logits.shape)


# %% [markdown]
# ## Attention
#
# Each row of a map is a query, and its probabilities over the keys sum to one. The upper triangle is empty: no token
# attends to a later one.


# %%
def draw(maps, titles, names, width=3.2):
    size = (width * len(maps), width + 0.4)
    figure, axes = plt.subplots(1, len(maps), figsize=size, layout="constrained", squeeze=False)
    for axis, picture, title in zip(axes[0], maps, titles):
        axis.imshow(picture, cmap="Blues", vmin=0)
        axis.set_title(title, fontsize="small")
        axis.set_xticks(range(len(names)), names, rotation=90, fontsize="x-small")
        axis.set_yticks(range(len(names)), names, fontsize="x-small")
    plt.show()


maps = {
    f"layer {layer}, head {head}": probabilities
    for layer, heads in enumerate(output.shown.attention)
    for head, probabilities in enumerate(heads[0])
}
draw(maps.values(), maps, pieces)

# %% [markdown]
# ## Hidden states
#
# Every layer adds to the residual stream. If the final norm and the read-out are applied to it before and after each
# layer, it already predicts: the table shows the most likely next token (nostalgebraist 2020, "logit lens"). The last
# row is what the model predicts.

# %%
lens = lambda model, x: model.readout(model.final_norm(x))
for depth, x in enumerate(output.shown.hidden):
    logits = model.apply({"params": params}, x, method=lens)
    words = [tokenizer.piece(token) for token in logits[0].argmax(-1).tolist()]
    print(f"after {depth} layers, norm {jnp.linalg.norm(x, axis=-1).mean():5.2f}:", " ".join(words))
print("difference of the last row to the logits:", float(jnp.abs(logits - output.logits).max()))

# %% [markdown]
# ## Masks
#
# A mask is a predicate over the positions of a query and a key, and masks combine. No array of pairs is stored: these
# pictures evaluate the predicates.

# %%
from lm_jax.models.attention import masks
from lm_jax.models.attention.masks import TokenPositions

index = jnp.arange(12)
query = TokenPositions(index[:, None], index[:, None] < 4)
key = TokenPositions(index[None], index[None] < 4)
shown = {
    "causal": masks.causal,
    "prefix (of 4)": masks.prefix,
    "causal & recent(3)": masks.causal & masks.recent(3),
    "around(2)": masks.around(2),
    "causal & (recent(3) | strided(3))": masks.causal & (masks.recent(3) | masks.strided(3)),
}
draw([mask.allow(query, key) for mask in shown.values()], shown, range(12), width=2.6)

# %% [markdown]
# What the mask guarantees: if the last token changes, nothing changes before it.

# %%
other = tokens.copy()
other[0, -1] = tokens[0, 0]
changed = model.apply({"params": params}, Inputs(tokens=other), logits=True)
print(np.abs(changed.logits - output.logits).max(-1)[0].round(4))

# %% [markdown]
# ## Segments
#
# Texts that are packed into one row have `segments`; 0 is padding. A token attends within its own segment only, and
# with `positions` that start again the second text is read as if it were alone. The last two rows of the map are
# padding, whose output is not used.

# %%
length = tokens.shape[1]
packed = Inputs(
    tokens=np.concatenate([tokens, tokens, [[0, 0]]], 1),
    segments=np.array([[1] * length + [2] * length + [0, 0]]),
    positions=np.array([[*range(length), *range(length), 0, 0]]),
)
both = model.apply({"params": params}, packed, logits=True, show=("attention",))
draw([both.shown.attention[0][0, 0]], ["two texts and padding in a row"], [*pieces, *pieces, "", ""], width=5)
print("difference to the text alone:", float(jnp.abs(both.logits[:, length : 2 * length] - output.logits).max()))

# %% [markdown]
# ## Positions
#
# Without positions, attention would see a set of tokens. GPT-2 adds a learned vector per position; LLaMA rotates
# queries and keys, so that a score depends on the distance alone. If all positions grow by five, GPT-2's logits
# change and LLaMA's do not, up to rounding.

# %%
import jax

from lm_jax.core.config import from_config_dict
from lm_jax.models.config import TransformerConfig
from lm_jax.models.model import build_model
from lm_jax.models.presets.llama import llama

rotary = build_model(from_config_dict(TransformerConfig, llama("tiny")), vocab=tokenizer.vocab_size)
untrained = rotary.init(jax.random.key(0))
positions = np.arange(length)[None]
for name, module, weights in (("GPT-2", model, params), ("LLaMA", rotary.module, untrained)):
    here, later = (
        module.apply({"params": weights}, Inputs(tokens=tokens, positions=positions + shift), logits=True).logits
        for shift in (0, 5)
    )
    print(f"{name}: the logits change by at most {float(jnp.abs(here - later).max()):.1e}")

# %% [markdown]
# The same outputs of a Hugging Face checkpoint, under the names of its own library, come from `interop.run(DIRECTORY,
# inputs)`: see `hugging_face`.
