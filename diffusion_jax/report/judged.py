"""What the figures say of the arms: means, intervals, verdicts, and sentences about them."""

from typing import NamedTuple

from diffusion_jax.evaluation import sentences, verdicts
from diffusion_jax.report import findings
from diffusion_jax.report.findings import Sweep


class Result(NamedTuple):
    """One figure, judged. verdicts: none where it has no better side, or there is one arm."""

    measured: findings.Measured
    arms: list[verdicts.Arm]
    verdicts: list[verdicts.Verdict]


def results(sweep: Sweep) -> list[Result]:
    """Every figure, the deciding one first; each is a family of pairs of its own, unless runs were measured apart."""
    made = []
    for each in findings.measured(sweep):
        values = {arm: figures for arm, figures in each.values.items() if figures}
        seeds = range(sweep.seeds)
        pairs = []
        if each.about["better"] and len(values) > 1 and not each.apart:
            pairs = verdicts.verdicts(
                values,
                seeds,
                lower_is_better=each.about["better"] == "lower",
                relevant=each.about["relevant"],
                relevant_of=each.about["relevant_of"],
                against=sweep.against if sweep.against in values else None,
            )
        made.append(Result(each, verdicts.arms(values, seeds), pairs))
    return made


def undone(sweep: Sweep) -> list[str]:
    """What is not as it should be with the runs, a sentence each."""
    told = []
    for state, words in (
        ("failed", "crashed"),
        ("diverged", "diverged"),
        ("waiting", "not begun, or not done"),
        ("left", "stopped before their end"),
        ("running", "still trained"),
    ):
        runs = [run for run in sweep.runs.values() if run.state == state]
        if runs:
            told.append(f"{_runs(runs)} of {len(sweep.runs)}: {words}.")
    if damaged := [run.damaged for run in sweep.runs.values() if run.damaged]:
        told.append(f"Not read: {'; '.join(damaged)}. Such runs count as missing.")
    if unmeasured := [run for run in sweep.runs.values() if run.state == "done" and not run.record and not run.damaged]:
        told.append(f"{_runs(unmeasured)} of {len(sweep.runs)}: trained and not measured.")
    return told


def sentences_of(sweep: Sweep, result: Result, most: int = 20) -> list[str]:
    """What to say first of a figure: the arms that were shown to differ, and how many pairs were not."""
    if result.measured.apart:
        return [f"Runs were not measured alike, so there is no verdict: {result.measured.apart}."]
    if sweep.seeds < 2:
        return ["One seed: no verdict, since nothing tells the arms' difference from that of two seeds."]
    shown = [verdict for verdict in result.verdicts if verdict.verdict in (verdicts.BETTER, verdicts.WORSE)]
    withheld = [verdict for verdict in result.verdicts if verdict.verdict == verdicts.WITHHELD]
    lines = [sentences.of_verdict(verdict) for verdict in shown[:most]]
    if len(shown) > most:
        lines.append(f"and {len(shown) - most} pairs more that differ")
    others = len(result.verdicts) - len(shown) - len(withheld)
    if others and len(result.verdicts) <= most:
        same = (verdict for verdict in result.verdicts if verdict.verdict == verdicts.NO_DIFFERENCE)
        lines += [sentences.of_verdict(verdict) for verdict in same]
    elif others:
        lines.append(f"{others} of {len(result.verdicts)} pairs: no difference shown")
    lines += [sentences.of_verdict(verdict) for verdict in withheld[:most]]
    return lines or ["One arm: there is nothing to compare."]


def winners(result: Result) -> set[str]:
    """The arms that are better than some other, and worse than none."""
    won, lost = set(), set()
    for each in result.verdicts:
        if each.verdict == verdicts.BETTER:
            won.add(each.a), lost.add(each.b)
        elif each.verdict == verdicts.WORSE:
            won.add(each.b), lost.add(each.a)
    return won - lost


def _runs(runs: list[findings.Run]) -> str:
    names = ", ".join(f"{run.arm} seed {run.seed}" for run in runs[:6])
    return f"{names}{f' and {len(runs) - 6} more' if len(runs) > 6 else ''}: {len(runs)} run{'s'[: len(runs) > 1]}"
