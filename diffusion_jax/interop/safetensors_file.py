"""Parameters in one safetensors file: `{"unet": {"conv": {"kernel": x}}}` is the tensor "unet/conv/kernel".

The format (huggingface/safetensors): the header's length as a little-endian u64, a JSON header, the tensors' bytes.
Reading is left to the safetensors library, which checks every length and offset and executes nothing.
Writing is done here: the library orders metadata at random, so equal parameters would have unequal digests, and it
stores an array that is not contiguous in the wrong order without a word.
"""

import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from safetensors import SafetensorError, safe_open

from diffusion_jax.files import write_whole

CODES = {"float32": "F32", "float16": "F16"}
READABLE = {"F32", "F16", "BF16"}


def save_params(
    path: str | os.PathLike,
    params: Mapping[Any, Any],
    metadata: Mapping[Any, Any] | None = None,
    dtype: str = "float32",
) -> None:
    """Writes nested floating-point parameters whole or not at all; equal input gives equal bytes.

    `dtype` is what is stored: "float32", or "float16" at half the size. `metadata` is text by name.
    Raises ValueError for parameters that the file cannot hold (an empty or ambiguous name, integers, a value beyond
    float16's 65504) and OSError when the disk does not take it; what stood at `path` then stays.
    """
    path = Path(path)
    if dtype not in CODES:
        raise ValueError(f"parameters are stored as float32 or float16, not {dtype}")
    if not all(isinstance(text, str) for pair in (metadata or {}).items() for text in pair):
        raise ValueError("the metadata of a safetensors file is text by name: encode other values as JSON")
    tensors = {name: _stored(name, value, dtype) for name, value in sorted(flatten(params))}

    def write(file: BinaryIO) -> None:
        file.write(_header(tensors, metadata or {}))
        for tensor in tensors.values():
            file.write(tensor.tobytes())
        file.flush()
        os.fsync(file.fileno())

    try:
        write_whole(path, write)
    except OSError as error:
        raise type(error)(error.errno, f"could not save parameters: {error.strerror}", str(path)) from error


def load_params(path: str | os.PathLike) -> dict[str, Any]:
    """Reads what `save_params` wrote, as nested dicts of float32 arrays (float16 and bfloat16 are widened).

    Raises FileNotFoundError, or ValueError for a truncated, foreign or ambiguous file.
    """
    params: dict[str, Any] = {}
    with opened(path) as file:
        for name in file.keys():  # noqa: SIM118 (not a mapping)
            if (code := file.get_slice(name).get_dtype()) not in READABLE:
                raise ValueError(f"{path}: tensor {name!r} is {code}, which is no parameter: not a file of ours?")
            *parents, leaf = name.split("/")
            node = params
            for parent in parents:
                node = node.setdefault(parent, {})
                if not isinstance(node, dict):
                    raise ValueError(f"{path}: {name!r} lies inside another tensor: not a file of ours?")
            if leaf in node:
                raise ValueError(f"{path}: {name!r} is both a tensor and a group of them: not a file of ours?")
            node[leaf] = file.get_tensor(name).astype(np.float32)
    return params


def load_metadata(path: str | os.PathLike) -> dict[str, str]:
    """Reads the text that was stored beside the parameters; raises as `load_params` does."""
    with opened(path) as file:
        return dict(file.metadata() or {})


def opened(path: str | os.PathLike) -> Any:
    """The file for reading, as a context. Raises FileNotFoundError, or ValueError for a truncated or foreign file."""
    if not Path(path).is_file():
        raise FileNotFoundError(f"no parameters at {path}")
    try:
        return safe_open(path, framework="numpy")
    except SafetensorError as error:
        reason = str(error).removeprefix("Error while deserializing header: ")
        raise ValueError(f"{path} is truncated or not a safetensors file ({reason}): fetch or save it again") from error


def flatten(params: Mapping[Any, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """The leaves of nested parameters, each with its path. Raises ValueError for a name that no path can hold."""
    for name, value in params.items():
        if not isinstance(name, str) or not name or "/" in name or name == "__metadata__":
            raise ValueError(
                f"a parameter's name is text without slashes, not {name!r} (under {prefix or 'the root'!r})"
            )
        if isinstance(value, Mapping):
            yield from flatten(value, f"{prefix}{name}/")
        else:
            yield f"{prefix}{name}", value


def _stored(name: str, value: Any, dtype: str) -> np.ndarray:
    value = np.asarray(value)
    if value.dtype.name not in ("float16", "bfloat16", "float32", "float64"):
        raise ValueError(f"parameter {name!r} is {value.dtype}: only floating-point arrays are stored")
    with np.errstate(over="ignore"):
        stored = np.ascontiguousarray(value, dtype=np.dtype(dtype).newbyteorder("<")).reshape(value.shape)
    if not np.isfinite(stored).all() and np.isfinite(value.astype(np.float64)).all():
        raise ValueError(f"parameter {name!r} exceeds the range of {dtype}: store it as float32")
    return stored


def _header(tensors: Mapping[str, np.ndarray], metadata: Mapping[str, str]) -> bytes:
    entries: dict[str, Any] = {"__metadata__": dict(sorted(metadata.items()))} if metadata else {}
    start = 0
    for name, tensor in tensors.items():
        end = start + tensor.nbytes
        code = CODES[tensor.dtype.name]
        entries[name] = {"dtype": code, "shape": list(tensor.shape), "data_offsets": [start, end]}
        start = end
    header = json.dumps(entries, separators=(",", ":")).encode()
    header += b" " * (-len(header) % 8)  # tensors begin at a multiple of eight
    return len(header).to_bytes(8, "little") + header
