"""Samplers that call the network once a level and remember nothing."""

import jax.numpy as jnp
from jax.typing import ArrayLike

from diffusion_jax.diffusion.samplers.walk import Result, noise, root, walk
from diffusion_jax.types import Cond, Denoiser, Image, Keys, Sigmas


def euler(denoise: Denoiser, x: Image, sigmas: Sigmas, cond: Cond, keys: Keys, trace: bool = False) -> Result:
    """First order, one call a level: along the derivative, as `ddim` with eta = 0 (Song et al. 2021, equation 13)."""

    def move(x, _, sigma, sigma_next, index):
        x_0 = denoise(x, sigma, cond)
        return x_0 + sigma_next / sigma * (x - x_0), x_0, None

    return walk(move, x, sigmas, trace)


def ddim(
    denoise: Denoiser, x: Image, sigmas: Sigmas, cond: Cond, keys: Keys, eta: ArrayLike = 0.0, trace: bool = False
) -> Result:
    """DDIM, one call a level; eta in [0, 1] goes from no fresh noise to that of `ancestral`.

    Equation 12 of Song et al. (2021); their equation 16 gives its deviation for x_t, and divided by alpha_t it is
    eta sigma_next sqrt(1 - (sigma_next / sigma)^2), in which no schedule is left.
    """

    def move(x, _, sigma, sigma_next, index):
        x_0 = denoise(x, sigma, cond)
        fresh = eta**2 * (1 - (sigma_next / sigma) ** 2)  # the fresh share of the variance sigma_next^2
        kept = sigma_next / sigma * jnp.sqrt(1 - fresh) * (x - x_0)
        return x_0 + kept + sigma_next * root(fresh) * noise(keys, index, x), x_0, None

    return walk(move, x, sigmas, trace)


def ancestral(
    denoise: Denoiser, x: Image, sigmas: Sigmas, cond: Cond, keys: Keys, data_std: ArrayLike = 0.0, trace: bool = False
) -> Result:
    """DDPM, one call a level: a draw of x at sigma_next given x, as if the data had deviation `data_std` around D.

    0 and 1 are the two variances of Ho et al. (2020, section 3.2), "fixed small" and "fixed large": right for data that
    are a point, and for white noise of unit variance. For normal data of this deviation any number of levels is exact.
    """

    def move(x, _, sigma, sigma_next, index):
        x_0 = denoise(x, sigma, cond)
        variance = (sigma**2 - sigma_next**2) * (data_std**2 + sigma_next**2) / (data_std**2 + sigma**2)
        mean = x_0 + (sigma_next / sigma) ** 2 * (x - x_0)
        return mean + root(variance) * noise(keys, index, x), x_0, None

    return walk(move, x, sigmas, trace)
