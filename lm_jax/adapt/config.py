"""Settings of `config.adapt`."""

from __future__ import annotations

import dataclasses

from lm_jax.core.config import InputError, setting


@dataclasses.dataclass(frozen=True, kw_only=True)
class RankConfig:
    """Rank and scale of the low-rank products of some targets.

    Attributes:
      target: as in `AdaptConfig.targets`.
      rank, alpha: instead of those of `AdaptConfig`; None: the same.
    """

    target: str
    rank: int | None = setting(None, at_least=1)
    alpha: float | None = setting(None, above=0)


@dataclasses.dataclass(frozen=True, kw_only=True)
class AdaptConfig:
    """How a model is tuned.

    Attributes:
      method: a key of `adapt.METHODS`. The head of a task is trained by all of them.
      layers: the number of layers, counted from the last one, that `last` trains in every stack.
      targets: the matrices of layers that `lora`, `rslora`, `dora` and `ia3` change: names of projections ("query"),
        parts of a layer they are in ("attention", "feedforward/out"), or logical axes that they have ("mlp"). Empty:
        those of the method's paper.
      rank: inner size of low-rank products.
      alpha: their scale is alpha / rank, or alpha / sqrt(rank) for `rslora`. PEFT's default is 8.
      ranks: other ranks and scales for some targets; the last that fits counts.
      width: inner size of the adapters of `houlsby` and `pfeiffer`.
      tokens: the number of learned tokens of `prompt` and `prefix`.
      every: steps after which `gradual` trains one layer more; 0: `steps` decides.
      steps: the same as numbers of finished steps, one for each layer and one for the embeddings.
      base: how `lora`, `rslora` and `dora` store frozen matrices and token tables: "float32", "int8" or "nf4".
    """

    method: str = "full"
    layers: int = setting(1, at_least=1)
    targets: tuple[str, ...] = ()
    rank: int = setting(8, at_least=1)
    alpha: float = setting(16.0, above=0)
    ranks: tuple[RankConfig, ...] = ()
    width: int = setting(64, at_least=1)
    tokens: int = setting(20, at_least=1)
    every: int = setting(0, at_least=0)
    steps: tuple[int, ...] = setting((), at_least=1)
    base: str = "float32"

    def __post_init__(self):
        if any(after <= before for before, after in zip(self.steps, self.steps[1:], strict=False)):
            raise InputError(f"config.adapt.steps is {self.steps}; expected ascending numbers of steps")
        if any(not target.strip("/") for target in self.targets):
            raise InputError(f"config.adapt.targets is {self.targets}; expected names such as query,value")
