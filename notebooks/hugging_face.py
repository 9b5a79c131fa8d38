# %% [markdown]
# # Checkpoints of Hugging Face: import, check, tune, export
#
# A checkpoint is a directory with config.json, safetensors and the files of a tokenizer. lm_jax reads and writes such
# directories without the library that made them.

# %%
import subprocess
import sys

if "google.colab" in sys.modules:  # Write the address of the repository, or the name of an uploaded wheel.
    subprocess.run([sys.executable, "-m", "pip", "install", "--quiet", "git+<this repository>"], check=True)

from lm_jax.verbs import doctor

print(doctor.summary())

# %% [markdown]
# ## A checkpoint
#
# So that nothing is downloaded, a small GPT-2 is trained for 40 steps and exported. A directory that you downloaded
# can take its place: set `CHECKPOINT` to it and skip these two cells.

# %% tags=["live"]
from lm_jax.main import command

CHECKPOINT = "checkpoint"
command("train --config=gpt:tiny --workdir=runs/first --config.train.steps=40 --config.data.workers=1")

# %%
command(f"export --workdir=runs/first --output={CHECKPOINT}")

# %%
import json
from pathlib import Path

print(*sorted(file.name for file in Path(CHECKPOINT).iterdir()), sep="\n")
json.loads((Path(CHECKPOINT) / "config.json").read_text())

# %% [markdown]
# ## Import
#
# `import` writes a work directory at step 0, for every command that reads one. A setting in config.json that lm_jax
# does not support is an error that names it, not another model.

# %%
command(f"import {CHECKPOINT} --workdir=runs/imported")

# %%
command("generate --workdir=runs/imported --prompt='Return the' --max_tokens=20 --temperature=0")

# %% [markdown]
# ## Check
#
# `interop.run` computes what the reference computes, under its names: with labels also the loss and the gradient of
# every tensor.

# %%
import numpy as np

from lm_jax import interop
from lm_jax.data import tokenizers

tokenizer = tokenizers.load(f"{CHECKPOINT}/tokenizer.json")
ids = tokenizer.encode("Return the number of items in the list.")[None]
outputs = interop.run(CHECKPOINT, {"input_ids": ids, "labels": ids})
for name, array in outputs.items():
    print(f"{name:50} {array.shape}")

# %% [markdown]
# A case is a directory with the inputs and the outputs of a reference. Where transformers and torch are installed,
# they are the reference; otherwise the run that was exported is, whose parameters come from its own checkpoint.
# `verify` compares every stored output.

# %%
import importlib.util

from lm_jax import experiment, flags
from lm_jax.models.interface import Inputs
from lm_jax.verbs.runs import restore_model

if importlib.util.find_spec("transformers") and importlib.util.find_spec("torch"):
    import torch
    import transformers

    reference = transformers.AutoModelForCausalLM.from_pretrained(CHECKPOINT)
    logits = reference(torch.tensor(ids.tolist())).logits.detach().numpy()
    print("reference: transformers")
else:
    run = experiment.load("runs/first")
    _, params = restore_model(flags.parse("generate", ["--workdir=runs/first"]), run)
    logits = run.product.module.apply({"params": params}, Inputs(tokens=ids), logits=True).logits
    print("reference: the run (transformers is not installed)")

Path("case").mkdir(exist_ok=True)
np.savez("case/inputs.npz", input_ids=ids)
np.savez("case/outputs.npz", logits=np.asarray(logits))
command(f"verify --case=case --model={CHECKPOINT}")

# %% [markdown]
# ## Tune
#
# An import has a recipe of its own. `--fork` starts a new run from its parameters and its tokenizer, here on the
# source of one module.

# %% tags=["live"]
import argparse

Path("code.txt").write_text(Path(argparse.__file__).read_text())
FORK = "--config=runs/imported/recipe.py --fork=runs/imported --workdir=runs/tuned"
DATA = "--config.data.path=code.txt --config.data.length=64 --config.data.batch=16 --config.data.store=store"
command(f"train {FORK} {DATA} --config.train.steps=100 --config.optimizer.learning_rate=3e-3")

# %% [markdown]
# Before and after: documentation has become code.

# %%
for run in ("runs/imported", "runs/tuned"):
    print(f"# {run}")
    command(f"generate --workdir={run} --prompt='self.' --max_tokens=24 --temperature=0.5")

# %% [markdown]
# ## Export
#
# The export is read back and its logits are compared with those of the run: a directory that does not agree is not
# written.

# %%
command("export --workdir=runs/tuned --output=exported")

# %% [markdown]
# In another library the directory is a checkpoint like any other:
#
# ```python
# from transformers import AutoModelForCausalLM, AutoTokenizer
#
# model, tokenizer = AutoModelForCausalLM.from_pretrained("exported"), AutoTokenizer.from_pretrained("exported")
# ```
