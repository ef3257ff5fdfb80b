"""What a measure is given, and what it gives."""

from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import NamedTuple

import numpy as np
from ml_collections import ConfigDict

from diffusion_jax.experiment import Experiment


class Subject(NamedTuple):
    """A model but for its parameters. sets: as `build.fixed_sets` has them, `validation` and `seen`."""

    config: ConfigDict
    experiment: Experiment
    sets: Mapping[str, dict]


class Figure(NamedTuple):
    """A number, and what has to be known of it.

    better: "lower", "higher" or None, where neither is. n: how many of what `of` says. relevant: the difference that
    matters, a share of the mean of two arms, or in the figure's own unit where relevant_of is "one". floor: what real
    pictures score, as many of them. features: the network whose features are compared, and the digest of its weights.
    """

    value: float
    title: str
    better: str | None
    n: int
    of: str
    relevant: float = 0.05
    relevant_of: str = "mean"
    floor: float | None = None
    features: str | None = None


class Curve(NamedTuple):
    """A line through points, in numbers that a plot shows."""

    title: str
    x_title: str
    y_title: str
    x: Sequence[float]
    y: Sequence[float]


class Found(NamedTuple):
    """What one measure has found, by names such as "error"; the measure's own name comes before them."""

    figures: Mapping[str, Figure]
    curves: Mapping[str, Curve] = MappingProxyType({})


# (params, seed, drawn) -> Found. drawn: () -> uint8 pictures, one for each caption of the validation set.
Measure = Callable[..., Found]
Drawn = Callable[[], np.ndarray]
