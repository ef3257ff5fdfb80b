"""FID's own features: those of Inception-v3 before its classifier, with weights that the user gives.

    features = inception("weights/pt_inception-2015-12-05-6726825d.pth")
    found = fd(moments(features.extract(photographs)), moments(features.extract(samples)))  # FID, if both are many

FID depends on how pictures get their 299 pixels as much as on many models' differences, so it is part of the name.
"""

import hashlib
import os
import re
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from diffusion_jax.evaluation.features import Features, check_batch, extract, resized
from diffusion_jax.files import folder_at
from diffusion_jax.interop import inception_layout
from diffusion_jax.interop.state import load_state
from diffusion_jax.models import inception as network

PUBLISHED = "pt_inception-2015-12-05-6726825d.pth"  # the end is the beginning of its SHA-256
PATTERNS = ("*inception*.pth", "*inception*.safetensors", "model.safetensors")
RESIZINGS = ("pytorch-fid", "tensorflow", "clean-fid")


def inception(path: str | os.PathLike, batch: int = 32, resizing: str = "pytorch-fid") -> Features:
    """The 2,048 features of FID, from a file of weights, or the folder that it is in.

    path: what pytorch-fid calls pt_inception-2015-12-05-6726825d.pth, or those tensors as safetensors; also
    "package:folder". resizing: to 299 x 299, as the package of that name has it ("tensorflow": the first graph of FID,
    and torch-fidelity); the first two take pixels without looking at those between. `batch`: pictures at once.

    Raises FileNotFoundError where there are no weights, ValueError for others, for a file whose name ends in another
    SHA-256, and an unknown resizing.
    """
    check_batch(batch)
    if resizing not in RESIZINGS:
        raise ValueError(f"no resizing {resizing!r}: there are {', '.join(RESIZINGS)}")
    file = _file_at(path)
    digest = hashlib.sha256(file.read_bytes()).hexdigest()
    told = re.search(r"-([0-9a-f]{8})$", file.stem)
    if told and not digest.startswith(told[1]):
        raise ValueError(f"{file} is broken: by its name its SHA-256 begins with {told[1]}, not {digest[:8]}")
    try:
        params = jax.tree.map(jnp.asarray, inception_layout.params(load_state(file)))
    except ValueError as error:
        raise ValueError(f"{file}: {error}") from error

    @jax.jit
    def run(params, pictures):
        with jax.default_matmul_precision("float32"):  # GPUs and TPUs would round to fewer digits
            return network.Inception().apply({"params": params}, pictures)[0]

    of_pictures = partial(extract, partial(run, params), prepare=partial(prepared, resizing=resizing), batch=batch)
    return Features(f"inception_v3, {resizing}", digest, network.FEATURES, of_pictures)


def prepared(pictures: np.ndarray, resizing: str) -> np.ndarray:
    """uint8 pictures (n, height, width, 3) as the network takes them, float32 (n, 299, 299, 3).

    In [-1, 1] from pytorch-fid, which scales by 255; in [-1, 1) from others, which take off 128 and divide by it.
    """
    if resizing == "clean-fid":
        return (resized(pictures, network.SIZE) - 128) / 128
    pixels = _bilinear(pictures, network.SIZE, centered=resizing == "pytorch-fid")
    return pixels / np.float32(127.5) - 1 if resizing == "pytorch-fid" else (pixels - 128) / 128


def _bilinear(pictures: np.ndarray, size: int, centered: bool) -> np.ndarray:
    """The mean of the next two pixels by their nearness, in each direction, also where pictures get smaller.

    centered: places are those of pixels' centers; else pixel i lies at i * height / size, as in TensorFlow 1.
    """
    rows, columns = (_between(pixels, size, centered) for pixels in pictures.shape[1:3])
    return np.einsum("ri,nijc,sj->nrsc", rows, pictures.astype(np.float32), columns, optimize=True)


def _between(pixels: int, size: int, centered: bool) -> np.ndarray:
    """The matrix (size, pixels) that resizes a line."""
    place = np.arange(size) * (pixels / size) if not centered else (np.arange(size) + 0.5) * (pixels / size) - 0.5
    place = place.clip(0, pixels - 1)
    return np.maximum(1 - np.abs(place[:, None] - np.arange(pixels)[None]), 0).astype(np.float32)


def _file_at(path: str | os.PathLike) -> Path:
    if Path(path).is_file():
        return Path(path)
    folder = folder_at(path)
    found = [file for pattern in PATTERNS for file in sorted(folder.glob(pattern))] if folder else []
    if len(found) > 1:
        raise ValueError(f"{folder} has {' and '.join(file.name for file in found)}: give one of them")
    if not found:
        raise FileNotFoundError(
            f"no weights of FID's Inception-v3 at {path}: give {PUBLISHED}, which is among the releases of "
            "pytorch-fid, or its folder"
        )
    return found[0]
