"""The safetensors of a folder, in one file or in shards, read a part of one tensor at a time.

A file is mapped into memory while it is open, and each page that was read counts as memory until it is closed. So it is
opened anew for every piece: a checkpoint larger than half of the memory can be read.
"""

import json
import math
from pathlib import Path

import numpy as np
from numpy.typing import DTypeLike

from diffusion_jax.interop.safetensors_file import opened

NAME = "model.safetensors"
PICKLES = ("pytorch_model*.bin", "*.pt", "*.pth", "*.ckpt")
READABLE = ("F64", "F32", "F16", "BF16")
PIECE = 1 << 22  # bytes of a file that are read at once
ALIGNMENT = 64  # bytes; JAX on CPU takes over an array that begins at a multiple, and copies any other


def located(folder: Path) -> dict[str, Path]:
    """Which file each tensor of a folder lies in.

    Raises FileNotFoundError where there is none or a shard is missing, ValueError for pickles alone or a broken index.
    """
    index, single = folder / f"{NAME}.index.json", folder / NAME
    if single.is_file():
        with opened(single) as file:
            return dict.fromkeys(file.keys(), single)
    if not index.is_file():
        if pickle := next((found for pattern in PICKLES for found in sorted(folder.glob(pattern))), None):
            raise ValueError(
                f"{pickle} is a pickle, which may run any code when it is read: save it as safetensors where it comes "
                "from (PyTorch: model.save_pretrained(folder)), and give that folder"
            )
        raise FileNotFoundError(f"{folder} has no {NAME} and no {index.name}")
    try:
        files = {name: folder / file for name, file in json.loads(index.read_text())["weight_map"].items()}
    except (ValueError, KeyError, AttributeError, TypeError) as error:
        raise ValueError(f"{index} is no index of shards: fetch it again") from error
    if missing := sorted({file.name for file in files.values() if not file.is_file()}):
        raise FileNotFoundError(f"{folder} lacks {', '.join(missing)}, which {index.name} names: fetch it again")
    return files


def shape_of(file: Path, name: str) -> tuple[int, ...]:
    """The shape of a tensor. Raises ValueError where the file lacks it, or it holds no floating-point numbers."""
    with opened(file) as tensors:
        if name not in tensors.keys():  # noqa: SIM118 (not a mapping)
            raise ValueError(f"{file} lacks the tensor {name}, which the index of shards says it has: fetch both again")
        tensor = tensors.get_slice(name)
        if (code := tensor.get_dtype()) not in READABLE:
            raise ValueError(
                f"{file}: {name} is {code}, which is quantized or no parameter: give the full-precision files"
            )
        return tuple(tensor.get_shape())


def part_of(file: Path, name: str, index: tuple[slice, ...], dtype: DTypeLike, turned: bool = False) -> np.ndarray:
    """A part of a tensor, or with `turned` of the transpose of a matrix, as a new array of a dtype.

    Beside that array no more than a piece of the file is in memory.
    """
    if not (shape := shape_of(file, name)):
        with opened(file) as tensors:
            return tensors.get_tensor(name).astype(dtype)
    rows, *columns = (range(*part.indices(size)) for part, size in zip(_in_file(index, turned), shape, strict=True))
    part = _empty(_in_file((len(rows), *map(len, columns)), turned), np.dtype(dtype))
    stored = part.T if turned else part
    step = max(1, PIECE // (4 * max(1, math.prod(shape[1:]))))
    for start in range(0, len(rows), step):
        piece = rows[start : start + step]
        with opened(file) as tensors:
            stored[start : start + step] = tensors.get_slice(name)[
                slice(piece.start, piece.stop), *(slice(each.start, each.stop) for each in columns)
            ]
    return part


def _in_file(each: tuple, turned: bool) -> tuple:
    return each[::-1] if turned else each


def _empty(shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
    size = math.prod(shape) * dtype.itemsize
    memory = np.empty(size + ALIGNMENT, np.uint8)
    start = -memory.ctypes.data % ALIGNMENT
    return memory[start : start + size].view(dtype).reshape(shape)
