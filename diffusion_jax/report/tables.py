"""The tables of a report, as rows of words for a page and as CSV with every digit for a spreadsheet."""

import csv
import io
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from diffusion_jax.evaluation import sentences
from diffusion_jax.evaluation.verdicts import Verdict
from diffusion_jax.report.findings import Sweep
from diffusion_jax.report.judged import Result, winners
from diffusion_jax.training.progress import duration

MOST_PAIRS = 40  # on a page; all are in pairs.csv


class Table(NamedTuple):
    """marked: the rows that stand out."""

    head: Sequence[str]
    rows: Sequence[Sequence[str]]
    marked: frozenset[int] = frozenset()


def arms(sweep: Sweep, result: Result) -> Table:
    """Mean, interval and seeds of each arm; those that are better than some other and worse than none are marked."""
    rows = []
    for arm in result.arms:
        finished, *lost = arm.fates
        interval = f"{number(arm.low)} to {number(arm.high)}" if len(finished) > 1 else "-"
        fates = "; ".join(
            f"{fate}: {', '.join(map(str, seeds))}"
            for fate, seeds in zip(arm.fates._fields[1:], lost, strict=True)
            if seeds
        )
        rows.append(
            [arm.name, number(arm.mean) if finished else "-", interval, f"{len(finished)} of {sweep.seeds}", fates]
        )
    marked = frozenset(i for i, arm in enumerate(result.arms) if arm.name in winners(result))
    return Table(("arm", "mean", "95% interval", "seeds", "seeds left out"), rows, marked)


def pairs(result: Result, most: int = MOST_PAIRS) -> Table:
    """The verdicts, those that differ first; at most so many."""
    order = sorted(result.verdicts, key=lambda each: (each.verdict == "no difference shown", _or_one(each.p_holm)))
    rows = [
        [
            f"{each.a} − {each.b}",
            number(each.difference),
            "-" if np.isnan(each.low) else f"{number(each.low)} to {number(each.high)}",
            p_value(each.p_holm),
            p_value(each.p_sign_flip),
            _said(each),
        ]
        for each in order[:most]
    ]
    return Table(("pair", "difference", "95% interval", "p (Holm)", "p (signs)", "verdict"), rows)


def costs(sweep: Sweep) -> Table:
    """What each arm took: medians over its seeds."""
    rows = []
    for arm in sweep.arms:
        runs = [run for (name, _), run in sweep.runs.items() if name == arm]
        cost = [run.record["cost"] for run in runs if run.record and run.record.get("cost")]
        trained = [run.seconds for run in runs if run.state == "done" and run.seconds > 0]
        rows.append(
            [
                arm,
                f"{cost[0]['parameters']:,}" if cost else "-",
                duration(float(np.median(trained))) if trained else "-",
                _median(cost, "network_calls_per_picture", "{:.0f}"),
                _median(cost, "seconds_per_picture", "{:.4f}"),
            ]
        )
    return Table(("arm", "parameters", "training", "network calls a picture", "seconds a picture"), rows)


def csv_files(sweep: Sweep, results: Sequence[Result]) -> dict[str, str]:
    """arms, pairs and runs, with every digit."""
    of_arms, of_pairs = [], []
    for result in results:
        name = result.measured.name
        for arm in result.arms:
            counts = [" ".join(map(str, seeds)) for seeds in arm.fates]
            of_arms.append([name, arm.name, arm.mean, arm.low, arm.high, *counts])
        for each in result.verdicts:
            needed = each.needed or ("", "", "")
            figures = (each.difference, each.low, each.high, each.p, each.p_holm, each.p_sign_flip)
            of_pairs.append([name, each.a, each.b, each.verdict, each.reason, *figures, *needed])
    names = [result.measured.name for result in results]
    of_runs = [
        [arm, seed, run.state, run.seconds, *(result.measured.values[arm].get(seed, "") for result in results)]
        for (arm, seed), run in sweep.runs.items()
    ]
    fates = ("finished", "diverged", "crashed", "missing")
    counts = ("seeds_needed", "seeds_needed_at_least", "seeds_needed_at_most")
    tests = ("difference", "low", "high", "p", "p_holm", "p_sign_flip")
    return {
        "arms": as_csv(("figure", "arm", "mean", "low", "high", *fates), of_arms),
        "pairs": as_csv(("figure", "a", "b", "verdict", "reason", *tests, *counts), of_pairs),
        "runs": as_csv(("arm", "seed", "state", "seconds", *names), of_runs),
    }


def as_csv(head: Sequence[str], rows: Sequence[Sequence]) -> str:
    """Comma-separated values, with lines that end as they do everywhere."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(head)
    writer.writerows(rows)
    return out.getvalue()


def number(value: float) -> str:
    """Four digits."""
    return "-" if value is None or np.isnan(value) else f"{value:.4g}"


def p_value(p: float) -> str:
    """Two digits, and no more zeros than mean anything."""
    return "-" if np.isnan(p) else "< 0.0001" if p < 1e-4 else f"{p:.2g}"


def _said(each: Verdict) -> str:
    """The verdict without what stands in the other columns."""
    line = sentences.of_verdict(each).removeprefix(f"{each.a} against {each.b}: ")
    return f"{each.a} is {each.verdict}" if each.verdict in ("better", "worse") else line


def _or_one(p: float) -> float:
    return 1.0 if np.isnan(p) else p


def _median(costs: Sequence[dict], name: str, form: str) -> str:
    values = [cost[name] for cost in costs if cost.get(name) is not None]
    return form.format(float(np.median(values))) if values else "-"
