"""The distance of real pictures from real ones, at as many of them."""

import numpy as np
import pytest

from diffusion_jax.evaluation.feature_distances import fd, kid, moments
from diffusion_jax.evaluation.floor import floor, halves


def real(n=400, dim=6):
    return np.random.default_rng(0).normal(size=(n, dim))


def test_halves_have_nothing_in_common_and_a_seed_draws_them():
    rows = np.arange(11)[:, None]
    a, b = halves(rows)
    assert len(a) == len(b) == 5
    assert len(set(a.ravel()) | set(b.ravel())) == 10
    assert not np.array_equal(a, rows[:5])
    np.testing.assert_array_equal(halves(rows)[0], a)
    assert not np.array_equal(halves(rows, seed=1)[0], a)
    assert [len(each) for each in halves(rows, 3)] == [3, 3]


def test_the_floor_is_the_bias_of_few_and_that_alone():
    def distance(a, b):
        return fd(moments(a), moments(b))

    of_few, of_many = (np.mean([floor(distance, real(), size, seed) for seed in range(8)]) for size in (20, 200))
    assert of_few > 4 * of_many > 0
    estimate = floor(kid, real())
    assert abs(estimate.value) < 4 * estimate.standard_error
    assert distance(real(), real() + 0.5) > of_many


@pytest.mark.parametrize(("n", "size"), [(10, 6), (1, None), (10, 0)])
def test_too_few_are_told(n, size):
    with pytest.raises(ValueError, match="features of real pictures, and here are"):
        halves(real(n), size)
