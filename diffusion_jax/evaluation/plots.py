"""The curves of a run: does the loss fall, and does the text help?"""

import json
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from diffusion_jax.files import write_whole

MATCHED, SHUFFLED, QUIET = "#1b6ca8", "#d1603d", "#bbbbbb"
INTERVAL = 1.96  # standard errors: 95 of 100 such bands hold the mean


def training_curves(metrics: str | Path, out: str | Path) -> None:
    """Draw training loss, held-out error with right and wrong captions, and the gap between these, to a PNG.

    metrics: the run's metrics.jsonl, whose records have "step" and train/loss, validation/matched, validation/shuffled,
    validation/gap, validation/gap_standard_error. A series that is missing or short leaves its panel empty or short.
    Raises FileNotFoundError when there is no such file.
    """
    records = read_records(Path(metrics))
    figure = Figure(figsize=(13, 3.8), layout="constrained")
    left, middle, right = figure.subplots(1, 3)
    draw_loss(left, *series(records, "train/loss"))
    for name, color, words in (("matched", MATCHED, "right captions"), ("shuffled", SHUFFLED, "others' captions")):
        steps, errors = series(records, f"validation/{name}")
        if len(steps):
            middle.plot(steps, errors, color=color, label=words, marker="o", markersize=3)
    draw_gap(right, records, "validation", SHUFFLED, "on held-out pictures")
    draw_gap(right, records, "seen", MATCHED, "on training pictures")
    finish(left, "training loss", "loss")
    finish(middle, "held-out pictures", "error of x_0")
    finish(right, "the error that the right caption saves", "difference of the errors")
    write_whole(Path(out), lambda file: figure.savefig(file, format="png", dpi=110))


def read_records(path: Path) -> list[dict]:
    """The JSON records of a file, less a line that a kill cut short."""
    records = []
    for line in path.read_text("utf-8").splitlines():
        try:
            record = json.loads(line)
        except json.JSONDecodeError:
            continue
        if isinstance(record, dict) and "step" in record:
            records.append(record)
    return records


def series(records: list[dict], name: str) -> tuple[np.ndarray, np.ndarray]:
    """(steps, values) of the records that have a finite number of this name."""
    points = [(r["step"], r[name]) for r in records if isinstance(r.get(name), int | float) and np.isfinite(r[name])]
    steps, values = np.array(points, float).reshape(-1, 2).T
    return steps, values


def smoothed(values: np.ndarray, width: int) -> np.ndarray:
    """The mean over `width` points around each, or over as many of them as there are near the ends."""
    sums, places = np.concatenate([[0.0], np.cumsum(values)]), np.arange(len(values))
    first, last = np.maximum(places - width // 2, 0), np.minimum(places + width // 2 + 1, len(values))
    return (sums[last] - sums[first]) / (last - first)


def draw_loss(axes, steps: np.ndarray, values: np.ndarray) -> None:
    if not len(values):
        return
    axes.plot(steps, values, color=QUIET, linewidth=0.8, label="as logged")
    marker = "o" if len(values) < 5 else None
    axes.plot(steps, smoothed(values, len(values) // 20), color=MATCHED, label="smoothed", marker=marker)
    high, low = np.percentile(values[len(values) // 20 :], [99.5, 0])
    if high > low > 0:  # the first steps' height would hide the rest
        axes.set_ylim(low * 0.9, high * 1.1)


def draw_gap(axes, records: list[dict], title: str, color: str, words: str) -> None:
    """The gap on one set of pictures with its 95% band: above zero, the model listens to its text."""
    axes.axhline(0, color=QUIET, linewidth=1)
    steps, gaps = series(records, f"{title}/gap")
    errors = dict(zip(*series(records, f"{title}/gap_standard_error"), strict=True))
    if not len(gaps):
        return
    band = INTERVAL * np.array([errors.get(step, 0.0) for step in steps])
    axes.plot(steps, gaps, color=color, marker="o", markersize=3, label=f"{words}, with 95% band")
    axes.fill_between(steps, gaps - band, gaps + band, color=color, alpha=0.25, linewidth=0)
    axes.errorbar(steps[-1:], gaps[-1:], band[-1:], color=color, capsize=4)


def finish(axes, title: str, label: str) -> None:
    axes.set_title(title, fontsize=11)
    axes.set_xlabel("step")
    axes.set_ylabel(label)
    axes.grid(alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)
    if axes.get_legend_handles_labels()[0]:
        axes.legend(frameon=False, fontsize=9)
    else:
        axes.text(0.5, 0.5, "nothing measured yet", transform=axes.transAxes, ha="center", color=QUIET)
