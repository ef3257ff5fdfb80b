"""How strong is the guidance at which noise level? A schedule of the scale is a function of sigma."""

from collections.abc import Callable

import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Array, Float

from diffusion_jax.diffusion.denoiser import log_snr_of
from diffusion_jax.diffusion.schedules import Schedule
from diffusion_jax.types import Image, Scalar, Sigmas

Scale = ArrayLike | Callable[[Scalar], ArrayLike]


def at(scale: Scale, sigma: Scalar, x: Image) -> Float[Array, "..."]:
    """The scale at this level, in the type of x."""
    return jnp.asarray(scale(sigma) if callable(scale) else scale, x.dtype)


def linear_ramp(first: ArrayLike, last: ArrayLike, schedule: Schedule) -> Callable[[Scalar], Scalar]:
    """From `first`, at noise, to `last`, at the picture, evenly in the time of a schedule.

    Wang et al. (2024) find that rising scales do best. Beyond the schedule's ends the scale stays what it is there.
    """
    return lambda sigma: last + (first - last) * _time(sigma, schedule)


def cosine_ramp(
    first: ArrayLike, last: ArrayLike, schedule: Schedule, power: ArrayLike = 1.0
) -> Callable[[Scalar], Scalar]:
    """As `linear_ramp`, along (1 - cos(pi (1 - t)^power)) / 2, which is flat at both ends (Wang et al. 2024).

    Power 1 is their "cosine", which passes the mean of the two in the middle; a larger one (their "pcs") rises later.
    """

    def scale(sigma: Scalar) -> Scalar:
        return first + (last - first) * 0.5 * (1 - jnp.cos(jnp.pi * (1 - _time(sigma, schedule)) ** power))

    return scale


def cfg_plus_plus(strength: ArrayLike, sigmas: Sigmas) -> Callable[[Scalar], Scalar]:
    """CFG++ of Chung et al. (2024) as a scale of `cfg`: strength / (1 - r), with r = sigma_next / sigma of the grid.

    Its step of DDIM goes to D(null) + strength (D(cond) - D(null)) and there adds the noise found without text:

        x_next = D(null) + strength (D(cond) - D(null)) + r (x - D(null)).

    A step of Euler with scale s goes to D_s + r (x - D_s) for D_s = D(null) + s (D(cond) - D(null)). The two are one
    where s (1 - r) = strength; at the last level, r = 0. So `samplers.euler` with this scale is CFG++ exactly, and any
    other sampler is an analogy: strength in [0, 1] becomes a scale that grows with the number of levels. Levels between
    those of the grid get the scale of the nearest.
    """
    after = jnp.concatenate([sigmas[1:], jnp.zeros_like(sigmas[:1])])
    scales = strength * sigmas / (sigmas - after)
    return lambda sigma: scales[jnp.argmin(jnp.abs(jnp.log(sigmas / sigma)))]


def _time(sigma: Scalar, schedule: Schedule) -> Scalar:
    return jnp.clip(schedule.t(log_snr_of(sigma)), 0, 1)
