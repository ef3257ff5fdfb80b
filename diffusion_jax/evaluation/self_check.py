"""Stored features and the distances that they must give: what to run before numbers of two machines are compared.

    found = self_check()  # {"fd": 3.9, "kid": ...}; ValueError where one is not what it must be

self_check.npz has two sets of `drawn`; self_check.json has what the distances between them are, which tests/reference
compares with torchmetrics, scikit-learn and prdc.
"""

import json
from pathlib import Path

import numpy as np

from diffusion_jax.evaluation import feature_distances

FILE = Path(__file__).with_name("self_check.npz")
EXPECTED = FILE.with_suffix(".json")
COUNT, DIM, FEW, DIGITS = 240, 24, 20, 4


def drawn(seed: int = 0) -> dict[str, np.ndarray]:
    """Two sets, float32 (240, 24): a ReLU of correlated normal numbers, and another whose law is a little off."""
    rng = np.random.default_rng(seed)
    mixing = rng.normal(size=(DIM, DIM)) / DIM**0.5
    real = rng.normal(size=(COUNT, DIM)) @ mixing
    generated = 1.1 * rng.normal(size=(COUNT, DIM)) @ mixing + 0.15
    return {"real": np.maximum(real, 0).astype(np.float32), "generated": np.maximum(generated, 0).astype(np.float32)}


def stored() -> dict[str, np.ndarray]:
    """The two sets of the file."""
    with np.load(FILE, allow_pickle=False) as file:
        return {name: file[name] for name in ("real", "generated")}


def measured(real: np.ndarray, generated: np.ndarray) -> dict[str, float]:
    """All distances of feature_distances.py by their names; few: of the first 20, which are fewer than dimensions."""
    of_real, of_generated = feature_distances.moments(real), feature_distances.moments(generated)
    few = feature_distances.moments(generated[:FEW])
    return {
        "fd": feature_distances.fd(of_real, of_generated),
        "fd_of_few": feature_distances.fd(feature_distances.moments(real[:FEW]), few),
        "fd_to_few": feature_distances.fd(of_real, few),
        "kid": feature_distances.kid(real, generated).value,
        **feature_distances.neighborhoods(real, generated)._asdict(),
    }


def self_check() -> dict[str, float]:
    """What this machine measures on the stored features. Raises ValueError where 4 digits of a number are others."""
    expected, found = json.loads(EXPECTED.read_text()), measured(**stored())
    wrong = [
        f"{name} is {found[name]:.6g}, not {value:.6g}"
        for name, value in expected.items()
        if not abs(found[name] - value) <= 0.5 * 10.0**-DIGITS * abs(value)
    ]
    if wrong:
        raise ValueError(f"this machine measures other distances than it must: {'; '.join(wrong)}")
    return found
