"""What a run folder and a config have to agree on, so that one training goes on as what it was."""

import importlib.metadata
import platform
from pathlib import Path

import jax
from ml_collections import ConfigDict

from diffusion_jax import config as entries
from diffusion_jax import placement
from diffusion_jax.files import write_json
from diffusion_jax.training.run_folder import read_config

VERSIONS = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "grain", "numpy", "transformers", "diffusion_jax")
FREE = (  # what may change between two stretches of one run: none of it changes what is learned, but for rounding
    "train",
    "sampling",
    "figures",
    "validation_size",
    "parallel",
    "microbatch",
    *(f"loader.{name}" for name in ("workers", "threads", "prefetch", "cache_bytes")),
)
LATER = dict(  # what a config without them means
    begin="", lora=dict(rank=0, alpha=8.0, where=""), parallel=placement.PARALLEL, microbatch=0, ema_lengths=[]
)


def agree_on_config(folder: Path, config: ConfigDict, allow_changed: bool = False) -> None:
    """Write config.json and versions.json, or check that the folder's config trains the same model the same way.

    What differs is printed, a line each. Raises ValueError with it, unless it is allowed or all of it is in FREE.
    """
    path = folder / "config.json"
    if path.exists():
        before, now = (LATER | told for told in (read_config(folder), entries.as_json(config)))
        changes = entries.differences(before, now)
        fixed = [line for line in changes if not f"{line.split(':')[0]}.".startswith(tuple(f"{key}." for key in FREE))]
        if fixed and not allow_changed:
            raise ValueError(
                f"{folder} has another config ({'; '.join(fixed)}): choose another --workdir, or go on with "
                "--allow_changed"
            )
        for line in fixed:
            print(f"changed: {line}", flush=True)
    write_json(path, entries.as_json(config))
    write_json(folder / "versions.json", versions())


def versions() -> dict[str, str]:
    """What this process runs with."""
    machine = {
        "python": platform.python_version(),
        "platform": platform.platform(),
        "devices": f"{jax.device_count()} x {jax.devices()[0].device_kind}",
    }
    return machine | {name: importlib.metadata.version(name) for name in VERSIONS}
