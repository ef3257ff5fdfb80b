"""What does the network predict? A mixture y = a x_0 + b eps: a parameterization is the two coefficients (a, b).

    parameterization(alpha_t, sigma_t) -> (a, b)

All else follows. With x_t = alpha_t x_0 + sigma_t eps and det = alpha_t b - sigma_t a,

    x_0             = c_skip x_t + c_out y,    c_skip = b / det,    c_out = -sigma_t / det
    error in x_0    = c_out (error in y)
    error in eps    = (alpha_t / det) (error in y)

The choice is (a, b) and not (c_skip, c_out), because y from (c_skip, c_out) needs 1 - c_skip alpha_t, which at low
noise is a difference of nearly equal numbers. From (a, b) nothing cancels: det is a sum of terms of one sign.
All functions are elementwise, and have no settings unless they say so.
"""

from collections.abc import Callable

import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Array, Float

from diffusion_jax.types import Image

Each = Float[Array, "..."]  # alpha_t, sigma_t and what is made of them: one number for each example, or one for all
Parameterization = Callable[[Each, Each], tuple[Each, Each]]


def eps_prediction(alpha_t: Each, sigma_t: Each) -> tuple[Each, Each]:
    """The noise, y = eps (DDPM, equation 14): an error is one in x_0 times sigma_t / alpha_t, large at high noise."""
    return jnp.zeros_like(alpha_t), jnp.ones_like(sigma_t)


def x0_prediction(alpha_t: Each, sigma_t: Each) -> tuple[Each, Each]:
    """The picture, y = x_0."""
    return jnp.ones_like(alpha_t), jnp.zeros_like(sigma_t)


def v_prediction(alpha_t: Each, sigma_t: Each) -> tuple[Each, Each]:
    """y = alpha_t eps - sigma_t x_0 for a variance-preserving schedule (Salimans and Ho 2022, Appendix D).

    For any other it is divided by sqrt(alpha_t^2 + sigma_t^2), so that y has unit variance if the data have: with
    alpha_t = 1 this is `edm_prediction` for sigma_data = 1, with the sign turned.
    """
    length = jnp.hypot(alpha_t, sigma_t)
    return -sigma_t / length, alpha_t / length


def flow_prediction(alpha_t: Each, sigma_t: Each) -> tuple[Each, Each]:
    """y = eps - x_0, the velocity of x_t on a straight line (rectified flow: Esser et al. 2024, section 3.1)."""
    return -jnp.ones_like(alpha_t), jnp.ones_like(sigma_t)


def edm_prediction(alpha_t: Each, sigma_t: Each, sigma_data: ArrayLike = 0.5) -> tuple[Each, Each]:
    """The preconditioning of Karras et al. (2022) for data of standard deviation `sigma_data`: y has unit variance.

    Table 1, with equation 7: y is their F. Their c_in is `denoiser.unit_variance(network, alpha_sigma, sigma_data)`.
    """
    length = jnp.hypot(sigma_data * alpha_t, sigma_t)
    return sigma_t / (sigma_data * length), -sigma_data * alpha_t / length


def target(x_0: Image, eps: Image, alpha_t: Each, sigma_t: Each, parameterization: Parameterization) -> Image:
    """What the network should have said; alpha_t and sigma_t hold one number for each example."""
    a, b = parameterization(alpha_t, sigma_t)
    return a[:, None, None, None] * x_0 + b[:, None, None, None] * eps


def skip_and_out(alpha_t: Each, sigma_t: Each, parameterization: Parameterization) -> tuple[Each, Each]:
    """(c_skip, c_out) of x_0 = c_skip x_t + c_out y."""
    a, b = parameterization(alpha_t, sigma_t)
    det = alpha_t * b - sigma_t * a
    return b / det, -sigma_t / det


def eps_error_factor(alpha_t: Each, sigma_t: Each, parameterization: Parameterization) -> Each:
    """By what an error in y must be multiplied to be the error in eps: exactly 1 for eps_prediction."""
    a, b = parameterization(alpha_t, sigma_t)
    return alpha_t / (alpha_t * b - sigma_t * a)
