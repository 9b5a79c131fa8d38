# %% [markdown]
# # From a file to a model that writes
#
# A text file becomes a corpus, the corpus a tokenizer and a model, and the model writes.

# %%
import subprocess
import sys

if "google.colab" in sys.modules:  # Write the address of the repository, or the name of an uploaded wheel.
    subprocess.run([sys.executable, "-m", "pip", "install", "--quiet", "git+<this repository>"], check=True)

from lm_jax.verbs import doctor

print(doctor.summary())

# %% [markdown]
# ## The text
#
# Upload a file as `my.txt`, or use what is there: the reference topics that Python's `help()` shows. Plain text, JSON
# lines and tables are read, compressed too; see docs/data.md in the repository.

# %%
import pydoc_data.topics
from pathlib import Path

if not Path("my.txt").exists():
    Path("my.txt").write_text("\n\n\n".join(pydoc_data.topics.topics.values()))
print(Path("my.txt").read_text()[:300])

# %% [markdown]
# ## From text to tokens
#
# `data` cleans the text, trains a tokenizer on it and stores the tokens; its report says what was changed or dropped.
# The vocabulary size of this recipe is an upper bound, so that a small text works too. The last tenth of the tokens
# is held out for validation.

# %%
from lm_jax.main import command

RECIPE = "--config=gpt:tiny --config.data.path=my.txt --config.data.store=store"
command(f"data {RECIPE}")

# %% [markdown]
# What the model will read in its first step: two rows of the batch, and the token that it has to predict at each
# place.

# %%
command(f"inspect {RECIPE} --batch=0 --rows=2")

# %% [markdown]
# ## Training
#
# The work directory receives checkpoints, metrics and the configuration. If the training is interrupted, the same
# command resumes it.

# %% tags=["live"]
command(f"train {RECIPE} --workdir=runs/mine --config.train.steps=150")

# %% [markdown]
# ## Writing
#
# The model predicts a distribution over the next token, and the sampling decides what to do with it. Temperature 0
# takes the most likely token, and a small model then repeats itself. Temperature 1 takes the distribution as it is,
# with all its unlikely tokens; between them, and with `--top_p`, the unlikely ones are rare.

# %%
for sampling in ("--temperature=0", "--temperature=0.7 --top_p=0.9", "--temperature=1"):
    print(f"# {sampling}")
    command(f"generate --workdir=runs/mine --prompt='The statement' --max_tokens=40 {sampling}")

# %% [markdown]
# ## Training on
#
# The number of steps may change when a run is resumed: the learning rate follows the new schedule from here on.

# %% tags=["live"]
command(f"train {RECIPE} --workdir=runs/mine --config.train.steps=300")

# %%
from lm_jax.train import metrics

for entry in metrics.read("runs/mine"):
    if "val/loss" in entry:
        print(f"step {entry['step']:3.0f}: {entry['val/loss']:.2f} nats per token")

# %%
command("generate --workdir=runs/mine --prompt='The statement' --max_tokens=40 --temperature=0.7 --top_p=0.9")

# %% [markdown]
# ## Further
#
# These are 300 small steps of a small model. `quickstart:gpt` is larger and replaces line breaks, which mean little
# in prose, by spaces; `gpt:small` is the published size and needs an accelerator. With `--config=bert:tiny` or
# `--config=t5:tiny` the same commands train an encoder or an encoder-decoder on your text.
