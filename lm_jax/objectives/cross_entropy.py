"""Cross-entropy of logits and labels, and its sum over a batch with the logits of one chunk at a time in memory."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from typing import Any, cast

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from lm_jax.core.sums import Sum
from lm_jax.models.heads import is_largest
from lm_jax.models.model import Bound
from lm_jax.objectives.sampling import sample
from lm_jax.parallel.products import Gathered, is_gathered, sum_over_rows, whole

# At most 8 chunks per device, of at least 512 tokens, because every chunk adds to the gradient of the whole readout.
MOST_CHUNKS, LEAST_TOKENS = 8, 512

Logits = Callable[[Any, jax.Array], jax.Array]
# Of the loss, of correct predictions, and with smoothing of the loss without it.
Sums = tuple[jax.Array, ...]


def cross_entropy(logits: Float[Array, "*batch classes"], labels: Int[Array, "*batch"]) -> Float[Array, "*batch"]:
    """-log softmax(logits)[label], in float32."""
    return _softmax(logits, labels)[0]


def binary_cross_entropy(log_odds: Float[Array, "*batch"], labels: Float[Array, "*batch"]) -> Float[Array, "*batch"]:
    """-log P(label) of labels 0 and 1, in float32."""
    wide = log_odds.astype(jnp.float32)
    return jax.nn.softplus(wide) - labels * wide


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
    *,
    readout: Callable[[jax.Array, Any], jax.Array] | None = None,
) -> tuple[Sum, Sum]:
    """Weighted sums of -log P(label), in nats, and of the positions where the label has the largest logit.

    `readout(hidden, params)` gives the logits, from the parameters `model.readout_params`; None: the model's own.

    Logits and their gradient are computed chunk by chunk, and each chunk's gradient is propagated to `hidden` and the
    readout at once, so that only one chunk is in memory (Hsu et al. 2024, arXiv:2410.10989). Each device processes its
    own rows, so the gradient of the readout is summed over devices once; that of a large one, chunk by chunk.
    """
    loss, correct = _token_sums(model, hidden, labels, weights, readout or model.readout, 0.0)
    return loss, correct


def sampled_token_loss(
    model: Bound,
    hidden: Float[Array, "batch length embed"],
    labels: Int[Array, "batch length"],
    weights: Float[Array, "batch length"],
    uniforms: Float[Array, "batch length 2"],
) -> tuple[Sum, Sum, Int[Array, "batch length"]]:
    """`token_loss`, and a token id for each position, sampled from the same softmax without a gradient.

    `uniforms` are random numbers in [0, 1), as `sampling.uniforms` returns them.
    """

    def local_sums(params: Any, *tokens: jax.Array) -> tuple[Sums, jax.Array]:
        *totals, samples = _local_sums(model.readout, 0.0, params, *tokens)
        return tuple(totals), samples.reshape(-1)[: tokens[1].size].reshape(tokens[1].shape)

    where = {"axes": model.readout_axes, "dtype": hidden.dtype, "keep": True}
    sums, samples = sum_over_rows(local_sums, model.readout_params, hidden, labels, weights, uniforms, **where)
    weight = weights.sum()
    loss, correct = (Sum(total=total, weight=weight) for total in sums)
    return loss, correct, samples


def smoothed_token_loss(
    model: Bound,
    hidden: Float[Array, "batch length embed"],
    labels: Int[Array, "batch length"],
    weights: Float[Array, "batch length"],
    smoothing: float,
) -> tuple[Sum, Sum, Sum]:
    """`token_loss` with label smoothing, and as a third sum -log P(label) without it.

    The label has the probability 1 - smoothing, and every id, the label too, smoothing / vocabulary (Szegedy et al.
    2016, arXiv:1512.00567, section 7; Vaswani et al. 2017, section 5.4).
    """
    loss, correct, exact = _token_sums(model, hidden, labels, weights, model.readout, smoothing)
    return loss, correct, exact


def _token_sums(
    model: Bound,
    hidden: jax.Array,
    labels: jax.Array,
    weights: jax.Array,
    readout: Callable[[jax.Array, Any], jax.Array],
    smoothing: float,
) -> tuple[Sum, ...]:
    local_sums = functools.partial(_local_sums, readout, smoothing)
    where = {"axes": model.readout_axes, "dtype": hidden.dtype}
    sums = sum_over_rows(local_sums, model.readout_params, hidden, labels, weights, **where)
    weight = weights.sum()
    return tuple(Sum(total=total, weight=weight) for total in sums)


def _local_sums(
    readout: Callable[[jax.Array, Any], jax.Array], smoothing: float, params: Any, *tokens: jax.Array
) -> tuple[jax.Array, ...]:
    """The sums over one device's rows; with uniforms [batch length 2] also samples, [chunks, tokens]."""
    readout_logits = lambda params, hidden: readout(hidden, whole(params))
    return cast(Sums, _sums(readout_logits, smoothing, params, *_chunks(*tokens)))


def by_chunk(function: Callable[..., jax.Array], *rows: jax.Array) -> jax.Array:
    """Applies a function of tokens [tokens, ...] to arrays [batch, length, ...], chunk by chunk."""
    results = jax.lax.map(lambda chunk: function(*chunk), _chunks(*rows))
    batch, length = rows[0].shape[:2]
    return results.reshape(-1, *results.shape[2:])[: batch * length].reshape(batch, length, *results.shape[2:])


def _chunks(*rows: jax.Array) -> tuple[jax.Array, ...]:
    """Arrays [batch, length, ...] as [chunks, tokens, ...]."""
    batch, length = rows[0].shape[:2]
    chunks = min(MOST_CHUNKS, -(-batch * length // LEAST_TOKENS))
    return tuple(_chunked(x.reshape(batch * length, *x.shape[2:]), chunks) for x in rows)


def _chunked(x: jax.Array, chunks: int) -> jax.Array:
    """`x` in equal chunks, [chunks, tokens, ...]; the last is padded with zeros."""
    size = -(-x.shape[0] // chunks)
    x = jnp.pad(x, [(0, chunks * size - x.shape[0])] + [(0, 0)] * (x.ndim - 1))
    return x.reshape(chunks, size, *x.shape[1:])


def _terms(loss: jax.Array, logits: jax.Array, labels: jax.Array, weights: jax.Array, smoothing: float) -> Sums:
    """The sums of one chunk, from the cross-entropy of its labels."""
    correct = (is_largest(logits, labels) * weights).sum()
    if not smoothing:
        return (loss * weights).sum(), correct
    wide = logits.astype(jnp.float32)
    label_logits = jnp.take_along_axis(wide, labels[..., None], -1)[..., 0]
    # The cross-entropy of the uniform distribution is that of the label plus its logit less the mean logit.
    smoothed = loss + smoothing * (label_logits - wide.mean(-1))
    return (smoothed * weights).sum(), correct, (loss * weights).sum()


def _zeros(smoothing: float) -> Sums:
    return (jnp.float32(0),) * (3 if smoothing else 2)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def _sums(readout_logits: Logits, smoothing: float, readout: Any, *tokens: jax.Array) -> tuple[jax.Array, ...]:
    """Sums over [chunks, tokens, ...], of which only the first, the loss, has a gradient, for `readout` and `hidden`.

    `tokens` are hidden states, labels and weights, and optionally the uniforms of samples, which follow the sums.
    """

    def add(sums: Sums, chunk: tuple[jax.Array, ...]) -> tuple[Sums, tuple[jax.Array, ...]]:
        hidden, labels, weights, *uniforms = chunk
        logits = readout_logits(readout, hidden)
        loss, numerators, _ = _softmax(logits, labels)
        terms = _terms(loss, logits, labels, weights, smoothing)
        return jax.tree.map(jnp.add, sums, terms), tuple(sample(numerators, each) for each in uniforms)

    sums, samples = jax.lax.scan(add, _zeros(smoothing), tokens)
    return (*sums, *samples)


def _sums_forward(readout_logits: Logits, smoothing: float, readout: Any, *tokens: jax.Array):
    is_none = lambda leaf: leaf is None
    floats = jax.tree.map(_with_gradient, readout, is_leaf=is_gathered)
    with_codes = lambda floats: jax.tree.map(lambda x, y: y if x is None else x, floats, readout, is_leaf=is_none)

    def add(sums: Any, chunk: tuple[jax.Array, ...]):
        hidden, labels, weights, *uniforms = chunk
        logits, pullback = jax.vjp(lambda floats, hidden: readout_logits(with_codes(floats), hidden), floats, hidden)
        loss, numerators, denominators = _softmax(logits, labels)
        terms = _terms(loss, logits, labels, weights, smoothing)
        ids = jax.lax.broadcasted_iota(labels.dtype, logits.shape, logits.ndim - 1)
        weight = weights[..., None]
        labelled = jnp.where(labels[..., None] == ids, weight * (1 - smoothing) if smoothing else weight, 0.0)
        gradient = numerators * (weight / denominators) - labelled
        gradient = gradient - weight * (smoothing / logits.shape[-1]) if smoothing else gradient
        readout_gradient, hidden_gradient = pullback(gradient.astype(logits.dtype))
        samples = tuple(sample(numerators, each) for each in uniforms)
        return jax.tree.map(jnp.add, sums, (terms, readout_gradient)), (hidden_gradient, samples)

    # Chunks are added in float32.
    zeros = lambda leaf: jnp.zeros(leaf.shape, jnp.promote_types(leaf.dtype, jnp.float32))
    start = (_zeros(smoothing), jax.tree.map(zeros, floats))
    (totals, total), (hidden_gradient, samples) = jax.lax.scan(add, start, tokens)
    readout_gradient = jax.tree.map(lambda leaf, like: leaf.astype(like.dtype), total, floats)
    return (*totals, *samples), (readout_gradient, hidden_gradient)


def _with_gradient(leaf: Any) -> Any:
    """What has a gradient: None in the place of the codes of a quantised table, which are integers, and of wholes."""
    if isinstance(leaf, Gathered):
        return dataclasses.replace(leaf, whole=None)
    return leaf if jnp.issubdtype(leaf.dtype, jnp.floating) else None


def _sums_backward(
    readout_logits: Logits, smoothing: float, gradients: tuple[Any, jax.Array], cotangents: tuple[jax.Array, ...]
):
    readout_gradient, hidden_gradient = jax.tree.map(lambda x: (x * cotangents[0]).astype(x.dtype), gradients)
    # Labels, weights and, if there are samples, uniforms.
    others = 2 + len(cotangents) - len(_zeros(smoothing))
    return readout_gradient, hidden_gradient, *[None] * others


_sums.defvjp(_sums_forward, _sums_backward)
