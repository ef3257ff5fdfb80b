"""How does noise become a picture? (denoise, x, sigmas, cond, keys) -> picture.

x enters at sigmas[0], as sigmas[0] times standard normal noise, and follows dx / dsigma = (x - D(x, sigma)) / sigma
from each sigma to the next (Karras et al. 2022, equations 1 and 3); the answer is D at the last, so no sigma is zero
and no rule has a special case for its last step. With `trace` (static) a sampler also returns its `Trace`. Noise comes
from one key for each example, so no result depends on the batch size. Settings may be traced arrays unless they say
that they are static. Computed in the type of the sigmas. To add one, write one function here or anywhere (see
`walk.walk`).
"""

from diffusion_jax.diffusion.samplers.multistep import (
    deis,
    dpmpp_2m,
    dpmpp_2m_sde,
    dpmpp_3m,
    ipndm,
    lms,
    unipc,
)
from diffusion_jax.diffusion.samplers.one_call import ancestral, ddim, euler
from diffusion_jax.diffusion.samplers.several_calls import dpm_2s, dpm_3s, heun, heun_churn, restart
from diffusion_jax.diffusion.samplers.walk import Trace as Trace
from diffusion_jax.diffusion.samplers.walk import steps_for as steps_for

__all__ = [
    "ancestral",
    "ddim",
    "deis",
    "dpm_2s",
    "dpm_3s",
    "dpmpp_2m",
    "dpmpp_2m_sde",
    "dpmpp_3m",
    "euler",
    "heun",
    "heun_churn",
    "ipndm",
    "lms",
    "restart",
    "unipc",
]
