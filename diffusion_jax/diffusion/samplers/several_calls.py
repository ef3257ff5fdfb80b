"""Samplers that call the network several times a step: the methods of Runge and Kutta.

A step begins at one level, visits others on its way, and ends at the next one; at each visit the slope (x - D) / sigma
is taken, and x leaves from where the step began along a weighted sum of the slopes of this step. The visits of all
steps are one walk, so the compiled program holds the network once.
"""

import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Array, Float

from diffusion_jax.diffusion.samplers.walk import Result, noise, nothing_yet, remember, root, thinned, walk, weighted
from diffusion_jax.types import Cond, Denoiser, Image, Keys, Sigmas

Steps = Float[Array, " steps"]  # one number for each: the levels but the last


def heun(denoise: Denoiser, x: Image, sigmas: Sigmas, cond: Cond, keys: Keys, trace: bool = False) -> Result:
    """Heun's of Karras et al. (2022, Algorithm 1): second order, 2n - 1 calls for n levels.

    A step of Euler, then the same step again with the mean of the slopes at its two ends.
    """
    return _heun(denoise, x, sigmas, sigmas[1:], cond, trace)


def heun_churn(
    denoise: Denoiser,
    x: Image,
    sigmas: Sigmas,
    cond: Cond,
    keys: Keys,
    s_churn: ArrayLike = 40.0,
    s_tmin: ArrayLike = 0.05,
    s_tmax: ArrayLike = 50.0,
    s_noise: ArrayLike = 1.003,
    trace: bool = False,
) -> Result:
    """EDM's stochastic sampler (Karras et al. 2022, Algorithm 2): `heun` whose steps begin with more noise.

    Where s_tmin <= sigma <= s_tmax, a step of n begins at sigma (1 + gamma), gamma = min(s_churn / n, sqrt(2) - 1).
    s_noise is the deviation of the noise added; the defaults are theirs for ImageNet. 2n - 1 calls; the trace shows x
    with the noise added.
    """
    gamma = jnp.minimum(jnp.asarray(s_churn, sigmas.dtype) / sigmas.size, 2**0.5 - 1)
    starts = sigmas * (1 + jnp.where((s_tmin <= sigmas) & (sigmas <= s_tmax), gamma, 0))
    return _heun(denoise, x, starts, sigmas[1:], cond, trace, keys, s_noise, first=sigmas[0])


def restart(
    denoise: Denoiser,
    x: Image,
    sigmas: Sigmas,
    cond: Cond,
    keys: Keys,
    sigma_lo: ArrayLike = 0.06,
    sigma_hi: ArrayLike = 0.3,
    times: int = 2,
    levels: int = 4,
    s_noise: ArrayLike = 1.0,
    rho: ArrayLike = 7.0,
    trace: bool = False,
) -> Result:
    """Restart (Xu et al. 2023, Algorithm 2): `heun` that at the level nearest to sigma_lo goes back to sigma_hi.

    That happens `times` times, each with fresh noise and down again in `levels` Karras levels (both static), and costs
    2 times (levels - 1) calls more than `heun`. Where sigma_hi is not above that level, nothing is added. The interval
    is that of the authors' example; they use several.
    """
    n, extra = sigmas.size, times * (levels - 1)
    turn = jnp.argmin(jnp.abs(jnp.log(sigmas / sigma_lo)))
    low, high = sigmas[turn] ** (1 / rho), jnp.maximum(sigma_hi, sigmas[turn]) ** (1 / rho)
    again = jnp.linspace(high, low, levels) ** rho
    place = jnp.arange(n + extra)
    inside = (turn <= place) & (place < turn + extra)
    main = jnp.where(place < turn, place, place - extra)
    within = jnp.mod(place - turn, levels - 1) if levels > 1 else place
    starts = jnp.where(inside, again[jnp.where(inside, within, 0)], sigmas[jnp.clip(main, 0, n - 1)])
    ends = jnp.where(inside, again[jnp.where(inside, within + 1, 0)], sigmas[jnp.clip(main + 1, 0, n - 1)])
    result = _heun(denoise, x, starts, ends[:-1], cond, trace, keys, s_noise, first=sigmas[0])
    index = jnp.arange(n)
    return thinned(result, trace, jnp.where(index < turn, index, index + extra))


def dpm_2s(
    denoise: Denoiser, x: Image, sigmas: Sigmas, cond: Cond, keys: Keys, r: ArrayLike = 0.5, trace: bool = False
) -> Result:
    """DPM-Solver-2 of Lu et al. (2022, Algorithm 1): second order, 2n - 1 calls for n levels.

    A step of log(sigma) is cut at the fraction r, and the slope there, which r = 1/2 takes alone, corrects that at the
    start.
    """
    sigma, after = sigmas[:-1], sigmas[1:]
    r = jnp.asarray(r, sigmas.dtype)
    middle = sigma ** (1 - r) * after**r
    whole, second = after - sigma, (after - sigma) / (2 * r)
    return _stages(denoise, x, sigmas, [middle], [[middle - sigma], [second, whole - second]], cond, trace)


def dpm_3s(denoise: Denoiser, x: Image, sigmas: Sigmas, cond: Cond, keys: Keys, trace: bool = False) -> Result:
    """DPM-Solver-3 of Lu et al. (2022, Algorithm 2): third order, 3n - 2 calls for n levels.

    A step of log(sigma) is cut at its thirds.
    """
    sigma, after = sigmas[:-1], sigmas[1:]
    first, second = sigma ** (2 / 3) * after ** (1 / 3), sigma ** (1 / 3) * after ** (2 / 3)
    rise = 2 * _rise(sigma, second)
    end = 1.5 * _rise(sigma, after)
    stages = [
        [first - sigma],
        [rise, second - sigma - rise],
        [end, jnp.zeros_like(end), after - sigma - end],
    ]
    return _stages(denoise, x, sigmas, [first, second], stages, cond, trace)


def _heun(
    denoise: Denoiser,
    x: Image,
    starts: Sigmas,
    ends: Steps,
    cond: Cond,
    trace: bool,
    keys: Keys | None = None,
    s_noise: ArrayLike = 1.0,
    first: ArrayLike | None = None,
) -> Result:
    """Steps from starts[i] to ends[i], each twice; with keys, noise then lifts x from ends[i] to starts[i + 1].

    x comes in at the level `first`, from which it is lifted to starts[0].
    """
    step = ends - starts[:-1]
    lifts = None
    if keys is not None:
        before = jnp.concatenate([jnp.asarray(first)[None], ends])
        lifts = s_noise * root(starts**2 - before**2)
        x = x.astype(starts.dtype)
        x = x + lifts[0] * noise(keys, 0, x)
        lifts = lifts[1:]
    return _stages(denoise, x, starts, [ends], [[step], [0.5 * step, 0.5 * step]], cond, trace, keys, lifts)


def _stages(
    denoise: Denoiser,
    x: Image,
    starts: Sigmas,
    inner: list[Steps],
    weights: list[list[Steps]],
    cond: Cond,
    trace: bool,
    keys: Keys | None = None,
    lifts: Steps | None = None,
) -> Result:
    """Steps from each start to the next that visit the inner levels; the answer is D at the last start.

    inner[j][i] is the level of the j-th visit within step i, and weights[j][k][i] by what the slope k visits ago counts
    when x leaves the visit before it. lifts[i] is the deviation of the noise that is added at the end of step i.
    """
    stages = len(weights)
    visits = jnp.stack([starts[:-1], *inner], axis=1).reshape(-1)
    rows = [jnp.pad(jnp.stack(row, axis=1), ((0, 0), (0, stages - len(row)))) for row in weights]
    table = jnp.pad(jnp.stack(rows, axis=1).reshape(-1, stages), ((0, 1), (0, 0)))
    if lifts is not None:
        lifts = jnp.pad(jnp.pad(lifts[:, None], ((0, 0), (stages - 1, 0))).reshape(-1), (0, 1))

    def move(x, memory, sigma, sigma_next, index):
        start, slopes = memory
        x_0 = denoise(x, sigma, cond)
        start = jnp.where(index % stages == 0, x, start)
        slopes = remember((x - x_0) / sigma, slopes)
        x_next = start + weighted(table[index], slopes)
        if lifts is not None:
            x_next = x_next + lifts[index] * noise(keys, index + 1, x)
        return x_next, x_0, (start, slopes)

    memory = lambda x, sigma: (x, nothing_yet(stages)(x, sigma))  # noqa: E731
    result = walk(move, x, jnp.concatenate([visits, starts[-1:]]), trace, memory)
    return thinned(result, trace, slice(None, None, stages))


def _rise(sigma: Steps, after: Steps) -> Steps:
    """The integral over sigma, from one level to another, of what rises from 0 to 1 between them in log(sigma)."""
    return after - (sigma - after) / jnp.log(sigma / after)
