"""From a configuration to typed pieces; the only place that wires the rooms together.

`config` reads recipes and work directories, `pieces` builds what is trained, `feed` what it is trained on.
"""

from lm_jax.experiment.config import HISTORY as HISTORY
from lm_jax.experiment.config import SAVED as SAVED
from lm_jax.experiment.config import ExperimentConfig as ExperimentConfig
from lm_jax.experiment.config import as_json as as_json
from lm_jax.experiment.config import complete as complete
from lm_jax.experiment.config import parse as parse
from lm_jax.experiment.config import saved as saved
from lm_jax.experiment.pieces import Experiment as Experiment
from lm_jax.experiment.pieces import load as load
from lm_jax.experiment.pieces import prepare as prepare
