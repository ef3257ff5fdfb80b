"""The grids beside diffusers' timesteps and sigmas, on the table of levels that its schedulers have, in float32."""

from functools import partial

import diffusers
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffusion_jax.diffusion import grids as g
from diffusion_jax.diffusion import schedules as s
from diffusion_jax.diffusion.denoiser import sigma_range

pytestmark = [
    pytest.mark.reference,
    pytest.mark.filterwarnings("ignore:__array:DeprecationWarning"),  # of tensors among numpy's functions: theirs
]
BETAS = {
    "ddpm": dict(beta_start=1e-4, beta_end=0.02, beta_schedule="linear"),
    "stable diffusion": dict(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear"),
}
DDIM, EULER = diffusers.DDIMScheduler, diffusers.EulerDiscreteScheduler
SOLVER = diffusers.DPMSolverMultistepScheduler  # Euler's takes the range from the n levels, which for n = 1 is none


def on_table(grid, **settings):
    return lambda n, low, high, table: grid(n, low, high, table, **settings)


ROWS = {  # the scheduler with its settings, and our grid
    "trailing": (partial(DDIM, timestep_spacing="trailing"), on_table(g.trailing)),
    "leading": (partial(DDIM, timestep_spacing="leading"), on_table(g.leading)),
    "leading, offset": (partial(DDIM, timestep_spacing="leading", steps_offset=1), on_table(g.leading, offset=1)),
    "trailing, euler": (partial(EULER, timestep_spacing="trailing"), on_table(g.trailing)),
    "karras": (partial(SOLVER, use_karras_sigmas=True), lambda n, low, high, _: g.karras(n, low, high)),
    "exponential": (
        partial(SOLVER, use_exponential_sigmas=True),
        lambda n, low, high, _: g.uniform_log_snr(n, low, high),
    ),
    "beta": (
        partial(SOLVER, use_beta_sigmas=True),
        lambda n, low, high, _: g.beta(n, low, high, s.edm(low, high, 1.0)),  # theirs are quantiles in sigma
    ),
}


def sigmas_of(scheduler, n):
    scheduler.set_timesteps(n)
    if hasattr(scheduler, "sigmas"):
        return scheduler.sigmas[:n].double().numpy()
    kept = scheduler.alphas_cumprod.double().numpy()[scheduler.timesteps]
    return np.sqrt((1 - kept) / kept)


def table_of(scheduler):
    """Their levels as a schedule: the betas that have the products which they hold, rounded to float32 as they are."""
    kept = scheduler.alphas_cumprod.double().numpy()
    return s.from_betas(jnp.asarray(1 - kept / np.append(1, kept[:-1])))


@pytest.mark.parametrize("n", [1, 4, 10, 30, 50, 500])
@pytest.mark.parametrize("betas", BETAS)
@pytest.mark.parametrize("row", ROWS)
def test_the_same_levels(row, betas, n):
    theirs, ours = ROWS[row]
    with jax.enable_x64(True):
        scheduler = theirs(**BETAS[betas])
        table = table_of(scheduler)
        expected = sigmas_of(scheduler, n)
        np.testing.assert_allclose(ours(n, *sigma_range(table), table), expected, rtol=1e-5)


@pytest.mark.parametrize(("model", "name"), [("sd15", ""), ("sdxl", "XL"), ("svd", "Video")])
def test_align_your_steps_has_their_table(model, name):
    theirs = diffusers.schedulers.AysSchedules[f"StableDiffusion{name}Sigmas"]
    assert list(g.ALIGN_YOUR_STEPS[model][:-1]) == theirs[:-1]  # their last is zero
