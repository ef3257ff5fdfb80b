"""At which noise levels is the network trained? (keys, schedule) -> one log_snr for each example.

Where the levels are dense, the loss counts more: this and `weighting` are two hands on one lever, and
`level_density` shows both. A law that shall not move the lever returns (log_snr, weight) instead: the loss of each
example is multiplied by its weight.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax.nn import sigmoid
from jax.typing import ArrayLike

from diffusion_jax.diffusion.keys import normal
from diffusion_jax.diffusion.keys import uniform as uniform_numbers
from diffusion_jax.diffusion.schedules import Schedule
from diffusion_jax.types import Keys, LogSnr


def uniform(keys: Keys, schedule: Schedule) -> LogSnr:
    """t uniform in [0, 1): the schedule decides where the levels lie."""
    return schedule.log_snr(uniform_numbers(keys))


def stratified(keys: Keys, schedule: Schedule) -> LogSnr:
    """t uniform in [0, 1), and evenly spaced over the batch: the loss of a batch then varies less with its levels.

    t = (u + i / batch) mod 1 for the example in place i, with one u from the first key of the global batch (VDM, Kingma
    et al. 2021, Appendix I.1: the low-discrepancy sampler). So the level of an example depends on its place and on the
    size of the batch, unlike that of any other law here; how the batch is laid out on devices does not matter.
    """
    places = jnp.arange(keys.shape[0], dtype=float) / keys.shape[0]
    return schedule.log_snr(jnp.mod(uniform_numbers(keys[:1]) + places, 1.0))


def log_normal(keys: Keys, schedule: Schedule, mean: ArrayLike = -1.2, std: ArrayLike = 1.2) -> LogSnr:
    """log(sigma) normal, whatever the schedule; the default is EDM's, for data of standard deviation 0.5.

    EDM: Karras et al. (2022), Table 1. EDM2 (Karras et al. 2024, equation 16) has mean -0.4 and std 1.0.
    """
    return -2 * (mean + std * normal(keys, ()))


def logit_normal(keys: Keys, schedule: Schedule, mean: ArrayLike = 0.0, std: ArrayLike = 1.0) -> LogSnr:
    """log(t / (1 - t)) normal: the middle of the schedule more often than its ends (Stable Diffusion 3).

    Equation 19 of Esser et al. (2024). On an uncut straight line t / (1 - t) is sigma, so there this is `log_normal`.
    """
    return schedule.log_snr(sigmoid(mean + std * normal(keys, ())))


def mode(keys: Keys, schedule: Schedule, scale: ArrayLike = 1.29) -> LogSnr:
    """The middle of the schedule more often than its ends, which still have a share each (Stable Diffusion 3).

    t = 1 - u - scale (cos^2(pi u / 2) - 1 + u) with u uniform, "mode sampling with heavy tails" (Esser et al. 2024,
    equation 20).
    scale: from -1, which prefers the ends, over 0, which is `uniform`, to 2 / (pi - 2) = 1.75; beyond these t turns
    back on itself.
    """
    u = uniform_numbers(keys)
    t = 1 - u - scale * (jnp.square(jnp.cos(0.5 * jnp.pi * u)) - 1 + u)
    return schedule.log_snr(jnp.clip(t, 0.0, 1.0))


def by_loss(
    keys: Keys,
    schedule: Schedule,
    loss_at: Callable,
    power: ArrayLike = 1.0,
    floor: ArrayLike = 0.1,
    bins: int = 64,
) -> tuple[LogSnr, LogSnr]:
    """Levels where the loss is large more often, and the weight that makes up for it: importance sampling.

    The expected loss is that of `uniform`, whatever `loss_at` is; near the true loss, its estimate varies less.

    loss_at: log_snr -> a positive guess of the loss there, its weight included; no gradient passes through it.
        exp(log_variance) of `models.uncertainty` is one that is learned.
    power: of loss_at in the density of t. 1 for the expected loss, 0.5 for the expected square of it: the density of
        least variance is sqrt(E[loss^2]), which Nichol and Dhariwal (2021, section 3.3) keep for each step.
    floor: the share of the levels, in [0, 1], that stays uniform; no weight exceeds 1 / floor.
    bins: of t, over which the density is constant; static.
    """
    edges = jnp.linspace(0, 1, bins + 1)
    expected = jnp.power(loss_at(schedule.log_snr((edges[1:] + edges[:-1]) / 2)), power)
    share = (1 - floor) * expected / jnp.sum(expected) + floor / bins
    below = jnp.concatenate([jnp.zeros_like(share[:1]), jnp.cumsum(share)])
    t = jnp.interp(uniform_numbers(keys), below / below[-1], edges)
    weight = 1 / (bins * share[jnp.clip((t * bins).astype(int), 0, bins - 1)])
    return jax.lax.stop_gradient((schedule.log_snr(t), weight))
