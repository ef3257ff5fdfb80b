"""Normal data: along the axes of its covariance every number is normal and alone."""

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Array, Float

from diffusion_jax.diffusion.keys import for_purpose, normal
from diffusion_jax.diffusion.oracle.law import Oracle, Picture, widest
from diffusion_jax.types import Cond, Image, Keys, LogSnr, Scalar

Along = Float[Array, "batch pixels"]  # coordinates along the axes


def gaussian(mean: Picture, spread: ArrayLike) -> Oracle:
    """Normal data that know no text.

    spread: the standard deviation of independent pixels, one for each or one for all; or, as a matrix, the covariance
    of the flattened pixels, which may be singular. A deviation of 0 makes the data one point, which any sampler finds
    in one step. Raises ValueError for a matrix of another size.
    """
    deviation, basis = _axes(mean, spread)

    def parts(x: Image, sigma: Scalar):
        z, prior = _into(x, mean, deviation, basis)
        return z, prior, jnp.square(sigma.astype(z.dtype))

    def denoise(x: Image, sigma: Scalar, cond: Cond) -> Image:
        z, prior, noise = parts(x, sigma)
        return _out_of((prior / (prior + noise))[None] * z, mean, basis).astype(x.dtype)

    def score(x: Image, sigma: Scalar, cond: Cond) -> Image:
        z, prior, noise = parts(x, sigma)
        return _out_of(-z / (prior + noise)[None], jnp.zeros_like(mean), basis)

    def log_p(x: Image, sigma: Scalar, cond: Cond) -> LogSnr:
        z, prior, noise = parts(x, sigma)
        total = (prior + noise)[None]
        return -0.5 * jnp.sum(z**2 / total + jnp.log(2 * jnp.pi * total), axis=1)

    def sample(keys: Keys, cond: Cond) -> Image:
        z = deviation[None] * normal(for_purpose(keys, "oracle noise"), deviation.shape, mean.dtype)
        return _out_of(z, mean, basis)

    return Oracle(denoise, score, log_p, sample)


def gaussian_flow(mean: Picture, spread: ArrayLike, x: Image, sigma: ArrayLike, sigma_next: ArrayLike) -> Image:
    """Where a sampler without error takes x from sigma to sigma_next, for `gaussian`: the exact solution of the ODE."""
    deviation, basis = _axes(mean, spread)
    z, prior = _into(x, mean, deviation, basis)
    here, there = (jnp.square(jnp.asarray(level, z.dtype)) for level in (sigma, sigma_next))
    stretch = jnp.sqrt((prior + there) / (prior + here))
    return _out_of(stretch[None] * z, mean, basis).astype(x.dtype)


def _axes(mean: Picture, spread: ArrayLike) -> tuple[Float[Array, " pixels"], Float[Array, "pixels pixels"] | None]:
    """The deviation along each axis, and the axes as columns; None where they are the pixels."""
    spread = jnp.asarray(spread, mean.dtype)
    if spread.ndim != 2:
        return jnp.broadcast_to(spread, mean.shape).reshape(-1), None
    if spread.shape != (mean.size, mean.size):
        raise ValueError(f"a covariance of {mean.size} pixels cannot have the shape {spread.shape}")
    variance, basis = jnp.linalg.eigh(spread)
    return jnp.sqrt(jnp.maximum(variance, 0)), basis  # of a singular matrix, some come out a little below zero


def _into(x: Image, mean: Picture, deviation: Array, basis: Array | None) -> tuple[Along, Float[Array, " pixels"]]:
    """x - mean along the axes, and the variances there."""
    dtype = widest(x, mean)
    z = (x.astype(dtype) - mean.astype(dtype)[None]).reshape(len(x), -1)
    return (z if basis is None else _times(z, basis)), jnp.square(deviation.astype(dtype))


def _out_of(z: Along, mean: Picture, basis: Array | None) -> Image:
    offset = z if basis is None else _times(z, basis.T)
    return mean.astype(z.dtype)[None] + offset.reshape(-1, *mean.shape)


def _times(z: Along, matrix: Float[Array, "pixels pixels"]) -> Along:
    return jnp.matmul(z, matrix.astype(z.dtype), precision=jax.lax.Precision.HIGHEST)  # accelerators round otherwise
