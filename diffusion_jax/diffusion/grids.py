"""At which noise levels does the sampler stop? (n, sigma_min, sigma_max) -> n decreasing sigmas, both ends included.

n is static; the rest may be traced arrays. A grid of one level is sigma_max alone: one call, noise to picture.
"""

import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Array, Float

from diffusion_jax.diffusion.denoiser import log_snr_of, sigma_of
from diffusion_jax.diffusion.schedules import Schedule
from diffusion_jax.types import Sigmas


def karras(n: int, sigma_min: ArrayLike, sigma_max: ArrayLike, rho: ArrayLike = 7.0) -> Sigmas:
    """Uniform in sigma^(1/rho) (EDM): the larger rho, the more of the levels lie at low noise."""
    return _between(n, sigma_min ** (1 / rho), sigma_max ** (1 / rho)) ** rho


def uniform_log_snr(n: int, sigma_min: ArrayLike, sigma_max: ArrayLike) -> Sigmas:
    """Uniform in log(sigma): each level has the same fraction of the noise of the level before."""
    return jnp.exp(_between(n, jnp.log(sigma_min), jnp.log(sigma_max)))


def uniform_t(n: int, sigma_min: ArrayLike, sigma_max: ArrayLike, schedule: Schedule) -> Sigmas:
    """Uniform in the time of a schedule, which need not be the one that the network was trained with."""
    sigma_min, sigma_max = jnp.asarray(sigma_min, float), jnp.asarray(sigma_max, float)
    t = _between(n, schedule.t(log_snr_of(sigma_min)), schedule.t(log_snr_of(sigma_max)))
    return jnp.clip(sigma_of(schedule.log_snr(t)), sigma_min, sigma_max)


def _between(n: int, last: ArrayLike, first: ArrayLike) -> Float[Array, " n"]:
    if n < 1:
        raise ValueError(f"a grid needs at least one noise level, not {n}: ask for nfe >= 1")
    return jnp.linspace(first, last, n)
