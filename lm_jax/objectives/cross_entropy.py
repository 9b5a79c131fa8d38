"""Cross-entropy of logits and labels, and its sum over a batch in chunks, without all logits in memory at once."""

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

# At most 8 chunks per device, of at least 512 tokens: each chunk adds once to the gradient of the whole table.
MOST_CHUNKS, LEAST_TOKENS = 8, 512

Logits = Callable[[Any, jax.Array], jax.Array]
Sums = tuple[jax.Array, jax.Array]


def cross_entropy(logits: Float[Array, "*batch classes"], labels: Int[Array, "*batch"]) -> Float[Array, "*batch"]:
    """-log softmax(logits)[label], in float32."""
    return _softmax(logits, labels)[0]


def _softmax(logits: jax.Array, labels: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
    """`cross_entropy`, with the numerators and denominators of the probabilities for the gradient."""
    wide = logits.astype(jnp.float32)
    highest = jax.lax.stop_gradient(wide.max(-1, keepdims=True))
    powers = jnp.exp(wide - highest)
    total = powers.sum(-1, keepdims=True)
    right = jnp.take_along_axis(wide, labels[..., None], -1)
    return (jnp.log(total) + highest - right)[..., 0], powers, total


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

    loss, right = sum_over_rows(local_sums, readout, hidden, labels, weights)
    weight = weights.sum()
    return Sum(total=loss, weight=weight), Sum(total=right, weight=weight)


def _chunked(x: jax.Array, chunks: int) -> jax.Array:
    """`x` in equal chunks, [chunks, tokens, ...]; the last is padded with zeros."""
    size = -(-x.shape[0] // chunks)
    x = jnp.pad(x, [(0, chunks * size - x.shape[0])] + [(0, 0)] * (x.ndim - 1))
    return x.reshape(chunks, size, *x.shape[1:])


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _sums(readout_logits: Logits, readout: Any, hidden: jax.Array, labels: jax.Array, weights: jax.Array) -> Sums:
    """Sums of loss and hits over chunks, [chunks, tokens, ...]; no gradient with respect to `weights`."""

    def add(sums: Sums, chunk: tuple[jax.Array, ...]) -> tuple[Sums, None]:
        hidden, labels, weights = chunk
        scores = readout_logits(readout, hidden)
        terms = ((cross_entropy(scores, labels) * weights).sum(), (is_largest(scores, labels) * weights).sum())
        return jax.tree.map(jnp.add, sums, terms), None

    return jax.lax.scan(add, (jnp.float32(0), jnp.float32(0)), (hidden, labels, weights))[0]


def _sums_forward(readout_logits: Logits, readout: Any, *tokens: jax.Array):
    def add(sums: Any, chunk: tuple[jax.Array, ...]):
        hidden, labels, weights = chunk
        scores, pull = jax.vjp(readout_logits, readout, hidden)
        loss, powers, total = _softmax(scores, labels)
        terms = ((loss * weights).sum(), (is_largest(scores, labels) * weights).sum())
        columns = jax.lax.broadcasted_iota(labels.dtype, scores.shape, scores.ndim - 1)
        share = weights[..., None]
        slope = powers * (share / total) - jnp.where(labels[..., None] == columns, share, 0.0)
        of_readout, of_hidden = pull(slope.astype(scores.dtype))
        return jax.tree.map(jnp.add, sums, (terms, of_readout)), of_hidden

    start = ((jnp.float32(0), jnp.float32(0)), jax.tree.map(jnp.zeros_like, readout))
    (totals, of_readout), of_hidden = jax.lax.scan(add, start, tokens)
    return totals, (of_readout, of_hidden)


def _sums_backward(readout_logits: Logits, slopes: tuple[Any, jax.Array], gradient: tuple[jax.Array, jax.Array]):
    of_readout, of_hidden = jax.tree.map(lambda x: (x * gradient[0]).astype(x.dtype), slopes)
    return of_readout, of_hidden, None, None


_sums.defvjp(_sums_forward, _sums_backward)
