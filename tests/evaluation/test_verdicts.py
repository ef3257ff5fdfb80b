"""Sweeps whose truth is known, down to the verdicts; and runs that did not finish."""

from itertools import combinations

import numpy as np
import pytest

from diffusion_jax.evaluation import intervals, paired, verdicts
from diffusion_jax.evaluation.verdicts import BETTER, NO_DIFFERENCE, WITHHELD, WORSE, Needed


def sweep(figures):
    """(arm, seed) -> runs."""
    return {f"arm{i}": dict(enumerate(map(float, row))) for i, row in enumerate(figures)}


def simulated(repeats, means, n, shared=0.1, own=0.05, seed=0):
    rng = np.random.default_rng([seed, n])
    means = np.array(means)[:, None]
    return means + shared * rng.normal(size=(repeats, 1, n)) + own * rng.normal(size=(repeats, len(means), n))


def judged(runs, **options):
    return verdicts.verdicts(runs, **(dict(lower_is_better=True, relevant=0.1) | options))


def rate_of(repeats, *said):
    """The least that a rate is by chance where it is `said` in truth: four binomial errors below."""
    return said[0] - 4 * (said[0] * (1 - said[0]) / repeats) ** 0.5


def test_two_arms_that_are_alike_show_no_difference_95_times_of_100():
    repeats = 400
    found = [judged(sweep(each))[0].verdict for each in simulated(repeats, [1, 1], 5)]
    assert found.count(NO_DIFFERENCE) / repeats > rate_of(repeats, 0.95)
    assert 0 < found.count(BETTER) < repeats / 20
    assert 0 < found.count(WORSE) < repeats / 20


def test_six_arms_that_are_alike_show_no_difference_anywhere_95_times_of_100():
    repeats = 50
    found = [
        {pair.verdict for pair in judged(sweep(each))} == {NO_DIFFERENCE} for each in simulated(repeats, [1] * 6, 5)
    ]
    assert np.mean(found) > rate_of(repeats, 0.95)


def test_a_planted_gap_is_found_with_the_power_that_was_asked_for():
    """Six arms, of which one is 10% better, with as many seeds as the known spread needs."""
    n = paired.seeds_needed(0.1 * 0.95, 0.05 * 2**0.5, alpha=0.05 / 15)
    repeats = 50
    found = [judged(sweep(each)) for each in simulated(repeats, [0.9] + [1.0] * 5, n)]
    planted = np.mean([[pair.verdict == BETTER for pair in pairs[:5]] for pairs in found], axis=0)
    assert (planted > rate_of(repeats, 0.8)).all()
    others = np.mean([any(pair.verdict != NO_DIFFERENCE for pair in pairs[5:]) for pairs in found])
    assert others < 0.05 + 4 * (0.05 * 0.95 / repeats) ** 0.5


def test_the_seeds_that_are_asked_for_are_those_that_the_power_needs():
    """On average over sweeps the spread is right, and its interval holds it 80 times of 100."""
    truth = paired.seeds_needed(0.1, 0.1 * 2**0.5)
    found = [judged(sweep(each))[0].needed for each in simulated(300, [1, 1], 5, own=0.1)]
    assert np.mean([each.at_least <= truth <= each.at_most for each in found]) > rate_of(300, 0.8)
    assert abs(np.median([each.seeds for each in found]) - truth) < 0.25 * truth


def test_a_verdict_holds_what_the_tests_of_its_pair_and_family_say():
    figures = simulated(1, [1, 1.2, 0.8], 6)[0]
    found = judged(sweep(figures), alpha=0.1)
    pairs = list(combinations(range(3), 2))
    tests = [paired.difference(figures[i], figures[j], 0.9) for i, j in pairs]
    for each, test, (i, j), p in zip(found, tests, pairs, paired.holm([test.p for test in tests]), strict=True):
        assert (each.a, each.b) == (f"arm{i}", f"arm{j}")
        assert (each.difference, each.low, each.high, each.p, each.p_holm) == (*test[:3], test.p, p)
        assert each.p_sign_flip == paired.sign_flip(figures[i] - figures[j])
        assert each.seeds == (0, 1, 2, 3, 4, 5)
        spreads = (test.spread, *paired.spread_interval(test.spread, 6))
        effect = 0.1 * figures[[i, j]].mean()
        assert each.needed == Needed(*(paired.seeds_needed(effect, float(s), 0.1 / 3) for s in spreads))
    assert [each.verdict for each in found] == [BETTER, WORSE, WORSE]
    turned = judged(sweep(figures), alpha=0.1, lower_is_better=False)
    assert [each.verdict for each in turned] == [WORSE, BETTER, BETTER]
    assert [each.verdict for each in judged(sweep(-figures), alpha=0.1)] == [WORSE, BETTER, BETTER]
    assert [each.needed for each in judged(sweep(-figures), alpha=0.1)] == [each.needed for each in found]


def gap(*, a=(), b=(), seeds=6):
    """Two arms, of which a is better by far, with other figures for some seeds; ... is a run that is missing."""
    figures = simulated(1, [0.5, 1.0], seeds)[0]
    runs = sweep(figures)
    for arm, changes in (("arm0", a), ("arm1", b)):
        runs[arm].update(changes)
        runs[arm] = {seed: figure for seed, figure in runs[arm].items() if figure is not ...}
    return figures, runs


def test_runs_that_did_not_finish_are_named_and_not_averaged():
    figures, runs = gap(a={1: float("nan"), 3: None}, b={0: ..., 4: float("-inf")})
    a, b = verdicts.arms(runs, seeds=range(7))
    assert a.fates == verdicts.Fates(finished=(0, 2, 4, 5), diverged=(1,), crashed=(3,), missing=(6,))
    assert b.fates == verdicts.Fates(finished=(1, 2, 3, 5), diverged=(4,), crashed=(), missing=(0, 6))
    assert (a.mean, a.low, a.high) == tuple(intervals.bootstrap_t(figures[0, [0, 2, 4, 5]]))
    assert b.mean == figures[1, [1, 2, 3, 5]].mean()
    assert (a, b) == tuple(verdicts.arms(runs, seeds=range(7)))
    assert a != verdicts.arms(runs, seeds=range(7), seed=1)[0]
    [found] = judged(runs, seeds=range(7))
    assert found.seeds == (2, 5)
    assert found.left_out == (0, 1, 3, 4, 6)
    assert found.difference == pytest.approx((figures[0] - figures[1])[[2, 5]].mean(), rel=1e-12)


@pytest.mark.parametrize(
    ("changes", "verdict", "reason"),
    [
        (dict(), BETTER, ""),
        (dict(b={2: float("nan"), 3: None}), BETTER, ""),  # the worse arm fails too: no doubt of the verdict
        (dict(a={2: ...}), BETTER, ""),  # was never run: says nothing about the arm
        (dict(a={2: None}, b={2: None}), BETTER, ""),  # a seed that both fail in
        (
            dict(a={2: float("nan")}),
            WITHHELD,
            "mean of arm0 is better, but leaves out seed 2: failed, and finished by arm1",
        ),
        (dict(a={2: None, 4: float("inf")}), WITHHELD, "leaves out seed 2, 4"),
    ],
)
def test_an_arm_is_not_better_for_having_failed_where_it_is_weak(changes, verdict, reason):
    [found] = judged(gap(**changes)[1])
    assert found.verdict == verdict
    assert reason in found.reason
    assert bool(reason) == bool(found.reason)
    assert found.p < 0.05


def test_one_seed_withholds_the_verdict_and_has_no_interval():
    _, runs = gap(seeds=1)
    [found] = judged(runs)
    assert (found.verdict, found.reason) == (WITHHELD, "seed 0 alone finished in both, and 2 are the least")
    assert np.isnan(found[4:10]).all()
    assert found.needed is None
    [arm, _] = verdicts.arms(runs)
    assert arm.mean == runs["arm0"][0]
    assert np.isnan([arm.low, arm.high]).all()
    assert judged({"a": {0: 1.0}, "b": {1: 2.0}})[0].reason == "no seed finished in both"
    assert np.isnan(verdicts.arms({"a": {0: None}})[0].mean)


def test_a_pair_without_a_test_costs_the_others_nothing():
    _, runs = gap()
    [alone] = judged(runs)
    beside = judged(runs | {"once": {0: 1.0}})
    assert beside[0] == alone
    assert [each.verdict for each in beside[1:]] == [WITHHELD, WITHHELD]


def test_arms_that_are_equal_and_arms_that_seeds_do_not_change():
    figures = simulated(1, [1.0], 4)[0, 0]
    runs = {"a": figures, "same": figures, "above": figures + 0.5}
    found = judged({name: dict(enumerate(map(float, row))) for name, row in runs.items()})
    assert [each.verdict for each in found] == [NO_DIFFERENCE, WITHHELD, WITHHELD]
    assert (found[0].p, found[0].difference) == (1, 0)
    assert "seeds changed nothing" in found[1].reason
    assert [each.needed for each in found] == [None] * 3


@pytest.mark.parametrize(
    ("runs", "options", "message"),
    [
        ({"a": {0: 1.0}}, {}, r"two arms or more, not on \['a'\]"),
        ({"a": {0: 1.0}, "b": {0: 2.0}}, dict(relevant=0.0), "relevant is above 0"),
        ({"a": {0: 1.0}, "b": {0: 2.0}}, dict(alpha=5.0), "between 0 and 1, not 0.1, 5.0 and 0.8"),
        ({"a": {0: 1.0}, "b": {0: 2.0}}, dict(power=1.0), "between 0 and 1"),
    ],
)
def test_what_has_no_verdict_is_refused(runs, options, message):
    with pytest.raises(ValueError, match=message):
        judged(runs, **options)


def test_a_figure_that_is_none_is_refused_by_name():
    with pytest.raises(ValueError, match=r"arm a, seed 3: '1\.0' is no figure"):
        verdicts.fate_of("a", 3, "1.0")


def test_a_relevant_difference_may_be_in_the_unit_of_the_figure():
    """Of figures around 0.1, a twentieth is 0.005, and takes many seeds; 0.05 is half of them."""
    rng = np.random.default_rng(0)
    runs = {arm: dict(enumerate(0.1 + 0.02 * rng.normal(size=6))) for arm in ("a", "b")}
    (share,) = verdicts.verdicts(runs, lower_is_better=True, relevant=0.05)
    (unit,) = verdicts.verdicts(runs, lower_is_better=True, relevant=0.05, relevant_of="one")
    assert unit._replace(needed=None) == share._replace(needed=None)
    assert unit.needed.seeds < 10 < share.needed.seeds
    mean = np.mean([list(figures.values()) for figures in runs.values()])
    (same,) = verdicts.verdicts(runs, lower_is_better=True, relevant=0.05 * mean, relevant_of="one")
    assert same == share
    with pytest.raises(ValueError, match="not of 'two'"):
        verdicts.verdicts(runs, lower_is_better=True, relevant=0.05, relevant_of="two")


def test_against_one_arm_there_are_fewer_pairs_to_correct_for():
    rng = np.random.default_rng(0)
    runs = {arm: dict(enumerate(i + 0.5 * rng.normal(size=5))) for i, arm in enumerate("abcd")}
    every = {(each.a, each.b): each for each in verdicts.verdicts(runs, lower_is_better=True, relevant=0.05)}
    against = verdicts.verdicts(runs, lower_is_better=True, relevant=0.05, against="d")
    assert [(each.a, each.b) for each in against] == [("a", "d"), ("b", "d"), ("c", "d")]
    assert [each.p for each in against] == [every["a", "d"].p, every["b", "d"].p, every["c", "d"].p]
    assert all(each.p_holm <= every[each.a, each.b].p_holm for each in against)
    assert against[0].p_holm < every["a", "d"].p_holm
    with pytest.raises(ValueError, match="there is no arm e to compare with: there are a, b, c, d"):
        verdicts.verdicts(runs, lower_is_better=True, relevant=0.05, against="e")
