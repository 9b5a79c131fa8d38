"""The settings of a task's head: which hidden states it reads, and its layers. `heads.TaskHead` has the parameters."""

from __future__ import annotations

import dataclasses

from lm_jax.core.config import setting


@dataclasses.dataclass(frozen=True, kw_only=True)
class TaskHeadConfig:
    """Optionally a dense layer, an activation and a norm, then a projection to classes, as in released classifiers.

    Attributes:
      classes: logits per hidden state; 0: as many as the objective needs, and none for pretraining.
      pooler: whether the dense layer exists without classes too: the pooler of a released encoder.
      tokens: whether a head on all tokens has the layers before the projection too (ModernBERT's has).
      pool: the hidden states that it reads, a key of `pooling.POOLS`: "all", or one per row.
      states: how many hidden states of a row are concatenated for it (those of two entities: 2).
      dense: whether there is a dense layer.
      dense_bias, bias, norm_bias: whether the dense layer, the projection and the norm have a bias.
      activation: after the dense layer, or on the hidden states without one; empty: none.
      norm: whether there is a norm after the activation.
      epsilon: of the norm.
      dropout: rate before the projection.
      dense_dropout: rate before the dense layer.
    """

    classes: int = setting(0, at_least=0)
    pooler: bool = False
    tokens: bool = False
    pool: str = "first"
    states: int = setting(1, at_least=1)
    dense: bool = False
    dense_bias: bool = True
    activation: str = ""
    norm: bool = False
    norm_bias: bool = True
    epsilon: float = setting(1e-5, above=0)
    bias: bool = True
    dropout: float = setting(0.0, at_least=0, below=1)
    dense_dropout: float = setting(0.0, at_least=0, below=1)

    @property
    def exists(self) -> bool:
        """Whether the model has parameters of such a head; settings alone are for the tasks of later runs."""
        return bool(self.classes or (self.dense and self.pooler))

    def per_token(self, classes: int) -> TaskHeadConfig:
        """The head of the same family on every token, with a bias: only a projection, unless `tokens` is set."""
        if self.pool == "all":
            return dataclasses.replace(self, classes=classes)
        layers = {} if self.tokens else {"dense": False, "activation": "", "norm": False}
        return dataclasses.replace(self, classes=classes, pool="all", states=1, bias=True, **layers)
