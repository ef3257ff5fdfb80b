"""Paired tests beside scipy's, Holm's correction by hand, and the rates that they claim over simulated sweeps."""

from itertools import combinations

import numpy as np
import pytest
from scipy import stats

from diffusion_jax.evaluation import paired

REPEATS = 4000


def error(rate):
    """Four binomial errors."""
    return 4 * (rate * (1 - rate) / REPEATS) ** 0.5


def sweeps(arms, n, shared=1.0, own=1.0, law="normal", seed=0):
    """(repeat, arm, seed) -> figures: what a seed does to all arms, and what it does to each."""
    rng = np.random.default_rng([seed, arms, n])
    draw = {"normal": rng.normal, "lognormal": lambda size: rng.lognormal(0, 1, size), "cauchy": rng.standard_cauchy}[
        law
    ]
    return shared * draw(size=(REPEATS, 1, n)) + own * draw(size=(REPEATS, arms, n))


def corrected(figures):
    pairs = np.array(list(combinations(range(figures.shape[1]), 2))).T
    return paired.holm(paired.difference(figures[:, pairs[0]], figures[:, pairs[1]]).p)


@pytest.mark.parametrize("n", [3, 5, 10])
@pytest.mark.parametrize("arms", [2, 6])
def test_arms_that_are_alike_are_told_apart_in_one_sweep_of_twenty_at_most(arms, n):
    """In the whole family of pairs; with two arms, in exactly so many."""
    wrong = (corrected(sweeps(arms, n)) < 0.05).any(-1).mean()
    assert wrong < 0.05 + error(0.05)
    assert wrong > (0.05 - error(0.05) if arms == 2 else 0.005)


@pytest.mark.parametrize("law", ["lognormal", "cauchy"])
@pytest.mark.parametrize("arms", [2, 6])
def test_whatever_the_law_of_the_seeds(law, arms):
    """Differences of two arms that are alike are symmetric, and then heavy tails only make the test find less."""
    assert (corrected(sweeps(arms, 5, law=law)) < 0.05).any(-1).mean() < 0.05 + error(0.05)


def test_without_a_correction_it_would_be_one_in_four():
    """So the tests above can fail."""
    figures = sweeps(6, 5)
    pairs = np.array(list(combinations(range(6), 2))).T
    plain = paired.difference(figures[:, pairs[0]], figures[:, pairs[1]]).p
    assert (plain < 0.05).any(-1).mean() > 0.2


@pytest.mark.parametrize("alpha", [0.05, 0.05 / 15])
@pytest.mark.parametrize("spread", [0.05, 0.1, 0.2])
def test_a_gap_of_ten_percent_is_found_with_the_power_that_is_claimed(spread, alpha):
    n = paired.seeds_needed(0.1, spread, alpha)
    a, b = np.moveaxis(sweeps(2, n, shared=0.3, own=spread / 2**0.5), 1, 0)
    found = paired.difference(1.1 + a, 1.0 + b)
    rate = np.mean((found.p < alpha) & (found.mean > 0))
    claimed = paired.power(0.1, spread, n, alpha)
    assert abs(rate - claimed) < error(0.8)
    assert claimed >= 0.8
    assert n == 2 or paired.power(0.1, spread, n - 1, alpha) < 0.8


def test_the_interval_excludes_zero_where_p_is_below_and_covers_the_difference_at_its_rate():
    a, b = np.moveaxis(sweeps(2, 5), 1, 0)
    found = paired.difference(a + 1, b)
    np.testing.assert_array_equal(found.p < 0.05, (found.low > 0) | (found.high < 0))
    assert abs(np.mean((found.low < 1) & (found.high > 1)) - 0.95) < error(0.95)


def test_pairs_see_what_unpaired_arms_do_not():
    """Where seeds share their noise, and with as many seeds."""
    a, b = np.moveaxis(sweeps(2, 5, shared=1.0, own=0.2), 1, 0)
    with_pairs = (paired.difference(a + 0.5, b).p < 0.05).mean()
    without = (stats.ttest_ind(a + 0.5, b, axis=-1).pvalue < 0.05).mean()
    assert with_pairs > 0.75
    assert without < 0.1


def test_as_scipy_has_it():
    a, b = np.random.default_rng(0).normal(size=(2, 4, 6))
    found, expected = paired.difference(a, b), stats.ttest_rel(a, b, axis=-1)
    np.testing.assert_allclose(found.p, expected.pvalue, rtol=1e-10)
    interval = expected.confidence_interval()
    np.testing.assert_allclose((found.low, found.high), (interval.low, interval.high), rtol=1e-10)
    flips = stats.permutation_test(
        (a, b), lambda x, y, axis: (x - y).mean(axis), permutation_type="samples", axis=-1, vectorized=True
    )
    np.testing.assert_allclose(paired.sign_flip(a - b), flips.pvalue, rtol=1e-10)


def test_the_power_is_that_of_scipys_noncentral_t():
    n = np.array([2, 3, 5, 10, 50])
    expected = stats.nct.sf(stats.t.isf(0.01, n - 1), n - 1, 0.7 * n**0.5)
    np.testing.assert_allclose(paired.power(0.7, 1.0, n, 0.02), expected, rtol=1e-7)


def test_seeds_needed_of_tables():
    """Of the usual textbook case, an effect of one spread at 0.05 and 0.8; and more for what is smaller or surer."""
    assert paired.seeds_needed(1.0, 1.0) == 10
    assert paired.seeds_needed(0.5, 1.0) == 34
    assert paired.seeds_needed(100.0, 1.0) == 2
    assert paired.seeds_needed(1e-6, 1.0) == paired.MOST_SEEDS
    assert paired.seeds_needed(1.0, 1.0, alpha=0.05 / 15) > 10
    assert paired.seeds_needed(1.0, 1.0, wanted=0.95) > 10
    with pytest.raises(ValueError, match="above 0, not 0 and 1"):
        paired.seeds_needed(0.0, 1.0)


def test_the_spread_is_where_it_is_said_to_be():
    spread = np.random.default_rng(0).normal(size=(REPEATS, 5)).std(-1, ddof=1)
    low, high = paired.spread_interval(spread, 5)
    assert abs(np.mean((low < 1) & (high > 1)) - 0.8) < error(0.8)
    assert abs(np.mean(low > 1) - 0.1) < error(0.1)


@pytest.mark.parametrize(
    ("p", "expected"),
    [
        ([0.01, 0.04, 0.03], [0.03, 0.06, 0.06]),  # 3 * 0.01; 2 * 0.03; 1 * 0.04, but never below what came before
        ([0.01, 0.02, 0.03, 0.04], [0.04, 0.06, 0.06, 0.06]),
        ([0.04, 0.001], [0.04, 0.002]),
        ([0.9, 0.8], [1.0, 1.0]),
        ([0.02, 0.02], [0.04, 0.04]),
        ([0.03], [0.03]),
        ([0.01, np.nan, 0.04], [0.02, np.nan, 0.04]),  # two tests, not three
        ([np.nan, np.nan], [np.nan, np.nan]),
        ([[0.01, 0.04], [0.04, 0.03]], [[0.02, 0.04], [0.06, 0.06]]),  # two families
    ],
)
def test_holm_by_hand(p, expected):
    np.testing.assert_allclose(paired.holm(p), expected, rtol=1e-12)


def test_signs_that_all_agree_have_the_least_p_there_is():
    assert paired.sign_flip([1.0, 2.0, 3.0]) == 2 / 2**3
    assert paired.sign_flip(np.arange(1.0, 6)) == 2 / 2**5
    assert paired.sign_flip([1.0, -1.0]) == 1
    assert paired.sign_flip([0.1, 0.1, 0.1, -0.3]) == 1  # all sums are 0 or more, but for the last digits of float64


@pytest.mark.parametrize("n", [6, 14])
def test_sign_flips_are_right_at_the_rate_that_they_state(n):
    """Exact, and from random flips: of differences that are symmetric, and heavy-tailed."""
    p = paired.sign_flip(np.random.default_rng(n).standard_cauchy((REPEATS, n)), flips=999)
    floor = np.floor(0.1 * 2**n / 2) * 2 / 2**n
    assert abs(np.mean(p <= 0.1) - floor) < error(0.1)


def test_random_flips_are_close_to_all_of_them_and_the_same_each_time():
    differences = np.random.default_rng(1).normal(0.5, size=13)
    signs = 1 - 2 * (np.arange(2**13)[:, None] >> np.arange(13) & 1)
    exact = np.mean(np.abs(signs @ differences) >= abs(differences.sum()) - 1e-9)
    found = paired.sign_flip(differences)
    assert found == paired.sign_flip(differences)
    assert abs(found - exact) < 4 * (exact / 10_000) ** 0.5
    assert paired.sign_flip(np.ones(40), flips=50) == 1 / 50  # of 2^40 signs none but the observed ones is as far off


def test_no_difference_and_one_without_spread():
    same = np.array([0.3, 0.2, 0.4])
    found = paired.difference([same, same, same], [same, same * (1 + 1e-9), same + 0.1])
    np.testing.assert_array_equal(found.equal, [True, True, False])
    np.testing.assert_array_equal(found.p, [1, 1, np.nan])
    with pytest.raises(ValueError, match=r"not in the shapes \(3,\) and \(2,\)"):
        paired.difference(same, same[:2])
    with pytest.raises(ValueError, match="finite figures"):
        paired.difference(same, [1.0, np.nan, 1.0])
