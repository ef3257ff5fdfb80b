"""Which example comes when, and every other random choice of the data, as arithmetic on (seed, position).

Nothing is stored and nothing depends on what was asked before, so any process can compute any batch.
(grain's own index shuffle does the same for one index at a time, at 11 us for a million examples and 120 us for a few
hundred; here a whole batch is done at once.)
"""

import numpy as np

_ROUNDS = 6


def shuffled(positions: np.ndarray, length: int, seed: int) -> np.ndarray:
    """The example (int64, in [0, length)) at each position (int64, >= 0) of endless epochs, each in a new order.

    Epoch e is positions [e * length, (e + 1) * length) and holds every example once: a Feistel network permutes the
    next power of two, and what falls outside the length is permuted again until it falls inside.
    Reference: Black and Rogaway 2002, "Ciphers with Arbitrary Finite Domains".
    """
    epochs, places = np.divmod(np.asarray(positions, np.uint64), np.uint64(length))
    keys = mixed(epochs, seed, "order")
    bits = (length - 1).bit_length()
    found = _feistel(places, keys, bits)
    while (outside := found >= np.uint64(length)).any():
        found[outside] = _feistel(found[outside], keys[outside], bits)
    return found.astype(np.int64)


def uniform(positions: np.ndarray, seed: int, purpose: str) -> np.ndarray:
    """A float64 in [0, 1) for each position, independent between seeds and purposes."""
    return (mixed(np.asarray(positions, np.uint64), seed, purpose) >> np.uint64(11)) * 2.0**-53


def mixed(values: np.ndarray, seed: int, purpose: str) -> np.ndarray:
    """uint64 values scattered over all 64 bits, differently for each seed (>= 0) and purpose."""
    start = np.array([int.from_bytes(purpose.encode()[:8], "little")], np.uint64)
    return _scatter(values + _scatter(start + _scatter(np.array([seed], np.uint64))))


def _feistel(values: np.ndarray, keys: np.ndarray, bits: int) -> np.ndarray:
    """A permutation of [0, 2**bits) chosen by each value's key: one half of the bits changes the other, in turn."""
    half = np.uint64(bits // 2)
    low_mask, high_mask = np.uint64((1 << bits // 2) - 1), np.uint64((1 << (bits - bits // 2)) - 1)
    high, low = values >> half, values & low_mask
    for number in range(_ROUNDS // 2):
        high = high ^ (_scatter(low + keys + np.uint64(number << 56)) & high_mask)
        low = low ^ (_scatter(high + keys + np.uint64((number + 8) << 56)) & low_mask)
    return (high << half) | low


def _scatter(x: np.ndarray) -> np.ndarray:
    """SplitMix64's finalizer (Steele, Lea and Flood 2014): every input bit changes half of the output bits."""
    x = x + np.uint64(0x9E3779B97F4A7C15)
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))
