"""What does a large scale spoil, and what mends it? `cfg` with a correction, in one call on a doubled batch."""

from collections.abc import Callable

import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Array, Float

from diffusion_jax.diffusion.denoiser import log_snr_of
from diffusion_jax.diffusion.guidance.conditions import in_one_call
from diffusion_jax.diffusion.guidance.limits import within
from diffusion_jax.diffusion.guidance.scales import Scale, at
from diffusion_jax.diffusion.parameterization import Parameterization, skip_and_out, v_prediction
from diffusion_jax.diffusion.schedules import variance_preserving
from diffusion_jax.types import Cond, Denoiser, Image, Scalar

Each = Float[Array, "batch 1 1 1"]


def rescaled(
    denoise: Denoiser,
    null_cond: Cond,
    scale: Scale,
    share: ArrayLike = 0.7,
    parameterization: Parameterization = v_prediction,
    alpha_sigma: Callable = variance_preserving,
) -> Denoiser:
    """`cfg` brought back to the deviation that the network's output has without it (Lin et al. 2024, section 3.4).

    y_cfg is multiplied by share std(y_cond) / std(y_cfg) + 1 - share, with the deviation of each example over its
    pixels. y is what the network predicts, for them v of a variance-preserving schedule; any other parameterization
    and scaling may be named, also when the network was trained with neither. Share 0 is `cfg`.
    """

    def guided(x: Image, sigma: Scalar, cond: Cond) -> Image:
        with_text, without = in_one_call(denoise, x, sigma, [cond, null_cond])
        alpha_t, sigma_t = alpha_sigma(log_snr_of(sigma))
        c_skip, _ = skip_and_out(alpha_t, sigma_t, parameterization)
        nothing = (c_skip * alpha_t).astype(x.dtype) * x  # D where y = 0; D - nothing is y times one number
        y_cond = with_text - nothing
        y_cfg = y_cond + (at(scale, sigma, x) - 1) * (with_text - without)
        factor = _over(_length(_centered(y_cond)), _length(_centered(y_cfg)))
        return nothing + (1 + jnp.asarray(share, x.dtype) * (factor - 1)) * y_cfg

    return guided


def apg(
    denoise: Denoiser, null_cond: Cond, scale: Scale, eta: ArrayLike = 0.0, longest: ArrayLike = jnp.inf
) -> Denoiser:
    """Adaptive projected guidance (Sadat et al. 2024, Algorithm 1): of the change, the part along D(cond) counts eta.

    That part makes colors too strong. The change D(cond) - D(null) is first shortened to at most `longest`, in the norm
    over all of an example, which grows with the number of pixels. Eta 1 with longest = inf is `cfg`. Their momentum is
    left out: it needs a memory between calls, and a denoiser has none.
    """

    def guided(x: Image, sigma: Scalar, cond: Cond) -> Image:
        with_text, without = in_one_call(denoise, x, sigma, [cond, null_cond])
        change = with_text - without
        length = _length(change)
        change = change * _over(jnp.minimum(length, jnp.asarray(longest, x.dtype)), length)
        along = _over(_inner(change, with_text), _inner(with_text, with_text)) * with_text
        change = change + (jnp.asarray(eta, x.dtype) - 1) * along
        return with_text + (at(scale, sigma, x) - 1) * change

    return guided


def cfg_zero_star(denoise: Denoiser, null_cond: Cond, scale: Scale, sigma_zero: ArrayLike = jnp.inf) -> Denoiser:
    """CFG-Zero* (Fan et al. 2025, Algorithm 1): the velocity s v_null + scale (v_cond - s v_null).

    s = <v_cond, v_null> / |v_null|^2. v = eps - x_0 is the velocity of x_t on a straight line; with
    eps = (x - D) / sigma, sigma v = x - (1 + sigma) D. So D = (x - sigma v) / (1 + sigma), and v = 0 is
    D = x / (1 + sigma). Where sigma > sigma_zero that is the answer: x_t stands still and the network is not called, as
    in their first steps; inf leaves that out. On the line sigma = t / (1 - t), with noise at t = 1.
    """

    def guided(x: Image, sigma: Scalar, cond: Cond) -> Image:
        with_text, without = in_one_call(denoise, x, sigma, [cond, null_cond])
        still = standing_still(x, sigma, cond)
        v_cond, v_null = with_text - still, without - still  # times one number, in which all of this is linear
        v_null = _over(_inner(v_cond, v_null), _inner(v_null, v_null)) * v_null
        return with_text + (at(scale, sigma, x) - 1) * (v_cond - v_null)

    def standing_still(x: Image, sigma: Scalar, cond: Cond) -> Image:
        return x / (1 + sigma.astype(x.dtype))

    return within(standing_still, guided, 0.0, sigma_zero)


def _inner(a: Image, b: Image) -> Each:
    return jnp.sum(a * b, axis=(1, 2, 3), keepdims=True)


def _length(a: Image) -> Each:
    """The norm of each example, with the gradient zero at zero."""
    square = _inner(a, a)
    return jnp.where(square > 0, jnp.sqrt(jnp.where(square > 0, square, 1)), 0)


def _centered(a: Image) -> Image:
    return a - jnp.mean(a, axis=(1, 2, 3), keepdims=True)


def _over(a: Each, b: Each) -> Each:
    """a / b, and a where b is zero."""
    return a / jnp.where(b > 0, b, 1)
