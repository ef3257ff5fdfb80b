"""Which noise at which time? A schedule maps t in [0, 1] (t = 0 is data) to log_snr = 2 log(alpha_t / sigma_t).

Every schedule here has a finite range, so sigma = exp(-log_snr / 2) has a smallest and a largest value. `t` undoes
`log_snr`. How a level becomes (alpha_t, sigma_t) is a separate choice, `alpha_sigma`: it fixes how x_t is scaled and
nothing else, and any schedule may be given another one with `schedule._replace(alpha_sigma=...)`.
Settings may be traced arrays.
"""

from diffusion_jax.diffusion.schedules.changes import interpolated, shifted, truncated, zero_terminal_snr
from diffusion_jax.diffusion.schedules.curves import (
    cosine,
    edm,
    geometric,
    laplace,
    linear_beta,
    log_linear,
    rectified_flow,
    scaled_linear,
    sigmoid,
)
from diffusion_jax.diffusion.schedules.scaling import Schedule as Schedule
from diffusion_jax.diffusion.schedules.scaling import straight_line as straight_line
from diffusion_jax.diffusion.schedules.scaling import variance_exploding as variance_exploding
from diffusion_jax.diffusion.schedules.scaling import variance_preserving as variance_preserving
from diffusion_jax.diffusion.schedules.tables import from_betas, from_knots

__all__ = [
    "cosine",
    "edm",
    "from_betas",
    "from_knots",
    "geometric",
    "interpolated",
    "laplace",
    "linear_beta",
    "log_linear",
    "rectified_flow",
    "scaled_linear",
    "shifted",
    "sigmoid",
    "truncated",
    "zero_terminal_snr",
]
