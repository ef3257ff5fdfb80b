"""What an interval says about itself is what it does, over thousands of sweeps: bounds are four binomial errors."""

import numpy as np
import pytest
from scipy import stats

from diffusion_jax.evaluation import intervals

REPEATS = 2000
BINOMIAL = 4 * (0.95 * 0.05 / REPEATS) ** 0.5  # 1.9%

LAWS = {
    "normal": (lambda rng, shape: rng.normal(3, 2, size=shape), 3.0),
    "uniform": (lambda rng, shape: rng.uniform(size=shape), 0.5),
    "lognormal": (lambda rng, shape: rng.lognormal(0, 0.5, size=shape), np.exp(0.125)),
    "exponential": (lambda rng, shape: rng.exponential(size=shape), 1.0),
}


def coverage(kind, law, n, repeats=REPEATS):
    draw, mean = LAWS[law]
    found = kind(draw(np.random.default_rng([1, n]), (repeats, n)))
    return np.mean((found.low <= mean) & (mean <= found.high))


@pytest.mark.parametrize("n", [2, 3, 5, 10])
def test_student_t_covers_normal_figures_at_its_rate(n):
    assert abs(coverage(intervals.student_t, "normal", n) - 0.95) < BINOMIAL


@pytest.mark.parametrize("level", [0.5, 0.8, 0.99])
def test_at_other_levels_too(level):
    for kind in (intervals.student_t, intervals.bootstrap_t):
        found = coverage(lambda values, kind=kind: kind(values, level), "normal", 5)
        assert abs(found - level) < 4 * (level * (1 - level) / REPEATS) ** 0.5 + (kind is intervals.bootstrap_t) * 0.01


@pytest.mark.parametrize("n", [3, 5, 10])
def test_bootstrap_t_covers_normal_figures_within_a_percent_of_its_rate(n):
    assert abs(coverage(intervals.bootstrap_t, "normal", n) - 0.95) < BINOMIAL + 0.01


@pytest.mark.parametrize(("law", "least"), [("uniform", 0.93), ("lognormal", 0.91), ("exponential", 0.89)])
@pytest.mark.parametrize("n", [5, 10])
def test_figures_that_are_not_normal_are_covered_nearly_as_often(law, least, n):
    """Skewed ones are covered less often by any interval; bootstrap_t is then not behind student_t."""
    found = coverage(intervals.bootstrap_t, law, n)
    assert least - BINOMIAL < found < 0.975 + BINOMIAL
    assert found > coverage(intervals.student_t, law, n) - 0.005


def test_the_usual_bootstrap_is_why_these_are_here():
    """Of the same sweeps, and by the same count, the percentile bootstrap misses one in six."""

    def percentile(values):
        found = stats.bootstrap((values,), np.mean, axis=-1, method="percentile", n_resamples=500, rng=0)
        return intervals.Interval(values.mean(-1), *found.confidence_interval)

    assert 0.78 < coverage(percentile, "normal", 5, repeats=1000) < 0.87


def test_student_t_is_scipys():
    values = np.random.default_rng(0).normal(size=(4, 6))
    expected = stats.ttest_1samp(values, 0, axis=-1).confidence_interval(0.9)
    found = intervals.student_t(values, 0.9)
    np.testing.assert_allclose(found.mean, values.mean(-1))
    np.testing.assert_allclose((found.low, found.high), (expected.low, expected.high), rtol=1e-12)


@pytest.mark.parametrize("kind", [intervals.student_t, intervals.bootstrap_t])
def test_units_and_origin_change_nothing_and_a_sign_turns_it_around(kind):
    values = np.random.default_rng(0).lognormal(size=(3, 5))
    found, moved, turned = kind(values), kind(1e6 + 1e-3 * values), kind(-values)
    for end, turned_end in [("mean", "mean"), ("low", "high"), ("high", "low")]:
        np.testing.assert_allclose(getattr(moved, end), 1e6 + 1e-3 * getattr(found, end), rtol=1e-12)
        np.testing.assert_allclose(getattr(turned, turned_end), -getattr(found, end), rtol=1e-9)
    assert (found.low < found.mean).all()
    assert (found.mean < found.high).all()


def test_bootstrap_t_reaches_to_the_side_of_the_tail():
    found = intervals.bootstrap_t([1.0, 1.1, 1.2, 1.3, 3.0])
    assert found.high - found.mean > 1.5 * (found.mean - found.low)


def test_one_seed_one_interval_and_more_resamples_the_same_within_their_error():
    values = np.random.default_rng(3).normal(size=6)
    found = intervals.bootstrap_t(values, seed=1)
    assert found == intervals.bootstrap_t(values, seed=1)
    assert found != intervals.bootstrap_t(values, seed=2)
    many = intervals.bootstrap_t(values, resamples=200_000)
    np.testing.assert_allclose((found.low, found.high), (many.low, many.high), atol=0.1 * (many.high - many.low))


@pytest.mark.parametrize("kind", [intervals.student_t, intervals.bootstrap_t])
def test_figures_that_are_all_the_same_have_no_width(kind):
    assert tuple(map(float, kind([0.5, 0.5, 0.5]))) == (0.5, 0.5, 0.5)


@pytest.mark.parametrize("kind", [intervals.student_t, intervals.bootstrap_t])
@pytest.mark.parametrize(
    ("values", "level", "message"),
    [
        ([1.0], 0.95, r"2 seeds or more, not of shape \(1,\)"),
        (1.0, 0.95, r"2 seeds or more, not of shape \(\)"),
        ([1.0, np.nan, 2.0], 0.95, "finite figures: count the runs"),
        ([1.0, np.inf], 0.95, "finite figures"),
        ([1.0, 2.0], 95.0, "between 0 and 1, not 95"),
    ],
)
def test_what_has_no_interval_is_refused(kind, values, level, message):
    with pytest.raises(ValueError, match=message):
        kind(np.array(values), level)
