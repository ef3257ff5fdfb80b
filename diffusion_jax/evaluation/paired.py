"""Do two arms differ, seed by seed? Tests of paired differences, Holm's correction, and the seeds that a test needs.

Seed k of one arm saw the data, the first weights and the noise of seed k of the other, so their difference is freed of
what a seed does to both. The p-value is that of the paired t-test, which takes differences to be normal; where two arms
are alike they are symmetric at least. The exact sign-flip test asks for symmetry alone, but cannot fall below 2 / 2^n:
with fewer than 6 seeds it finds nothing at 0.05, and of 15 pairs under Holm none with fewer than 10. So it is a check
beside, and a verdict from 5 seeds rests on the normal law. What that can cost (`benchmarks/verdict_rates.py`): where
seeds fall into two groups, six arms that are alike are told apart in 30% of sweeps of 3 seeds, but 3% of those of 5.
"""

from typing import NamedTuple

import numpy as np
from scipy import special

from diffusion_jax.evaluation import intervals
from diffusion_jax.evaluation.intervals import Numbers

RESOLUTION = 1e-7  # of figures that were computed in float32: what is closer than this, relative to both, is equal
MOST_SEEDS = 10_000


class Difference(NamedTuple):
    """a - b over the seeds of both. Each field has the shape of the leading axes.

    low, high: by `student_t`, so that they exclude 0 where p is below 1 - level. spread: the standard deviation of one
    seed's difference. equal: whether a and b are the same in every seed; p is then 1. p is NaN where they differ by the
    same amount in every seed: then seeds changed nothing, and there is no spread to measure a difference by.
    """

    mean: Numbers
    low: Numbers
    high: Numbers
    spread: Numbers
    equal: Numbers
    p: Numbers


def difference(a: Numbers, b: Numbers, level: float = 0.95) -> Difference:
    """a, b: (..., n), figures of the same n seeds, in the same order.

    Raises ValueError for shapes that differ, and as functions of intervals.py do.
    """
    a, b = intervals.checked(a, level), intervals.checked(b, level)
    if a.shape != b.shape:
        raise ValueError(f"arms are compared seed by seed, not in the shapes {a.shape} and {b.shape}")
    each = a - b
    n = each.shape[-1]
    found = intervals.student_t(each, level)
    spread = each.std(-1, ddof=1)
    nothing = RESOLUTION * np.maximum(np.abs(a).max(-1), np.abs(b).max(-1))
    with np.errstate(divide="ignore", invalid="ignore"):
        p = 2 * special.stdtr(n - 1, -np.abs(found.mean) / (spread / n**0.5))
    equal = np.abs(each).max(-1) <= nothing
    p = np.where(equal, 1.0, np.where(spread <= nothing, np.nan, p))
    return Difference(*found, spread, equal, p)


def sign_flip(differences: Numbers, flips: int = 10_000, seed: int = 0) -> Numbers:
    """The two-sided p-value of a mean difference among those with the sign of any difference turned: (..., n) -> (...).

    Exact, over all 2^n signs, up to 12 seeds. Beyond, from so many random flips, of which the observed signs are one,
    so that p is valid for any number of them (Phipson and Smyth 2010); the same seed gives the same p.
    """
    differences = intervals.checked(differences)
    n = differences.shape[-1]
    if n <= 12:
        signs = 1 - 2 * (np.arange(2**n)[:, None] >> np.arange(n) & 1)
    else:
        signs = np.random.default_rng(seed).choice([-1, 1], size=(flips, n))
        signs[0] = 1
    tie = 1e-12 * np.abs(differences).sum(-1, keepdims=True)  # sums of the same numbers in another order are equal
    observed = np.abs(differences.sum(-1, keepdims=True))
    return (np.abs(differences @ signs.T) >= observed - tie).mean(-1)


def holm(p: Numbers) -> np.ndarray:
    """p-values (..., m) of one family, corrected by Holm (1979).

    To reject those that are then below alpha is wrong anywhere in the family with a probability of alpha at most,
    however the tests depend on each other. NaN is no test: it stays NaN, and does not count.
    """
    p = np.asarray(p, np.float64)
    tests = np.sum(~np.isnan(p), axis=-1, keepdims=True)
    order = np.argsort(p, axis=-1)  # NaN comes last
    left = np.maximum(tests - np.arange(p.shape[-1]), 1)
    stepped = np.maximum.accumulate(np.take_along_axis(p, order, -1) * left, axis=-1)
    corrected = np.empty_like(p)
    np.put_along_axis(corrected, order, np.minimum(stepped, 1), -1)
    return corrected


def power(effect: Numbers, spread: Numbers, n: Numbers, alpha: float = 0.05) -> Numbers:
    """The probability that a paired t-test with n seeds finds a true mean difference of `effect`, with the right sign.

    effect > 0 and spread > 0 (the standard deviation of one seed's difference) in the same units; alpha: two-sided.
    """
    n = np.asarray(n, np.float64)
    critical = special.stdtrit(n - 1, 1 - alpha / 2)
    return 1 - special.nctdtr(n - 1, np.asarray(effect) / np.asarray(spread) * np.sqrt(n), critical)


def seeds_needed(effect: float, spread: float, alpha: float = 0.05, wanted: float = 0.8) -> int:
    """The smallest number of seeds, 2 or more, with which `power` is as wanted; MOST_SEEDS if not even with those.

    Raises ValueError for an effect or a spread that is not above zero.
    """
    if not (effect > 0 and spread > 0):
        raise ValueError(f"an effect and a spread are above 0, not {effect:.3g} and {spread:.3g}")
    too_few, enough = 1, 2
    while enough < MOST_SEEDS and power(effect, spread, enough, alpha) < wanted:
        too_few, enough = enough, min(2 * enough, MOST_SEEDS)
    while enough - too_few > 1:
        middle = (too_few + enough) // 2
        found = power(effect, spread, middle, alpha) >= wanted
        too_few, enough = (too_few, middle) if found else (middle, enough)
    return enough


def spread_interval(spread: Numbers, n: int, level: float = 0.8) -> tuple[Numbers, Numbers]:
    """Where the true standard deviation is, if n normal figures have this one: of 5, between 0.72 and 1.94 times it."""
    low, high = (np.sqrt((n - 1) / special.chdtri(n - 1, q)) for q in ((1 - level) / 2, (1 + level) / 2))
    return low * np.asarray(spread), high * np.asarray(spread)
