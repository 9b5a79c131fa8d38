# %% [markdown]
# # One sentence through every objective
#
# An objective decides what a model reads and what it predicts. Here one sentence passes through the objectives of
# lm_jax, and each prints the row that the train step receives. No model is trained.

# %%
import subprocess
import sys

if "google.colab" in sys.modules:  # Write the address of the repository, or the name of an uploaded wheel.
    subprocess.run([sys.executable, "-m", "pip", "install", "--quiet", "git+<this repository>"], check=True)

from lm_jax.verbs import doctor

print(doctor.summary())

# %% [markdown]
# The text is a file with the sentence on every line, and each line is a document. A WordPiece tokenizer trained on
# this sentence alone knows its words, so that every word is one token.

# %%
from pathlib import Path

from lm_jax.data import tokenizers
from lm_jax.main import command

SENTENCE = "the old keeper climbed the narrow stairs every evening and lit the lamp before the first ship came home."
Path("sentence.txt").write_text("\n".join([SENTENCE] * 20))

config = tokenizers.TokenizerConfig(kind="wordpiece", sentinels=8)
tokenizer = tokenizers.train(config, [SENTENCE] * 4)
tokenizer.save(Path("tokenizer"))
print([tokenizer.piece(token) for token in tokenizer.encode(SENTENCE).tolist()])

# %% [markdown]
# `lm-jax inspect --batch=STEP` prints rows of a training batch, and `command` runs it inside the notebook. A recipe
# brings the objective; the flags below are those of the text. `length` is the length of the model's input: it is
# chosen so that a row holds the sentence, `[EOS]` and the special tokens of the objective. In the output
#
# - `{read -> predicted}` is a token that the model reads, and the one that it predicts in its place,
# - `{= predicted}` is a predicted token that the model reads unchanged,
# - `0 x 12, 1 x 9` abbreviates twelve zeros and nine ones.

# %%
TEXT = """
    --config.data.path=sentence.txt --config.data.document=line --config.data.clean.deduplicate=False
    --config.data.tokenizer.path=tokenizer --config.data.rows.shift=False --config.data.validation=0
"""


def show(recipe, length, more=""):
    command(f"inspect --config={recipe} --batch=0 --rows=1 {TEXT} --config.data.length={length} {more}")


# %% [markdown]
# ## Decoders
#
# **Next token** (GPT). The target of a token is the token after it. Rows are cut from one stream of tokens, so the
# last target is the first token of the next document.

# %%
show("gpt:tiny", 21)

# %% [markdown]
# **Prefix** (a prefix language model). The first `prefix` tokens attend to each other in both directions. `weights`
# is 0 where the target belongs to the prefix, because the model has already read it.

# %%
show("prefix:tiny", 21)

# %% [markdown]
# **Fill in the middle** (Bavarian et al. 2022). The document is divided at two random places, and its middle moves to
# the end. The loss is that of the next token: only the order of the text has changed. The document is shortened to
# make room for the three markers.

# %%
MIDDLE = "--config.objective.causal.middle.rate=1 --config.objective.causal.middle.suffix_first=0"
show("fim:tiny", 21, f"--batch=1 {MIDDLE}")

# %% [markdown]
# ## Encoders
#
# **Masked tokens and next sentence** (BERT). 15 % of the tokens are predicted; of these, 80 % are read as `[MASK]`,
# 10 % as a random token and 10 % unchanged. `types` tells the two segments of a pair apart, and `is_next` is the
# second label: 1 if the second follows the first in its document, 0 if it is from a random place, as here.

# %%
show("bert:tiny", 24)

# %% [markdown]
# **Spans and their boundaries** (SpanBERT). Adjacent tokens are masked together. A second loss predicts each of them
# from the tokens just outside of the span, at the places `before` and `after`, and from its place in the span,
# `distances`.

# %%
show("spanbert:tiny", 23)

# %% [markdown]
# **Replaced tokens** (ELECTRA). A small generator reads this row and predicts the masked tokens. The masks are then
# filled with samples from its predictions, and the discriminator tells for every token whether it was replaced. The
# samples are drawn on the device, in the train step, so the row does not show them.

# %%
show("electra:tiny", 23)

# %% [markdown]
# **Permutation** (XLNet). No token is masked. `ranks` are places in a random order: a predicted token is computed
# from the tokens of lower ranks and from its own position, but not from its own content. Tokens of rank 0 are only
# read; `[SEP]` and `[CLS]` have ranks, but are never predicted.

# %%
show("xlnet:tiny", 23)

# %% [markdown]
# ## Encoder-decoders
#
# **Span corruption** (T5). In the source, a sentinel stands for each removed span. The targets are the sentinels,
# each followed by its span, and `tokens`, the input of the decoder, are the targets shifted to the right.

# %%
show("t5:tiny", 20)

# %% [markdown]
# **Denoising** (BART). One `[MASK]` stands for a run of tokens, which may be empty, so the encoder does not know how
# many are missing. The decoder writes the whole text.

# %%
show("bart:tiny", 23)

# %% [markdown]
# **Several objectives at once** (UL2). Each row belongs to a part of the mixture: short spans (`r3`, `r8`), long or
# dense ones (`x`), or the rest of the text (`s`). A marker at the start of the source names the kind of part, and all
# rows are one batch with one loss.

# %%
show("ul2:tiny", 24, "--rows=4")

# %% [markdown]
# **Pairs** (Vaswani et al. 2017). A translation is not corrupted: one column of a table is the source, another the
# target.

# %%
Path("pairs.tsv").write_text("source\ttarget\n" + "the lamp is lit\tdie lampe brennt\n" * 20)
TABLE = "--config.data.path=pairs.tsv --config.data.tokenizer.path= --config.data.tokenizer.kind=wordpiece"
show("transformer:captions", 8, TABLE)

# %% [markdown]
# ## Further
#
# Change a setting and look again: `show("t5:tiny", 20, "--config.objective.span.rate=0.5")` removes half of the
# tokens. `lm-jax list` names all recipes, and `lm-jax inspect --config=RECIPE` all settings of one. For rows of your
# own text, set `TEXT` to `--config.data.path=FILE`.
