"""Schedules that are a formula."""

import jax.numpy as jnp
from jax.nn import sigmoid as logistic
from jax.nn import softplus
from jax.typing import ArrayLike

from diffusion_jax.diffusion.schedules.changes import truncated
from diffusion_jax.diffusion.schedules.scaling import (
    Schedule,
    straight_line,
    variance_exploding,
    variance_preserving,
)


def cosine(log_snr_min: ArrayLike = -10.0, log_snr_max: ArrayLike = 10.0) -> Schedule:
    """alpha_t = cos(pi t / 2), cut to a range of log_snr (Nichol and Dhariwal 2021, equation 17).

    They keep away from t = 0 by an offset of 0.008, which is log_snr_max = 8.8. Simple diffusion cuts at -15 and 15.
    """
    uncut = Schedule(
        log_snr=lambda t: -2 * jnp.log(jnp.tan(0.5 * jnp.pi * t)),
        t=lambda log_snr: 2 / jnp.pi * jnp.arctan(jnp.exp(-0.5 * log_snr)),
        alpha_sigma=variance_preserving,
    )
    return truncated(uncut, log_snr_min, log_snr_max)


def linear_beta(beta_min: ArrayLike = 0.1, beta_max: ArrayLike = 20.0, log_snr_max: ArrayLike = 10.0) -> Schedule:
    """alpha_t^2 = exp(-B), B = beta_min t + (beta_max - beta_min) t^2 / 2: DDPM's betas in continuous time.

    The levels end at log_snr -10.05 with these betas (Song et al. 2021, Appendix C); DDPM's 1,000 steps begin at 9.2.
    """

    def log_snr(t):
        b = beta_min * t + 0.5 * (beta_max - beta_min) * t**2
        return -b - jnp.log(-jnp.expm1(-b))

    def t(log_snr):
        b = softplus(-log_snr)
        return 2 * b / (beta_min + jnp.sqrt(beta_min**2 + 2 * (beta_max - beta_min) * b))

    return truncated(Schedule(log_snr, t, variance_preserving), log_snr(1.0), log_snr_max)


def sigmoid(
    start: ArrayLike = -3.0,
    end: ArrayLike = 3.0,
    tau: ArrayLike = 1.0,
    log_snr_min: ArrayLike = -10.0,
    log_snr_max: ArrayLike = 10.0,
) -> Schedule:
    """alpha_t^2 falls from 1 to 0 as a sigmoid of t does (Jabri et al. 2022, Figure 8), cut to a range of log_snr.

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
    return truncated(uncut, log_snr_min, log_snr_max)


def rectified_flow(log_snr_min: ArrayLike = -10.0, log_snr_max: ArrayLike = 10.0) -> Schedule:
    """alpha_t = 1 - t and sigma_t = t (Liu et al. 2022, equation 1), cut to a range: t from 0.0067 to 0.9933."""
    uncut = Schedule(
        log_snr=lambda t: 2 * (jnp.log1p(-t) - jnp.log(t)),
        t=lambda log_snr: logistic(-0.5 * log_snr),
        alpha_sigma=straight_line,
    )
    return truncated(uncut, log_snr_min, log_snr_max)


def edm(sigma_min: ArrayLike = 0.002, sigma_max: ArrayLike = 80.0, rho: ArrayLike = 7.0) -> Schedule:
    """sigma^(1/rho) is linear in t, and the data are not scaled (Karras et al. 2022, equation 5).

    They sample on these levels and train on noise_levels.log_normal.
    """
    low, high = sigma_min ** (1 / rho), sigma_max ** (1 / rho)
    return Schedule(
        log_snr=lambda t: -2 * rho * jnp.log(low + t * (high - low)),
        t=lambda log_snr: (jnp.exp(-log_snr / (2 * rho)) - low) / (high - low),
        alpha_sigma=variance_exploding,
    )


def geometric(sigma_min: ArrayLike = 0.002, sigma_max: ArrayLike = 80.0) -> Schedule:
    """log(sigma), and so log_snr, is linear in t, and the data are not scaled (VE: Song et al. 2021, Appendix C)."""
    first, last = -2 * jnp.log(sigma_min), -2 * jnp.log(sigma_max)
    return Schedule(
        log_snr=lambda t: first + t * (last - first),
        t=lambda log_snr: (log_snr - first) / (last - first),
        alpha_sigma=variance_exploding,
    )


def scaled_linear(beta_min: ArrayLike = 0.85, beta_max: ArrayLike = 12.0, log_snr_max: ArrayLike = 10.0) -> Schedule:
    """sqrt(beta) linear in t: Stable Diffusion's betas in continuous time, alpha_t^2 = exp(-B), B the integral of beta.

    Its 1,000 betas go from 0.00085 to 0.012, which times 1,000 are the defaults; `from_betas` is the table itself.
    The levels end at log_snr -5.3, so pictures of pure noise are never trained on (Lin et al. 2024, Table 1).
    """
    low, high = jnp.sqrt(beta_min), jnp.sqrt(beta_max)

    def log_snr(t):
        b = ((low + (high - low) * t) ** 3 - low**3) / (3 * (high - low))
        return -b - jnp.log(-jnp.expm1(-b))

    def t(log_snr):
        return (jnp.cbrt(low**3 + 3 * (high - low) * softplus(-log_snr)) - low) / (high - low)

    return truncated(Schedule(log_snr, t, variance_preserving), log_snr(1.0), log_snr_max)


def log_linear(log_snr_min: ArrayLike = -10.0, log_snr_max: ArrayLike = 10.0) -> Schedule:
    """log_snr linear in t, variance-preserving: every level of noise takes as much time as any other (VDM's start)."""
    return geometric(jnp.exp(-0.5 * log_snr_max), jnp.exp(-0.5 * log_snr_min))._replace(alpha_sigma=variance_preserving)


def laplace(
    mean: ArrayLike = 0.0, scale: ArrayLike = 0.5, log_snr_min: ArrayLike = -10.0, log_snr_max: ArrayLike = 10.0
) -> Schedule:
    """log_snr with a Laplace density around `mean` when t is uniform, cut to a range (Hang et al. 2024).

    Uncut, log_snr = mean - scale sgn(1/2 - t) log(1 - 2 |t - 1/2|). Both tails are kept as such: float32 knows none
    next to 1.
    """

    def above(level):  # the share of the density over a level
        tail = 0.5 * jnp.exp(-jnp.abs(level - mean) / scale)
        return jnp.where(level > mean, tail, 1 - tail)

    def below(level):
        return above(2 * mean - level)

    first, last = above(jnp.asarray(log_snr_max)), below(jnp.asarray(log_snr_min))
    kept = 1 - first - last

    def log_snr(t):
        over, under = first + t * kept, last + (1 - t) * kept
        return mean + scale * jnp.where(over < under, -jnp.log(2 * over), jnp.log(2 * under))

    def t(log_snr):
        return jnp.where(log_snr > mean, (above(log_snr) - first) / kept, 1 - (below(log_snr) - last) / kept)

    return Schedule(log_snr, t, variance_preserving)


def _log_sinh(x):
    return x + jnp.log(-jnp.expm1(-2 * x)) - jnp.log(2.0)


def _log_cosh(x):
    return jnp.logaddexp(x, -x) - jnp.log(2.0)
