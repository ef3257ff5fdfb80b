"""At which noise levels does the denoiser err? The held-out error in bins of log_snr, with an interval for each.

    log_snr = strata(count, bins=8, low=-8.0, high=8.0)  # a column of the set, beside image, tokens, mask and place
    errors = np.concatenate([error(params, batch) for batch in ...])  # `make_level_error`, in eps
    summarize(in_units(errors, log_snr, "v"))

Two models see the same levels and noise, so `paired.difference(a.T, b.T)` of their errors compares them bin by bin.
"""

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from diffusion_jax.diffusion import keys as random_keys
from diffusion_jax.diffusion.loss import eps_error
from diffusion_jax.evaluation import intervals

SEED = 0
# From a squared error in eps to one in ..., by log_snr. v = alpha_t eps - sigma_t x_0 with alpha_t^2 + sigma_t^2 = 1,
# whatever the schedule, so that models of different schedules are compared in one unit.
UNITS = {
    "eps": np.ones_like,
    "x_0": lambda log_snr: np.exp(-log_snr),
    "v": lambda log_snr: 1 + np.exp(-log_snr),
}


class ByLevel(NamedTuple):
    """bins: an interval of the mean for each bin; overall: of the mean over bins. n: how many pictures."""

    bins: intervals.Interval
    overall: intervals.Interval
    n: int


def edges(bins: int, low: float, high: float) -> np.ndarray:
    """The bins + 1 borders of equal bins of log_snr. Raises ValueError where there is none."""
    if bins < 1 or not low < high:
        raise ValueError(f"no {bins} bins of log_snr from {low:g} to {high:g}: take 1 or more, from low to high")
    return np.linspace(low, high, bins + 1)


def strata(count: int, bins: int, low: float, high: float, seed: int = SEED) -> np.ndarray:
    """log_snr of each picture in each bin, float32 (count, bins): evenly spread over the bin by all of them together.

    In bin b picture i has the quantile (order_b(i) + u) / count: the order is drawn for the bin, u by the picture.
    So the mean over pictures is that over the bin as well. Raises ValueError as `edges` does, or for no pictures.
    """
    if count < 1:
        raise ValueError(f"no levels for {count} pictures: take 1 or more")
    borders = edges(bins, low, high)
    given, columns = random_keys.for_purpose(_keys(np.arange(count), seed), "level"), []
    for b in range(bins):
        key = random_keys.for_purpose(jax.random.fold_in(jax.random.key(seed), b), "order")
        order = np.asarray(jax.random.permutation(key, count))
        u = np.asarray(random_keys.uniform(random_keys.folded(given, b)), np.float64)
        columns.append(borders[b] + (borders[b + 1] - borders[b]) * (order + u) / count)
    return np.stack(columns, axis=1).astype(np.float32)


def make_level_error(network: Callable, encode: Callable, schedule, parameterization, seed: int = SEED) -> Callable:
    """A pure function (params, batch) -> squared errors in eps, (batch, bin), the mean over pixels and channels.

    network: (params) -> Network; encode: (params, tokens, mask) -> Cond. batch: image (uint8), tokens, mask, each
    picture's place among all, and its log_snr (batch, bin) of `strata`. The noise is a function of place and bin.
    """

    def level_error(params, batch):
        x_0 = batch["image"].astype(jnp.float32) / 127.5 - 1
        cond = encode(params, batch["tokens"], batch["mask"])
        keys = random_keys.for_purpose(_keys(batch["place"], seed), "noise")
        error_of = partial(eps_error, network(params), schedule=schedule, parameterization=parameterization)

        def in_bin(each):
            index, log_snr = each
            return error_of(x_0, random_keys.normal(random_keys.folded(keys, index), x_0.shape[1:]), log_snr, cond)

        levels = batch["log_snr"].T
        return jax.lax.map(in_bin, (jnp.arange(len(levels)), levels)).T

    return level_error


def in_units(errors: np.ndarray, log_snr: np.ndarray, unit: str) -> np.ndarray:
    """Squared errors in eps as those in "eps", "x_0" or "v", float64. Raises ValueError for another unit or shape."""
    if unit not in UNITS:
        raise ValueError(f"errors have no unit {unit!r}: choose one of {', '.join(UNITS)}")
    errors, log_snr = np.asarray(errors, np.float64), np.asarray(log_snr, np.float64)
    if errors.shape != log_snr.shape:
        raise ValueError(f"each error has its level, but errors are {errors.shape} and levels {log_snr.shape}")
    return errors * UNITS[unit](log_snr)


def summarize(errors: np.ndarray, level: float = 0.95) -> ByLevel:
    """The mean error of each bin and over all bins, from errors (picture, bin), with Student's intervals over pictures.

    These take the levels for drawn independently, and so are rather too wide: spread evenly, they vary less.
    Raises ValueError as `intervals.checked` does.
    """
    errors = np.asarray(errors, np.float64)
    return ByLevel(intervals.student_t(errors.T, level), intervals.student_t(errors.mean(axis=1), level), len(errors))


def _keys(places, seed: int):
    return jax.vmap(jax.random.fold_in, (None, 0))(jax.random.key(seed), places)
