"""How does noise become a picture? (denoise, x, sigmas, cond, keys) -> picture.

x enters at sigmas[0], as sigmas[0] times standard normal noise, and follows dx / dsigma = (x - D(x, sigma)) / sigma
from each sigma to the next (Karras et al. 2022); the answer is D at the last. A sampler is the rule for one such move:

    move(x, memory, sigma, sigma_next, index) -> x at sigma_next, D(x, sigma), memory

The last sigma is its own next, so its move leads nowhere and only its D counts: no rule has a special case, no sigma is
zero, and a move that calls the network once has it once in the compiled program. With `trace` (static) a sampler also
returns its `Trace`. Noise comes from one key for each example, so no result depends on the batch size. Settings may be
traced arrays. Computed in the type of the sigmas.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Array, Float

from diffusion_jax.diffusion.keys import folded, for_purpose, normal
from diffusion_jax.types import Cond, Denoiser, Image, Keys, Sampler, Sigmas


class Trace(NamedTuple):
    """The way of the pictures out of noise: entry i is at sigmas[i]."""

    x: Float[Array, "n batch height width channel"]
    x_0: Float[Array, "n batch height width channel"]  # the estimate D(x, sigma)


Result = Image | tuple[Image, Trace]


def euler(denoise: Denoiser, x: Image, sigmas: Sigmas, cond: Cond, keys: Keys, trace: bool = False) -> Result:
    """First order, one call a level: straight on along the derivative. `ddim` with eta = 0 is the same."""

    def move(x, _, sigma, sigma_next, index):
        x_0 = denoise(x, sigma, cond)
        return x_0 + sigma_next / sigma * (x - x_0), x_0, None

    return _walk(move, x, sigmas, trace)


def ddim(
    denoise: Denoiser, x: Image, sigmas: Sigmas, cond: Cond, keys: Keys, eta: ArrayLike = 0.0, trace: bool = False
) -> Result:
    """DDIM, one call a level; eta in [0, 1] goes from no fresh noise to that of `ancestral`.

    Equation 16 of Song et al. (2021) gives its deviation for x_t; divided by alpha_t it is
    eta sigma_next sqrt(1 - (sigma_next / sigma)^2), in which no schedule is left.
    """

    def move(x, _, sigma, sigma_next, index):
        x_0 = denoise(x, sigma, cond)
        fresh = eta**2 * (1 - (sigma_next / sigma) ** 2)  # the fresh share of the variance sigma_next^2
        kept = sigma_next / sigma * jnp.sqrt(1 - fresh) * (x - x_0)
        return x_0 + kept + sigma_next * jnp.sqrt(fresh) * _noise(keys, index, x), x_0, None

    return _walk(move, x, sigmas, trace)


def ancestral(
    denoise: Denoiser, x: Image, sigmas: Sigmas, cond: Cond, keys: Keys, data_std: ArrayLike = 0.0, trace: bool = False
) -> Result:
    """DDPM, one call a level: a draw of x at sigma_next given x, as if the data had deviation `data_std` around D.

    0 and 1 are the two variances of Ho et al. (2020), "fixed small" and "fixed large": right for data that are a point,
    and for white noise of unit variance. For normal data of this deviation any number of levels is exact.
    """

    def move(x, _, sigma, sigma_next, index):
        x_0 = denoise(x, sigma, cond)
        variance = (sigma**2 - sigma_next**2) * (data_std**2 + sigma_next**2) / (data_std**2 + sigma**2)
        mean = x_0 + (sigma_next / sigma) ** 2 * (x - x_0)
        return mean + jnp.sqrt(variance) * _noise(keys, index, x), x_0, None

    return _walk(move, x, sigmas, trace)


def heun(denoise: Denoiser, x: Image, sigmas: Sigmas, cond: Cond, keys: Keys, trace: bool = False) -> Result:
    """Heun's of Karras et al. (2022): second order, 2n - 1 calls for n levels.

    A step of Euler, then the same step again with the mean of the slopes at its two ends. So every level but the first
    is visited twice: by the guess, whose move is to be corrected and stay there, and by what came of that.
    """

    def move(x, memory, sigma, sigma_next, index):
        start, slope_before, step_before = memory
        x_0 = denoise(x, sigma, cond)
        slope, step = (x - x_0) / sigma, sigma_next - sigma
        guess, corrected = x + step * slope, start + 0.5 * step_before * (slope_before + slope)
        return jnp.where(step < 0, guess, corrected), x_0, (x, slope, step)

    visits = jnp.repeat(sigmas, 2)[1:]
    result = _walk(move, x, visits, trace, memory=lambda x, sigma: (x, x, sigma))  # the first move does not read it
    return (result[0], jax.tree.map(lambda path: path[::2], result[1])) if trace else result


def dpmpp_2m(denoise: Denoiser, x: Image, sigmas: Sigmas, cond: Cond, keys: Keys, trace: bool = False) -> Result:
    """DPM-Solver++(2M) of Lu et al. (2022): second order, one call a level.

    D is extrapolated in log(sigma) from this level and the one before, half a step ahead. Before the first level lies
    an infinite step, which makes the first move one of first order.
    """

    def move(x, memory, sigma, sigma_next, index):
        x_0_before, step_before = memory
        x_0 = denoise(x, sigma, cond)
        step = jnp.log(sigma / sigma_next)
        ahead = x_0 + 0.5 * step / step_before * (x_0 - x_0_before)
        return ahead + sigma_next / sigma * (x - ahead), x_0, (x_0, step)

    return _walk(move, x, sigmas, trace, memory=lambda x, sigma: (jnp.zeros_like(x), jnp.full_like(sigma, jnp.inf)))


def steps_for(sampler: Sampler, nfe: int) -> int:
    """The number of levels at which a sampler calls the network nfe times; its calls are counted, nothing is computed.

    Both branches of a `lax.cond` count. Raises ValueError if no number of levels has that cost.
    """
    first, second, third = (_calls(sampler, n) for n in (1, 2, 3))
    each = second - first
    if each < 1 or third - second != each:
        raise ValueError(f"the calls of this sampler do not grow evenly with its levels: {first}, {second}, {third}")
    if nfe < first:
        raise ValueError(f"nfe is {nfe}, but this sampler calls the network at least {first} time(s)")
    levels, rest = divmod(nfe - first, each)
    if rest:
        raise ValueError(f"nfe {nfe} cannot be had with this sampler: take {nfe - rest} or {nfe - rest + each}")
    return levels + 1


def _walk(move: Callable, x: Image, sigmas: Sigmas, trace: bool, memory: Callable = lambda x, sigma: None) -> Result:
    x = x.astype(sigmas.dtype)

    def body(carry, level):
        x, _, memory = carry
        x_next, x_0, memory = move(x, memory, *level)
        return (x_next, x_0, memory), Trace(x, x_0) if trace else None

    levels = sigmas, jnp.concatenate([sigmas[1:], sigmas[-1:]]), jnp.arange(sigmas.size)
    (_, x_0, _), path = jax.lax.scan(body, (x, jnp.zeros_like(x), memory(x, sigmas[0])), levels)
    return (x_0, path) if trace else x_0


def _noise(keys: Keys, index: ArrayLike, x: Image) -> Image:
    return normal(folded(for_purpose(keys, "sampler"), index), x.shape[1:], x.dtype)


def _calls(sampler: Sampler, levels: int) -> int:
    sigmas = []

    def denoise(x, sigma, cond):
        sigmas.append(sigma)
        return x

    def run():
        cond = Cond(jnp.zeros((1, 1, 1)), jnp.ones((1, 1), bool))
        return sampler(denoise, jnp.ones((1, 1, 1, 1)), jnp.ones(levels), cond, jax.random.key(0)[None])

    with jax.disable_jit():  # a scan is then a loop of Python
        jax.eval_shape(run)
    return len(sigmas)
