"""The tensors of one file by their names, as PyTorch or safetensors wrote them."""

import os
from pathlib import Path

import numpy as np

from diffusion_jax.interop.safetensors_file import opened
from diffusion_jax.interop.torch_file import load_tensors


def load_state(path: str | os.PathLike) -> dict[str, np.ndarray]:
    """Floating-point numbers as float32, others as they are; no code of the file is run.

    The name's end tells the format: .safetensors, or any other for what torch.save wrote. Raises FileNotFoundError, and
    ValueError for a file that is broken or holds more than tensors.
    """
    if Path(path).suffix != ".safetensors":
        return load_tensors(path)
    with opened(path) as file:
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a mapping)
    return {name: _widened(value) for name, value in tensors.items()}


def _widened(value: np.ndarray) -> np.ndarray:
    return value if np.issubdtype(value.dtype, np.integer) else value.astype(np.float32)
