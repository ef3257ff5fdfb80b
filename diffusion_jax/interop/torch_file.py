"""Plain tensors from a file that torch.save wrote, without torch, and without running its code.

Before PyTorch 1.6 such a file is five pickles, of a magic number, a version, the machine's byte order, the object, and
the names of its storages, and then each storage: its length as an int64, and its bytes (torch/serialization.py,
_legacy_load). After that it is a zip of one folder, with the object as data.pkl and each storage as data/NAME. A pickle
may call anything by its name. This reader knows four names, and what it puts in their place only keeps numbers.
"""

import io
import os
import pickle
import zipfile
import zlib
from collections import OrderedDict
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np

MAGIC, VERSION = 0x1950A86A20F9469CFC6C, 1001
ZIP = b"PK\x03\x04"
BROKEN = (ValueError, TypeError, LookupError, AttributeError, EOFError, NotImplementedError, RuntimeError, zlib.error)
BROKEN += (pickle.UnpicklingError, zipfile.BadZipFile)


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

    Raises FileNotFoundError, or ValueError for a file that is cut short, of another format, or holds more than tensors.
    """
    if not Path(path).is_file():
        raise FileNotFoundError(f"no tensors at {path}")
    with open(path, "rb") as file:
        try:
            tensors, data = _zipped(file) if file.read(4) == ZIP else _in_a_row(file)
            return {name: _array(data[tensor.storage.key], tensor) for name, tensor in tensors.items()}
        except BROKEN as error:
            raise ValueError(f"{path} is no file of plain tensors as torch.save writes them: {error}") from error


def _in_a_row(file: BinaryIO) -> tuple[dict[str, _Tensor], dict[str, np.ndarray]]:
    """The tensors of a file from before PyTorch 1.6, and the numbers of each storage."""
    file.seek(0)
    if _unpickled(file) != MAGIC or _unpickled(file) != VERSION or not _unpickled(file)["little_endian"]:
        raise ValueError("it does not begin as one")
    tensors, keys = _unpickled(file), _unpickled(file)
    storages = {tensor.storage.key: tensor.storage for tensor in tensors.values()}
    if sorted(keys) != sorted(storages):
        raise ValueError("it has storages of no tensor, or tensors of no storage")
    return tensors, {key: _numbers(file, storages[key]) for key in keys}


def _zipped(file: BinaryIO) -> tuple[dict[str, _Tensor], dict[str, np.ndarray]]:
    """The same of a file since then; the zip's own checksums tell what is broken."""
    with zipfile.ZipFile(file) as members:
        (pickled,) = (name for name in members.namelist() if name.count("/") == 1 and name.endswith("/data.pkl"))
        folder = pickled.removesuffix("data.pkl")
        if f"{folder}byteorder" in members.namelist() and members.read(f"{folder}byteorder") != b"little":
            raise ValueError("its numbers are big-endian")
        tensors = _unpickled(io.BytesIO(members.read(pickled)))
        storages = {tensor.storage.key: tensor.storage for tensor in tensors.values()}
        return tensors, {key: _member(members, f"{folder}data/{key}", storages[key]) for key in storages}


def _member(members: zipfile.ZipFile, name: str, storage: _Storage) -> np.ndarray:
    data = members.read(name)
    if len(data) != storage.size * storage.dtype.itemsize:
        raise ValueError(f"{name} has {len(data)} bytes, not {storage.size} of {storage.dtype}")
    return np.frombuffer(data, storage.dtype.newbyteorder("<"))


class _Unpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if (known := KNOWN.get((module, name))) is None:
            raise pickle.UnpicklingError(f"it asks for {module}.{name}")
        return known

    def persistent_load(self, pid: Any) -> _Storage:
        kind, dtype, key, _, size, *view = pid
        if kind != "storage" or any(part is not None for part in view) or not isinstance(dtype(), np.generic):
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


def _unpickled(file: io.BufferedIOBase) -> Any:
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
