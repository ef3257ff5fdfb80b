"""The truth that samplers are measured by: the ODE solved to many digits, at whatever number of calls that takes."""

import jax.numpy as jnp

from diffusion_jax.types import Cond, Denoiser, Image, Keys, Sigmas


def adaptive(
    denoise: Denoiser,
    x: Image,
    sigmas: Sigmas,
    cond: Cond,
    keys: Keys | None = None,
    tolerance: float = 1e-10,
    max_steps: int = 10_000,
) -> Image:
    """D at the last of the sigmas, on the way through x at the first; those between do not count.

    dx / dlog(sigma) = x - D is solved by diffrax, an optional dependency (extra `dev`), with Dormand and Prince's
    method of order 8 and steps that adapt. `tolerance` is both relative and absolute, good to
    about 1e-6 in float32. It knows no nfe, so no config can name it.
    """
    import diffrax

    slope = diffrax.ODETerm(lambda level, x, _: x - denoise(x, jnp.exp(level), cond))
    steps = diffrax.PIDController(rtol=tolerance, atol=tolerance)
    high, low = jnp.log(sigmas[0]), jnp.log(sigmas[-1])
    x = x.astype(sigmas.dtype)
    solved = diffrax.diffeqsolve(
        slope, diffrax.Dopri8(), high, low, None, x, stepsize_controller=steps, max_steps=max_steps
    )
    return denoise(solved.ys[0], sigmas[-1], cond)
