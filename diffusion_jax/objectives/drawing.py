"""Objectives on one picture."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from diffusion_jax.files import write_whole
from diffusion_jax.objectives.sheet import LEVELS, TIMES, WIDTH, Sheet

COLORS = ("#1b6ca8", "#d1603d", "#3f8f5b", "#7a5195", "#b58900", "#444444", "#d33682", "#2aa198")


def draw(sheets: Sequence[Sheet], out: str | Path) -> None:
    """Write the PNG: schedule, scaling, training levels, effective weight and the sampler's levels of each."""
    figure = Figure(figsize=(13, 7.6), layout="constrained")
    (levels, scaling, places), (density, weight, words) = figure.subplots(2, 3)
    drawn = np.any([sheet.density > 0 for sheet in sheets], axis=0)
    ends = [*LEVELS[drawn][[0, -1]], *(level for sheet in sheets for level in sheet.called[[0, -1]])]
    for row, sheet in enumerate(sheets):
        color = COLORS[row % len(COLORS)]
        alpha, sigma = sheet.alpha_sigma
        levels.plot(TIMES, sheet.log_snr, color=color)
        scaling.plot(TIMES, alpha, color=color)
        scaling.plot(TIMES, np.where(sigma <= 2, sigma, np.nan), color=color, linestyle="--")
        density.step(LEVELS, sheet.density, color=color, where="mid")
        of_v = sheet.weight / (1 + np.exp(-LEVELS))  # on eps, nearly all of it would stand at the left end
        weight.step(LEVELS, of_v / (of_v.sum() * WIDTH), color=color, where="mid")
        places.plot(sheet.called, np.full(len(sheet.called), -row), "|", color=color, markersize=14)
        words.text(0, 1 - 0.09 * row, sheet.title, color=color, fontsize=12, va="top", transform=words.transAxes)
    _finish(levels, "schedule", "t", "log_snr")
    _finish(scaling, "alpha_t, and sigma_t dashed (to 2)", "t", "")
    _finish(places, "where the sampler calls the network", "log_snr", "")
    _finish(density, "density of the training levels", "log_snr", "")
    _finish(weight, "effective weight of the error in v, with area 1", "log_snr", "")
    places.set_yticks([])
    places.set_ylim(-len(sheets), 1)
    words.axis("off")
    for axes in (places, density, weight):
        axes.set_xlim(min(ends) - 1, max(ends) + 1)
    write_whole(Path(out), lambda file: figure.savefig(file, format="png", dpi=100))


def _finish(axes, title: str, across: str, up: str) -> None:
    axes.set_title(title, fontsize=11)
    axes.set_xlabel(across)
    axes.set_ylabel(up)
    axes.grid(alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)
