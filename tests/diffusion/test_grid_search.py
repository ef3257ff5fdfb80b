from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

from diffusion_jax.diffusion import grids, oracle, samplers
from diffusion_jax.diffusion.grid_search import optimize

LOW, HIGH = 0.05, 20.0


def mixture():
    mean = jnp.array([[[0.3], [-0.2]], [[0.9], [0.0]]])
    return oracle.mixture(jnp.stack([mean, -mean]), 0.4, jnp.array([1.0, 2.0])).denoise


def noise(batch, seed):
    return HIGH * jnp.asarray(np.random.default_rng(seed).normal(size=(batch, 2, 2, 1)), jnp.float32)


def test_the_grid_found_beats_those_it_starts_from_and_keeps_its_ends(text, some_keys):
    """On pictures that it was not found on, a third of the error of either; and the start makes no difference."""
    denoise, sampler = mixture(), samplers.heun

    def run(x, sigmas):
        return sampler(denoise, x, sigmas, text(len(x)), some_keys(len(x)))

    def exact(x):
        return run(x, grids.uniform_log_snr(200, LOW, HIGH))

    search = jax.jit(partial(optimize, sampler, denoise, steps=60))
    error = jax.jit(lambda sigmas: jnp.mean(jnp.square(run(noise(128, 1), sigmas) - exact(noise(128, 1)))))
    found = []
    for grid in (grids.karras, grids.uniform_log_snr):
        start = grid(6, LOW, HIGH)
        sigmas, errors = search(noise(16, 0), text(16), some_keys(16), start, exact(noise(16, 0)))
        np.testing.assert_array_equal(sigmas[jnp.array([0, -1])], start[jnp.array([0, -1])])
        assert (jnp.diff(sigmas) < 0).all()
        assert errors.shape == (60,)
        assert error(sigmas) < 0.4 * error(start)
        found.append(sigmas)
    np.testing.assert_allclose(found[0], found[1], rtol=0.02)


def test_no_grid_is_returned_that_is_worse_than_the_first(text, some_keys):
    """With steps so long that the levels are thrown about."""
    denoise, x = mixture(), noise(4, 0)
    start = jnp.array([HIGH, 2.28, 1.053, 0.561, 0.273, LOW])  # near the best for this sampler
    run = partial(samplers.euler, denoise, x, cond=text(4), keys=some_keys(4))
    reference = run(sigmas=grids.uniform_log_snr(200, LOW, HIGH))
    search = jax.jit(partial(optimize, samplers.euler, denoise, steps=8))
    sigmas, errors = search(x, text(4), some_keys(4), start, reference, learning_rate=30.0)
    assert errors.max() > 2 * errors[0]
    np.testing.assert_allclose(jnp.mean(jnp.square(run(sigmas=sigmas) - reference)), errors.min(), rtol=1e-4)
