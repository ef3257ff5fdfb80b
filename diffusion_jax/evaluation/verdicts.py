"""Which arm is better, if any? From the figures of all runs of a sweep to a verdict on each pair of arms.

The figures of one metric are {arm: {seed: figure}}. None is a run that crashed, NaN or infinity one that diverged; a
seed that another arm has, or that is in `seeds`, is missing from an arm without it. None of these is averaged: they are
counted, and named. Several metrics are several families: which of them decides is to be settled before.
"""

from collections.abc import Mapping, Sequence
from itertools import combinations
from numbers import Real
from typing import NamedTuple

import numpy as np

from diffusion_jax.evaluation import intervals, paired

Runs = Mapping[str, Mapping[int, float | None]]
BETTER, WORSE, NO_DIFFERENCE, WITHHELD = "better", "worse", "no difference shown", "withheld"


class Fates(NamedTuple):
    """The seeds of an arm by what became of them."""

    finished: tuple[int, ...]
    diverged: tuple[int, ...]
    crashed: tuple[int, ...]
    missing: tuple[int, ...]


class Arm(NamedTuple):
    """The mean over the seeds that finished, and its interval: NaN where none did, or only one."""

    name: str
    mean: float
    low: float
    high: float
    fates: Fates


class Pair(NamedTuple):
    """Two arms, and what became of their seeds."""

    a: str
    b: str
    of_a: Fates
    of_b: Fates


class Needed(NamedTuple):
    """Seeds in all, at the observed spread, and at both ends of its 80% interval: few seeds do not tell it well."""

    seeds: int
    at_least: int
    at_most: int


class Verdict(NamedTuple):
    """Of arm a against arm b, over the seeds that finished in both. Figures are NaN where these are too few.

    difference, low, high: a - b, with the interval of this pair alone; it may exclude 0 where the verdict, which is
    corrected for all pairs, is NO_DIFFERENCE. p: of the paired t-test; p_holm: corrected. p_sign_flip: see paired.py.
    reason: why it is withheld. needed: the seeds that find a relevant difference; None where no spread is known.
    """

    a: str
    b: str
    verdict: str
    reason: str
    difference: float
    low: float
    high: float
    p: float
    p_holm: float
    p_sign_flip: float
    seeds: tuple[int, ...]
    left_out: tuple[int, ...]
    needed: Needed | None


def arms(runs: Runs, seeds: Sequence[int] = (), level: float = 0.95, seed: int = 0) -> list[Arm]:
    """Each arm's mean with the interval of `bootstrap_t`, which the seed makes the same each time.

    seeds: those that there ought to be. Raises ValueError as `fates_of` does.
    """
    made = []
    for name, fates in fates_of(runs, seeds).items():
        values = [float(runs[name][s]) for s in fates.finished]
        figures = (values[0] if values else np.nan, np.nan, np.nan)
        if len(values) > 1:
            figures = map(float, intervals.bootstrap_t(values, level, seed=seed))
        made.append(Arm(name, *figures, fates))
    return made


def verdicts(
    runs: Runs,
    seeds: Sequence[int] = (),
    *,
    lower_is_better: bool,
    relevant: float,
    relevant_of: str = "mean",
    against: str | None = None,
    alpha: float = 0.05,
    power: float = 0.8,
) -> list[Verdict]:
    """The verdict on each pair of arms; any of them is a wrong BETTER or WORSE with a probability of alpha at most.

    relevant: the difference that matters, above 0, as a share of the pair's "mean" (0.05 is 5%), or in the figure's own
    unit where relevant_of is "one". With the needed seeds it is found with that power, at the sharpest level that
    Holm's correction may ask for: alpha over the number of pairs. against: an arm settled before, with which alone the
    others are paired: so there are fewer pairs to correct for.
    No arm is called better where it diverged or crashed in a seed that the other finished: its mean leaves that out.
    The number of seeds is to be settled before: adding one at a time to 5 until a difference is found, or there are 10,
    finds one between arms that are alike in 11.5% of sweeps, not 5%.
    Raises ValueError for settings out of these ranges, for fewer than two arms, and as `fates_of` does.
    """
    if len(runs) < 2:
        raise ValueError(f"a verdict is on two arms or more, not on {list(runs)}")
    if not (relevant > 0 and 0 < alpha < 1 and 0 < power < 1):
        raise ValueError(f"relevant is above 0, alpha and power between 0 and 1, not {relevant}, {alpha} and {power}")
    if relevant_of not in ("mean", "one"):
        raise ValueError(f"a relevant difference is a share of the mean or one of the unit, not of {relevant_of!r}")
    if against is not None and against not in runs:
        raise ValueError(f"there is no arm {against} to compare with: there are {', '.join(runs)}")
    fates = fates_of(runs, seeds)
    couples = combinations(runs, 2) if against is None else [(arm, against) for arm in runs if arm != against]
    pairs = [Pair(a, b, fates[a], fates[b]) for a, b in couples]
    values = [np.array([[runs[arm][s] for s in _shared(pair)] for arm in pair[:2]], float) for pair in pairs]
    found = [paired.difference(*both, 1 - alpha) if both.shape[1] > 1 else None for both in values]
    corrected = paired.holm([np.nan if each is None else each.p for each in found])
    sharpest = alpha / max(np.sum(~np.isnan(corrected)), 1)
    made = []
    for pair, both, each, p_holm in zip(pairs, values, found, corrected, strict=True):
        said = _judged(pair, each, p_holm, lower_is_better, alpha)
        figures, needed = [np.nan] * 6, None
        if each is not None:
            figures = map(float, (each.mean, each.low, each.high, each.p, p_holm, paired.sign_flip(both[0] - both[1])))
            effect = relevant * abs(both.mean()) if relevant_of == "mean" else relevant
            needed = _needed(effect, each, both.shape[1], sharpest, power)
        left_out = sorted({s for fate in pair.of_a for s in fate} - {*_shared(pair)})
        made.append(Verdict(*pair[:2], *said, *figures, _shared(pair), tuple(left_out), needed))
    return made


def fates_of(runs: Runs, seeds: Sequence[int] = ()) -> dict[str, Fates]:
    """What became of each seed, in each arm. Raises ValueError for a figure that is neither a number nor None."""
    every = sorted({*seeds, *(seed for figures in runs.values() for seed in figures)})
    fates = {}
    for name, figures in runs.items():
        by_fate = {fate: [] for fate in Fates._fields}
        for seed in every:
            by_fate[fate_of(name, seed, figures[seed]) if seed in figures else "missing"].append(seed)
        fates[name] = Fates(*map(tuple, by_fate.values()))
    return fates


def fate_of(arm: str, seed: int, figure: object) -> str:
    """The field of `Fates` that a run with this figure belongs to; raises ValueError for what is no figure."""
    if figure is None:
        return "crashed"
    if not isinstance(figure, Real):
        raise ValueError(
            f"arm {arm}, seed {seed}: {figure!r} is no figure; it is a number, or None for a run that crashed"
        )
    return "finished" if np.isfinite(figure) else "diverged"


def _shared(pair: Pair) -> tuple[int, ...]:
    return tuple(s for s in pair.of_a.finished if s in pair.of_b.finished)


def _judged(
    pair: Pair, found: paired.Difference | None, p_holm: float, lower_is_better: bool, alpha: float
) -> tuple[str, str]:
    """The verdict, and the reason where it is withheld."""
    if found is None:
        alone = "".join(f"seed {s} alone finished in both, and 2 are the least" for s in _shared(pair))
        return WITHHELD, alone or "no seed finished in both"
    if np.isnan(p_holm):
        return WITHHELD, "every seed has the same difference: seeds changed nothing, so there is no spread to judge by"
    if p_holm >= alpha:
        return NO_DIFFERENCE, ""
    a_wins = bool((found.mean < 0) == lower_is_better)
    (winner, fates), (loser, of_loser) = [(pair.a, pair.of_a), (pair.b, pair.of_b)][:: 1 if a_wins else -1]
    failed = sorted({*fates.diverged, *fates.crashed} & {*of_loser.finished})
    if failed:
        which = ", ".join(map(str, failed))
        return WITHHELD, f"the mean of {winner} is better, but leaves out seed {which}: failed, and finished by {loser}"
    return (BETTER if a_wins else WORSE), ""


def _needed(effect: float, found: paired.Difference, n: int, alpha: float, power: float) -> Needed | None:
    if effect == 0 or np.isnan(found.p) or found.equal:
        return None
    spreads = (found.spread, *paired.spread_interval(found.spread, n))
    return Needed(*(paired.seeds_needed(effect, float(spread), alpha, power) for spread in spreads))
