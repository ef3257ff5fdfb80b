"""Plain tensors from a file that torch.save wrote before PyTorch 1.6, without torch, and without running its code.

Such a file is five pickles, of a magic number, a version, the machine's byte order, the object, and the names of its
storages, and then each storage: its length as an int64, and its bytes (torch/serialization.py, _legacy_load). A pickle
may call anything by its name. This reader knows four names, and what it puts in their place only keeps numbers.
"""

import os
import pickle
from collections import OrderedDict
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np

MAGIC, VERSION = 0x1950A86A20F9469CFC6C, 1001


class _Storage(NamedTuple):
    dtype: np.dtype
    key: str
    size: int


class _Tensor(NamedTuple):
    storage: _Storage
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]  # in elements; transposed weights are stored as they were before


def load_tensors(path: str | os.PathLike) -> dict[str, np.ndarray]:
    """The tensors of a state dict by their names: float32, or int64 for counters.

    Raises FileNotFoundError, or ValueError for a file that is cut short, of another format (PyTorch 1.6 and later write
    a zip), or holds more than tensors.
    """
    if not Path(path).is_file():
        raise FileNotFoundError(f"no tensors at {path}")
    with open(path, "rb") as file:
        try:
            if _unpickled(file) != MAGIC or _unpickled(file) != VERSION or not _unpickled(file)["little_endian"]:
                raise ValueError("it does not begin as one")
            tensors, keys = _unpickled(file), _unpickled(file)
            storages = {tensor.storage.key: tensor.storage for tensor in tensors.values()}
            if sorted(keys) != sorted(storages):
                raise ValueError("it has storages of no tensor, or tensors of no storage")
            data = {key: _numbers(file, storages[key]) for key in keys}
            return {name: _array(data[tensor.storage.key], tensor) for name, tensor in tensors.items()}
        except (ValueError, TypeError, LookupError, AttributeError, EOFError, pickle.UnpicklingError) as error:
            raise ValueError(
                f"{path} is no file of plain tensors as torch.save wrote them before 1.6: {error}"
            ) from error


class _Unpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if (known := KNOWN.get((module, name))) is None:
            raise pickle.UnpicklingError(f"it asks for {module}.{name}")
        return known

    def persistent_load(self, pid: Any) -> _Storage:
        kind, dtype, key, _, size, view = pid
        if kind != "storage" or view is not None or not isinstance(dtype(), np.generic):
            raise pickle.UnpicklingError("it has a part that is no whole storage")
        return _Storage(np.dtype(dtype), str(key), int(size))


def _tensor(storage: _Storage, offset: int, shape: tuple, strides: tuple, *_: Any) -> _Tensor:
    """What stands for torch._utils._rebuild_tensor_v2."""
    return _Tensor(storage, int(offset), tuple(map(int, shape)), tuple(map(int, strides)))


KNOWN = {
    ("collections", "OrderedDict"): OrderedDict,
    ("torch._utils", "_rebuild_tensor_v2"): _tensor,
    ("torch", "FloatStorage"): np.float32,
    ("torch", "LongStorage"): np.int64,
}


def _unpickled(file: BinaryIO) -> Any:
    return _Unpickler(file).load()


def _numbers(file: BinaryIO, storage: _Storage) -> np.ndarray:
    told = int.from_bytes(file.read(8), "little", signed=True)
    data = file.read(storage.size * storage.dtype.itemsize) if told == storage.size >= 0 else b""
    if told != storage.size or len(data) < storage.size * storage.dtype.itemsize:
        raise ValueError("it ends within a tensor")
    return np.frombuffer(data, storage.dtype.newbyteorder("<"))


def _array(numbers: np.ndarray, tensor: _Tensor) -> np.ndarray:
    steps = [(size - 1) * stride for size, stride in zip(tensor.shape, tensor.strides, strict=True)]
    if min(tensor.offset, *tensor.strides, *tensor.shape, 0) < 0 or tensor.offset + sum(steps) >= numbers.size:
        raise ValueError("a tensor reaches beyond its storage")  # as_strided would read what lies there in memory
    strides = [stride * numbers.itemsize for stride in tensor.strides]
    return np.lib.stride_tricks.as_strided(numbers[tensor.offset :], tensor.shape, strides).copy()
