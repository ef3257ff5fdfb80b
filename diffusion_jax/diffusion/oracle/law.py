"""What an oracle is, and in which type it computes."""

from collections.abc import Callable
from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Float

from diffusion_jax.types import Denoiser

Picture = Float[Array, "height width channel"]


class Oracle(NamedTuple):
    """Four answers about one law of x_0, which may depend on cond; sigma > 0 is one for the whole batch.

    The picture denoised has the type of x. Score and density are in float32 at least, since half precision has no room
    for a score at low noise. Each is computed by a formula of its own that loses no digits: (D - x) / sigma^2 would at
    low noise, and x + sigma^2 score at high.
    """

    denoise: Denoiser  # (x, sigma, cond) -> D(x, sigma) = E[x_0 | x]
    score: Callable  # (x, sigma, cond) -> (D - x) / sigma^2, the gradient of log_p (Karras et al. 2022, equation 3)
    log_p: Callable  # (x, sigma, cond) -> the logarithm of the density of x = x_0 + sigma eps, one for each example
    sample: Callable  # (keys, cond) -> draws of x_0, one key for each, in the type of the law's pictures


def widest(*arrays: Array) -> jnp.dtype:
    """The widest type of the arrays, or float32 if that is wider."""
    return max([jnp.dtype(jnp.float32), *(array.dtype for array in arrays)], key=lambda dtype: dtype.itemsize)
