"""An objective in numbers."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float
from ml_collections import ConfigDict

from diffusion_jax import build
from diffusion_jax.diffusion import level_density
from diffusion_jax.diffusion.denoiser import log_snr_of
from diffusion_jax.diffusion.parameterization import skip_and_out
from diffusion_jax.sampling import levels

TIMES = np.linspace(0, 1, 201)
EDGES = np.linspace(-24, 24, 193)  # of the bins of log_snr
WIDTH = EDGES[1] - EDGES[0]
LEVELS = (EDGES[1:] + EDGES[:-1]) / 2
DRAWS = 1 << 18


class Sheet(NamedTuple):
    """What a config trains its network to do, and where it is sampled."""

    title: str
    resolution: int
    log_snr: Float[np.ndarray, " times"]  # of the schedule, at TIMES
    alpha_sigma: tuple[Float[np.ndarray, " times"], Float[np.ndarray, " times"]]
    lost: float  # the largest error of log_snr that comes of computing it in float32
    density: Float[np.ndarray, " bins"]  # of the training levels, for one unit of log_snr
    weight: Float[np.ndarray, " bins"]  # of the squared error in eps, density included
    prediction: Float[np.ndarray, "2 bins"]  # a and b of y = a x_0 + b eps
    called: Float[np.ndarray, " n"]  # the log_snr at which the sampler calls the network, rising
    rounding: float  # the largest error in x_0, in a sampler's call, that comes of rounding what the network says


def sheet(title: str, config: ConfigDict) -> Sheet:
    """The numbers of a config; only its objective and its sampling are read. Raises ValueError, naming a bad entry."""
    aim, times = build.objective(config), jnp.asarray(TIMES, jnp.float32)
    log_snr = aim.schedule.log_snr(times)
    edges = jnp.asarray(EDGES, jnp.float32)
    called = log_snr_of(levels(config.sampling, aim.schedule)())
    _, c_out = skip_and_out(*aim.schedule.alpha_sigma(called), aim.parameterization)
    answers = jnp.finfo(config.get("denoiser", {}).get("dtype", "float32"))
    numbers = jax.tree.map(
        np.asarray,
        dict(
            log_snr=log_snr,
            alpha_sigma=aim.schedule.alpha_sigma(log_snr),
            density=level_density.density(aim.noise_levels, aim.schedule, edges, DRAWS),
            weight=level_density.effective_weight(aim.noise_levels, aim.weighting, aim.schedule, edges, DRAWS),
            prediction=jnp.stack(aim.parameterization(*aim.schedule.alpha_sigma(jnp.asarray(LEVELS, jnp.float32)))),
            called=called,
        ),
    )
    return Sheet(
        title,
        config.resolution,
        lost=_lost(config, numbers["log_snr"]),
        rounding=float(jnp.abs(c_out).max() * answers.eps),
        **numbers,
    )


def _lost(config: ConfigDict, log_snr: Float[np.ndarray, " times"]) -> float:
    with jax.enable_x64(True):
        exact = build.objective(config).schedule.log_snr(jnp.asarray(TIMES))
    return float(np.abs(log_snr - np.asarray(exact)).max())
