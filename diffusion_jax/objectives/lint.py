"""What is likely a mistake in an objective, or in how its network is sampled; and which two are one."""

import itertools
from collections.abc import Iterator, Sequence

import numpy as np

from diffusion_jax.objectives.sheet import DRAWS, EDGES, WIDTH, Sheet

RARE = 1e-3  # a share of the training levels that is as good as none
MANY = 0.05  # and one that is not to be wasted
ENOUGH = 400  # draws in a bin, from which its height is known to 5%


def lint(sheet: Sheet) -> Iterator[str]:
    """A line for each thing that is likely a mistake."""
    for check in (
        _starts_from_noise,
        _trained_but_never_called,
        _called_but_never_trained,
        _schedule_in_float32,
        _rounding,
    ):
        yield from (f"{sheet.title}: {line}" for line in check(sheet))


def _starts_from_noise(sheet: Sheet) -> Iterator[str]:
    snr, pixels = np.exp(sheet.log_snr[-1]), sheet.resolution**2
    if snr * pixels > 1:
        yield (
            f"at t = 1 the SNR is {snr:.2g}, and that of the mean of {pixels} pixels {snr * pixels:.2g}: a picture's "
            "color still shows, but samplers start from noise alone. Shift the schedule, or give it zero_terminal_snr"
        )


def _trained_but_never_called(sheet: Sheet) -> Iterator[str]:
    trained = np.concatenate([[0.0], np.cumsum(sheet.density * WIDTH)])
    noisier = np.interp(sheet.called[0], EDGES, trained)
    cleaner = np.interp(sheet.called[-1], EDGES, trained[-1] - trained)
    for share, side in ((noisier, "more noise"), (cleaner, "less noise")):
        if share > MANY:
            yield (
                f"{share:.0%} of the training is on pictures with {side} than the sampler ever meets: its log_snr goes "
                f"from {sheet.called[0]:.3g} to {sheet.called[-1]:.3g}"
            )


def _called_but_never_trained(sheet: Sheet) -> Iterator[str]:
    trained = np.cumsum(sheet.density) / sheet.density.sum()
    low, high = np.interp([RARE, 1 - RARE], trained, EDGES[1:])
    strange = sheet.called[(sheet.called < low - 2 * WIDTH) | (sheet.called > high + 2 * WIDTH)]
    if len(strange):
        yield (
            f"{len(strange)} of {len(sheet.called)} calls of the sampler are at noise that is hardly ever trained on: "
            f"log_snr {', '.join(f'{level:.3g}' for level in strange[:4])}; training goes from {low:.3g} to {high:.3g}"
        )


def _schedule_in_float32(sheet: Sheet) -> Iterator[str]:
    if not sheet.lost < 0.05:
        yield f"computed in float32, log_snr is off by {sheet.lost:.2g}: narrow its range"


def _rounding(sheet: Sheet) -> Iterator[str]:
    if sheet.rounding > 0.1:
        yield (
            f"rounding what the network says is an error of {sheet.rounding:.2g} in x_0 at the sampler's first call. "
            "Predict v or x_0, which are not multiplied there, or begin with less noise"
        )


def same(sheets: Sequence[Sheet]) -> Iterator[str]:
    """A line for each two that are one objective: one prediction, and weights that differ by a factor alone."""
    for one, other in itertools.combinations(sheets, 2):
        counts = np.stack([one.density, other.density]) * WIDTH * DRAWS
        often = counts.min(0) > ENOUGH
        if (counts * often).sum(1).min() < (1 - MANY) * DRAWS:
            continue  # they are not trained at the same levels
        ratio = np.log(one.weight[often] / other.weight[often])
        error = np.sqrt((1 / counts[:, often]).sum(0))
        factor = np.average(ratio, weights=error**-2)
        distance = np.mean(((ratio - factor) / error) ** 2)  # about 1 for two draws of one law
        if distance < 1 + 5 * np.sqrt(2 / often.sum()) and _proportional(
            one.prediction[:, often], other.prediction[:, often]
        ):
            times = "" if abs(factor) < 0.02 else f", but for a factor of {np.exp(factor):.3g} in the loss"
            yield f"{one.title} and {other.title} are one objective{times}"


def _proportional(one, other) -> bool:
    factor = (one * other).sum() / (other * other).sum()
    return np.allclose(one, factor * other, atol=1e-3 * abs(one).max())
