"""Which grid is best for this network and this sampler? Descent along the gradient of the sampler's error.

The levels stay in order and between their ends, since what is learned is the share of the whole fall of log(sigma)
from each to the next. Watson et al. (2022, DDSS) learn a sampler by gradients as well, but from statistics of pictures.
"""

import jax
import jax.numpy as jnp
from jax.nn import softmax
from jax.typing import ArrayLike
from jaxtyping import Array, Float

from diffusion_jax.types import Cond, Denoiser, Image, Keys, Sampler, Sigmas


def optimize(
    sampler: Sampler,
    denoise: Denoiser,
    x: Image,
    cond: Cond,
    keys: Keys,
    sigmas: Sigmas,
    reference: Image,
    steps: int = 100,
    learning_rate: ArrayLike = 0.1,
) -> tuple[Sigmas, Float[Array, " steps"]]:
    """The best grid met on the way from `sigmas`, and the error of each that was met, the first being `sigmas`.

    The error is the mean squared distance between the sampler's pictures and `reference`: what the same x becomes in
    many more levels of a good sampler. It is that of these pictures, so judge the grid by others. A sampler that adds
    noise has no such reference.

    x: at sigmas[0], which stays, as does sigmas[-1]. sigmas: three or more, to start from.
    steps: static; each calls the sampler once, forward and backward. Backward, all calls of a network are remembered
        unless `denoise` is wrapped in jax.checkpoint.
    learning_rate: the length of the first step in the logarithms of the shares; later ones are shorter, down to none.
    """
    levels = jnp.log(sigmas)
    fall = levels[0] - levels[-1]

    def grid(logits: Float[Array, " gaps"]) -> Sigmas:
        inner = levels[0] - fall * jnp.cumsum(softmax(logits))[:-1]
        return jnp.concatenate([sigmas[:1], jnp.exp(inner), sigmas[-1:]])

    def error(logits: Float[Array, " gaps"]):
        return jnp.mean(jnp.square(sampler(denoise, x, grid(logits), cond, keys) - reference))

    def step(carry, index):
        logits, best, least = carry
        found, slope = jax.value_and_grad(error)(logits)
        best, least = jnp.where(found < least, logits, best), jnp.minimum(found, least)
        length = learning_rate * (1 - index / steps)
        # The steepness says nothing of the distance: it grows by orders of magnitude from many levels to few.
        logits = logits - length * slope / jnp.maximum(jnp.linalg.norm(slope), jnp.finfo(slope.dtype).tiny)
        return (logits, best, least), found

    start = jnp.log(-jnp.diff(levels))
    (_, best, _), errors = jax.lax.scan(
        step, (start, start, jnp.full((), jnp.inf, levels.dtype)), jnp.arange(steps, dtype=levels.dtype)
    )
    return grid(best), errors
