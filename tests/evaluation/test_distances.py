"""Every distance beside its exact value for normal laws, and every standard error beside the spread that it states."""

from collections.abc import Callable
from functools import partial
from math import erf, exp, pi, sqrt
from typing import NamedTuple

import numpy as np
import pytest

from diffusion_jax.evaluation import distances as d

rbf = partial(d.rbf, bandwidth=1.5)


def normal_w2(shift, scale, features):
    """From independent normal numbers to those times `scale`, the first of them shifted."""
    return shift**2 + features * (scale - 1) ** 2


def normal_sliced(shift, scale, features):
    return normal_w2(shift, scale, features) / features


def normal_energy(shift, scale, features):
    """Of one feature, since E|N(m, s^2)| is known."""

    def size(m, s):
        return s * sqrt(2 / pi) * exp(-0.5 * (m / s) ** 2) + m * erf(m / s / sqrt(2))

    return 2 * size(shift, sqrt(1 + scale**2)) - size(0, sqrt(2)) - size(0, scale * sqrt(2))


def normal_mmd(shift, scale, features, width=1.5**2):
    def mean_kernel(m, variance):
        return (width / (width + variance)) ** (features / 2) * exp(-0.5 * m**2 / (width + variance))

    return mean_kernel(0, 2) + mean_kernel(0, 2 * scale**2) - 2 * mean_kernel(shift, 1 + scale**2)


class Row(NamedTuple):
    """A distance (a, b, seed), its exact value (shift, scale, features), and the sizes to try it at."""

    distance: Callable
    exact: Callable
    features: int
    samples: int


TABLE = {
    "frechet": Row(lambda a, b, seed=0: d.frechet(a, b, seed=seed), normal_w2, 3, 320),
    "sliced_w2": Row(lambda a, b, seed=0: d.sliced_w2(a, b, directions=48, seed=seed), normal_sliced, 3, 512),
    "energy_distance": Row(lambda a, b, seed=0: d.energy_distance(a, b), normal_energy, 1, 100),
    "mmd": Row(lambda a, b, seed=0: d.mmd(a, b, rbf), normal_mmd, 2, 100),
}
every_row = pytest.mark.parametrize("row", TABLE.values(), ids=TABLE)


def draws(row, shift, scale, seed):
    rng = np.random.default_rng(seed)
    a, b = rng.normal(size=(2, row.samples, row.features))
    b *= scale
    b[:, 0] += shift
    return a, b


@pytest.mark.parametrize(
    ("shift", "scale", "spread"), [(0.0, 1.0, (0.45, 1.1)), (0.9, 1.0, (0.8, 1.3)), (0.0, 1.7, (0.8, 1.35))]
)
@every_row
def test_the_standard_error_is_the_spread_about_the_exact_value(row, shift, scale, spread):
    """Over 200 simulations: no bias beyond half an error, and z-scores that spread as they should."""
    found = [row.distance(*draws(row, shift, scale, seed), seed) for seed in range(200)]
    values, errors = np.array(found).T
    exact = row.exact(shift, scale, row.features)
    z = (values - exact) / errors
    assert abs(z.mean()) < 0.5
    assert spread[0] < z.std() < spread[1]
    assert abs(values.mean() - exact) < 4 * values.std() / 200**0.5 + 0.02 * exact


def test_the_directions_count_in_the_error_of_slices():
    """Two features, far apart in the first: nearly all of the error is due to the few directions."""
    row = Row(d.sliced_w2, normal_sliced, 2, 256)
    found = np.array([d.sliced_w2(*draws(row, 5.0, 1.0, seed), directions=24, seed=seed) for seed in range(200)])
    z = (found[:, 0] - normal_sliced(5.0, 1.0, 2)) / found[:, 1]
    assert 0.8 < z.std() < 1.35


@every_row
def test_pairs_that_depend_on_each_other_have_a_smaller_error_that_is_right(row):
    """Two samplers from one noise, that differ by a shift."""
    found, alone = [], []
    for seed in range(60):
        a, other = draws(row, 0.0, 1.0, seed)
        b = a + 0.05 * other + 0.9 * np.eye(row.features)[0]
        found.append(row.distance(a, b, seed))
        alone.append(row.distance(*draws(row, 0.9, 1.0, seed)).standard_error)
    values, errors = np.array(found).T
    assert errors.mean() < 0.8 * np.mean(alone)
    assert 0.7 < values.std() / errors.mean() < 1.4


@every_row
def test_symmetric_and_blind_to_shifts_rotations_and_the_shape_of_features(row):
    a, b = draws(row, 0.5, 1.5, 0)
    value, error = row.distance(a, b)
    np.testing.assert_allclose(row.distance(b, a), (value, error), rtol=1e-6)
    np.testing.assert_allclose(row.distance(a + 3, b + 3), (value, error), rtol=1e-6)
    np.testing.assert_allclose(row.distance(-a, -b), (value, error), rtol=1e-6)
    pictures = [x.reshape(-1, 1, row.features, 1).astype(np.float32) for x in (a, b)]
    np.testing.assert_allclose(row.distance(*pictures), (value, error), rtol=1e-3)
    rotation = np.linalg.qr(np.random.default_rng(1).normal(size=(row.features, row.features)))[0]
    turned = row.distance(a @ rotation, b @ rotation)
    assert abs(turned.value - value) < (3 * error if row.exact is normal_sliced else 1e-9)  # it draws directions


@pytest.mark.parametrize(("name", "power"), [("frechet", 2), ("sliced_w2", 2), ("energy_distance", 1)])
def test_the_units_are_those_of_the_samples(name, power):
    a, b = draws(TABLE[name], 0.5, 1.5, 0)
    scaled = TABLE[name].distance(10 * a, 10 * b)
    np.testing.assert_allclose(scaled, np.array(TABLE[name].distance(a, b)) * 10**power, rtol=1e-6)


@pytest.mark.parametrize("name", ["energy_distance", "mmd"])
def test_the_mean_over_pairs_is_the_definition(name):
    a, b = draws(TABLE[name]._replace(samples=5), 0.5, 1.5, 0)
    kernel = {"mmd": lambda x, y: rbf(x[None], y[None])[0, 0], "energy_distance": lambda x, y: -np.linalg.norm(x - y)}[
        name
    ]
    pairs = [(i, j) for i in range(5) for j in range(5) if i != j]
    expected = np.mean([kernel(a[i], a[j]) + kernel(b[i], b[j]) - 2 * kernel(a[i], b[j]) for i, j in pairs])
    np.testing.assert_allclose(TABLE[name].distance(a, b).value, expected, rtol=1e-9)


def diagonal(*variances):
    return np.diag(np.array(variances, float))


@pytest.mark.parametrize(
    ("mean", "covariance", "other", "covariance_of_other", "expected"),
    [
        ([0, 0], diagonal(1, 1), [3, 4], diagonal(1, 1), 25),
        ([0, 0], diagonal(4, 9), [0, 0], diagonal(1, 1), 1 + 4),  # they commute: the roots' differences squared
        ([1, 0], diagonal(4, 0), [0, 0], diagonal(0, 9), 1 + 4 + 9),  # singular, and nothing in common
        ([0, 0], diagonal(0, 0), [0, 0], diagonal(2, 3), 5),  # from a point
        ([0, 0], [[2, 1], [1, 2]], [0, 0], diagonal(1, 3), 8 - 2 * sqrt(8 + 2 * sqrt(9))),
    ],
)
def test_known_normal_laws(mean, covariance, other, covariance_of_other, expected):
    mean, covariance, other, covariance_of_other = map(np.array, (mean, covariance, other, covariance_of_other))
    forward = d.gaussian_w2(mean, covariance, other, covariance_of_other)
    np.testing.assert_allclose(forward, expected, rtol=1e-12)
    np.testing.assert_allclose(d.gaussian_w2(other, covariance_of_other, mean, covariance), expected, rtol=1e-12)


def test_normal_laws_that_hardly_differ_keep_their_digits():
    """The formula of traces would leave 1e-16 of the trace, here a thousand times the distance."""
    root = np.random.default_rng(0).normal(size=(5, 5))
    covariance, scale = root @ root.T, 1 + 1e-9
    found = d.gaussian_w2(np.zeros(5), covariance, np.zeros(5), scale**2 * covariance)
    np.testing.assert_allclose(found, 1e-18 * np.trace(covariance), rtol=1e-5)


def normal(n, *shape):
    return np.random.default_rng(0).normal(size=(n, *shape))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: d.mmd(normal(8, 2), normal(9, 2), rbf), r"not \(8, 2\) and \(9, 2\)"),
        (lambda: d.energy_distance(normal(8, 2, 3), normal(8, 3, 2)), r"not \(8, 2, 3\) and \(8, 3, 2\)"),
        (lambda: d.sliced_w2(normal(64), normal(64)), r"not \(64,\) and \(64,\)"),
        (lambda: d.energy_distance(normal(3, 2), normal(3, 2)), "3 samples are too few: take 4"),
        (lambda: d.sliced_w2(normal(31, 2), normal(31, 2)), "31 samples are too few: take 32"),
        (lambda: d.sliced_w2(normal(64, 2), normal(64, 2), groups=3), "4 groups and 2 directions"),
        (lambda: d.frechet(normal(16, 15), normal(16, 15)), "15 samples, without one group, have no covariance of 15"),
        (lambda: d.gaussian_w2(np.zeros(2), np.eye(3), np.zeros(2), np.eye(2)), r"cannot have the shape \(3, 3\)"),
        (lambda: d.gaussian_w2(np.zeros(2), np.array([[1, 2], [0, 1]]), np.zeros(2), np.eye(2)), "symmetric"),
        (lambda: d.gaussian_w2(np.zeros(2), -np.eye(2), np.zeros(2), np.eye(2)), "no negative variance"),
        (lambda: d.gaussian_w2(np.zeros(3), np.eye(3), np.zeros(1), np.eye(1)), "means of 3 and 1"),
    ],
)
def test_what_cannot_be_compared_is_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()
