"""At which noise levels does the sampler stop? (n, sigma_min, sigma_max) -> n decreasing sigmas.

Both ends are included, unless a grid says otherwise, and one level is sigma_max alone: one call, noise to picture.
n is static; the rest may be traced arrays unless they say that they are static. All raise ValueError for n < 1.

`leading`, `trailing` and `sgm_uniform` are how other projects take n of the steps that a network was trained on; their
table is the schedule from sigma_min to sigma_max. What they call "linspace" is `uniform_t`.
"""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy.special import betainc
from jax.typing import ArrayLike
from jaxtyping import Array, Float

from diffusion_jax.diffusion.denoiser import log_snr_of, sigma_of
from diffusion_jax.diffusion.schedules import Schedule
from diffusion_jax.diffusion.schedules.changes import inverse
from diffusion_jax.types import Sigmas

ALIGN_YOUR_STEPS = {  # the levels of ten steps, as its authors give them on their web page
    "sd15": (14.615, 6.475, 3.861, 2.697, 1.886, 1.396, 0.963, 0.652, 0.399, 0.152, 0.029),
    "sdxl": (14.615, 6.315, 3.771, 2.181, 1.342, 0.862, 0.555, 0.380, 0.234, 0.113, 0.029),
    "svd": (700.0, 54.5, 15.886, 7.977, 4.248, 1.789, 0.981, 0.403, 0.173, 0.034, 0.002),
}


def karras(n: int, sigma_min: ArrayLike, sigma_max: ArrayLike, rho: ArrayLike = 7.0) -> Sigmas:
    """Uniform in sigma^(1/rho) (EDM, equation 5): the larger rho, the more of the levels lie at low noise."""
    low, high = sigma_min ** (1 / rho), sigma_max ** (1 / rho)
    return (low + _even(n) * (high - low)) ** rho


def uniform_log_snr(n: int, sigma_min: ArrayLike, sigma_max: ArrayLike) -> Sigmas:
    """Uniform in log(sigma): each level has the same fraction of the noise of the level before.

    k-diffusion and diffusers call it exponential.
    """
    return _in_log_sigma(_even(n), sigma_min, sigma_max)


def uniform_t(n: int, sigma_min: ArrayLike, sigma_max: ArrayLike, schedule: Schedule) -> Sigmas:
    """Uniform in the time of a schedule, which need not be the one that the network was trained with."""
    return _in_time(_even(n), sigma_min, sigma_max, schedule)


def sgm_uniform(n: int, sigma_min: ArrayLike, sigma_max: ArrayLike, schedule: Schedule) -> Sigmas:
    """`uniform_t` with n + 1 levels, without the last: the step to sigma_min is left to the last call.

    As in ComfyUI; Stability AI's generative-models round down to the steps of their table.
    """
    _check(n)
    return _in_time(_even(n + 1)[:-1], sigma_min, sigma_max, schedule)


def leading(
    n: int, sigma_min: ArrayLike, sigma_max: ArrayLike, schedule: Schedule, steps: int = 1000, offset: int = 0
) -> Sigmas:
    """Every (steps // n)-th of the steps 0 ... steps - 1, from step `offset` on: the way of DDPM and Stable Diffusion.

    It does not reach sigma_max, so a sampler starts from noise that the network takes for some picture's, and with
    n = 1 it is sigma_min alone (Lin et al. 2024, Table 2, call it a flaw and prefer `trailing`). Stable Diffusion has
    offset 1. steps and offset are static. Raises ValueError if a step lies beyond the last.
    """
    _check(n)
    chosen = np.arange(n)[::-1] * (steps // n) + offset
    if n > steps or offset < 0 or chosen[0] >= steps:
        raise ValueError(f"{n} levels from step {offset} on do not fit into {steps} steps")
    return _in_time(jnp.asarray(chosen / (steps - 1), float), sigma_min, sigma_max, schedule)


def trailing(n: int, sigma_min: ArrayLike, sigma_max: ArrayLike, schedule: Schedule, steps: int = 1000) -> Sigmas:
    """Every (steps / n)-th of the steps 0 ... steps - 1, counted down from the last and rounded.

    Lin et al. (2024), Table 2. It ends above sigma_min, at step steps / n - 1. steps is static. Raises ValueError for
    n > steps.
    """
    _check(n)
    if n > steps:
        raise ValueError(f"{n} levels do not fit into {steps} steps")
    chosen = np.round(steps - np.arange(n) * (steps / n)) - 1
    return _in_time(jnp.asarray(chosen / (steps - 1), float), sigma_min, sigma_max, schedule)


def beta(
    n: int,
    sigma_min: ArrayLike,
    sigma_max: ArrayLike,
    schedule: Schedule,
    a: ArrayLike = 0.6,
    b: ArrayLike = 0.6,
) -> Sigmas:
    """Even quantiles of Beta(a, b) in the time of a schedule (Lee et al. 2024): below 1, both ends are dense.

    diffusers takes the quantiles in sigma itself, which is schedules.edm with rho = 1; ComfyUI leaves out the last.
    a and b have no gradient.
    """
    even = _even(n)
    share = jnp.concatenate([even[:1], _beta_quantiles(even[1:-1], a, b), even[1:][-1:]])
    return _in_time(share, sigma_min, sigma_max, schedule)


def align_your_steps(n: int, sigma_min: ArrayLike, sigma_max: ArrayLike, model: str = "sdxl") -> Sigmas:
    """The levels that Sabour et al. (2024) found best for a model: sd15, sdxl or svd (Stable Video Diffusion).

    Between their 11 levels log(sigma) is linear. They hold for the range of that model, 0.029 to 14.615, or 0.002 to
    700 for svd; over another range log(sigma) is stretched. To find those of a network of your own: `grid_search`.
    """
    if model not in ALIGN_YOUR_STEPS:
        raise ValueError(f"there are levels for {', '.join(ALIGN_YOUR_STEPS)}, not for {model!r}")
    levels = np.log(ALIGN_YOUR_STEPS[model])[::-1]
    shares = jnp.asarray((levels - levels[0]) / (levels[-1] - levels[0]), float)
    return _in_log_sigma(jnp.interp(_even(n), jnp.linspace(0, 1, shares.size), shares), sigma_min, sigma_max)


def fixed(n: int, sigma_min: ArrayLike, sigma_max: ArrayLike, sigmas: Sequence[float | int]) -> Sigmas:
    """The given sigmas, such as those that `grid_search` found; their range is their own. sigmas is static.

    Raises ValueError if they are not n positive numbers, each below the one before.
    """
    _check(n)
    levels = np.asarray(sigmas, float)
    if levels.shape != (n,):
        raise ValueError(f"the sampler stops at {n} level(s), but the grid has {levels.size}: change nfe or the grid")
    if not ((levels > 0) & np.isfinite(levels)).all() or (np.diff(levels) >= 0).any():
        raise ValueError(f"sigmas must be positive and fall from each to the next: {tuple(sigmas)}")
    return jnp.asarray(levels, float)


def _check(n: int) -> None:
    if n < 1:
        raise ValueError(f"a grid needs at least one noise level, not {n}: ask for nfe >= 1")


def _even(n: int) -> Float[Array, " n"]:
    """From 1, which is sigma_max, to 0."""
    _check(n)
    return jnp.linspace(1, 0, n)


@jax.jit  # the incomplete beta function takes seconds to compile
def _beta_quantiles(probability: Float[Array, "*shape"], a: ArrayLike, b: ArrayLike) -> Float[Array, "*shape"]:
    return inverse(lambda x: -betainc(jnp.full_like(x, a), jnp.full_like(x, b), x), -probability)


def _in_log_sigma(share: Float[Array, " n"], sigma_min: ArrayLike, sigma_max: ArrayLike) -> Sigmas:
    low, high = jnp.log(sigma_min), jnp.log(sigma_max)
    return jnp.exp(low + share * (high - low))


def _in_time(share: Float[Array, " n"], sigma_min: ArrayLike, sigma_max: ArrayLike, schedule: Schedule) -> Sigmas:
    sigma_min, sigma_max = jnp.asarray(sigma_min, float), jnp.asarray(sigma_max, float)
    low, high = schedule.t(log_snr_of(sigma_min)), schedule.t(log_snr_of(sigma_max))
    return jnp.clip(sigma_of(schedule.log_snr(low + share * (high - low))), sigma_min, sigma_max)
