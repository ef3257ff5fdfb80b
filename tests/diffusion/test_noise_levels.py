import jax.numpy as jnp
import numpy as np
import pytest

from diffusion_jax.diffusion import noise_levels as n
from diffusion_jax.diffusion import schedules as s

MANY = 4096
LEVELS = [n.uniform, n.log_normal, n.logit_normal]


@pytest.mark.parametrize("levels", LEVELS)
def test_a_level_belongs_to_its_example(some_keys, levels):
    np.testing.assert_array_equal(levels(some_keys(3), s.cosine()), levels(some_keys(8), s.cosine())[:3])


@pytest.mark.parametrize("schedule", [s.cosine(), s.linear_beta(), s.geometric()])
def test_uniform_is_uniform_in_the_time_of_the_schedule(some_keys, schedule):
    t = np.sort(schedule.t(n.uniform(some_keys(MANY), schedule)))
    assert abs(t - np.linspace(0, 1, MANY)).max() < 1.95 / MANY**0.5  # Kolmogorov and Smirnov's bound at 1 in 1000


@pytest.mark.parametrize(("mean", "std"), [(-1.2, 1.2), (0.4, 0.5)])
def test_log_normal_has_the_moments_of_edm(some_keys, mean, std):
    log_sigma = -0.5 * n.log_normal(some_keys(MANY), s.edm(), mean, std)
    assert abs(log_sigma.mean() - mean) < 4 * std / MANY**0.5
    assert abs(log_sigma.std() - std) < 4 * std / (2 * MANY) ** 0.5


def test_logit_normal_on_a_straight_line_is_log_normal(some_keys):
    line = s.rectified_flow(-40.0, 40.0)
    given = some_keys(64)
    np.testing.assert_allclose(n.logit_normal(given, line, 0.5, 0.8), n.log_normal(given, line, 0.5, 0.8), atol=1e-4)


def test_logit_normal_prefers_the_middle(some_keys):
    t = s.cosine().t(n.logit_normal(some_keys(MANY), s.cosine()))
    inside = jnp.mean((t > 0.25) & (t < 0.75))
    assert abs(inside - 0.728) < 0.03  # the normal distribution between -log 3 and log 3
