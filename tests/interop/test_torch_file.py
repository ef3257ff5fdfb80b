"""Files as torch.save wrote them before PyTorch 1.6 and since, made without torch; tests/reference has real ones."""

import io
import os
import pickle
import re
import sys
import types
import zipfile
from collections import OrderedDict

import numpy as np
import pytest

from diffusion_jax.interop.torch_file import MAGIC, VERSION, load_tensors

VALUES = {"0": np.arange(6, dtype=np.float32), "1": np.array([7], np.int64)}


class Storage:
    """Stands for a storage of torch's, which a pickle has by its name only."""

    def __init__(self, kind, key, size):
        self.kind, self.key, self.size = kind, key, size


class Tensor:
    def __init__(self, *about):
        self.about = about

    def __reduce__(self):
        return sys.modules["torch._utils"]._rebuild_tensor_v2, (*self.about, False, OrderedDict())


class Pickler(pickle.Pickler):
    def persistent_id(self, value):
        if isinstance(value, Storage):
            return "storage", value.kind, value.key, "cpu", value.size, None
        return None


@pytest.fixture
def torch(monkeypatch):
    """Names for the pickler to write down; nothing of torch is run."""
    module, inner = types.ModuleType("torch"), types.ModuleType("torch._utils")
    for name in ("FloatStorage", "LongStorage", "QInt8Storage"):
        setattr(module, name, type(name, (), {"__module__": "torch"}))

    def _rebuild_tensor_v2():
        raise AssertionError

    _rebuild_tensor_v2.__module__, _rebuild_tensor_v2.__qualname__ = "torch._utils", "_rebuild_tensor_v2"
    inner._rebuild_tensor_v2, module._utils = _rebuild_tensor_v2, inner
    monkeypatch.setitem(sys.modules, "torch", module)
    monkeypatch.setitem(sys.modules, "torch._utils", inner)
    return module


def saved(content, keys=("0", "1"), magic=MAGIC, order=True):
    file = io.BytesIO()
    for part in (magic, VERSION, {"little_endian": order}, content, list(keys)):
        Pickler(file, protocol=2).dump(part)
    for key in keys:
        file.write(len(VALUES[key]).to_bytes(8, "little") + VALUES[key].tobytes())
    return file.getvalue()


def state(torch, offset=0, shape=(2, 3), strides=(3, 1), kind="FloatStorage", size=6):
    weight = Tensor(Storage(getattr(torch, kind), "0", size), offset, shape, strides)
    count = Tensor(Storage(torch.LongStorage, "1", 1), 0, (), ())
    return OrderedDict(weight=weight, count=count)


class ZippedPickler(Pickler):
    def persistent_id(self, value):
        return super().persistent_id(value)[:5] if isinstance(value, Storage) else None


def zipped(content, keys=("0", "1"), pickled="data.pkl", order=b"little"):
    file, stream = io.BytesIO(), io.BytesIO()
    ZippedPickler(stream, protocol=2).dump(content)
    with zipfile.ZipFile(file, "w") as members:
        members.writestr(f"weights/{pickled}", stream.getvalue())
        members.writestr("weights/byteorder", order)
        for key in keys:
            members.writestr(f"weights/data/{key}", VALUES[key].tobytes())
    return file.getvalue()


@pytest.mark.parametrize("saved", [saved, zipped])
def test_tensors_are_read_with_their_strides(torch, tmp_path, saved):
    path = tmp_path / "weights.pth"
    path.write_bytes(saved(state(torch)))
    found = load_tensors(path)
    np.testing.assert_array_equal(found["weight"], [[0, 1, 2], [3, 4, 5]])
    np.testing.assert_array_equal(found["count"], 7)
    assert {name: value.dtype for name, value in found.items()} == {"weight": np.float32, "count": np.int64}
    path.write_bytes(saved(state(torch, shape=(3, 2), strides=(1, 3))))
    np.testing.assert_array_equal(load_tensors(path)["weight"], [[0, 3], [1, 4], [2, 5]])
    path.write_bytes(saved(state(torch, offset=2, shape=(2, 2), strides=(2, 1))))
    np.testing.assert_array_equal(load_tensors(path)["weight"], [[2, 3], [4, 5]])


class Command:
    def __reduce__(self):
        return os.system, ("echo run > ran",)


WRONG = {
    "os|posix.*system|nt.system": lambda torch: saved(Command()),
    "it asks for torch.QInt8Storage": lambda torch: saved(state(torch, kind="QInt8Storage")),
    "reaches beyond its storage": lambda torch: saved(state(torch, offset=1)),
    "beyond its storage": lambda torch: saved(state(torch, strides=(-3, 1))),
    "ends within a tensor": lambda torch: saved(state(torch, size=7)),
    "does not begin as one": lambda torch: saved(state(torch), magic=1),
    "begin as one": lambda torch: saved(state(torch), order=False),
    "storages of no tensor": lambda torch: saved(state(torch), keys=("0",)),
    "no file of plain tensors": lambda torch: b"PK\x03\x04 a zip",
    "posix.*system|nt.system": lambda torch: zipped(Command()),
    "not enough values|File is not": lambda torch: zipped(state(torch), pickled="other.pkl"),
    "big-endian": lambda torch: zipped(state(torch), order=b"big"),
    "0 has 24 bytes, not 7 of float32": lambda torch: zipped(state(torch, size=7)),
    "no item named": lambda torch: zipped(state(torch), keys=("0",)),
    "plain tensors as torch.save": lambda torch: saved([1, 2]),
}


@pytest.mark.parametrize("reason", WRONG)
def test_what_is_no_such_file_is_refused_and_nothing_of_it_is_run(torch, tmp_path, monkeypatch, reason):
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "weights.pth"
    path.write_bytes(WRONG[reason](torch))
    with pytest.raises(ValueError, match=re.escape(str(path)) + ".*(" + reason + ")"):
        load_tensors(path)
    assert [file.name for file in tmp_path.iterdir()] == ["weights.pth"]


@pytest.mark.parametrize("saved", [saved, zipped])
def test_a_file_that_is_cut_short_anywhere_is_refused(torch, tmp_path, saved):
    path, whole = tmp_path / "weights.pth", saved(state(torch))
    for size in range(0, len(whole), 7):
        path.write_bytes(whole[:size])
        with pytest.raises(ValueError, match="no file of plain tensors"):
            load_tensors(path)


def test_a_missing_file_is_told(tmp_path):
    with pytest.raises(FileNotFoundError, match="no tensors at"):
        load_tensors(tmp_path / "weights.pth")
