"""FD, KID and neighborhoods beside their definitions, spelled out, and beside what they are on average for one law."""

import numpy as np
import pytest
from scipy.linalg import sqrtm

from diffusion_jax.evaluation import feature_distances as d
from diffusion_jax.evaluation.distances import gaussian_w2, gaussian_w2_of_few


def draws(n=60, dim=5, shift=0.0, seed=0, m=None):
    rng = np.random.default_rng(seed)
    return rng.normal(size=(n, dim)), rng.normal(size=(m or n, dim)) + shift


def test_fd_is_the_formula_with_a_matrix_root():
    a, b = draws(80, 6, 0.3, m=50)
    b = b @ np.random.default_rng(1).normal(size=(6, 6))
    covariances = np.cov(a, rowvar=False), np.cov(b, rowvar=False)
    root = sqrtm(covariances[0] @ covariances[1]).real
    expected = np.sum((a.mean(0) - b.mean(0)) ** 2) + np.trace(sum(covariances) - 2 * root)
    assert d.fd(d.moments(a), d.moments(b)) == pytest.approx(expected, rel=1e-9)
    assert d.moments(b).count == 50


def test_fd_of_fewer_features_than_dimensions_is_a_number():
    a, b = draws(10, 20)
    assert d.fd(d.moments(a), d.moments(a)) == pytest.approx(0, abs=1e-9)
    assert d.fd(d.moments(a), d.moments(b)) > 1
    assert d.fd(d.moments(a[:, :1]), d.moments(b[:, :1] + 3)) > 1


@pytest.mark.parametrize(("n", "m"), [(10, 14), (14, 10), (9, 200), (200, 9), (2, 3), (20, 21)])
def test_fd_of_few_features_is_that_of_their_covariances(n, m):
    a, b = draws(n, 20, 0.4, m=m)
    b = b @ np.random.default_rng(1).normal(size=(20, 20))
    of_a, of_b = d.moments(a), d.moments(b)
    for found, features in ((of_a, a), (of_b, b)):
        assert (found.factor is None) == (len(features) > 20)
        np.testing.assert_allclose(found.covariance, np.cov(features.T), rtol=1e-9, atol=1e-12)
    roots = ((x - x.mean(0)[None]) / (len(x) - 1) ** 0.5 for x in (a, b))
    exact = gaussian_w2_of_few(a.mean(0), next(roots), b.mean(0), next(roots))
    assert d.fd(of_a, of_b) == pytest.approx(exact, rel=1e-12)
    # The root of a singular matrix has an error like the root of rounding.
    assert gaussian_w2(a.mean(0), np.cov(a.T), b.mean(0), np.cov(b.T)) == pytest.approx(exact, rel=1e-7)
    assert d.fd(of_a, of_a) == pytest.approx(0, abs=1e-9)


def test_a_matrix_that_is_no_covariance_is_told_beside_few_features():
    few = d.moments(draws(4, 8)[0])
    for wrong, reason in ((-np.eye(8), "no negative variance"), (np.tri(8), "symmetric"), (np.eye(7), "the shape")):
        with pytest.raises(ValueError, match=reason):
            d.fd(few, d.Moments(100, np.zeros(8), wrong))


def test_fd_at_infinity_has_less_of_the_bias():
    """Two samples of one law, where the right answer is 0; the reference is exact, as its own bias would stay."""
    exact = d.Moments(10**9, np.zeros(8), np.eye(8))
    plain, infinite = [], []
    for seed in range(20):
        features = np.random.default_rng(seed).normal(size=(800, 8))
        plain.append(d.fd(d.moments(features), exact))
        infinite.append(d.fd_infinity(features, exact, fewest=100, seed=seed))
    error = np.std(infinite) / 20**0.5
    assert np.mean(plain) > 0.01
    assert abs(np.mean(infinite)) < 4 * error
    assert 4 * error < np.mean(plain) / 2


@pytest.mark.parametrize(("fewest", "points"), [(1, 15), (800, 15), (100, 1)])
def test_no_line_no_infinity(fewest, points):
    with pytest.raises(ValueError, match="no line"):
        d.fd_infinity(np.ones((800, 2)), d.moments(np.ones((3, 2))), fewest, points)


def test_kid_is_the_mean_over_pairs():
    a, b = draws(6, 4, 0.5)
    kernel = lambda x, y: (x @ y / 4 + 1) ** 3  # noqa: E731
    pairs = [(i, j) for i in range(6) for j in range(6) if i != j]
    expected = np.mean([kernel(a[i], a[j]) + kernel(b[i], b[j]) - 2 * kernel(a[i], b[j]) for i, j in pairs])
    assert d.kid(a, b).value == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize(("shift", "spread"), [(0.0, (0.5, 1.1)), (0.5, (0.8, 1.3))])
def test_kid_is_unbiased_and_its_error_is_the_spread(shift, spread):
    """Beside what KID is of two normal laws, in closed form."""
    dim = 3
    found = np.array([d.kid(*draws(64, dim, shift, seed), block=32) for seed in range(200)])
    exact = expected_kid(shift, dim)
    z = (found[:, 0] - exact) / found[:, 1]
    assert abs(found[:, 0].mean() - exact) < 4 * found[:, 0].std() / 200**0.5
    assert spread[0] < z.std() < spread[1]


def expected_kid(shift, dim):
    """Of N(0, 1) and N(shift, 1) in each dimension: E k(x, x') + E k(y, y') - 2 E k(x, y)."""

    def mean_kernel(u, v):  # of normal x and y of unit variances and of means u and v in each dimension
        one, two = u * v, (1 + u**2) * (1 + v**2)
        three = (3 * u + u**3) * (3 * v + v**3)  # E x^3 E y^3
        squared = dim * two + dim * (dim - 1) * one**2
        cubed = dim * three + 3 * dim * (dim - 1) * two * one + dim * (dim - 1) * (dim - 2) * one**3
        return cubed / dim**3 + 3 * squared / dim**2 + 3 * one + 1

    return mean_kernel(0, 0) + mean_kernel(shift, shift) - 2 * mean_kernel(0, shift)


def test_blocks_hold_pairs_together_and_leave_a_remainder_out():
    a, _ = draws(50, 4)
    same = d.kid(a, a, block=20)
    assert same.value == pytest.approx(0, abs=1e-12)
    assert same.standard_error == pytest.approx(0, abs=1e-12)
    with pytest.raises(ValueError, match="as many features with as many"):
        d.kid(a, a[:40])
    with pytest.raises(ValueError, match="too small"):
        d.kid(a, a, block=3)


def spelled_out(real, generated, k):
    """Each count by its definition."""

    def distance(x, y):
        return np.linalg.norm(x - y)

    def reach(x, i):
        return sorted(distance(x[i], x[j]) for j in range(len(x)) if j != i)[k - 1]

    n, m = len(real), len(generated)
    near = np.array([[distance(x, y) for y in generated] for x in real])
    of_real = near <= np.array([[reach(real, i)] for i in range(n)])
    of_generated = near <= np.array([reach(generated, j) for j in range(m)])
    return of_real.any(0).mean(), of_generated.any(1).mean(), of_real.sum() / (k * m), of_real.any(1).mean()


@pytest.mark.parametrize(("n", "m", "k", "rows"), [(30, 20, 1, 7), (17, 40, 3, 1024), (25, 25, 5, 1)])
def test_neighborhoods_are_their_definitions(n, m, k, rows):
    real, generated = draws(n, 2, 0.7, m=m)
    found = d.neighborhoods(real, generated, k, rows)
    np.testing.assert_allclose(found, spelled_out(real, generated, k), rtol=1e-12)
    assert 0 < found.precision < 1
    assert 0 < found.recall < 1


def test_coverage_and_density_of_one_law_are_known():
    found = [d.neighborhoods(*draws(40, 3, seed=seed, m=25), k=3) for seed in range(200)]
    density, coverage = (np.array([getattr(each, name) for each in found]) for name in ("density", "coverage"))
    assert abs(density.mean() - 1) < 4 * density.std() / 200**0.5
    assert abs(coverage.mean() - d.expected_coverage(40, 25, 3)) < 4 * coverage.std() / 200**0.5


def test_copies_are_within_reach_and_strangers_are_not():
    real, _ = draws(20, 3)
    copies = d.neighborhoods(real, real, k=2)
    assert copies[:2] == (1, 1)
    assert copies.coverage == 1
    assert copies.density == pytest.approx(3 / 2)  # itself, and its two nearest, which are those who are within reach
    assert d.neighborhoods(real, real + 100, k=2) == (0, 0, 0, 0)
    twins = np.repeat(real, 4, axis=0)
    assert d.neighborhoods(twins, real, k=2).coverage == 1  # though the reach of each is zero


@pytest.mark.parametrize(
    ("wrong", "reason"),
    [
        (lambda: d.moments(np.ones(3)), r"\(n, dim\)"),
        (lambda: d.moments(np.ones((1, 3))), "n of 2 or more"),
        (lambda: d.moments(np.array([[1.0, np.nan], [0, 0]])), "not finite"),
        (lambda: d.neighborhoods(np.ones((5, 2)), np.ones((9, 2))), "n of 6 or more"),
        (lambda: d.neighborhoods(np.ones((9, 2)), np.ones((9, 3))), "2 and 3 dimensions"),
        (lambda: d.neighborhoods(np.ones((9, 2)), np.ones((9, 2)), k=0), "nearest neighbor is number 1"),
        (lambda: d.fd(d.moments(np.ones((3, 2))), d.moments(np.ones((3, 3)))), "2 and 3 features"),
    ],
)
def test_what_are_no_features_is_refused(wrong, reason):
    with pytest.raises(ValueError, match=reason):
        wrong()
