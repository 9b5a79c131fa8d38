"""Builds runs from configurations; the only package that combines data, models, objectives and training.

`config` reads recipes and work directories, `pieces` builds models, objective and optimizer, `feed` builds batches, and
`epochs` counts them.
"""

from lm_jax.experiment.config import HISTORY, LABELS, SAVED, ExperimentConfig, adopt, as_json, complete, parse, saved
from lm_jax.experiment.pieces import Experiment
from lm_jax.experiment.preparing import load, prepare

__all__ = ["HISTORY", "LABELS", "SAVED", "Experiment", "ExperimentConfig"]
__all__ += ["adopt", "as_json", "complete", "load", "parse", "prepare", "saved"]
