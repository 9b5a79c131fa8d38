"""-log softmax of logits at labels, and the sum of it over a batch without ever holding all of its logits."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, cast

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from lm_jax.core.sums import Sum
from lm_jax.models.heads import hits
from lm_jax.models.model import Bound
from lm_jax.parallel.layout import over_rows

# A device makes logits in at most so many parts of at least so many tokens: each adds to the table's gradient.
MOST_PARTS, LEAST_TOKENS = 8, 512

Logits = Callable[[Any, jax.Array], jax.Array]
Sums = tuple[jax.Array, jax.Array]


def cross_entropy(logits: Float[Array, "*batch classes"], labels: Int[Array, "*batch"]) -> Float[Array, "*batch"]:
    """-log softmax(logits)[label], in float32."""
    return _softmax(logits, labels)[0]


def _softmax(logits: jax.Array, labels: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
    """`cross_entropy`, and what probabilities are made of: powers of e and their sums."""
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
    """The weighted sums of -log P(label) in nats, and of how often the label is the most probable token.

    The logits are made a few tokens at a time, and the gradient with them: each part's becomes a part of the gradient
    of the sum at once, and is gone (Hsu et al. 2024, arXiv:2410.10989). Every device does so with its own rows, so that
    the gradient of the readout is summed over devices once.
    """
    readout, logits = model.readout_params, lambda writer, hidden: model.readout(hidden, writer)

    def own(readout: Any, hidden: jax.Array, labels: jax.Array, weights: jax.Array) -> Sums:
        parts = min(MOST_PARTS, -(-labels.size // LEAST_TOKENS))
        tokens = (hidden.reshape(-1, hidden.shape[-1]), labels.reshape(-1), weights.reshape(-1))
        return cast(Sums, _sums(logits, readout, *(_parted(x, parts) for x in tokens)))

    loss, right = over_rows(own, readout, hidden, labels, weights)
    weight = weights.sum()
    return Sum(total=loss, weight=weight), Sum(total=right, weight=weight)


def _parted(x: jax.Array, parts: int) -> jax.Array:
    """`x` in `parts` equal parts, as [parts, size of a part, ...], the last one filled up with zeros."""
    size = -(-x.shape[0] // parts)
    x = jnp.pad(x, [(0, parts * size - x.shape[0])] + [(0, 0)] * (x.ndim - 1))
    return x.reshape(parts, size, *x.shape[1:])


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _sums(
    logits: Logits,
    readout: Any,
    hidden: jax.Array,
    labels: jax.Array,
    weights: jax.Array,
) -> Sums:
    """Loss and right answers of all parts, [parts, tokens of a part, ...]; nothing is learned about `weights`."""

    def one(sums: Sums, part: tuple[jax.Array, ...]) -> tuple[Sums, None]:
        hidden, labels, weights = part
        made = logits(readout, hidden)
        found = ((cross_entropy(made, labels) * weights).sum(), (hits(made, labels) * weights).sum())
        return jax.tree.map(jnp.add, sums, found), None

    return jax.lax.scan(one, (jnp.float32(0), jnp.float32(0)), (hidden, labels, weights))[0]


def _sums_forward(logits: Logits, readout: Any, *tokens: jax.Array):
    def one(sums: Any, part: tuple[jax.Array, ...]):
        hidden, labels, weights = part
        made, pull = jax.vjp(logits, readout, hidden)
        loss, powers, total = _softmax(made, labels)
        found = ((loss * weights).sum(), (hits(made, labels) * weights).sum())
        columns = jax.lax.broadcasted_iota(labels.dtype, made.shape, made.ndim - 1)
        share = weights[..., None]
        slope = powers * (share / total) - jnp.where(labels[..., None] == columns, share, 0.0)
        of_readout, of_hidden = pull(slope.astype(made.dtype))
        return jax.tree.map(jnp.add, sums, (found, of_readout)), of_hidden

    start = ((jnp.float32(0), jnp.float32(0)), jax.tree.map(jnp.zeros_like, readout))
    (found, of_readout), of_hidden = jax.lax.scan(one, start, tokens)
    return found, (of_readout, of_hidden)


def _sums_backward(logits: Logits, slopes: tuple[Any, jax.Array], gradient: tuple[jax.Array, jax.Array]):
    of_readout, of_hidden = jax.tree.map(lambda x: (x * gradient[0]).astype(x.dtype), slopes)
    return of_readout, of_hidden, None, None


_sums.defvjp(_sums_forward, _sums_backward)
