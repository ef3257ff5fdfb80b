"""How far is one set of features from another, as papers tell it: FD, KID, and who has neighbors in the other set.

All in float64. Features are (n, dim), of `features.Features.extract`. FD is biased by the number of samples, so it is
told with that, and beside the FD of two sets of real pictures of that number. KID is unbiased and has an error.
"""

from typing import NamedTuple

import numpy as np
from jax.typing import ArrayLike

from diffusion_jax.evaluation.distances import (
    Estimate,
    gaussian_w2,
    gaussian_w2_of_few,
    gaussian_w2_to_few,
    mmd,
    squared_distances,
)


class Moments(NamedTuple):
    """The mean (dim,) and the covariance (dim, dim) of features, and of how many they are.

    count: 0 where it is not known. factor: of features fewer than dimensions, what the covariance is the square of:
    factor^T factor, (count - 1, dim).
    """

    count: int
    mean: np.ndarray
    covariance: np.ndarray
    factor: np.ndarray | None = None


class Neighborhoods(NamedTuple):
    """Precision, recall and coverage are shares, in [0, 1]; density is on average 1 for two samples of one law."""

    precision: float
    recall: float
    density: float
    coverage: float


def moments(features: ArrayLike) -> Moments:
    """The mean and the covariance, divided by n - 1, of two or more features. Raises ValueError for what is none."""
    features = _features(features, at_least=2)
    count, dim = features.shape
    mean = features.mean(0)
    factor = (features - mean[None]) / (count - 1) ** 0.5
    if count > dim:
        return Moments(count, mean, factor.T @ factor)
    # A reflection of rows, which changes no covariance, takes (1, ..., 1) to the first: there nothing is left.
    axis = np.full(count, count**-0.5)
    axis[0] -= 1
    factor = (factor - np.outer(axis, axis @ factor) * (2 / (axis @ axis)))[1:]
    return Moments(count, mean, factor.T @ factor, factor)


def fd(a: Moments, b: Moments) -> float:
    """The Fréchet distance of two sets of features, which for Inception's is FID (Heusel et al. 2017).

    |mean_a - mean_b|^2 + tr(A + B - 2 (A B)^(1/2)), by `distances.gaussian_w2`, or what gives the same sooner where
    there are fewer features than dimensions. It is too large by about c / n. Raises ValueError for shapes that do not
    fit, and for a matrix that is no covariance.
    """
    if a.mean.shape != b.mean.shape or (a.factor is None and b.factor is None):
        return gaussian_w2(a.mean, a.covariance, b.mean, b.covariance)
    if a.factor is not None and b.factor is not None:
        return gaussian_w2_of_few(a.mean, a.factor, b.mean, b.factor)
    many, few = (a, b) if a.factor is None else (b, a)
    return gaussian_w2_to_few(many.mean, many.covariance, few.mean, few.factor)


def fd_infinity(features: ArrayLike, reference: Moments, fewest: int, points: int = 15, seed: int = 0) -> float:
    """FD as it would be of infinitely many features: the line through FD against 1 / n, at 1 / n = 0.

    n goes in `points` equal steps from `fewest` to all of the features, drawn anew each time (Chong and Forsyth 2020,
    "Effectively Unbiased FID", who take 15 points from 5,000 to 50,000). The reference's own bias stays. `fewest`
    should be more than the features' dim, or the line is none. Raises ValueError for what has no line.
    """
    features = _features(features, at_least=2)
    if not 2 <= fewest < len(features) or points < 2:
        raise ValueError(f"no line from {fewest} to {len(features)} features by {points} points: 2 or more, and rising")
    rng = np.random.default_rng(seed)
    counts = np.linspace(fewest, len(features), points).astype(int)
    found = [fd(moments(rng.permutation(features)[:count]), reference) for count in counts]
    return float(np.polyfit(1 / counts, found, 1)[1])


def cubic(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """(x . y / dim + 1)^3, the kernel of KID (Bińkowski et al. 2018, "Demystifying MMD GANs")."""
    return (x @ y.T / x.shape[1] + 1) ** 3


def kid(a: ArrayLike, b: ArrayLike, block: int = 1000, seed: int = 0) -> Estimate:
    """The kernel distance KID: `mmd` of the kernel `cubic`, unbiased, with its standard error.

    Pairs are compared within blocks of the samples only (4 or more), in random order, since the time goes like their
    square; the value is the mean over blocks (Zaremba, Gretton and Blaschko 2013). a and b have one number of features,
    and a remainder of it is left out. Pairs are of two different numbers, also one of a and one of b, where other code
    takes all of the latter: the same on average. Raises ValueError for others, or too few.
    """
    a, b = _features(a, at_least=4), _features(b, at_least=4)
    if a.shape != b.shape:
        raise ValueError(f"KID compares as many features with as many, not {a.shape} with {b.shape}: leave some out")
    if block < 4:
        raise ValueError(f"a block of {block} features is too small for KID: take 4 or more")
    order = np.random.default_rng(seed).permutation(len(a))  # one for both: pairs from one noise stay together
    size = min(block, len(a))
    blocks = [order[start : start + size] for start in range(0, len(a) - size + 1, size)]
    values, errors = np.array([mmd(a[index], b[index], cubic) for index in blocks]).T
    return Estimate(float(values.mean()), float(np.sqrt(np.sum(errors**2)) / len(blocks)))


def neighborhoods(real: ArrayLike, generated: ArrayLike, k: int = 5, rows: int = 1024) -> Neighborhoods:
    """Who lies within reach of whom; the reach of a sample is as far as the k-th nearest other one of its own set.

    precision: generated samples within reach of a real one; recall: real within reach of a generated one
    (Kynkäänniemi et al. 2019, with k = 3). density: real samples within whose reach a generated one
    is, divided by k; coverage: real samples with a generated one within their reach (Naeem et al. 2020, with k = 5).
    All depend on both numbers of samples. Raises ValueError for fewer than k + 1.
    """
    if k < 1 or rows < 1:
        raise ValueError(f"the nearest neighbor is number 1, and rows are 1 or more, not {k} and {rows}")
    real, generated = (_features(x, at_least=k + 1) for x in (real, generated))
    if real.shape[1] != generated.shape[1]:
        raise ValueError(f"features of {real.shape[1]} and {generated.shape[1]} dimensions are no neighbors")
    of_real, of_generated = (_reach(x, k, rows) for x in (real, generated))
    around, recalled, covered = np.zeros(len(generated)), 0, 0
    for start in range(0, len(real), rows):
        apart = squared_distances(real[start : start + rows], generated)
        inside = apart <= of_real[start : start + rows, None]
        around += inside.sum(0)
        covered += inside.any(1).sum()
        recalled += (apart <= of_generated[None]).any(1).sum()
    precision, density = (around > 0).mean(), around.mean() / k
    return Neighborhoods(*map(float, (precision, recalled / len(real), density, covered / len(real))))


def expected_coverage(real: int, generated: int, k: int = 5) -> float:
    """What coverage is on average where both sets are of one law, of whatever shape and dimension.

    1 - product of (real - i) / (real + generated - i) over i = 1 to k: a real sample is left out where the nearest k of
    all others are real (Naeem et al. 2020).
    """
    i = np.arange(1, k + 1)
    return float(1 - np.prod((real - i) / (real + generated - i)))


def _reach(x: np.ndarray, k: int, rows: int) -> np.ndarray:
    """The squared distance of each to its k-th nearest other, and a little: equal distances stay within, if rounded."""
    reach = []
    for start in range(0, len(x), rows):
        apart = squared_distances(x[start : start + rows], x)
        own = np.arange(len(apart))
        apart[own, start + own] = np.inf
        reach.append(np.partition(apart, k - 1, axis=1)[:, k - 1])
    return np.concatenate(reach) * (1 + 1e-9) + 1e-12 * np.mean(np.var(x, axis=0))


def _features(features: ArrayLike, at_least: int) -> np.ndarray:
    features = np.asarray(features, np.float64)
    if features.ndim != 2 or len(features) < at_least or not features.shape[1]:
        raise ValueError(f"features are (n, dim) with n of {at_least} or more, not {features.shape}")
    if not np.isfinite(features).all():
        raise ValueError("features that are not finite have no distance")
    return features
