"""The weights that the package ships: a folder each, with weights.safetensors, config.json and a model card."""

import json
from pathlib import Path

import jax
import jax.numpy as jnp
from ml_collections import ConfigDict

from diffusion_jax.interop.safetensors_file import load_params
from diffusion_jax.types import Params

FOLDER = Path(__file__).parent


def names() -> list[str]:
    """What may stand after --pretrained=."""
    return sorted(path.parent.name for path in FOLDER.glob("*/weights.safetensors"))


def load(name: str) -> tuple[ConfigDict, Params]:
    """The config and the parameters of shipped weights. Raises ValueError, with the names there are, for others."""
    if name not in names():
        raise ValueError(f"no pretrained weights {name!r}: there is {', '.join(names()) or 'nothing yet'}")
    config = ConfigDict(json.loads((FOLDER / name / "config.json").read_text()))
    return config, jax.tree.map(jnp.asarray, load_params(FOLDER / name / "weights.safetensors"))
