"""What a distance is between real pictures and real pictures: below that, samples cannot be told from real ones."""

from collections.abc import Callable
from typing import TypeVar

import numpy as np

T = TypeVar("T")


def halves(real: np.ndarray, size: int | None = None, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Two sets (size, dim) without a common one, drawn from features (n, dim); by default of half of them each.

    Raises ValueError for fewer than two sets need.
    """
    size = len(real) // 2 if size is None else size
    if size < 1 or 2 * size > len(real):
        raise ValueError(
            f"two sets of {size} need {2 * max(size, 1)} features of real pictures, and here are {len(real)}"
        )
    order = np.random.default_rng(seed).permutation(len(real))
    return real[order[:size]], real[order[size : 2 * size]]


def floor(
    distance: Callable[[np.ndarray, np.ndarray], T], real: np.ndarray, size: int | None = None, seed: int = 0
) -> T:
    """The distance of `halves`, to tell beside that of as many samples from as many real pictures.

    distance: of two sets of features, such as `kid`, or `lambda a, b: fd(moments(a), moments(b))`. Another seed draws
    other sets, and the spread over seeds tells how sure it is, though these sets overlap.
    """
    return distance(*halves(real, size, seed))
