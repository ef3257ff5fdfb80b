"""The safetensors of a folder, in one file or in shards, read a tensor or a part of one at a time.

A file is opened anew for each read: what stays mapped would count as memory, and a checkpoint larger than half of the
memory could not be converted.
"""

import json
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open

NAME = "model.safetensors"
PICKLES = ("pytorch_model*.bin", "*.pt", "*.pth", "*.ckpt")


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


def opened(path: Path) -> Any:
    """The file for reading, as a context. Raises ValueError for one that is truncated or foreign."""
    try:
        return safe_open(path, framework="numpy")
    except SafetensorError as error:
        reason = str(error).removeprefix("Error while deserializing header: ")
        raise ValueError(f"{path} is truncated or not a safetensors file ({reason}): fetch it again") from error


def shape_of(file: Path, name: str) -> tuple[int, ...]:
    with opened(file) as tensors:
        return tuple(tensors.get_slice(name).get_shape())


def part_of(file: Path, name: str, index: tuple[slice, ...]) -> np.ndarray:
    with opened(file) as tensors:
        return tensors.get_slice(name)[index] if index else tensors.get_tensor(name)
