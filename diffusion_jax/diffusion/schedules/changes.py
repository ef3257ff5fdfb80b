"""Schedules made of other schedules."""

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from diffusion_jax.diffusion.schedules.scaling import Schedule


def truncated(schedule: Schedule, log_snr_min: ArrayLike, log_snr_max: ArrayLike) -> Schedule:
    """The stretch of a schedule between two levels, run through from t = 0 to t = 1."""
    first, last = schedule.t(log_snr_max), schedule.t(log_snr_min)
    return schedule._replace(
        log_snr=lambda t: schedule.log_snr(first + t * (last - first)),
        t=lambda log_snr: (schedule.t(log_snr) - first) / (last - first),
    )


def shifted(schedule: Schedule, shift: ArrayLike) -> Schedule:
    """Every sigma times `shift`: the same noise for a larger picture, whose neighboring pixels hide less of it.

    A picture of side d has the shift d / 64 in simple diffusion (Hoogeboom et al. 2023, equation 5). Stable Diffusion 3
    (Esser et al. 2024, equation 23) maps the time of a rectified flow to shift t / (1 + (shift - 1) t), which is the
    same.
    """
    change = 2 * jnp.log(shift)
    return schedule._replace(
        log_snr=lambda t: schedule.log_snr(t) - change, t=lambda log_snr: schedule.t(log_snr + change)
    )


def interpolated(first: Schedule, second: Schedule, share: ArrayLike) -> Schedule:
    """log_snr is (1 - share) of the first's and share of the second's at the same t; scaled as the first is.

    `t` is found by bisection, to the resolution of float32, and has the gradient of the exact inverse.
    """

    def log_snr(t):
        return (1 - share) * first.log_snr(t) + share * second.log_snr(t)

    return Schedule(log_snr, lambda level: inverse(log_snr, level), first.alpha_sigma)


def zero_terminal_snr(schedule: Schedule, log_snr_min: ArrayLike = -20.0) -> Schedule:
    """The change of Lin et al. (2024, Algorithm 1), by which the last level is noise alone; cut at log_snr_min.

    alpha_t less its last value, scaled up so that the first stays: (alpha_t - alpha_1) alpha_0 / (alpha_0 - alpha_1),
    of a variance-preserving schedule. They train v, since eps says nothing of the picture at such levels.
    """
    first, last = (schedule.alpha_sigma(schedule.log_snr(jnp.asarray(t)))[0] for t in (0.0, 1.0))

    def log_snr(t):
        kept = (schedule.alpha_sigma(schedule.log_snr(t))[0] - last) * first / (first - last)
        return 2 * jnp.log(kept) - jnp.log1p(-(kept**2))

    def t(log_snr):
        kept = schedule.alpha_sigma(log_snr)[0] * (first - last) / first + last
        return schedule.t(2 * jnp.log(kept) - jnp.log1p(-(kept**2)))

    return truncated(Schedule(log_snr, t, schedule.alpha_sigma), log_snr_min, schedule.log_snr(jnp.asarray(0.0)))


def inverse(falling, level):
    """Where a falling function of [0, 1] has a value: bisection, then a step of Newton, which carries the gradient."""
    level = jnp.asarray(level)

    def halve(_, ends):
        low, high = ends
        middle = (low + high) / 2
        below = falling(middle) > level  # the place sought is at a larger t
        return jnp.where(below, middle, low), jnp.where(below, high, middle)

    low, high = jax.lax.fori_loop(0, 30, halve, (jnp.zeros_like(level), jnp.ones_like(level)))
    t = jax.lax.stop_gradient((low + high) / 2)
    value, slope = jax.jvp(falling, (t,), (jnp.ones_like(t),))
    return t - (value - level) / jax.lax.stop_gradient(slope)
