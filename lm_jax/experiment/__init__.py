"""From a configuration to typed pieces; the only place that wires the rooms together.

`config` reads recipes and work directories, `pieces` builds what is trained, `feed` what it is trained on.
"""

from lm_jax.experiment.config import HISTORY, SAVED, ExperimentConfig, as_json, complete, parse, saved
from lm_jax.experiment.pieces import Experiment, load, prepare

__all__ = ["HISTORY", "SAVED", "Experiment", "ExperimentConfig"]
__all__ += ["as_json", "complete", "load", "parse", "prepare", "saved"]
