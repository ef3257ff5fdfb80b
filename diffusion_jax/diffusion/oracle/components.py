"""The posterior over many pictures, a few at a time: what mixtures and data sets are made of."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Array, Float

from diffusion_jax.diffusion.keys import for_purpose, normal
from diffusion_jax.diffusion.oracle.law import Oracle, widest
from diffusion_jax.types import Cond, Image, Keys, LogSnr, Scalar


class Sums(NamedTuple):
    """Sums over the components seen so far, each times its posterior weight, which is in units of exp(top)."""

    top: Float[Array, " batch"]  # the largest logarithm of a weight
    total: Float[Array, " batch"]  # of the weights
    picture: Image  # of E[x_0 | x, component]
    pull: Image  # of the component's score


def of_components(means: Float[Array, "k ..."], std: ArrayLike, log_weights: Callable, chunk: int) -> Oracle:
    """The mixture of normal laws around each of the means, with the deviation std, one for each or one for all.

    log_weights(batch, cond): (batch, k), their exponentials sum to one. chunk (static): see `mixtures.dataset`.
    """
    k, chunk = len(means), min(chunk, len(means))
    deviation = jnp.broadcast_to(jnp.asarray(std, means.dtype), (k,))
    parts = [_chunked(part, chunk) for part in (means, jnp.square(deviation))]

    def sums(x: Image, sigma: Scalar, cond: Cond) -> Sums:
        dtype = widest(x, means)
        x, noise = x.astype(dtype), jnp.square(sigma.astype(dtype))
        weights = log_weights(len(x), cond).astype(dtype)

        def add(so_far, part):
            return _added(so_far, x, noise, *(array.astype(dtype) for array in part)), None

        none = jnp.zeros(len(x), dtype)
        start = Sums(none - jnp.inf, none, jnp.zeros_like(x), jnp.zeros_like(x))
        return jax.lax.scan(add, start, (*parts, _chunked(weights.T, chunk, -jnp.inf)))[0]

    def denoise(x: Image, sigma: Scalar, cond: Cond) -> Image:
        found = sums(x, sigma, cond)
        return (found.picture / found.total[:, None, None, None]).astype(x.dtype)

    def score(x: Image, sigma: Scalar, cond: Cond) -> Image:
        found = sums(x, sigma, cond)
        return found.pull / found.total[:, None, None, None]

    def log_p(x: Image, sigma: Scalar, cond: Cond) -> LogSnr:
        found = sums(x, sigma, cond)
        return found.top + jnp.log(found.total)

    def sample(keys: Keys, cond: Cond) -> Image:
        draw = jax.vmap(jax.random.categorical)
        which = draw(for_purpose(keys, "oracle component"), log_weights(len(keys), cond))
        noise = normal(for_purpose(keys, "oracle noise"), means.shape[1:], means.dtype)
        return means[which] + deviation[which][:, None, None, None] * noise

    return Oracle(denoise, score, log_p, sample)


def _added(so_far: Sums, x: Image, noise: Scalar, means: Array, prior: Array, log_weights: Array) -> Sums:
    """The sums with some more components, whose weights come with the axes (component, batch)."""
    offset = means[None] - x[:, None]  # the difference, and not three products, which cancel at low noise
    variance = (prior + noise)[None]
    size = jnp.sum(jnp.square(offset), axis=(2, 3, 4)) / variance + x[0].size * jnp.log(2 * jnp.pi * variance)
    exponents = log_weights.T - 0.5 * size
    top = jax.lax.stop_gradient(jnp.maximum(so_far.top, jnp.max(exponents, axis=1)))
    unit = jnp.where(jnp.isfinite(top), top, 0)  # until a component has any weight
    kept, weights = jnp.exp(so_far.top - unit), jnp.exp(exponents - unit[:, None])
    toward = lambda share: jnp.einsum("bk,bk...->b...", share, offset, precision=jax.lax.Precision.HIGHEST)  # noqa: E731
    at_means = jnp.einsum("bk,k...->b...", weights, means, precision=jax.lax.Precision.HIGHEST)
    picture = at_means - toward(weights * prior[None] / variance)
    grown = lambda old, new: kept[:, None, None, None] * old + new  # noqa: E731
    return Sums(
        top,
        kept * so_far.total + jnp.sum(weights, axis=1),
        grown(so_far.picture, picture),
        grown(so_far.pull, toward(weights / variance)),
    )


def _chunked(array: Float[Array, "k ..."], chunk: int, fill: float = 0.0) -> Float[Array, "chunks chunk ..."]:
    missing = -len(array) % chunk
    if missing:
        array = jnp.pad(array, [(0, missing)] + [(0, 0)] * (array.ndim - 1), constant_values=fill)
    return array.reshape(-1, chunk, *array.shape[1:])
