"""What a schedule is, and how a level becomes (alpha_t, sigma_t)."""

from collections.abc import Callable
from typing import NamedTuple

import jax.numpy as jnp
from jax.nn import sigmoid as logistic


class Schedule(NamedTuple):
    """Three elementwise functions of arrays of any shape."""

    log_snr: Callable  # t -> log_snr, decreasing
    t: Callable  # log_snr -> t
    alpha_sigma: Callable  # log_snr -> (alpha_t, sigma_t): one of the three functions below


def variance_preserving(log_snr):
    """alpha_t^2 + sigma_t^2 = 1: x_t keeps the variance of unit-variance data (DDPM; VDM, equation 4)."""
    return jnp.sqrt(logistic(log_snr)), jnp.sqrt(logistic(-log_snr))


def variance_exploding(log_snr):
    """alpha_t = 1: noise is added to the data as it is (EDM). Wrap the network in `denoiser.unit_variance`."""
    return jnp.ones_like(log_snr), jnp.exp(-0.5 * log_snr)


def straight_line(log_snr):
    """alpha_t + sigma_t = 1: x_t moves from data to noise on a straight line (rectified flow)."""
    return logistic(0.5 * log_snr), logistic(-0.5 * log_snr)
