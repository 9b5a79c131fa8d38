"""Epochs: the length of a run and its evaluations in passes over the training rows, `config.train.epochs`."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from fractions import Fraction

from lm_jax.evaluate.config import EvaluateConfig
from lm_jax.experiment.pieces import Experiment


def steps(epochs: float, rows: int, batch: int) -> int:
    """Returns the batches that hold `epochs` passes over `rows` rows.

    Example:
      >>> steps(3, rows=100, batch=32), steps(0.1, rows=300, batch=10)
      (10, 3)
    """
    # A fraction, because 0.1 x 300 rows are a little more than 30 in floating point.
    return max(1, math.ceil(Fraction(repr(epochs)) * rows / batch))


def scheduled(exp: Experiment) -> Experiment:
    """Returns the experiment with `config.train.steps` set by `config.train.epochs`, if that is not 0."""
    config = exp.config
    if not config.train.epochs:
        return exp
    count = steps(config.train.epochs, len(exp.feed.rows("train")), config.data.batch)
    train = dataclasses.replace(config.train, steps=count)
    return dataclasses.replace(exp, config=dataclasses.replace(config, train=train))


def evaluates(config: EvaluateConfig, rows: int, batch: int) -> Callable[[int], bool]:
    """Returns a function that says whether to evaluate after a step, counted from 1, of a run over `rows` rows."""
    if not config.per_epoch:
        return lambda step: config.every > 0 and step % config.every == 0
    done = lambda step: step * batch * config.per_epoch // rows  # Parts of epochs that have been read.
    return lambda step: done(step) > done(step - 1)
