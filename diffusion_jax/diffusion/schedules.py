"""Which noise at which time? A schedule maps t in [0, 1] (t = 0 is data) to log_snr = 2 log(alpha_t / sigma_t).

Every schedule here has a finite range, so sigma = exp(-log_snr / 2) has a smallest and a largest value. `t` undoes
`log_snr`. How a level becomes (alpha_t, sigma_t) is a separate choice, `alpha_sigma`: it fixes how x_t is scaled and
nothing else, and any schedule may be given another one with `schedule._replace(alpha_sigma=...)`.
Settings may be traced arrays.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax.numpy as jnp
from jax.nn import sigmoid as logistic
from jax.nn import softplus
from jax.typing import ArrayLike


class Schedule(NamedTuple):
    """Three elementwise functions of arrays of any shape."""

    log_snr: Callable  # t -> log_snr, decreasing
    t: Callable  # log_snr -> t
    alpha_sigma: Callable  # log_snr -> (alpha_t, sigma_t): one of the three functions below


def variance_preserving(log_snr):
    """alpha_t^2 + sigma_t^2 = 1: x_t keeps the variance of unit-variance data (DDPM, VDM)."""
    return jnp.sqrt(logistic(log_snr)), jnp.sqrt(logistic(-log_snr))


def variance_exploding(log_snr):
    """alpha_t = 1: noise is added to the data as it is (EDM). Wrap the network in `denoiser.unit_variance`."""
    return jnp.ones_like(log_snr), jnp.exp(-0.5 * log_snr)


def straight_line(log_snr):
    """alpha_t + sigma_t = 1: x_t moves from data to noise on a straight line (rectified flow)."""
    return logistic(0.5 * log_snr), logistic(-0.5 * log_snr)


def cosine(log_snr_min: ArrayLike = -10.0, log_snr_max: ArrayLike = 10.0) -> Schedule:
    """alpha_t = cos(pi t / 2), cut to a range of log_snr (Nichol and Dhariwal 2021).

    They keep away from t = 0 by an offset of 0.008, which is log_snr_max = 8.8. Simple diffusion cuts at -15 and 15.
    """
    uncut = Schedule(
        log_snr=lambda t: -2 * jnp.log(jnp.tan(0.5 * jnp.pi * t)),
        t=lambda log_snr: 2 / jnp.pi * jnp.arctan(jnp.exp(-0.5 * log_snr)),
        alpha_sigma=variance_preserving,
    )
    return between(uncut, log_snr_min, log_snr_max)


def linear_beta(beta_min: ArrayLike = 0.1, beta_max: ArrayLike = 20.0, log_snr_max: ArrayLike = 10.0) -> Schedule:
    """alpha_t^2 = exp(-B), B = beta_min t + (beta_max - beta_min) t^2 / 2: DDPM's betas in continuous time.

    The levels end at log_snr -10.05 with these betas (Song et al. 2021); the first of DDPM's 1,000 steps is at 9.2.
    """

    def log_snr(t):
        b = beta_min * t + 0.5 * (beta_max - beta_min) * t**2
        return -b - jnp.log(-jnp.expm1(-b))

    def t(log_snr):
        b = softplus(-log_snr)
        return 2 * b / (beta_min + jnp.sqrt(beta_min**2 + 2 * (beta_max - beta_min) * b))

    return between(Schedule(log_snr, t, variance_preserving), log_snr(1.0), log_snr_max)


def sigmoid(
    start: ArrayLike = -3.0,
    end: ArrayLike = 3.0,
    tau: ArrayLike = 1.0,
    log_snr_min: ArrayLike = -10.0,
    log_snr_max: ArrayLike = 10.0,
) -> Schedule:
    """alpha_t^2 falls from 1 to 0 as a sigmoid of t does (Jabri et al. 2022), cut to a range of log_snr.

    With S the logistic function and u(t) = (start + t (end - start)) / tau,
    alpha_t^2 = (S(u(1)) - S(u(t))) / (S(u(1)) - S(u(0))). A difference of two values of S is a ratio of hyperbolic
    functions, so that with w = (end - start) / (2 tau)
    SNR = sinh((1 - t) w) / sinh(t w) * cosh(start / (2 tau)) / cosh(end / (2 tau)): nothing cancels in float32, and
    the inverse is a formula.
    """
    w = (end - start) / (2 * tau)
    offset = _log_cosh(start / (2 * tau)) - _log_cosh(end / (2 * tau))
    uncut = Schedule(
        log_snr=lambda t: _log_sinh((1 - t) * w) - _log_sinh(t * w) + offset,
        t=lambda log_snr: (jnp.logaddexp(log_snr - offset, w) - jnp.logaddexp(log_snr - offset, -w)) / (2 * w),
        alpha_sigma=variance_preserving,
    )
    return between(uncut, log_snr_min, log_snr_max)


def rectified_flow(log_snr_min: ArrayLike = -10.0, log_snr_max: ArrayLike = 10.0) -> Schedule:
    """alpha_t = 1 - t and sigma_t = t (Liu et al. 2022), cut to a range of log_snr: t from 0.0067 to 0.9933."""
    uncut = Schedule(
        log_snr=lambda t: 2 * (jnp.log1p(-t) - jnp.log(t)),
        t=lambda log_snr: logistic(-0.5 * log_snr),
        alpha_sigma=straight_line,
    )
    return between(uncut, log_snr_min, log_snr_max)


def edm(sigma_min: ArrayLike = 0.002, sigma_max: ArrayLike = 80.0, rho: ArrayLike = 7.0) -> Schedule:
    """sigma^(1/rho) is linear in t, and the data are not scaled (Karras et al. 2022).

    They sample on these levels and train on noise_levels.log_normal.
    """
    low, high = sigma_min ** (1 / rho), sigma_max ** (1 / rho)
    return Schedule(
        log_snr=lambda t: -2 * rho * jnp.log(low + t * (high - low)),
        t=lambda log_snr: (jnp.exp(-log_snr / (2 * rho)) - low) / (high - low),
        alpha_sigma=variance_exploding,
    )


def geometric(sigma_min: ArrayLike = 0.002, sigma_max: ArrayLike = 80.0) -> Schedule:
    """log(sigma), and so log_snr, is linear in t, and the data are not scaled (Song et al. 2021, VE)."""
    first, last = -2 * jnp.log(sigma_min), -2 * jnp.log(sigma_max)
    return Schedule(
        log_snr=lambda t: first + t * (last - first),
        t=lambda log_snr: (log_snr - first) / (last - first),
        alpha_sigma=variance_exploding,
    )


def between(schedule: Schedule, log_snr_min: ArrayLike, log_snr_max: ArrayLike) -> Schedule:
    """The stretch of a schedule between two levels, run through from t = 0 to t = 1."""
    first, last = schedule.t(log_snr_max), schedule.t(log_snr_min)
    return schedule._replace(
        log_snr=lambda t: schedule.log_snr(first + t * (last - first)),
        t=lambda log_snr: (schedule.t(log_snr) - first) / (last - first),
    )


def shifted(schedule: Schedule, shift: ArrayLike) -> Schedule:
    """Every sigma times `shift`: the same noise for a larger picture, whose neighboring pixels hide less of it.

    A picture of side d has the shift d / 64 in simple diffusion (Hoogeboom et al. 2023). Stable Diffusion 3 maps the
    time of a rectified flow to shift t / (1 + (shift - 1) t), which is the same.
    """
    change = 2 * jnp.log(shift)
    return schedule._replace(
        log_snr=lambda t: schedule.log_snr(t) - change, t=lambda log_snr: schedule.t(log_snr + change)
    )


def _log_sinh(x):
    return x + jnp.log(-jnp.expm1(-2 * x)) - jnp.log(2.0)


def _log_cosh(x):
    return jnp.logaddexp(x, -x) - jnp.log(2.0)
