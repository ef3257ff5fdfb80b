"""How likely is a picture at least? The bound that diffusion models are trained on, in continuous time."""

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Array, Float

from diffusion_jax.diffusion.denoiser import sigma_of
from diffusion_jax.diffusion.keys import folded, for_purpose, normal, uniform
from diffusion_jax.diffusion.loss import eps_error
from diffusion_jax.diffusion.parameterization import Parameterization
from diffusion_jax.diffusion.schedules import Schedule
from diffusion_jax.types import Cond, Image, Keys, Network

Each = Float[Array, " batch"]


class Bound(NamedTuple):
    """Nats of each example: -log p(x_0) <= prior + diffusion + reconstruction, in expectation over the draws."""

    prior: Each
    diffusion: Each
    reconstruction: Each
    error: Each  # the standard error of `diffusion`, the one term that is drawn


def variational_bound(
    network: Network,
    x_0: Image,
    cond: Cond,
    keys: Keys,
    *,
    schedule: Schedule,
    parameterization: Parameterization,
    draws: int = 16,
    data_std: ArrayLike = 0.5,
) -> Bound:
    """The bound of VDM (Kingma et al. 2021, equation 11) in continuous time, of pictures on a continuous scale.

    diffusion: half the integral over log_snr of the squared error in eps (equation 17). Only the ends of the schedule
    count, so the levels are uniform in log_snr: one in each of `draws` (static) equal parts, by the key of the example.
    prior: the divergence of x at the largest sigma from a normal with variance sigma^2 + data_std^2; 1 is VDM's.
    reconstruction: p(x_0 | x) is normal around x with the smallest sigma as its deviation, of which the expected
    -log is half of log(2 pi e sigma^2) a pixel, whatever the picture. It is tight as sigma goes to 0. VDM instead gives
    probabilities to 256 values, so theirs is of bytes; here `likelihood.dequantize` comes first.

    `error` takes neighboring parts for equals, so it is rather too large. Raises ValueError for less than two draws.
    """
    if draws < 2:
        raise ValueError(f"the error of the bound is unknown with less than 2 draws, not {draws}: take more")
    high, low = (schedule.log_snr(jnp.asarray(t, float)) for t in (0.0, 1.0))
    size = x_0[0].size

    def draw(index):
        given = folded(for_purpose(keys, "bound"), index)
        log_snr = low + (high - low) * (index + uniform(for_purpose(given, "level"), low.dtype)) / draws
        eps = normal(for_purpose(given, "noise"), x_0.shape[1:], low.dtype)
        error = eps_error(network, x_0, eps, log_snr, cond, schedule=schedule, parameterization=parameterization)
        return 0.5 * (high - low) * size * error

    drawn = jax.lax.map(draw, jnp.arange(draws, dtype=low.dtype))
    steps = jnp.square(jnp.diff(drawn, axis=0))  # twice the variance within a part, and what lies between two
    least, most = sigma_of(high), sigma_of(low)
    variance = most**2 + data_std**2
    energy = jnp.sum(jnp.square(x_0.astype(low.dtype)), axis=(1, 2, 3))
    prior = 0.5 * ((energy + size * (most**2 - variance)) / variance + size * jnp.log(variance / most**2))
    return Bound(
        prior=prior,
        diffusion=jnp.mean(drawn, axis=0),
        reconstruction=jnp.full_like(prior, size * (0.5 * math.log(2 * math.pi * math.e)) + size * jnp.log(least)),
        error=jnp.sqrt(jnp.mean(steps, axis=0) / (2 * draws)),
    )
