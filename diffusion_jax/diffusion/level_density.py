"""Where does training look? How dense any law of `noise_levels` is over log_snr, and how much an error counts there.

Both are counted from draws, since a law is a function that draws and need not know its density: this holds for the laws
of the package and for anybody's.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from diffusion_jax.diffusion.keys import for_example
from diffusion_jax.diffusion.loss import drawn
from diffusion_jax.diffusion.schedules import Schedule
from diffusion_jax.types import LogSnr


def density(
    noise_levels: Callable, schedule: Schedule, edges: Float[Array, " edges"], draws: int = 65_536
) -> Float[Array, " bins"]:
    """The share of the levels between two neighboring edges, for one unit of log_snr.

    edges: of log_snr, rising. Levels outside count among the draws, so the integral may be less than 1. The standard
    error of a value is sqrt(value / (draws width)).
    """
    log_snr, _ = _many(noise_levels, schedule, draws)
    return _histogram(log_snr, jnp.ones_like(log_snr), edges)


def effective_weight(
    noise_levels: Callable, weighting: Callable, schedule: Schedule, edges: Float[Array, " edges"], draws: int = 65_536
) -> Float[Array, " bins"]:
    """What the squared error in eps is multiplied by in the expected loss, for one unit of log_snr: density x weight.

    Two choices of schedule, law and weighting with one effective weight have one expected loss. edges as in `density`.
    """
    log_snr, weight = _many(noise_levels, schedule, draws)
    return _histogram(log_snr, weight * weighting(log_snr), edges)


def _many(noise_levels, schedule, draws):
    return drawn(noise_levels, for_example(jax.random.key(0), 0, draws), schedule)


def _histogram(log_snr: LogSnr, weight: LogSnr, edges):
    total, _ = jnp.histogram(log_snr, edges, weights=weight)
    return total / (log_snr.size * jnp.diff(edges))
