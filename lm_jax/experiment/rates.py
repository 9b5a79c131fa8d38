"""The models' factors on the learning rate: of the maximal update parametrisation, and of layer-wise decay."""

from __future__ import annotations

from typing import Any

import numpy as np

from lm_jax.core.trees import flatten
from lm_jax.models import layerwise, mup
from lm_jax.objectives.roles import Models


def factors(models: Models, layer_decay: float) -> dict[str, Any]:
    """Returns the product of all factors by the path of the parameter, role included; 1 for paths that are missing.

    Arrays broadcast against their parameters.
    """
    result: dict[str, Any] = {}
    for role, model in models.models.items():
        config, axes, shapes = model.module.config, model.axes, flatten(model.shapes)
        for each in (mup.multipliers(config, axes), layerwise.multipliers(config, axes, layer_decay)):
            for path, factor in each.items():
                if isinstance(factor, np.ndarray):
                    # The last layers alone, if they are stored apart.
                    factor = factor[-shapes[path].shape[0] :]
                result[f"{role}/{path}"] = result.get(f"{role}/{path}", 1.0) * factor
    return result
