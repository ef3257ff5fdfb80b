"""What every grid must be. A new grid is a new row of GRIDS."""

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from diffusion_jax.diffusion import grids as g
from diffusion_jax.diffusion import schedules as s
from diffusion_jax.diffusion.denoiser import sigma_range


class Row(NamedTuple):
    """A grid, and whether its first level is sigma_max and its last sigma_min."""

    grid: Callable
    first: bool = True
    last: bool = True


GRIDS = {
    "karras": Row(g.karras),
    "karras, rho 1": Row(partial(g.karras, rho=1.0)),
    "uniform_log_snr": Row(g.uniform_log_snr),
    "uniform_t, cosine": Row(partial(g.uniform_t, schedule=s.cosine())),
    "uniform_t, linear_beta": Row(partial(g.uniform_t, schedule=s.linear_beta())),
    "uniform_t, rectified_flow": Row(partial(g.uniform_t, schedule=s.rectified_flow())),
    "uniform_t, edm": Row(partial(g.uniform_t, schedule=s.edm())),
    "sgm_uniform": Row(partial(g.sgm_uniform, schedule=s.cosine()), last=False),
    "leading": Row(partial(g.leading, schedule=s.cosine()), first=False),
    "leading, offset": Row(partial(g.leading, schedule=s.cosine(), offset=1), first=False, last=False),
    "trailing": Row(partial(g.trailing, schedule=s.cosine()), last=False),
    "beta": Row(partial(g.beta, schedule=s.cosine())),
    "align_your_steps": Row(g.align_your_steps),
    "align_your_steps, svd": Row(partial(g.align_your_steps, model="svd")),
}
every_grid = pytest.mark.parametrize("name", GRIDS)


@every_grid
@pytest.mark.parametrize(("sigma_min", "sigma_max"), [(0.01, 80.0), (0.007, 140.0), (0.5, 2.0)])
def test_a_grid_falls_from_sigma_max_to_sigma_min(name, sigma_min, sigma_max):
    sigmas = GRIDS[name].grid(20, sigma_min, sigma_max)
    assert sigmas.shape == (20,)
    assert sigmas.dtype == jnp.float32
    assert (jnp.diff(sigmas) < 0).all()
    reached = [abs(sigmas[0] / sigma_max - 1) < 1e-3, abs(sigmas[-1] / sigma_min - 1) < 1e-3]
    assert reached == [GRIDS[name].first, GRIDS[name].last]
    assert sigma_min * (1 - 1e-3) < sigmas[-1] < sigmas[0] < sigma_max * (1 + 1e-3)


@pytest.mark.parametrize("name", [name for name, row in GRIDS.items() if row.first])
def test_one_level_is_sigma_max(name):
    np.testing.assert_allclose(GRIDS[name].grid(1, 0.01, 80.0), [80.0], rtol=1e-3)


@pytest.mark.parametrize("grid", [*(row.grid for row in GRIDS.values()), partial(g.fixed, sigmas=())])
def test_no_level_is_refused(grid):
    with pytest.raises(ValueError, match="at least one noise level, not 0"):
        grid(0, 0.01, 80.0)


@every_grid
def test_the_range_may_be_traced_without_compiling_again(name):
    grid = jax.jit(lambda low, high: GRIDS[name].grid(6, low, high))
    for low, high in [(0.01, 50.0), (0.1, 20.0)]:
        np.testing.assert_allclose(grid(low, high), GRIDS[name].grid(6, low, high), rtol=1e-4)
    assert grid._cache_size() == 1


def test_karras_is_the_published_formula():
    i = np.arange(10)
    published = (80 ** (1 / 7) + i / 9 * (0.002 ** (1 / 7) - 80 ** (1 / 7))) ** 7
    np.testing.assert_allclose(g.karras(10, 0.002, 80.0), published, rtol=1e-4)


def test_uniform_in_the_time_of_a_schedule_is_its_own_spacing():
    np.testing.assert_allclose(g.uniform_t(9, 0.002, 80.0, s.edm()), g.karras(9, 0.002, 80.0), rtol=1e-4)
    np.testing.assert_allclose(g.uniform_t(9, 0.002, 80.0, s.geometric()), g.uniform_log_snr(9, 0.002, 80.0), rtol=1e-4)


CHOSEN = [  # of ten steps, worked out by hand
    (partial(g.leading, steps=10), 5, [8, 6, 4, 2, 0]),
    (partial(g.leading, steps=10, offset=1), 5, [9, 7, 5, 3, 1]),
    (partial(g.leading, steps=10), 3, [6, 3, 0]),
    (partial(g.leading, steps=10), 1, [0]),
    (partial(g.trailing, steps=10), 5, [9, 7, 5, 3, 1]),
    (partial(g.trailing, steps=10), 3, [9, 6, 2]),  # 10, 6.67 and 3.33, rounded, less one
    (partial(g.trailing, steps=10), 10, [9, 8, 7, 6, 5, 4, 3, 2, 1, 0]),
    (g.sgm_uniform, 3, [9, 6, 3]),
    (g.uniform_t, 4, [9, 6, 3, 0]),
]


@pytest.mark.parametrize(("grid", "n", "steps"), CHOSEN)
def test_the_steps_of_a_table_that_are_chosen(grid, n, steps):
    schedule = s.from_betas(jnp.linspace(0.01, 0.5, 10))
    expected = jnp.exp(-0.5 * schedule.log_snr(jnp.array(steps) / 9))
    np.testing.assert_allclose(grid(n, *sigma_range(schedule), schedule), expected, rtol=1e-5)


@pytest.mark.parametrize(
    ("grid", "message"),
    [
        (partial(g.leading, schedule=s.cosine(), steps=10), "11 levels from step 0 on do not fit into 10 steps"),
        (partial(g.leading, schedule=s.cosine(), steps=11, offset=1), "from step 1 on do not fit into 11"),
        (partial(g.leading, schedule=s.cosine(), offset=-1), "from step -1 on do not fit"),
        (partial(g.trailing, schedule=s.cosine(), steps=10), "11 levels do not fit into 10 steps"),
        (partial(g.align_your_steps, model="sd3"), "levels for sd15, sdxl, svd, not for 'sd3'"),
        (partial(g.fixed, sigmas=(3, 2, 1)), r"stops at 11 level\(s\), but the grid has 3"),
        (partial(g.fixed, sigmas=(*range(11, 2, -1), 3, 1)), "fall from each to the next"),
        (partial(g.fixed, sigmas=tuple(range(10, -1, -1))), "must be positive"),
        (partial(g.fixed, sigmas=(float("inf"), *range(10, 0, -1))), "must be positive"),
    ],
)
def test_what_cannot_be_had_is_refused(grid, message):
    with pytest.raises(ValueError, match=message):
        grid(11, 0.01, 80.0)


@pytest.mark.parametrize(("a", "b"), [(0.6, 0.6), (1.0, 1.0), (0.5, 2.0), (3.0, 2.0)])
def test_beta_has_the_quantiles_of_the_distribution(a, b):
    sigmas = g.beta(12, 1.0, 2.0, s.edm(1.0, 2.0, 1.0), a, b)  # a schedule in which sigma - 1 is t
    np.testing.assert_allclose(sigmas - 1, stats.beta.ppf(np.linspace(1, 0, 12), a, b), atol=2e-6)


@pytest.mark.parametrize("model", g.ALIGN_YOUR_STEPS)
def test_align_your_steps_has_the_published_levels(model):
    table = np.array(g.ALIGN_YOUR_STEPS[model])
    np.testing.assert_allclose(g.align_your_steps(11, table[-1], table[0], model), table, rtol=1e-5)
    twice = g.align_your_steps(21, table[-1], table[0], model)
    np.testing.assert_allclose(twice[1::2], np.sqrt(table[1:] * table[:-1]), rtol=1e-5)


def test_fixed_levels_are_those_given():
    np.testing.assert_array_equal(g.fixed(3, 0.01, 80.0, sigmas=(5, 2.5, 1)), [5.0, 2.5, 1.0])
