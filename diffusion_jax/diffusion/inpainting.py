"""How is a part of a picture filled in, and the rest kept? By a model that was trained for whole pictures.

The mask is True where the picture is known and stays, of shape (batch or 1, height, width, channel or 1). All methods
here replace what is known at every level; the model sees it only as noisy as the level is. So what is made at high
noise, the composition, hardly minds it, and nothing here draws exactly from p(unknown | known).
"""

import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Array, Bool

from diffusion_jax.diffusion.keys import folded, for_purpose, normal
from diffusion_jax.diffusion.samplers.walk import Result, noise, root, walk
from diffusion_jax.types import Cond, Denoiser, Image, Keys, Scalar, Sigmas

Mask = Bool[Array, "#batch height width #channel"]


def inpaint(denoise: Denoiser, x_0: Image, mask: Mask) -> Denoiser:
    """D that knows x_0 where the mask is True, for any sampler on any grid; the sampler ends with x_0 there, exactly.

    The known pixels then follow the path of a picture that is x_0 there, from the noise that they start with: with a
    sampler that draws none, x_0 + sigma eps with one eps. `repaint` with times = 1 has a fresh eps at each level
    instead. Each level alone has the same distribution of them.
    """

    def known(x: Image, sigma: Scalar, cond: Cond) -> Image:
        x_0_hat = denoise(x, sigma, cond)
        return jnp.where(mask, x_0.astype(x_0_hat.dtype), x_0_hat)

    return known


def repaint(
    denoise: Denoiser,
    x: Image,
    sigmas: Sigmas,
    cond: Cond,
    keys: Keys,
    x_0: Image,
    mask: Mask,
    times: int = 10,
    jump: int = 10,
    data_std: ArrayLike = 0.0,
    trace: bool = False,
) -> Result:
    """RePaint (Lugmayr et al. 2022, Algorithm 1): a sampler that goes each stretch of `jump` levels `times` times.

    Down by `ancestral` of data_std, with x_0 and fresh noise where the mask is True, and up by fresh noise alone; what
    is unknown so gets into keeping with what is known. times = 1 is replacement as in appendix I.2 of Song et al.
    (2021, score SDE). `times` and `jump` are static and the defaults theirs for 250 levels; at few, a jump of 1 does
    more. The order of the stretches is that of their code, which repeats only those with `jump` levels above. Their
    text says that m holds the unknown, their algorithm and code that it holds the known, as here. n levels cost
    n + (times - 1) jump floor((n - 1) / jump) calls. Raises ValueError for times or jump below 1.
    """
    visited, reached = _visits(sigmas.size, times, jump)
    starts, ends = sigmas[visited], sigmas[reached]

    def move(x, _, sigma, sigma_next, index):
        eps = normal(folded(for_purpose(keys, "known"), index), x.shape[1:], x.dtype)
        x = jnp.where(mask, x_0.astype(x.dtype) + sigma * eps, x)
        x_0_hat = inpaint(denoise, x_0, mask)(x, sigma, cond)
        end = ends[index]
        variance = (sigma**2 - end**2) * (data_std**2 + end**2) / (data_std**2 + sigma**2)
        lift = sigma_next**2 - end**2
        return (
            x_0_hat + (end / sigma) ** 2 * (x - x_0_hat) + root(variance + lift) * noise(keys, index, x),
            x_0_hat,
            None,
        )

    return walk(move, x, starts, trace)


def _visits(n: int, times: int, jump: int) -> tuple[np.ndarray, np.ndarray]:
    """Which levels are visited, and which each visit goes down to before noise lifts it to the next; 0 is the top."""
    if times < 1 or jump < 1:
        raise ValueError(f"times and jump are at least 1, not {times} and {jump}")
    left = {n - 1 - above: times - 1 for above in range(0, n - jump, jump)}
    visited, reached, level = [], [], 0
    while level < n - 1:
        visited.append(level)
        level += 1
        reached.append(level)
        if left.get(level):
            left[level] -= 1
            level -= jump
    return np.array([*visited, n - 1]), np.array([*reached, n - 1])
