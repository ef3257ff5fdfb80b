"""The figures of a report, each with its data: arms with intervals, curves with bands, one figure over another."""

import io
from collections.abc import Sequence
from textwrap import fill
from typing import NamedTuple

import matplotlib as mpl
import numpy as np
from matplotlib.figure import Figure as Canvas

from diffusion_jax.evaluation import intervals
from diffusion_jax.evaluation.plots import QUIET, series, smoothed
from diffusion_jax.report.findings import Sweep
from diffusion_jax.report.judged import Result
from diffusion_jax.report.tables import as_csv

COLORS = ("#1b6ca8", "#d1603d", "#3a8f5c", "#8a5fa8", "#b8892b", "#4fa3b8", "#a34d6d", "#6d6d6d")
LINES = ("-", "--", ":", "-.")
WIDE = 52  # letters in a line of a label
MOST_LINES = 12  # arms in one plot of curves: more are told apart by nobody


class Figure(NamedTuple):
    """name: of its files. section: the part of the page that it stands in. data: CSV."""

    name: str
    section: str
    title: str
    svg: bytes
    png: bytes
    data: str


def all_of(sweep: Sweep, results: Sequence[Result]) -> list[Figure]:
    """Every figure that there is something to draw in."""
    made = [_forest(result, "arms" if i == 0 else "also") for i, result in enumerate(results)]
    made += _trainings(sweep)
    made += _curves(sweep)
    made += _trades(sweep, results)
    return [figure for figure in made if figure]


def style(number: int) -> dict:
    """The color and line of an arm, the same in all plots."""
    return dict(color=COLORS[number % len(COLORS)], linestyle=LINES[number // len(COLORS) % len(LINES)])


def _forest(result: Result, section: str) -> Figure | None:
    """Each arm's seeds, mean and interval, and what real pictures score."""
    known = [arm for arm in result.arms if arm.fates.finished]
    if not known:
        return None
    canvas = Canvas(figsize=(5.6, 1.1 + 0.3 * len(known)), layout="constrained")
    axes, about, rows = canvas.subplots(), result.measured.about, []
    for row, arm in enumerate(known):
        values = [result.measured.values[arm.name][seed] for seed in arm.fates.finished]
        axes.plot(values, [row] * len(values), ".", color=QUIET, markersize=6)
        if len(values) > 1:
            axes.plot([arm.low, arm.high], [row, row], color=COLORS[0], linewidth=2)
        axes.plot([arm.mean], [row], "o", color=COLORS[0], markersize=5)
        rows += [[arm.name, seed, value] for seed, value in zip(arm.fates.finished, values, strict=True)]
    low, high = axes.get_xlim()
    if about.get("floor") is not None and low - (high - low) / 2 < about["floor"] < high + (high - low) / 2:
        axes.axvline(about["floor"], color=COLORS[2], linestyle=":", label="real pictures")
        axes.legend(frameon=False, fontsize=9)
    axes.set_yticks(range(len(known)), [arm.name for arm in known])
    axes.invert_yaxis()
    better = f" ({about['better']} is better)" if about["better"] else ""
    axes.set_xlabel(fill(f"{about['title']}{better}", WIDE))
    _finish(axes)
    name = f"arms_{result.measured.name.replace('/', '_')}"
    title = f"{about['title']}: seeds (gray), mean and 95% interval of each arm"
    return _drawn(canvas, name, section, title, as_csv(("arm", "seed", "value"), rows))


def _trainings(sweep: Sweep) -> list[Figure | None]:
    """Loss, held-out error and caption gap over steps, the mean over seeds and its 95% interval."""
    kinds = (
        ("train/loss", "training loss", "training loss (smoothed), which compares only arms whose loss is one"),
        ("validation/matched", "error of x_0", "error on held-out pictures while training"),
        ("validation/gap", "error of x_0", "what wrong captions add to the error while training"),
    )
    made = []
    for key, label, title in kinds:
        by_arm = {}
        for arm in sweep.arms:
            runs = [run for (name, _), run in sweep.runs.items() if name == arm and run.state == "done"]
            found = [series(run.metrics, key) for run in runs]
            found = [(steps, values) for steps, values in found if len(steps)]
            if found:
                by_arm[arm] = _on_one_axis(found, smooth=key == "train/loss")
        made.append(_lines(sweep, by_arm, f"training_{key.replace('/', '_')}", "curves", title, "step", label))
    return made


def _curves(sweep: Sweep) -> list[Figure | None]:
    """What measures found along an axis of their own, such as the error by level."""
    names: dict[str, dict] = {}
    for run in sweep.runs.values():
        for name, curve in (run.record or {}).get("curves", {}).items():
            names.setdefault(name, curve)
    made = []
    for name, about in names.items():
        by_arm: dict[str, list] = {}
        for (arm, _), run in sweep.runs.items():
            curve = (run.record or {}).get("curves", {}).get(name)
            if curve and None not in curve["y"]:
                by_arm.setdefault(arm, []).append((np.array(curve["x"], float), np.array(curve["y"], float)))
        merged = {arm: _on_one_axis(found) for arm, found in by_arm.items()}
        told = (about["title"], about["x_title"], about["y_title"])
        made.append(_lines(sweep, merged, f"curve_{name.replace('/', '_')}", "curves", *told))
    return made


def _on_one_axis(found: Sequence[tuple], smooth: bool = False) -> tuple[np.ndarray, np.ndarray]:
    """(x, values (x, seed)) at the points that all seeds have."""
    shared = found[0][0]
    for x, _ in found[1:]:
        shared = np.intersect1d(shared, x)
    columns = [y[np.isin(x, shared)] for x, y in found]
    if smooth:
        columns = [smoothed(y, max(len(y) // 15, 1)) for y in columns]
    return shared, np.stack(columns, axis=1)


def _lines(
    sweep: Sweep, by_arm: dict, name: str, section: str, title: str, x_title: str, y_title: str
) -> Figure | None:
    """The mean of each arm as a line, and its 95% interval as a band where there are seeds for one."""
    by_arm = {arm: each for arm, each in by_arm.items() if len(each[0]) > 1}
    if not by_arm:
        return None
    canvas, rows = Canvas(figsize=(5.6, 3.6), layout="constrained"), []
    axes, numbers = canvas.subplots(), {arm: i for i, arm in enumerate(sweep.arms)}
    for arm, (x, values) in by_arm.items():
        mean, low, high = values.mean(1), *([np.full(len(x), np.nan)] * 2)
        if values.shape[1] > 1:
            _, low, high = intervals.student_t(values)
        rows += [[arm, *row] for row in zip(x, mean, low, high, strict=True)]
        if len(rows) and len({row[0] for row in rows}) <= MOST_LINES:
            axes.plot(x, mean, label=arm, linewidth=1.6, **style(numbers[arm]))
            axes.fill_between(x, low, high, color=style(numbers[arm])["color"], alpha=0.15, linewidth=0)
    axes.set_xlabel(x_title)
    axes.set_ylabel(y_title)
    _finish(axes)
    axes.legend(frameon=False, fontsize=8, ncols=2)
    if len(by_arm) > MOST_LINES:
        title += f" (the first {MOST_LINES} arms; all are in the CSV)"
    data = as_csv(("arm", x_title, "mean", "low", "high"), rows)
    return _drawn(canvas, name, section, f"{title}: mean over seeds, 95% interval", data)


def _trades(sweep: Sweep, results: Sequence[Result]) -> list[Figure | None]:
    """The first figures of two measures against each other; and the deciding one against what drawing costs."""
    firsts: dict[str, Result] = {}
    for result in results:
        firsts.setdefault(result.measured.name.split("/")[0], result)
    first, *others = firsts.values()
    made = [
        _trade(sweep, f"{first.measured.name} over {other.measured.name}", _means(other), _means(first),
               other.measured.about["title"], first.measured.about["title"])
        for other in others
    ]  # fmt: skip
    for axis, words in (("nfe", "network calls a picture"), ("seconds_per_picture", "seconds a picture")):
        at = {}
        for (arm, _), run in sweep.runs.items():
            value = (run.record or {}).get("axes", {}).get(axis)
            if value is not None:
                at.setdefault(arm, []).append(value)
        medians = {arm: (float(np.median(values)),) * 3 for arm, values in at.items()}
        if len({round(x, 9) for x, *_ in medians.values()}) > 1 and _differ_in_drawing(sweep):
            title = first.measured.about["title"]
            made.append(_trade(sweep, f"{first.measured.name} over {axis}", medians, _means(first), words, title))
    return made


def _differ_in_drawing(sweep: Sweep) -> bool:
    """Whether arms differ in how they draw: else the seconds of drawing differ by chance alone."""
    return any(line.startswith("sampling.") for differs in sweep.arms.values() for line in differs)


def _means(result: Result) -> dict[str, tuple[float, float, float]]:
    return {arm.name: (arm.mean, arm.low, arm.high) for arm in result.arms if arm.fates.finished}


def _trade(sweep: Sweep, name: str, across: dict, up: dict, x_title: str, y_title: str) -> Figure | None:
    """Arms as points; those of one kind, whose names are one but for what stands after the last dash, on a line."""
    arms = [arm for arm in sweep.arms if arm in across and arm in up]
    if len(arms) < 2:
        return None
    canvas = Canvas(figsize=(5.6, 4.4), layout="constrained")
    axes = canvas.subplots()
    kinds: dict[str, list[str]] = {}
    for arm in arms:
        kinds.setdefault(arm.rpartition("-")[0] or arm, []).append(arm)
    for number, (kind, members) in enumerate(kinds.items()):
        x, y = (np.array([each[arm] for arm in members]) for each in (across, up))
        look = style(number)
        for point, (of_x, of_y) in enumerate(zip(x, y, strict=True)):
            axes.plot(of_x[1:], [of_y[0]] * 2, color=look["color"], alpha=0.4, linewidth=1)
            axes.plot([of_x[0]] * 2, of_y[1:], color=look["color"], alpha=0.4, linewidth=1)
            if len(arms) <= 24:
                last = members[point].rpartition("-")[2]
                axes.annotate(last, (of_x[0], of_y[0]), fontsize=7, xytext=(3, 3), textcoords="offset points")
        axes.plot(x[:, 0], y[:, 0], marker="o", markersize=4, linewidth=1.2, label=kind, **look)
    axes.set_xlabel(fill(x_title, WIDE))
    axes.set_ylabel(fill(y_title, WIDE))
    _finish(axes)
    axes.legend(frameon=False, fontsize=8)
    rows = [[arm, *across[arm], *up[arm]] for arm in arms]
    head = ("arm", *(f"{axis}{part}" for axis in (x_title, y_title) for part in ("", ", low", ", high")))
    files = name.replace("/", "_").replace(" ", "_")
    return _drawn(canvas, files, "trades", f"{y_title} against {x_title}", as_csv(head, rows))


def _finish(axes) -> None:
    axes.grid(alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)


def _drawn(canvas: Canvas, name: str, section: str, title: str, data: str) -> Figure:
    """The files of a figure, which are the same bytes whenever they are made."""
    svg, png = io.BytesIO(), io.BytesIO()
    with mpl.rc_context({"svg.hashsalt": name, "svg.fonttype": "path"}):
        canvas.savefig(svg, format="svg", metadata={"Date": None})
    canvas.savefig(png, format="png", dpi=130, metadata={"Software": None})
    return Figure(name, section, title, svg.getvalue(), png.getvalue(), data)
