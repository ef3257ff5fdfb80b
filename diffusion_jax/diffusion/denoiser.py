"""The bridge between the two coordinates: from a network, which knows x_t and log_snr, to a denoiser of (x, sigma).

x = x_t / alpha_t = x_0 + sigma eps, with sigma = sigma_t / alpha_t = exp(-log_snr / 2).
"""

from collections.abc import Callable

import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Array, Float

from diffusion_jax.diffusion.parameterization import Parameterization, skip_and_out
from diffusion_jax.diffusion.schedules import Schedule
from diffusion_jax.types import Cond, Denoiser, Image, LogSnr, Network, Scalar


def denoiser(network: Network, schedule: Schedule, parameterization: Parameterization) -> Denoiser:
    """E[x_0 | x] from a trained network, for any sampler on any grid."""

    def denoise(x: Image, sigma: Scalar, cond: Cond) -> Image:
        log_snr = log_snr_of(sigma)
        alpha_t, sigma_t = schedule.alpha_sigma(log_snr)
        c_skip, c_out = (c.astype(x.dtype) for c in skip_and_out(alpha_t, sigma_t, parameterization))
        x_t = alpha_t.astype(x.dtype) * x
        y = network(x_t, jnp.full(x.shape[:1], log_snr), cond)
        return c_skip * x_t + c_out * y.astype(x.dtype)

    return denoise


def unit_variance(network: Network, alpha_sigma: Callable, sigma_data: ArrayLike = 1.0) -> Network:
    """The network fed with x_t / sqrt(sigma_data^2 alpha_t^2 + sigma_t^2): of unit variance at every level.

    Nothing changes for a variance-preserving schedule and unit data; with alpha_t = 1 it is EDM's c_in (Karras et al.
    2022, Table 1).
    """

    def scaled(x_t: Image, log_snr: LogSnr, cond: Cond) -> Image:
        alpha_t, sigma_t = alpha_sigma(log_snr)
        length = jnp.hypot(sigma_data * alpha_t, sigma_t).astype(x_t.dtype)
        return network(x_t / length[:, None, None, None], log_snr, cond)

    return scaled


def log_snr_of(sigma: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
    """-2 log(sigma)."""
    return -2 * jnp.log(sigma)


def sigma_of(log_snr: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
    """exp(-log_snr / 2)."""
    return jnp.exp(-0.5 * log_snr)


def sigma_range(schedule: Schedule) -> tuple[Scalar, Scalar]:
    """The least and the largest sigma of a schedule: where a sampler ends and starts unless told otherwise."""
    return sigma_of(schedule.log_snr(jnp.zeros(()))), sigma_of(schedule.log_snr(jnp.ones(())))
