"""Guidance by whatever can judge a noisy picture: a classifier, a reward, a measurement."""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from diffusion_jax.diffusion.guidance.scales import Scale, at
from diffusion_jax.types import Cond, Denoiser, Image, Scalar


def classifier(denoise: Denoiser, log_p: Callable, scale: Scale) -> Denoiser:
    """D + scale sigma^2 grad log p(y | x), the gradient in x (Dhariwal and Nichol 2021, Algorithm 2).

    log_p: (x, sigma, cond) -> one number for each example; what is added to it without regard to x does not count.
    Since D = x + sigma^2 grad log p(x), Bayes makes it E[x_0 | x, y] at scale 1 if `denoise` knows no y and log_p, of x
    with its noise, is exact. One of clean pictures is none. Here 0 is no guidance. Raises ValueError unless log_p
    returns the shape (batch,).
    """

    def guided(x: Image, sigma: Scalar, cond: Cond) -> Image:
        def total(x):
            each = log_p(x, sigma, cond)
            if each.shape != x.shape[:1]:
                raise ValueError(f"log_p returned the shape {each.shape}, not one number for each example")
            return jnp.sum(each)

        uphill = jax.grad(total)(x)
        return denoise(x, sigma, cond) + at(scale, sigma, x) * jnp.square(sigma).astype(x.dtype) * uphill

    return guided
