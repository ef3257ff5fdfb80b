"""Text encoders from folders as transformers writes them, and back.

    module, params, tokenizer = load_text_encoder("flan-t5-base", jnp.bfloat16)
    tokens, mask = tokenizer(["a red heart"])
    text_emb = module.apply({"params": params}, tokens, mask)  # (batch, length, dim), float32

A family of encoders is a file beside this one that says how it lies on disk: `MODEL_TYPES`, `MODULE`, `NOT_OURS`,
`module`, `config` and `tensor`. A kernel of ours is the transpose of a weight of PyTorch's.
"""

import json
import os
import re
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Sharding, SingleDeviceSharding
from jax.typing import DTypeLike

from diffusion_jax.data import tokenizers
from diffusion_jax.files import write_json
from diffusion_jax.interop import clip_layout, t5_layout, tensors
from diffusion_jax.interop.safetensors_file import save_params
from diffusion_jax.types import Params

LAYOUTS = {model_type: layout for layout in (t5_layout, clip_layout) for model_type in layout.MODEL_TYPES}
FILES = ["config.json", "*.safetensors", "*.safetensors.index.json", "tokenizer*", "special_tokens_map.json"]
FILES += ["vocab.*", "merges.txt", "spiece.model", "added_tokens.json"]


class TextEncoder(NamedTuple):
    """module.apply({"params": params}, tokens, mask) embeds what tokenizer(captions) returns."""

    module: nn.Module
    params: Params
    tokenizer: tokenizers.Tokenizer


def load_text_encoder(
    name: str | os.PathLike,
    dtype: DTypeLike = jnp.float32,
    *,
    max_length: int = 64,
    sharding: Callable[[str, tuple[int, ...]], Sharding] | Sharding | None = None,
) -> TextEncoder:
    """The text encoder of a folder, or of a name on the hub that is in its cache or can be fetched.

    dtype: of matrices, and what is computed in; vectors and the result stay float32. max_length: of the tokenizer.
    sharding: where parameters go, one for all or (path, shape) -> sharding; each process reads only its own part of
    each tensor, one at a time, so that no more than the model and one tensor is ever in memory.

    Raises FileNotFoundError where something is missing, and ValueError for what is no text encoder, pickles, tensors
    that are missing, left over or of another shape (all are named), and files that are broken.
    """
    folder = _folder(name)
    config = _config(folder)
    layout = _layout(folder, config)
    try:
        module = layout.module(config, dtype)
    except (ValueError, KeyError) as error:
        reason = f"it does not say {error}" if isinstance(error, KeyError) else error
        raise ValueError(f"{folder / 'config.json'}: {reason}") from error
    tokenizer = tokenizers.pretrained(folder, max_length)
    shapes = jax.eval_shape(partial(_init, module))
    sources = _sources(folder, layout, dict(_paths(shapes)))
    one_device = SingleDeviceSharding(jax.devices()[0])

    def parameter(keys, leaf):
        path = "/".join(key.key for key in keys)
        place = sharding(path, leaf.shape) if callable(sharding) else sharding or one_device
        return _placed(*sources[path], _turned(path), leaf.shape, dtype if len(leaf.shape) > 1 else jnp.float32, place)

    return TextEncoder(module, jax.tree_util.tree_map_with_path(parameter, shapes), tokenizer)


def save_text_encoder(folder: str | os.PathLike, encoder: TextEncoder, dtype: str = "float32") -> None:
    """Writes config.json, model.safetensors and the tokenizer's files, which transformers and `load_text_encoder` read.

    dtype: "float32" or "float16". Raises ValueError for a module of no known family and OSError for a full disk.
    """
    layout = next((layout for layout in LAYOUTS.values() if isinstance(encoder.module, layout.MODULE)), None)
    if layout is None:
        raise ValueError(f"{type(encoder.module).__name__} is of no family that is known here: {', '.join(LAYOUTS)}")
    folder, flat = Path(folder), {}
    for path, value in _paths(encoder.params):
        value = np.asarray(value, np.float32)
        flat[layout.tensor(path)[0]] = value.T if path.endswith("/kernel") else value
    save_params(folder / tensors.NAME, flat, {"format": "pt"}, dtype)
    write_json(folder / "config.json", layout.config(encoder.module))
    tokenizers.save(folder, encoder.tokenizer)


def _folder(name: str | os.PathLike) -> Path:
    """The folder itself, or where the hub's cache has what goes by the name."""
    if (folder := Path(name)).is_dir():
        return folder
    if not re.fullmatch(r"[\w.-]+(/[\w.-]+)?", str(name)):
        raise FileNotFoundError(f"no text encoder at {name}: there is no such folder")
    from huggingface_hub import snapshot_download  # here, because the import takes a second

    for cached in (True, False):
        try:
            return Path(snapshot_download(str(name), allow_patterns=FILES, local_files_only=cached, etag_timeout=1))
        except Exception as error:  # of many kinds, by what fails and in which version
            reason = str(error).strip().splitlines()[0]
    raise FileNotFoundError(
        f"no text encoder {name}: it is no folder, not in the hub's cache, and could not be fetched ({reason}). Where "
        f"there is a network, download its {', '.join(FILES[:3])} and tokenizer files, and give that folder"
    )


def _config(folder: Path) -> dict[str, Any]:
    path = folder / "config.json"
    if not path.is_file():
        raise FileNotFoundError(f"{folder} has no config.json: is it a folder that transformers wrote?")
    try:
        config = json.loads(path.read_text())
        return config if isinstance(config, dict) else {}
    except ValueError as error:
        raise ValueError(f"{path} is no JSON: fetch it again") from error


def _layout(folder: Path, config: Mapping[str, Any]) -> Any:
    if (model_type := config.get("model_type")) not in LAYOUTS:
        raise ValueError(
            f"{folder / 'config.json'}: model_type is {model_type!r}, which is no text encoder that is known here; "
            f"known are {', '.join(LAYOUTS)}"
        )
    return LAYOUTS[model_type]


def _init(module: nn.Module) -> Params:
    one = jnp.zeros((1, 1), jnp.int32)
    return module.init(jax.random.key(0), one, one == 0)["params"]


def _paths(tree: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in tree.items():
        if isinstance(value, Mapping):
            yield from _paths(value, f"{prefix}{name}/")
        else:
            yield f"{prefix}{name}", value


def _sources(folder: Path, layout: Any, shapes: Mapping[str, Any]) -> dict[str, tuple[Path, str]]:
    """The file and the name of each parameter's tensor, when all is there, and nothing else, in the right shapes."""
    files, found, wrong = tensors.located(folder), {}, []
    for path, wanted in shapes.items():
        names = layout.tensor(path)
        name = next((name for name in names if name in files), None)
        if name is None:
            wrong.append(f"{names[0]} is missing")
            continue
        found[path] = files[name], name
        shape, wanted = tensors.shape_of(*found[path]), wanted.shape[::-1] if _turned(path) else wanted.shape
        if shape != wanted:
            wrong.append(f"{name} is {shape}, and config.json makes it {wanted}")
    used = {name for _, name in found.values()}
    wrong += [
        f"{name} is left over" for name in sorted(files) if name not in used and not re.match(layout.NOT_OURS, name)
    ]
    if wrong:
        more = f" and {len(wrong) - 8} more" if len(wrong) > 8 else ""
        raise ValueError(f"{folder} is not what its config.json says: {'; '.join(wrong[:8])}{more}")
    return found


def _turned(path: str) -> bool:
    return path.endswith("/kernel")


def _placed(
    file: Path, name: str, turned: bool, shape: tuple[int, ...], dtype: DTypeLike, place: Sharding
) -> jax.Array:
    parts: dict[str, np.ndarray] = {}

    def part(index: tuple[slice, ...]) -> np.ndarray:
        if (key := str(index)) not in parts:  # devices that hold the same part read it once
            read = tensors.part_of(file, name, index[::-1] if turned else index)
            parts[key] = np.ascontiguousarray(read.T if turned else read).astype(dtype)
        return parts[key]

    return jax.make_array_from_callback(shape, place, part)
