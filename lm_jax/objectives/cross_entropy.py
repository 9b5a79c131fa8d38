"""Cross-entropy of logits and labels, and its sum over a batch with the logits of one chunk at a time in memory."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, cast

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from lm_jax.core.sums import Sum
from lm_jax.models.heads import is_largest
from lm_jax.models.model import Bound
from lm_jax.parallel.layout import sum_over_rows

# At most 8 chunks per device, of at least 512 tokens, because every chunk adds to the gradient of the whole readout.
MOST_CHUNKS, LEAST_TOKENS = 8, 512

Logits = Callable[[Any, jax.Array], jax.Array]
Sums = tuple[jax.Array, jax.Array]


def cross_entropy(logits: Float[Array, "*batch classes"], labels: Int[Array, "*batch"]) -> Float[Array, "*batch"]:
    """-log softmax(logits)[label], in float32."""
    return _softmax(logits, labels)[0]


def _softmax(logits: jax.Array, labels: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
    """The cross-entropy, and the numerators and denominators of the probabilities, for the gradient."""
    wide = logits.astype(jnp.float32)
    maximum = jax.lax.stop_gradient(wide.max(-1, keepdims=True))
    numerators = jnp.exp(wide - maximum)
    denominators = numerators.sum(-1, keepdims=True)
    label_logits = jnp.take_along_axis(wide, labels[..., None], -1)
    return (jnp.log(denominators) + maximum - label_logits)[..., 0], numerators, denominators


def token_loss(
    model: Bound,
    hidden: Float[Array, "batch length embed"],
    labels: Int[Array, "batch length"],
    weights: Float[Array, "batch length"],
) -> tuple[Sum, Sum]:
    """Weighted sums of -log P(label), in nats, and of the positions where the label has the largest logit.

    Logits and their gradient are computed chunk by chunk, and each chunk's gradient is propagated to `hidden` and the
    readout at once, so that only one chunk is in memory (Hsu et al. 2024, arXiv:2410.10989). Each device processes its
    own rows, so the gradient of the readout is summed over devices once.
    """
    readout, readout_logits = model.readout_params, lambda params, hidden: model.readout(hidden, params)

    def local_sums(readout: Any, hidden: jax.Array, labels: jax.Array, weights: jax.Array) -> Sums:
        chunks = min(MOST_CHUNKS, -(-labels.size // LEAST_TOKENS))
        tokens = (hidden.reshape(-1, hidden.shape[-1]), labels.reshape(-1), weights.reshape(-1))
        return cast(Sums, _sums(readout_logits, readout, *(_chunked(x, chunks) for x in tokens)))

    loss, correct = sum_over_rows(local_sums, readout, hidden, labels, weights)
    weight = weights.sum()
    return Sum(total=loss, weight=weight), Sum(total=correct, weight=weight)


def _chunked(x: jax.Array, chunks: int) -> jax.Array:
    """`x` in equal chunks, [chunks, tokens, ...]; the last is padded with zeros."""
    size = -(-x.shape[0] // chunks)
    x = jnp.pad(x, [(0, chunks * size - x.shape[0])] + [(0, 0)] * (x.ndim - 1))
    return x.reshape(chunks, size, *x.shape[1:])


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _sums(readout_logits: Logits, readout: Any, hidden: jax.Array, labels: jax.Array, weights: jax.Array) -> Sums:
    """Sums of the loss and of correct predictions over [chunks, tokens, ...]; `weights` get no gradient."""

    def add(sums: Sums, chunk: tuple[jax.Array, ...]) -> tuple[Sums, None]:
        hidden, labels, weights = chunk
        logits = readout_logits(readout, hidden)
        terms = ((cross_entropy(logits, labels) * weights).sum(), (is_largest(logits, labels) * weights).sum())
        return jax.tree.map(jnp.add, sums, terms), None

    return jax.lax.scan(add, (jnp.float32(0), jnp.float32(0)), (hidden, labels, weights))[0]


def _sums_forward(readout_logits: Logits, readout: Any, *tokens: jax.Array):
    def add(sums: Any, chunk: tuple[jax.Array, ...]):
        hidden, labels, weights = chunk
        logits, pullback = jax.vjp(readout_logits, readout, hidden)
        loss, numerators, denominators = _softmax(logits, labels)
        terms = ((loss * weights).sum(), (is_largest(logits, labels) * weights).sum())
        ids = jax.lax.broadcasted_iota(labels.dtype, logits.shape, logits.ndim - 1)
        weight = weights[..., None]
        gradient = numerators * (weight / denominators) - jnp.where(labels[..., None] == ids, weight, 0.0)
        readout_gradient, hidden_gradient = pullback(gradient.astype(logits.dtype))
        return jax.tree.map(jnp.add, sums, (terms, readout_gradient)), hidden_gradient

    start = ((jnp.float32(0), jnp.float32(0)), jax.tree.map(jnp.zeros_like, readout))
    (totals, readout_gradient), hidden_gradient = jax.lax.scan(add, start, tokens)
    return totals, (readout_gradient, hidden_gradient)


def _sums_backward(readout_logits: Logits, gradients: tuple[Any, jax.Array], cotangents: tuple[jax.Array, jax.Array]):
    readout_gradient, hidden_gradient = jax.tree.map(lambda x: (x * cotangents[0]).astype(x.dtype), gradients)
    return readout_gradient, hidden_gradient, None, None


_sums.defvjp(_sums_forward, _sums_backward)
