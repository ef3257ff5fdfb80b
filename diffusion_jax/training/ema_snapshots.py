"""Averages of the parameters as they were now and then: a file for each of those steps, `folder`/000004096.safetensors.

A file holds all averages of its step, the tensor "0/unet/conv/kernel" being of the first one, and in its metadata the
step and the averages' lengths. It is there whole or not at all.
"""

import json
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, PyTree

from diffusion_jax.interop.safetensors_file import load_metadata, opened, save_params
from diffusion_jax.training.power_ema import check_lengths

ENDING = ".safetensors"


class Snapshot(NamedTuple):
    """step: updates that the averages have seen. sigma_rels: their relative lengths, in the order of the file."""

    path: Path
    step: int
    sigma_rels: tuple[float, ...]


def save(
    folder: str | os.PathLike,
    step: int,
    averages: Sequence[PyTree],
    sigma_rels: Sequence[float],
    dtype: str = "float32",
) -> Path:
    """Write the averages after `step` updates, 1 or more; one that is there already is replaced. Returns the file.

    averages: nested parameters that this process has whole, one tree for each of sigma_rels. dtype: "float32", or
    "float16" at half the size; see `post_hoc_ema.Fit.gain` for what that costs.
    Raises ValueError for a step or lengths that make no sense and for what float16 cannot hold; OSError as on a full
    disk.
    """
    check_lengths(sigma_rels)
    if step < 1 or len(averages) != len(sigma_rels):
        raise ValueError(f"no snapshot of {len(averages)} averages of {len(sigma_rels)} lengths after {step} updates")
    path = Path(folder) / f"{step:09d}{ENDING}"
    about = {"step": str(step), "sigma_rels": json.dumps([float(length) for length in sigma_rels])}
    save_params(path, {str(number): tree for number, tree in enumerate(averages)}, about, dtype)
    return path


def listed(folder: str | os.PathLike) -> list[Snapshot]:
    """The snapshots of a folder in the order of their steps; of the files, only the headers are read.

    Raises FileNotFoundError where there is none, ValueError for a file that is damaged or no snapshot.
    """
    found = [_described(path) for path in _paths(folder)]
    if not found:
        raise FileNotFoundError(f"no snapshots of averages in {folder}: train with config.ema_lengths set")
    return found


def forget_after(folder: str | os.PathLike, step: int) -> int:
    """Delete the snapshots of later steps, which a training that goes on from `step` did not make; returns how many."""
    later = [path for path in _paths(folder) if int(path.stem) > step]
    for path in later:
        path.unlink()
    return len(later)


def tensors(snapshot: Snapshot, number: int) -> Iterator[tuple[str, Float[np.ndarray, "..."]]]:
    """The tensors of one average of a snapshot by name, "unet/conv/kernel", in float64; one is in memory at a time.

    Raises ValueError for a damaged file, and for a tensor that is not finite.
    """
    with opened(snapshot.path) as file:
        for name in file.keys():  # noqa: SIM118 (not a mapping)
            if not name.startswith(f"{number}/"):
                continue
            tensor = file.get_tensor(name).astype(np.float64)
            if not np.isfinite(tensor).all():
                raise ValueError(f"{snapshot.path}: {name!r} is not finite: the training had diverged; delete the file")
            yield name.partition("/")[2], tensor


def _paths(folder: str | os.PathLike) -> list[Path]:
    named = [path for path in Path(folder).glob(f"*{ENDING}") if path.stem.isdecimal()]
    return sorted(named, key=lambda path: int(path.stem))


def _described(path: Path) -> Snapshot:
    about = load_metadata(path)
    try:
        step, lengths = int(about["step"]), tuple(map(float, json.loads(about["sigma_rels"])))
        check_lengths(lengths)
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{path} is no snapshot of averages ({error}): move it elsewhere") from error
    if step != int(path.stem):
        raise ValueError(f"{path} says that it is of step {step}: give it the name that it had")
    return Snapshot(path, step, lengths)
