"""Image encoders from folders as transformers writes them.

module, params, digest = load_image_encoder("dinov2-large")
vectors = module.apply({"params": params}, pictures)
"""

import hashlib
import os
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from diffusion_jax.files import folder_at
from diffusion_jax.interop import tensors, vit_layout
from diffusion_jax.interop.huggingface import check_whole, config_of
from diffusion_jax.models.vit import VisionTransformer
from diffusion_jax.types import Params


class ImageEncoder(NamedTuple):
    """module.apply({"params": params}, pictures) -> (n, dim); digest: SHA-256 of the files of weights, in order."""

    module: VisionTransformer
    params: Params
    digest: str


def load_image_encoder(name: str | os.PathLike, kinds: tuple[str, ...] = ("dinov2", "clip")) -> ImageEncoder:
    """DINOv2, or the image encoder of CLIP, from its config.json and safetensors; also "package:folder".

    kinds: what the config's model_type may begin with. Raises FileNotFoundError where something is missing, and
    ValueError for another network, pickles, and tensors that are missing, left over or of another shape.
    """
    if (folder := folder_at(name)) is None:
        raise FileNotFoundError(
            f"no folder {name}: it should have the config.json and model.safetensors of a network, such as the hub has "
            "under facebook/dinov2-large or openai/clip-vit-large-patch14"
        )
    config = config_of(folder)
    try:
        if not str(config.get("model_type")).startswith(kinds):
            raise ValueError(f"model_type is {config.get('model_type')!r}, not {' or '.join(kinds)}")
        module = vit_layout.module(config)
        shapes = jax.eval_shape(partial(_init, module))
    except (ValueError, TypeError) as error:
        raise ValueError(f"{folder / 'config.json'}: {error}") from error
    of_clip = config["model_type"] != "dinov2"
    sources = _sources(folder, shapes, of_clip)

    def parameter(keys, leaf):
        file, tensor = sources[_path(keys)]
        value = _whole(file, tensor)
        if len(leaf.shape) == 4:
            value = value.transpose(2, 3, 1, 0)
        return jnp.asarray((value.T if _turned(leaf.shape, keys) else value).reshape(leaf.shape))

    params = jax.tree_util.tree_map_with_path(parameter, shapes)
    return ImageEncoder(module, params, _digest(sorted({file for file, _ in sources.values()})))


def _init(module: VisionTransformer) -> Params:
    side = module.patch * module.grid
    return module.init(jax.random.key(0), jnp.zeros((1, side, side, 3)))["params"]


def _sources(folder: Path, shapes: Any, of_clip: bool) -> dict[str, tuple[Path, str]]:
    """The file and the name of each parameter's tensor, when all is there, and nothing else, in the right shapes."""
    files, found, wrong = tensors.located(folder), {}, []
    for keys, leaf in jax.tree_util.tree_leaves_with_path(shapes):
        names = vit_layout.tensor(_path(keys), of_clip)
        name = next((name for name in names if name in files), None)
        if name is None:
            wrong.append(f"{names[0]} is missing")
            continue
        found[_path(keys)] = files[name], name
        shape, wanted = tensors.shape_of(files[name], name), _stored(leaf.shape, keys)
        if shape[-len(wanted) :] != wanted or np.prod(shape) != np.prod(wanted):
            wrong.append(f"{name} is {shape}, and config.json makes it {wanted}")
    check_whole(folder, wrong, files, {name for _, name in found.values()}, vit_layout.NOT_OURS)
    return found


def _stored(shape: tuple[int, ...], keys: tuple) -> tuple[int, ...]:
    """In the file, without ones that stand before it."""
    if len(shape) == 4:
        return shape[3], shape[2], shape[0], shape[1]
    return shape[::-1] if _turned(shape, keys) else shape


def _turned(shape: tuple[int, ...], keys: tuple) -> bool:
    return len(shape) == 2 and keys[-1].key == "kernel"


def _path(keys: tuple) -> str:
    return "/".join(key.key for key in keys)


def _whole(file: Path, name: str) -> np.ndarray:
    return tensors.part_of(file, name, (slice(None),) * len(tensors.shape_of(file, name)), np.float32)


def _digest(files: list[Path]) -> str:
    told = hashlib.sha256()
    for path in files:
        with open(path, "rb") as file:
            while piece := file.read(1 << 22):
                told.update(piece)
    return told.hexdigest()
