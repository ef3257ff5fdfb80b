"""How much does an error count at each noise level? log_snr -> the factor of the squared error in eps.

The weight acts on the error in eps whatever the network predicts, so that eps, x_0 and v are compared under one loss.
A paper that weighs another error is brought to this one by

    |error in eps|^2 = SNR |error in x_0|^2 = SNR / (1 + SNR) |error in v|^2    (v of a variance-preserving schedule)

so a weight w on the error in x_0 is w / SNR here, and `edm` with sigma_data = 1 is the plain loss on v. It multiplies
whatever density `noise_levels` gives the levels; a paper that states its weight for uniform log_snr instead needs
`per_log_snr`.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax.nn import sigmoid as logistic
from jax.typing import ArrayLike
from jaxtyping import Array, Float

from diffusion_jax.diffusion.schedules import Schedule
from diffusion_jax.types import LogSnr


def constant(log_snr: LogSnr) -> LogSnr:
    """1: the simple loss of DDPM (Ho et al. 2020, equation 14), and the "SNR weighting" of the error in x_0."""
    return jnp.ones_like(log_snr)


def x0_error(log_snr: LogSnr) -> LogSnr:
    """1 on the error in x_0, so 1 / SNR here: next to nothing but high noise counts."""
    return jnp.exp(-log_snr)


def truncated_snr(log_snr: LogSnr) -> LogSnr:
    """max(SNR, 1) on the error in x_0, so max(1, 1 / SNR) here: the larger error (Salimans and Ho 2022, section 4)."""
    return jnp.exp(jnp.maximum(0.0, -log_snr))


def min_snr(log_snr: LogSnr, gamma: ArrayLike = 5.0) -> LogSnr:
    """min(SNR, gamma) on the error in x_0, min(1, gamma / SNR) here: low noise less (Hang et al. 2023, section 3.4)."""
    return jnp.exp(jnp.minimum(0.0, jnp.log(gamma) - log_snr))


def soft_min_snr(log_snr: LogSnr, gamma: ArrayLike = 4.0) -> LogSnr:
    """SNR gamma / (SNR + gamma) on the error in x_0 (Crowson et al. 2024, equation 5), `min_snr` without its corner.

    They write 1 / (sigma^2 + 1 / gamma), and in their code 1 / gamma is sigma_data^2. Here it is gamma / (SNR + gamma):
    `sigmoid` with bias = log(gamma), but without `per_log_snr`.
    """
    return logistic(jnp.log(gamma) - log_snr)


def p2(log_snr: LogSnr, k: ArrayLike = 1.0, gamma: ArrayLike = 1.0) -> LogSnr:
    """1 / (k + SNR)^gamma on the error in eps (Choi et al. 2022): low noise, which the eye misses, counts less.

    gamma: 0 is `constant`; they use 0.5 and 1.
    """
    return jnp.exp(-gamma * jnp.logaddexp(jnp.log(k), log_snr))


def clipped_v(log_snr: LogSnr, gamma: ArrayLike = 5.0) -> LogSnr:
    """The loss on v, 1 + SNR on the error in x_0, but never more than gamma: for networks that predict x_0.

    Where noise is low, the loss on v asks for more digits of x_0 than a picture needs. Where it is high, `min_snr` asks
    for next to nothing, and there the text is learned.
    """
    return jnp.minimum(1 + jnp.exp(-log_snr), gamma * jnp.exp(-log_snr))


def sigmoid(log_snr: LogSnr, bias: ArrayLike = 2.0) -> LogSnr:
    """A smooth step from 1 at high noise to 0 at low noise, at log_snr = bias (Kingma and Gao 2023, VDM++).

    They state it for uniform log_snr: `per_log_snr` with this weighting is theirs, this alone is not.
    """
    return logistic(bias - log_snr)


def edm(log_snr: LogSnr, sigma_data: ArrayLike = 0.5) -> LogSnr:
    """(sigma^2 + sigma_data^2) / (sigma sigma_data)^2 on the error in x_0, so 1 + sigma^2 / sigma_data^2 here.

    It gives each level the same weight for a network with parameterization.edm_prediction (Karras et al. 2022,
    Table 1); it goes with noise_levels.log_normal.
    """
    return 1 + jnp.exp(-log_snr) / sigma_data**2


def per_log_snr(log_snr: LogSnr, weighting: Callable, schedule: Schedule) -> LogSnr:
    """`weighting` times -d log_snr / dt: for levels uniform in t, the loss as if they were uniform in log_snr.

    The expected loss is then the same for every schedule of the same range, which only changes its variance (Kingma and
    Gao 2023, section 3.2).
    """
    slope = jax.vmap(jax.grad(schedule.log_snr))(schedule.t(log_snr))
    return -slope * weighting(log_snr)


def elbo(log_snr: LogSnr, schedule: Schedule) -> LogSnr:
    """-1/2 d log_snr / dt: for levels uniform in t, times the values in a picture, the loss is that of VDM in nats.

    This is the diffusion term of their bound on -log p(x_0), in continuous time (Kingma et al. 2021, equation 17); the
    two others, of the first and the last level, have nothing to train. For an exact network it is the mutual
    information of x_0 and x_t gained from the last level to the first, whatever lies between.
    """
    return 0.5 * per_log_snr(log_snr, constant, schedule)


def with_uncertainty(
    weighted_error: Float[Array, "*shape"], log_variance: Float[Array, "*shape"]
) -> Float[Array, "*shape"]:
    """error / exp(u) + u with u = log_variance: each level counts by how little is left to learn of it.

    For a level's own u the least loss is at u = log(error), and there every level pulls alike on the network; the value
    is then log(error) + 1, and may be negative (EDM2, Karras et al. 2024, equations 21 and 25). u is learned along with
    the network, by `models.uncertainty`.
    """
    return weighted_error * jnp.exp(-log_variance) + log_variance
