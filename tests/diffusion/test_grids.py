from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffusion_jax.diffusion import grids as g
from diffusion_jax.diffusion import schedules as s

GRIDS = {
    "karras": g.karras,
    "karras, rho 1": partial(g.karras, rho=1.0),
    "uniform_log_snr": g.uniform_log_snr,
    "uniform_t, cosine": partial(g.uniform_t, schedule=s.cosine()),
    "uniform_t, linear_beta": partial(g.uniform_t, schedule=s.linear_beta()),
    "uniform_t, rectified_flow": partial(g.uniform_t, schedule=s.rectified_flow()),
    "uniform_t, edm": partial(g.uniform_t, schedule=s.edm()),
}
every_grid = pytest.mark.parametrize("name", GRIDS)


@every_grid
@pytest.mark.parametrize(("sigma_min", "sigma_max"), [(0.01, 80.0), (0.002, 150.0), (0.5, 2.0)])
def test_a_grid_falls_from_sigma_max_to_sigma_min(name, sigma_min, sigma_max):
    sigmas = GRIDS[name](20, sigma_min, sigma_max)
    assert sigmas.shape == (20,)
    assert (jnp.diff(sigmas) < 0).all()
    np.testing.assert_allclose([sigmas[0], sigmas[-1]], [sigma_max, sigma_min], rtol=1e-3)


@every_grid
def test_one_level_is_sigma_max(name):
    np.testing.assert_allclose(GRIDS[name](1, 0.01, 80.0), [80.0], rtol=1e-3)


@every_grid
def test_no_level_is_refused(name):
    with pytest.raises(ValueError, match="at least one noise level, not 0"):
        GRIDS[name](0, 0.01, 80.0)


def test_karras_is_the_published_formula():
    i = np.arange(10)
    published = (80 ** (1 / 7) + i / 9 * (0.002 ** (1 / 7) - 80 ** (1 / 7))) ** 7
    np.testing.assert_allclose(g.karras(10, 0.002, 80.0), published, rtol=1e-4)


def test_uniform_in_the_time_of_a_schedule_is_its_own_spacing():
    np.testing.assert_allclose(g.uniform_t(9, 0.002, 80.0, s.edm()), g.karras(9, 0.002, 80.0), rtol=1e-4)
    np.testing.assert_allclose(g.uniform_t(9, 0.002, 80.0, s.geometric()), g.uniform_log_snr(9, 0.002, 80.0), rtol=1e-4)


@every_grid
def test_the_range_may_be_traced_without_compiling_again(name):
    grid = jax.jit(lambda low, high: GRIDS[name](6, low, high))
    for low, high in [(0.01, 50.0), (0.1, 20.0)]:
        np.testing.assert_allclose(grid(low, high), GRIDS[name](6, low, high), rtol=1e-4)
    assert grid._cache_size() == 1
