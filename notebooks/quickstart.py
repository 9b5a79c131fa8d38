# %% [markdown]
# # Three kinds of models, a hundred steps each
#
# A decoder continues a text, an encoder fills its gaps, an encoder-decoder restores what was removed from it. This
# notebook trains one of each on the documentation of the installed Python, so it downloads no text.

# %%
import subprocess
import sys

if "google.colab" in sys.modules:  # Write the address of the repository, or the name of an uploaded wheel.
    subprocess.run([sys.executable, "-m", "pip", "install", "--quiet", "git+<this repository>"], check=True)

from lm_jax.verbs import doctor

print(doctor.summary())

# %% [markdown]
# `command` runs an `lm-jax` command inside the notebook. A recipe, `--config=NAME:VARIANT`, sets the model, its
# objective and its text, and every other setting is a flag.
#
# `data` cleans the text, trains a tokenizer and stores the tokens. All three models read them, because they have the
# same tokenizer: one with `sentinels`, which the encoder-decoder needs.

# %% tags=["live"]
from lm_jax.main import command

SETTINGS = "--config.data.tokenizer.sentinels=8"
command(f"data --config=gpt:tiny {SETTINGS}")

# %% [markdown]
# The `tiny` recipes are meant for two CPU cores; here they train for 100 steps of 16 rows of 64 tokens.

# %% tags=["live"]
RECIPES = {"decoder": "gpt:tiny", "encoder": "bert:tiny", "encoder_decoder": "t5:tiny"}
SETTINGS += " --config.train.steps=100 --config.log.every=2"

for kind, recipe in RECIPES.items():
    command(f"train --config={recipe} --workdir=runs/{kind} {SETTINGS}")

# %% [markdown]
# ## Loss curves
#
# A run writes its metrics to `metrics.jsonl`. The three losses are in nats, but they are losses of different things:
# of every token (decoder), of masked tokens and sentence pairs (encoder), of the removed spans with their sentinels
# (encoder-decoder). Only curves of one objective on one text may be compared. The dotted line is the loss of a
# uniform guess. The encoder starts one bit above it, for the pairs, and T5 above it too, because its initial logits
# are not small.

# %%
import math

import matplotlib.pyplot as plt

from lm_jax import experiment
from lm_jax.train import metrics

figure, axes = plt.subplots(figsize=(7, 4), layout="constrained")
for kind in RECIPES:
    entries = [entry for entry in metrics.read(f"runs/{kind}") if "train/loss" in entry]
    axes.plot([entry["step"] for entry in entries], [entry["train/loss"] for entry in entries], label=kind)
uniform = math.log(experiment.load("runs/decoder").vocabulary.size)
axes.axhline(uniform, color="gray", linestyle=":", label="log(vocabulary)")
axes.set(xlabel="step", ylabel="training loss (nats)")
figure.legend(loc="outside upper center", ncols=4, frameon=False)
plt.show()

# %% [markdown]
# The last evaluation on held-out text. `bits_per_byte` does not depend on the tokenizer.

# %%
for kind in RECIPES:
    last = [entry for entry in metrics.read(f"runs/{kind}") if "val/loss" in entry][-1]
    values = {name.removeprefix("val/"): round(value, 3) for name, value in last.items() if name.startswith("val/")}
    print(kind, values, sep="\n  ")

# %% [markdown]
# ## Use
#
# `generate` does what the kind of model can do. After 100 steps, these models have learned frequent words and little
# else; `make quickstart` trains larger ones for some minutes.

# %%
command("generate --workdir=runs/decoder --prompt='Return a new' --max_tokens=30 --temperature=0.7")

# %%
command("generate --workdir=runs/encoder --prompt='If the argument is not [MASK], it is None.'")

# %%
PROMPT = "Return True if <extra_id_0> object."
command(f"generate --workdir=runs/encoder_decoder --prompt='{PROMPT}' --temperature=0 --max_tokens=12")

# %% [markdown]
# ## What a model is
#
# All three are one transformer with other settings. `lm-jax inspect --config=RECIPE` lists them all; these are the
# ones that make the kind.

# %%
from lm_jax.core.trees import count

for kind in RECIPES:
    run = experiment.load(f"runs/{kind}")
    model = run.config.model
    stacks = {name: getattr(model, name) for name in ("stack", "encoder", "decoder") if hasattr(model, name)}
    masks = {name: stack.block.attention.mask for name, stack in stacks.items()}
    print(
        f"{model.kind}: {count(run.product.shapes):,} parameters, masks {masks}, objective {run.config.objective.name}"
    )
