"""FID's Inception-v3 as pytorch-fid and torch-fidelity name its tensors, and with its batch norms, as ours."""

from collections.abc import Mapping
from functools import cache
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from diffusion_jax.interop import batch_norms
from diffusion_jax.models.inception import Inception

EPSILON = 1e-3  # of every batch norm


def params(tensors: Mapping[str, np.ndarray]) -> dict[str, Any]:
    """The parameters of `Inception`, as float32 arrays of numpy, from a state dict as numpy arrays.

    Each batch norm is folded, in float64, into the convolution before it. Raises ValueError for tensors that are
    missing, left over, of another shape, or no batch norm: torchvision's Inception, of 1,000 classes, is not FID's.
    """
    batch_norms.check(tensors, _shapes(), "Inception-v3 of FID")
    parts = {path: batch_norms.folded(tensors, *_names(path), EPSILON) for path in _kernels()}
    return batch_norms.nested(parts | {("fc",): batch_norms.dense(tensors, "fc")})


def _names(path: tuple[str, ...]) -> tuple[str, str]:
    return f"{'.'.join(path)}.conv", f"{'.'.join(path)}.bn"


@cache
def _kernels() -> dict[tuple[str, ...], tuple[int, ...]]:
    """The shapes of the convolutions' kernels by their paths."""
    ours = jax.eval_shape(Inception().init, jax.random.key(0), jnp.zeros((1, 75, 75, 3)))["params"]
    leaves = jax.tree_util.tree_leaves_with_path(ours)
    found = {tuple(key.key for key in path): leaf.shape for path, leaf in leaves}
    return {path[:-1]: shape for path, shape in found.items() if path[-1] == "kernel" and path[0] != "fc"}


def _shapes() -> dict[str, tuple[int, ...]]:
    """Of every tensor of a state dict but the counters."""
    shapes: dict[str, tuple[int, ...]] = {"fc.weight": (1008, 2048), "fc.bias": (1008,)}
    for path, kernel in _kernels().items():
        shapes |= batch_norms.shapes(kernel, *_names(path))
    return shapes
