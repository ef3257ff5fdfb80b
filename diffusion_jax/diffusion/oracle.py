"""Denoisers that are exact, since the data are a formula: what theory says of a sampler can be tested against them.

They know no text. A picture of the data has the shape of `mean`, without a batch axis.
"""

import jax
import jax.numpy as jnp
from jax.nn import softmax
from jax.typing import ArrayLike
from jaxtyping import Array, Float

from diffusion_jax.diffusion.denoiser import sigma_of
from diffusion_jax.diffusion.parameterization import Parameterization
from diffusion_jax.diffusion.schedules import Schedule
from diffusion_jax.types import Cond, Denoiser, Image, LogSnr, Network, Scalar

Picture = Float[Array, "height width channel"]


def gaussian(mean: Picture, std: Picture) -> Denoiser:
    """Data with independent normal pixels; std = 0 makes them one point, which any sampler finds in one step."""

    def denoise(x: Image, sigma: Scalar, cond: Cond) -> Image:
        shrink = std**2 / (std**2 + sigma**2)
        return mean[None] + shrink[None] * (x - mean[None])

    return denoise


def gaussian_flow(mean: Picture, std: Picture, x: Image, sigma: ArrayLike, sigma_next: ArrayLike) -> Image:
    """Where a sampler without error takes x from sigma to sigma_next, for `gaussian`: the exact solution of the ODE."""
    return mean[None] + jnp.sqrt((std**2 + sigma_next**2) / (std**2 + sigma**2))[None] * (x - mean[None])


def mixture(means: Float[Array, "k height width channel"], std: ArrayLike, weights: Float[Array, " k"]) -> Denoiser:
    """Data normal with deviation `std` around one of k pictures; weights need not sum to one.

    With std = 0 and equal weights this is the denoiser that has memorized k training pictures.
    """

    def denoise(x: Image, sigma: Scalar, cond: Cond) -> Image:
        variance = std**2 + sigma**2
        distance = jnp.sum(jnp.square(x[:, None] - means[None]), axis=(2, 3, 4))
        which = softmax(jnp.log(weights)[None] - 0.5 * distance / variance)
        center = jnp.einsum("bk,k...->b...", which, means)
        return center + std**2 / variance * (x - center)

    return denoise


def network(denoise: Denoiser, schedule: Schedule, parameterization: Parameterization) -> Network:
    """The network that makes no mistake beyond those of `denoise`: what it would predict of x_t."""

    def predict(x_t: Image, log_snr: LogSnr, cond: Cond) -> Image:
        def of_one(x_t, log_snr, cond):
            alpha_t, sigma_t = schedule.alpha_sigma(log_snr)
            x_0 = denoise(x_t[None] / alpha_t, sigma_of(log_snr), jax.tree.map(lambda c: c[None], cond))[0]
            a, b = parameterization(alpha_t, sigma_t)
            return a * x_0 + b * (x_t - alpha_t * x_0) / sigma_t

        return jax.vmap(of_one)(x_t, log_snr, cond)

    return predict
