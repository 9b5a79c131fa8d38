"""Kernels of softmax attention. All take the mask as a predicate and compute the same function.

To add a kernel, write a file with a function of the same signature and add it to `KERNELS`. A kernel of one platform
also has a line in `FUSED`, with a function that says what it cannot serve. A kernel names its output `attended`, which
`stack.remat` may keep.
"""

from __future__ import annotations

import functools
import logging
from typing import Any

from lm_jax.core.config import InputError, lookup
from lm_jax.models.attention.kernels import cudnn as _cudnn
from lm_jax.models.attention.kernels import splash as _splash
from lm_jax.models.attention.kernels.blockwise import blockwise
from lm_jax.models.attention.kernels.dense import dense
from lm_jax.models.attention.masks import Visibility
from lm_jax.parallel.layout import platform

log = logging.getLogger(__name__)

KERNELS = {"dense": dense, "blockwise": blockwise, "splash": _splash.splash, "cudnn": _cudnn.cudnn}
# Kernels that keep the scores on the chip: their platform, the fewest tokens that fill a block, and what they cannot
# serve.
FUSED = {"splash": ("tpu", 128, _splash.refusal), "cudnn": ("gpu", 64, _cudnn.refusal)}


def choose(name: str, q: Any, k: Any, visibility: Visibility, *, block: int, **options: Any):
    """Looks up a kernel by name, for the arguments that it will get.

    `auto` is the platform's kernel of `FUSED` where that can serve them; what it cannot serve is logged, once. Without
    one it is blockwise where blocks of keys can be skipped, and else dense.

    Args:
      name: `auto`, or one of `KERNELS`.
      q: queries, or their shape.
      k: keys, or their shape.
      visibility: the keys that each query may attend to.
      block: queries per block of `blockwise`.
      options: the kernel's other arguments.

    Raises:
      InputError: there is no such kernel, or the named one cannot serve the arguments.
    """
    queries, keys = q.shape[2], k.shape[2]
    if name in FUSED:
        reason = _refusal(name, q, k, visibility, options)
        if reason is not None:
            raise InputError(f"attention.kernel is {name!r}, which does not serve {reason}; set attention.kernel=auto")
    elif name == "auto":
        fused = next((each for each, (where, _, _) in FUSED.items() if where == platform()), None)
        if fused is not None and min(queries, keys) >= FUSED[fused][1]:
            reason = _refusal(fused, q, k, visibility, options)
            if reason is None:
                return KERNELS[fused]
            _report(fused, reason)
        skips = visibility.positions_are_indices and visibility.mask.reach(0, block, keys) != (0, keys)
        name = "blockwise" if skips and queries > block else "dense"
    return lookup(KERNELS, name, "attention.kernel")


def _refusal(name: str, q: Any, k: Any, visibility: Visibility, options: dict[str, Any]) -> str | None:
    where, _, refusal = FUSED[name]
    return refusal(q, k, visibility, **options) if platform() == where else f"the platform {platform()!r}"


@functools.cache
def _report(name: str, reason: str) -> None:
    """Logs a reason once for all layers and programs."""
    log.warning("attention is computed without the kernel %r, which does not serve %s", name, reason)
