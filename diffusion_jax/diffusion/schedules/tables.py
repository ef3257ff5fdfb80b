"""Schedules that are a table, with straight lines between its rows: their inverse is exact too."""

import jax.numpy as jnp
from jax.nn import softmax
from jax.typing import ArrayLike
from jaxtyping import Array, Float

from diffusion_jax.diffusion.schedules.scaling import Schedule, variance_preserving


def from_betas(betas: Float[Array, " n"]) -> Schedule:
    """Any discrete variance-preserving schedule by its betas: step i of n is at t = i / (n - 1).

    alpha_t^2 is the product of 1 - beta up to and with the step (Ho et al. 2020, equation 4).
    """
    log_alpha_squared = jnp.cumsum(jnp.log1p(-jnp.asarray(betas)))
    return _through(log_alpha_squared - jnp.log(-jnp.expm1(log_alpha_squared)))


def from_knots(falls: Float[Array, " n"], log_snr_min: ArrayLike = -10.0, log_snr_max: ArrayLike = 10.0) -> Schedule:
    """A schedule that can be learned: from each of n + 1 even times to the next, log_snr falls by a share of its range.

    The shares are softmax(falls). VDM (Kingma et al. 2021, Appendix H) learn a monotone network for the same purpose;
    here the inverse is a formula. Equal shares are `log_linear`. The ends may be learned as well.
    """
    down = jnp.concatenate([jnp.zeros(1), jnp.cumsum(softmax(falls))])
    return _through(log_snr_max + (log_snr_min - log_snr_max) * down)


def _through(levels: Float[Array, " n"]) -> Schedule:
    times = jnp.linspace(0, 1, levels.size)
    return Schedule(
        log_snr=lambda t: jnp.interp(t, times, levels),
        t=lambda log_snr: jnp.interp(-log_snr, -levels, times),
        alpha_sigma=variance_preserving,
    )
