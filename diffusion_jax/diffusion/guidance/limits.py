"""Where and how far may guidance go? An interval of noise levels, and bounds of the picture."""

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from diffusion_jax.types import Cond, Denoiser, Image, Scalar


def within(plain: Denoiser, guided: Denoiser, sigma_lo: ArrayLike, sigma_hi: ArrayLike) -> Denoiser:
    """`guided` alone where sigma_lo < sigma <= sigma_hi, else `plain` alone (Kynkäänniemi et al. 2024, equation 6)."""

    def denoise(x: Image, sigma: Scalar, cond: Cond) -> Image:
        return jax.lax.cond((sigma_lo < sigma) & (sigma <= sigma_hi), guided, plain, x, sigma, cond)

    return denoise


def dynamic_threshold(guided: Denoiser, percentile: ArrayLike = 99.5) -> Denoiser:
    """x_0 of each example clipped to [-s, s] and divided by s, its percentile of |x_0| if that is over 1.

    Imagen's (Saharia et al. 2022, section 2.3): for pictures in [-1, 1], around the guidance that saturates them.
    Percentile 100 only ever scales.
    """

    def thresholded(x: Image, sigma: Scalar, cond: Cond) -> Image:
        x_0 = guided(x, sigma, cond)
        size = jnp.percentile(jnp.abs(x_0), jnp.asarray(percentile, x_0.dtype), axis=(1, 2, 3), keepdims=True)
        size = jnp.maximum(size, 1)
        return jnp.clip(x_0, -size, size) / size

    return thresholded


def static_threshold(guided: Denoiser) -> Denoiser:
    """x_0 clipped to [-1, 1] (Saharia et al. 2022, section 2.3)."""
    return lambda x, sigma, cond: jnp.clip(guided(x, sigma, cond), -1, 1)
