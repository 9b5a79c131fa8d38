"""Work directories of untrained runs with random parameters, written in a second, to test verbs that read a run."""

import dataclasses
import json

import jax.numpy as jnp
import numpy as np
import tiny
from ml_collections import ConfigDict

from lm_jax import experiment
from lm_jax.adapt import AdaptConfig
from lm_jax.core.config import Tree
from lm_jax.core.trees import map_named
from lm_jax.data.config import DataConfig
from lm_jax.experiment import Experiment, ExperimentConfig
from lm_jax.models.interface import Inputs
from lm_jax.models.presets import PRESETS
from lm_jax.objectives import ObjectiveConfig
from lm_jax.train.checkpoint import Checkpointer
from lm_jax.verbs import workdir as workdirs

OBJECTIVES = {"decoder": "causal", "encoder": "masked", "encoder_decoder": "span"}


def configure(workdir, preset="bert"):
    """Writes config.json of the `tiny` size of a preset alone, for recipes whose model `--fork` supplies."""
    recipe = ConfigDict({"model": PRESETS[preset].build("tiny")})
    workdir.mkdir(parents=True, exist_ok=True)
    config = experiment.parse(experiment.complete(recipe))
    (workdir / experiment.config.SAVED).write_text(json.dumps(experiment.as_json(config)))
    return workdir


def draw(workdir, preset, tokenizer, *, ends=None, objective=None, data=None, labels=None, adapt=None, **over):
    """Writes a run of the `tiny` size of a preset, and returns its experiment.

    Args:
      workdir: the directory to write.
      preset: name of the preset.
      tokenizer: determines the vocabulary.
      ends: a token id whose LM head logit is swapped with that of the end of text; requires an untied head.
      objective: its settings; None: pretraining.
      data: its settings; None: rows of 32 tokens.
      labels: names of the labels of a task, by column.
      adapt: how it was tuned; None: plainly.
      **over: settings of the model, `stack__depth` for `stack.depth`.
    """
    tree = PRESETS[preset].build("tiny")
    with tree.ignore_type():
        tree.update_from_flattened_dict({key.replace("__", "."): value for key, value in over.items()})
    objective, data = objective or ObjectiveConfig(name=OBJECTIVES[tree.kind]), data or DataConfig(length=32)
    config = ExperimentConfig(model=None, objective=objective, data=data, adapt=adapt or AdaptConfig())
    recipe = ConfigDict({**dataclasses.asdict(config), "model": tree})
    exp = Experiment(experiment.parse(experiment.complete(recipe)), tokenizer, saved_labels=labels or Tree())
    tokens = jnp.zeros((1, 2), jnp.int32)
    source = Inputs(tokens=tokens) if tree.kind == "encoder_decoder" else None
    _, params = tiny.build(exp.product.module.config, Inputs(tokens=tokens, source=source))
    params = params if adapt is None else tiny.random_params(exp.product.shapes)
    if ends is not None:
        order = np.arange(tokenizer.vocab_size)
        order[[ends, tokenizer.eos]] = tokenizer.eos, ends
        params = {**params, "head": map_named(lambda _, leaf: leaf[..., order], params["head"])}
    about = {
        "config": experiment.as_json(exp.config),
        "data_fingerprint": "",
        "tokenizer_fingerprint": tokenizer.fingerprint,
    }
    with Checkpointer(workdir / "checkpoints") as checkpointer:
        checkpointer.save(0, {"params": {exp.models.product: params}}, about)
    workdirs.write(exp, workdir)
    return exp


class Drawn(dict):
    """Experiments of runs by name, each drawn when a test first asks for it or for its directory.

    `choices` maps names to a preset and to the options of `draw`.
    """

    def __init__(self, folder, tokenizer, choices):
        self.folder, self.tokenizer, self.choices = folder, tokenizer, choices

    def __missing__(self, name):
        preset, options = self.choices[name]
        self[name] = draw(self.folder / name, preset, self.tokenizer, **options)
        return self[name]

    def at(self, name):
        """The work directory of a run."""
        self[name]
        return self.folder / name
