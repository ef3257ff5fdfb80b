"""How far are two sets of samples apart, without learned features? (a, b) -> Estimate, in numpy and float64.

a and b hold as many samples each, (n, ...), of features of one shape, which are flattened. Every distance is squared,
and every estimate corrected for the bias of small samples: for two samples of one law it is zero within its error, and
so at times negative. Sample i of a and of b may depend on each other, such as pictures of two samplers from one noise:
the standard error counts that, and is then smaller. Where the laws are one the estimate is skewed, and its error tends
to be too large, by a third or so. All functions raise ValueError for samples of different number or shape, or too few.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from jax.typing import ArrayLike


class Estimate(NamedTuple):
    """A number measured on samples, and the deviation that it would have on others of the same laws."""

    value: float
    standard_error: float


def gaussian_w2(mean_a: ArrayLike, covariance_a: ArrayLike, mean_b: ArrayLike, covariance_b: ArrayLike) -> float:
    """The squared 2-Wasserstein distance of two normal laws, exact: |mean_a - mean_b|^2 + min |A - B U|^2.

    A and B are the roots of the covariances and U any rotation (Bhatia, Jain and Lim 2019): the Bures formula
    tr(A^2 + B^2 - 2 (A B^2 A)^(1/2)) without its cancellation. The covariances are those of the flattened means, and
    may be singular. Raises ValueError for shapes that do not fit, and for a matrix that is no covariance.
    """
    mean_a, mean_b = (_floats(mean).ravel() for mean in (mean_a, mean_b))
    if mean_a.shape != mean_b.shape:
        raise ValueError(f"means of {mean_a.size} and {mean_b.size} features have no distance")
    offset = mean_a - mean_b
    root_a, root_b = (_root(covariance, offset.size) for covariance in (covariance_a, covariance_b))
    left, _, right = np.linalg.svd(root_b @ root_a)
    return float(np.sum(offset**2) + np.sum((root_a - root_b @ (left @ right)) ** 2))


def gaussian_w2_of_few(mean_a: ArrayLike, factor_a: ArrayLike, mean_b: ArrayLike, factor_b: ArrayLike) -> float:
    """`gaussian_w2` of covariances F^T F, by their factors F (rows, dim), and exact like it.

    The roots of A and B may be any: of n rows the time goes like n^2 (n + dim), not like dim^3.
    """
    rows = max(len(factor_a), len(factor_b))
    a, b = (np.pad(_floats(each), ((0, rows - len(each)), (0, 0))) for each in (factor_a, factor_b))
    left, _, right = np.linalg.svd(b @ a.T)
    return float(np.sum((_floats(mean_a) - _floats(mean_b)) ** 2) + np.sum((b - left @ right @ a) ** 2))


def gaussian_w2_to_few(mean_a: ArrayLike, covariance_a: ArrayLike, mean_b: ArrayLike, factor_b: ArrayLike) -> float:
    """`gaussian_w2` where the covariance of b is F^T F, of few rows F (rows, dim); the time goes like rows dim^2.

    By the trace of the root of F A F^T, the formula with the cancellation: good to some digits less where F F^T or
    F A F^T is singular.
    """
    b = _floats(factor_b)
    a = _covariance(covariance_a, b.shape[1])
    across = np.sqrt(_variances(np.linalg.eigvalsh(b @ a @ b.T))).sum()
    offset = np.sum((_floats(mean_a) - _floats(mean_b)) ** 2)
    return float(offset + max(np.trace(a) + np.sum(b**2) - 2 * across, 0))


def frechet(a: ArrayLike, b: ArrayLike, groups: int = 16, seed: int = 0) -> Estimate:
    """`gaussian_w2` of the normal laws that have the samples' means and covariances: the formula of FID.

    Value and error are those of the jackknife that leaves out one of the groups at a time (2 or more); it takes away
    the bias as far as that falls like 1 / n, so there should be many more samples than features. A remainder of n by
    groups is left out.
    """
    a, b = _grouped(a, b, groups, 1, seed)
    kept = a.shape[1] * (groups - 1)
    if kept <= a.shape[2]:
        raise ValueError(f"{kept} samples, without one group, have no covariance of {a.shape[2]} features: take more")

    def fitted(kept) -> float:
        moments = [(x.mean(0), np.cov(x.T).reshape(2 * x.shape[1:])) for x in (np.concatenate(x[kept]) for x in (a, b))]
        return gaussian_w2(*moments[0], *moments[1])

    index = np.arange(groups)
    whole, without = fitted(index), np.array([fitted(index != i) for i in index])
    pseudo = groups * whole - (groups - 1) * without
    return Estimate(float(pseudo.mean()), float(pseudo.std(ddof=1) / groups**0.5))


def sliced_w2(a: ArrayLike, b: ArrayLike, directions: int = 128, groups: int = 16, seed: int = 0) -> Estimate:
    """The squared 2-Wasserstein distance of the projections on a direction, on average over all directions.

    For a shift it is that of the whole laws divided by the number of features. The squared distance of two sorted
    samples is not zero for one law; the product of the differences of quantiles in one group of the samples with those
    in another is, on average. So the estimate is the mean of that over pairs of groups (4 or more), extrapolated from
    groups half as large, since quantiles of few samples are too close together. The error counts both the samples and
    the directions. A remainder of n by twice the groups is left out.
    """
    if groups < 4 or directions < 2:
        raise ValueError(f"sliced_w2 needs 4 groups and 2 directions at least, not {groups} and {directions}")
    a, b = _grouped(a, b, groups, 2, seed)
    rays = np.random.default_rng([seed, 1]).normal(size=(a.shape[2], directions))
    on_rays = [x @ (rays / np.linalg.norm(rays, axis=0)) for x in (a, b)]
    whole = np.subtract(*(np.sort(x, axis=1) for x in on_rays))
    halves = np.subtract(*(np.sort(x.reshape(groups, 2, -1, directions), axis=2).mean(1) for x in on_rays))
    products = 2 * _products(whole) - _products(halves)  # of each two groups: (group, group, direction)
    value, variance = _pair_mean(products.mean(-1))
    independent = [products[i::2, i::2] for i in (0, 1)]  # what two sets of groups agree on is due to the directions
    each = [(part.sum((0, 1)) - np.trace(part)) / (len(part) * (len(part) - 1)) for part in independent]
    variance += max(np.cov(*each)[0, 1], 0) / directions
    return Estimate(value, variance**0.5)


def energy_distance(a: ArrayLike, b: ArrayLike) -> Estimate:
    """2 E|x - y| - E|x - x'| - E|y - y'|: zero for one law alone, and in the units of the samples (Székely, Rizzo).

    It is the MMD of the kernel -|x - y| (Sejdinovic et al. 2013). Time and memory grow like n^2.
    """
    return mmd(a, b, lambda x, y: -np.sqrt(squared_distances(x, y)))


def mmd(a: ArrayLike, b: ArrayLike, kernel: Callable) -> Estimate:
    """The squared maximum mean discrepancy, unbiased, E k(x, x') + E k(y, y') - 2 E k(x, y) (Gretton et al. 2012).

    Theirs is Lemma 6. kernel: (x, y) of n and m rows -> (n, m), symmetric and positive, such as
    `partial(rbf, bandwidth=2.0)`. Time and memory grow like n^2.
    """
    x, y = _flat(a, b, at_least=4)
    across = kernel(x, y)
    value, variance = _pair_mean(kernel(x, x) + kernel(y, y) - across - across.T)
    return Estimate(value, variance**0.5)


def rbf(x: np.ndarray, y: np.ndarray, bandwidth: float) -> np.ndarray:
    """exp(-|x - y|^2 / (2 bandwidth^2)): sees differences on the scale of the bandwidth best."""
    return np.exp(-0.5 * squared_distances(x, y) / bandwidth**2)


def squared_distances(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """The squared distance of each row of x to each of y, (n, m), without those digits that all samples share."""
    center = x.mean(0)  # the products below would lose them
    x, y = x - center, y - center
    return np.maximum(np.sum(x**2, 1)[:, None] + np.sum(y**2, 1)[None] - 2 * x @ y.T, 0)


def _pair_mean(h: np.ndarray) -> tuple[float, float]:
    """The mean of h[i, j] over pairs of different samples, and its variance as a U-statistic of these.

    The variance is 4 (n - 2) / (n (n - 1)) Var E[h | i] + 2 / (n (n - 1)) Var h, and each of the two is estimated
    without bias (as by Sutherland 2019 for the MMD) from sums over two, three and four different samples. For one law
    the first is zero, and its estimate often negative: it is then set to zero, or no error would be left.
    """
    n = len(h)
    h = h - np.diag(np.diag(h))
    rows, pairs = h.sum(1), n * (n - 1)
    total, of_rows, of_squares = rows.sum(), np.sum(rows**2), np.sum(h**2)
    mean_squared = (total**2 - 4 * of_rows + 2 * of_squares) / (pairs * (n - 2) * (n - 3))
    given_one = max((of_rows - of_squares) / (pairs * (n - 2)) - mean_squared, 0)
    given_both = max(of_squares / pairs - mean_squared, 0)
    return float(total / pairs), float((4 * (n - 2) * given_one + 2 * given_both) / pairs)


def _products(differences: np.ndarray) -> np.ndarray:
    """Of functions of the quantile, (group, quantile, direction): the inner product of each two, by direction."""
    return np.einsum("iqd,jqd->ijd", differences, differences) / differences.shape[1]


def _root(covariance: ArrayLike, size: int) -> np.ndarray:
    """The symmetric root of a covariance."""
    variance, basis = np.linalg.eigh(_covariance(covariance, size))
    return basis * np.sqrt(_variances(variance)) @ basis.T


def _covariance(covariance: ArrayLike, size: int) -> np.ndarray:
    covariance = _floats(covariance)
    if covariance.shape != (size, size):
        raise ValueError(f"a covariance of {size} features cannot have the shape {covariance.shape}")
    if not np.allclose(covariance, covariance.T, rtol=1e-6, atol=1e-9 * np.abs(covariance).max()):
        raise ValueError("a covariance must be symmetric")
    return covariance


def _variances(variance: np.ndarray) -> np.ndarray:
    """Eigenvalues in rising order without those that rounding made negative."""
    if variance[0] < -1e-6 * np.abs(variance).max():
        raise ValueError(f"a covariance has no negative variance, but there is one of {variance[0]:.3g}")
    return np.maximum(variance, 0)


def _grouped(a: ArrayLike, b: ArrayLike, groups: int, of: int, seed: int) -> list[np.ndarray]:
    """Both in random order, which is one for both, as (group, sample, feature); a group is a multiple of `of`."""
    a, b = _flat(a, b, at_least=max(groups, 2) * of)
    size = len(a) // (groups * of) * of
    order = np.random.default_rng([seed, 0]).permutation(len(a))[: groups * size]
    return [x[order].reshape(groups, size, -1) for x in (a, b)]


def _flat(a: ArrayLike, b: ArrayLike, at_least: int) -> tuple[np.ndarray, np.ndarray]:
    a, b = _floats(a), _floats(b)
    if a.ndim < 2 or a.shape != b.shape:
        raise ValueError(f"two samples of one shape (n, ...) are compared, not {a.shape} and {b.shape}")
    if len(a) < at_least:
        raise ValueError(f"{len(a)} samples are too few: take {at_least} or more")
    return a.reshape(len(a), -1), b.reshape(len(b), -1)


def _floats(values: ArrayLike) -> np.ndarray:
    return np.asarray(values, np.float64)
