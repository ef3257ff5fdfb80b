"""The samplers beside diffusers' schedulers: the same levels, denoiser and noise, in float64.

Its levels are rounded to float32, so they are taken from it. Where diffusers differs on purpose: its last step goes to
sigma = 0, which for those of first order is our D at the last level, and for the others depends on the number of steps
(`lower_order_final`); so here its last step is left out and D taken. Its DPM-Solver++(3M) counts the curvature half.
"""

from collections.abc import Callable, Mapping
from functools import partial
from types import MappingProxyType
from typing import NamedTuple

import diffusers
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from diffusers.schedulers import scheduling_ddim, scheduling_ddpm, scheduling_dpmsolver_multistep

from diffusion_jax.diffusion import keys, oracle, samplers
from diffusion_jax.types import Cond

pytestmark = [
    pytest.mark.reference,
    pytest.mark.filterwarnings("ignore:__array:DeprecationWarning"),  # of tensors among numpy's functions: theirs
]
BATCH, SHAPE = 3, (2, 2, 1)
BETAS = dict(num_train_timesteps=1000, beta_start=1e-4, beta_end=0.02, beta_schedule="linear")
MULTISTEP = BETAS | dict(use_karras_sigmas=True, lower_order_final=False)


class Row(NamedTuple):
    """A sampler, the scheduler that it should be, and how its step is called."""

    ours: Callable
    theirs: Callable
    preserving: bool = True  # whether it speaks x_t of a variance-preserving schedule, or x
    settings: Mapping = MappingProxyType({})


def solver(order, **settings):
    return partial(diffusers.DPMSolverMultistepScheduler, **MULTISTEP, solver_order=order, **settings)


def unipc(order, **settings):
    return partial(diffusers.UniPCMultistepScheduler, **MULTISTEP, solver_order=order, **settings)


def deis(order):
    return partial(diffusers.DEISMultistepScheduler, **MULTISTEP, solver_order=order)


DDIM = partial(diffusers.DDIMScheduler, **BETAS, clip_sample=False)
ROWS = {
    "ddim": Row(samplers.ddim, DDIM),
    "ddim_noisy": Row(partial(samplers.ddim, eta=0.7), DDIM, settings=dict(eta=0.7)),
    "ancestral": Row(samplers.ancestral, partial(diffusers.DDPMScheduler, **BETAS, clip_sample=False)),
    "euler": Row(samplers.euler, partial(diffusers.EulerDiscreteScheduler, **BETAS), preserving=False),
    "heun": Row(samplers.heun, partial(diffusers.HeunDiscreteScheduler, **BETAS), preserving=False),
    "dpmpp_2m": Row(samplers.dpmpp_2m, solver(2)),
    "dpmpp_3m": Row(partial(samplers.dpmpp_3m, curvature=0.5), solver(3)),
    "dpmpp_2m_sde": Row(samplers.dpmpp_2m_sde, solver(2, algorithm_type="sde-dpmsolver++")),
    "unipc_2": Row(partial(samplers.unipc, order=2), unipc(2)),
    "unipc_2_bh1": Row(partial(samplers.unipc, order=2, variant="bh1"), unipc(2, solver_type="bh1")),
    "unipc_3": Row(samplers.unipc, unipc(3)),
    "unipc_3_bh1": Row(partial(samplers.unipc, variant="bh1"), unipc(3, solver_type="bh1")),
    "deis_2": Row(partial(samplers.deis, order=2), deis(2)),
    "deis_3": Row(samplers.deis, deis(3)),
}


def denoise(x, sigma, cond):
    point = jnp.array([[[0.3], [-0.2]], [[0.9], [0.0]]])
    return oracle.mixture(jnp.stack([point, -point]), 0.4, jnp.array([1.0, 2.0])).denoise(x, sigma, cond)


def levels_of(scheduler):
    """In float64, at each of its calls of the network."""
    if hasattr(scheduler, "sigmas"):
        scheduler.sigmas = scheduler.sigmas.double()
        return scheduler.sigmas[: len(scheduler.timesteps)].numpy()
    scheduler.alphas_cumprod = scheduler.alphas_cumprod.double()
    kept = scheduler.alphas_cumprod[scheduler.timesteps].numpy()
    return np.sqrt((1 - kept) / kept)


def theirs(row, scheduler, sigmas, x, cond, given, patch):
    """D at the last level of the walk that the scheduler takes."""
    speaks = (lambda sigma: np.hypot(1, sigma)) if row.preserving else (lambda sigma: 1.0)
    sample = torch.tensor(np.asarray(x) / speaks(sigmas[0]))
    estimate = jax.jit(lambda x, sigma: denoise(x, sigma, cond))
    for index, (t, sigma) in enumerate(zip(scheduler.timesteps, sigmas, strict=True)):
        x = sample.numpy() * speaks(sigma)
        x_0 = np.asarray(estimate(jnp.asarray(x), jnp.asarray(sigma)))
        if index == len(sigmas) - 1:
            return x_0
        fresh = torch.tensor(np.asarray(keys.normal(keys.folded(keys.for_purpose(given, "sampler"), index), SHAPE)))
        for module in (scheduling_ddim, scheduling_ddpm, scheduling_dpmsolver_multistep):
            patch.setattr(module, "randn_tensor", lambda *_, fresh=fresh, **__: fresh)
        sample = scheduler.step(torch.tensor((x - x_0) / sigma), t, sample, **row.settings).prev_sample.double()


@pytest.mark.parametrize("n", [10, 20, 50])
@pytest.mark.parametrize("row", ROWS.values(), ids=ROWS)
def test_the_same_pictures(row, n, monkeypatch):
    with jax.enable_x64(True):
        given = keys.for_example(jax.random.key(7), 0, BATCH)
        cond = Cond(jnp.zeros((BATCH, 1, 1)), jnp.ones((BATCH, 1), bool))
        scheduler = row.theirs()
        scheduler.set_timesteps(n)
        sigmas = levels_of(scheduler)
        x = sigmas[0] * jnp.asarray(np.random.default_rng(0).normal(size=(BATCH, *SHAPE)))
        expected = theirs(row, scheduler, sigmas, x, cond, given, monkeypatch)
        levels = jnp.asarray(-np.unique(-sigmas))  # Heun's are visited twice
        assert levels.size == n
        found = jax.jit(partial(row.ours, denoise))(x, levels, cond, given)
        np.testing.assert_allclose(found, expected, atol=1e-5 * np.abs(expected).max())
