"""The mean and covariance of features in a file, as papers publish them and as pytorch-fid writes them: an .npz.

    features = inception(weights, resizing="tensorflow")  # guided-diffusion's graph has the pictures resized inside
    reference = load_moments("VIRTUAL_imagenet256_labeled.npz", features)
    found = fd(moments(features.extract(samples)), reference)

Such a file has mu and sigma, and those of guided-diffusion (evaluations/evaluator.py) also mu_s and sigma_s, of sFID's
features, and pictures; nothing else of it is read. Nothing in it tells the network: ours tells it, and how many
features there were.
"""

import os
import zipfile
from pathlib import Path

import numpy as np

from diffusion_jax.evaluation.feature_distances import Moments
from diffusion_jax.evaluation.features import Features
from diffusion_jax.files import write_whole

OURS = ("count", "name", "digest")


def save_moments(path: str | os.PathLike, moments: Moments, features: Features) -> None:
    """Writes mu, sigma, float64, and count, name and digest. Raises ValueError for moments of another dimension."""
    if moments.mean.shape != (features.dim,):
        raise ValueError(
            f"moments of {moments.mean.size} features are none of {features.name}, which has {features.dim}"
        )
    told = {"count": moments.count, "name": features.name, "digest": features.digest}
    write_whole(path, lambda file: np.savez(file, mu=moments.mean, sigma=moments.covariance, **told))


def load_moments(
    path: str | os.PathLike, features: Features | None = None, keys: tuple[str, str] = ("mu", "sigma")
) -> Moments:
    """What `feature_distances.fd` takes, float64; its count is 0 where the file does not tell it.

    features: what it must be of: of that dimension and, where the file tells them, of that name and digest. Raises
    FileNotFoundError, and ValueError for pickles, broken files and what is no mean and covariance.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"no statistics at {path}: give an .npz with {' and '.join(keys)}")
    if path.suffix in (".pkl", ".pickle"):
        raise ValueError(f"{path} is a pickle, which may run any code when it is read: give an .npz with mu and sigma")
    try:
        with open(path, "rb") as opened, np.load(opened, allow_pickle=False) as file:
            if missing := [key for key in keys if key not in file]:
                raise ValueError(f"it has no {' and no '.join(missing)}, but {', '.join(file)}")
            mean, covariance = (np.asarray(file[key], np.float64) for key in keys)
            told = {key: file[key].item() for key in OURS if key in file}
    except (ValueError, TypeError, EOFError, OSError, zipfile.BadZipFile) as error:
        raise ValueError(f"{path} is no file of statistics: {error}") from error
    _check(path, mean, covariance)
    _check_network(path, mean.size, told, features)
    return Moments(int(told.get("count", 0)), mean, covariance)


def _check(path: Path, mean: np.ndarray, covariance: np.ndarray) -> None:
    if mean.ndim != 1 or covariance.shape != 2 * mean.shape or not mean.size:
        raise ValueError(
            f"{path} has a mean {mean.shape} and a covariance {covariance.shape}: not (dim,) and (dim, dim)"
        )
    if not (np.isfinite(mean).all() and np.isfinite(covariance).all()):
        raise ValueError(f"{path} has statistics that are not finite")


def _check_network(path: Path, dim: int, told: dict, features: Features | None) -> None:
    if features is None:
        return
    if dim != features.dim:
        raise ValueError(f"{path} is of {dim} features, and {features.name} has {features.dim}")
    for key in ("name", "digest"):
        if told.get(key, wanted := getattr(features, key)) != wanted:
            raise ValueError(f"{path} is of features whose {key} is {told[key]}, not {wanted}: another network")
