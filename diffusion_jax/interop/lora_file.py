"""Factors of LoRA as peft and diffusers keep them, in and out.

    lora, alpha = load_lora("a-folder-of-peft", params, t5_layout.tensor)  # params: of the T5 that it is for
    lora, alpha = load_lora("pytorch_lora_weights.safetensors", params, clip_layout.tensor, prefix="text_encoder")
    params = merged(params, lora, alpha)

Of each adapted module peft has "base_model.model.MODULE.lora_A.weight" (rank, in) and ".lora_B.weight" (out, rank) in
adapter_model.safetensors, of a convolution (rank, in, height, width) and (out, rank, 1, 1), and alpha in
adapter_config.json. Diffusers has one file for all networks, whose names begin with "text_encoder." and the like, and
that config in the file's metadata or nowhere: then the factors are added as they are. Its older files say "lora.down"
or "lora_linear_layer.down", and some have a tensor "MODULE.alpha".
"""

import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict
from jaxtyping import PyTree

from diffusion_jax.files import write_json, written_together
from diffusion_jax.interop import lora_config
from diffusion_jax.interop.safetensors_file import load_metadata, load_params, save_params
from diffusion_jax.types import Params

OF_PEFT, CONFIG = "adapter_model.safetensors", "adapter_config.json"
OF_DIFFUSERS, METADATA = "pytorch_lora_weights.safetensors", "lora_adapter_metadata"
BELOW = "base_model.model."  # where peft's wrappers have the network
ROLES = {
    ".lora_A.weight": "down",
    ".lora_B.weight": "up",
    ".lora.down.weight": "down",
    ".lora.up.weight": "up",
    ".lora_linear_layer.down.weight": "down",
    ".lora_linear_layer.up.weight": "up",
    ".alpha": "alpha",
}


class Adapter(NamedTuple):
    """What `training.lora.merged` takes after the parameters."""

    lora: Params
    alpha: float


def dotted(path: str) -> tuple[str, ...]:
    """What a kernel of a network of ours is called: block_0/conv/kernel is the weight of the module block_0.conv."""
    return (path.replace("/", ".").removesuffix("kernel") + "weight",)


def load_lora(
    path: str | os.PathLike,
    params: PyTree,
    tensor: Callable[[str], Sequence[str]] = dotted,
    prefix: str = "",
) -> Adapter:
    """The factors of a folder of peft's or diffusers', or of one safetensors file, in float32.

    params: of the network that they are for, arrays or shapes. tensor: the path of a kernel of its -> the names that
    its weight may have in the file, such as `t5_layout.tensor`. prefix: what the network's names begin with, such as
    "text_encoder", in a file of several networks; those of the others are left alone.
    Where modules have several alphas, the greatest is returned, and `up` of the others is so much smaller.

    Raises FileNotFoundError where there is no such file, and ValueError for files that are broken, names that the
    network does not have, factors of another shape or without their other half (all are named), and what is more than
    a sum with kernels as they were (DoRA, PiSSA).
    """
    start = f"{prefix}." if prefix else ""
    file, config = _found(Path(path), start)
    lora_config.refuse_other_kinds(config, file)
    kernels = {
        name.removesuffix(".weight"): (kernel, leaf.shape)
        for kernel, leaf in flatten_dict(params, sep="/").items()
        if kernel.rpartition("/")[2] == "kernel"
        for name in tensor(kernel)
    }
    modules = _modules(file, start, kernels)
    alphas = {
        name: found["alpha"].item() if "alpha" in found else lora_config.alpha_of(config, name, len(found["down"]))
        for name, found in modules.items()
    }
    flat, alpha = {}, max(alphas.values())
    for name, found in modules.items():
        up = found["up"].reshape(found["up"].shape[:2]).T
        flat[f"{kernels[name][0]}/down"] = jnp.asarray(np.moveaxis(found["down"], (0, 1), (-1, -2)))
        flat[f"{kernels[name][0]}/up"] = jnp.asarray(up if alphas[name] == alpha else up * (alphas[name] / alpha))
    return Adapter(unflatten_dict(flat, sep="/"), alpha)


def save_peft(
    folder: str | os.PathLike, adapter: Adapter, tensor: Callable[[str], Sequence[str]] = dotted, dtype: str = "float32"
) -> None:
    """Writes a folder for peft's `PeftModel.from_pretrained`, and `load_lora`: factors, and a config with their alpha.

    tensor: a kernel's path -> names, of which the first is taken. dtype: "float32" or "float16".
    Raises OSError for a full disk or a folder that cannot be written; what stood in the folder then stays.
    """
    tensors, config = _described(adapter, tensor)
    with written_together(folder) as beside:
        save_params(beside / OF_PEFT, {BELOW + name: value for name, value in tensors.items()}, {"format": "pt"}, dtype)
        write_json(beside / CONFIG, config)


def save_diffusers(
    folder: str | os.PathLike,
    adapters: Mapping[str, tuple[Adapter, Callable[[str], Sequence[str]]]],
    dtype: str = "float32",
) -> None:
    """Writes one file of several networks for diffusers' `load_lora_weights`, and `load_lora`, into a folder.

    adapters: prefix -> (factors, kernel's path -> names, of which the first is taken); diffusers knows the prefixes
    "text_encoder", "text_encoder_2", "unet" and "transformer". dtype: "float32" or "float16". Raises OSError.
    """
    tensors, told = {}, {}
    for prefix, (adapter, tensor) in adapters.items():
        found, config = _described(adapter, tensor)
        tensors |= {f"{prefix}.{name}": value for name, value in found.items()}
        told |= {f"{prefix}.{name}": value for name, value in config.items()}
    metadata = {"format": "pt", METADATA: json.dumps(told, indent=2, sort_keys=True)}
    save_params(Path(folder) / OF_DIFFUSERS, tensors, metadata, dtype)


def _described(adapter: Adapter, tensor: Callable) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """Tensors in PyTorch's order, by their names, and the config."""
    factors = {path: np.asarray(value, np.float32) for path, value in flatten_dict(adapter.lora, sep="/").items()}
    tensors, ranks = {}, {}
    for kernel in sorted({path.rpartition("/")[0] for path in factors}):
        name, down, up = tensor(kernel)[0].removesuffix(".weight"), factors[f"{kernel}/down"], factors[f"{kernel}/up"].T
        tensors[f"{name}.lora_A.weight"] = np.moveaxis(down, (-1, -2), (0, 1))
        tensors[f"{name}.lora_B.weight"] = up.reshape(*up.shape, *[1] * (down.ndim - 2))
        ranks[name] = down.shape[-1]
    return tensors, lora_config.config_of(ranks, adapter.alpha)


def _found(path: Path, start: str) -> tuple[Path, dict[str, Any]]:
    """The file of factors, and their config as far as there is one."""
    if not (file := path).is_dir():
        text = load_metadata(file).get(METADATA)
    elif (file := path / OF_PEFT).is_file():
        if not (path / CONFIG).is_file():
            raise FileNotFoundError(f"{path} has {OF_PEFT}, but no {CONFIG}, which says alpha: fetch it too")
        text = (path / CONFIG).read_text()
    elif (file := path / OF_DIFFUSERS).is_file():
        text = load_metadata(file).get(METADATA)
    elif pickle := next(path.glob("*.bin"), None):
        raise ValueError(f"{pickle} is a pickle, which may run any code when it is read: save it as safetensors")
    else:
        raise FileNotFoundError(f"{path} has no {OF_PEFT} and no {OF_DIFFUSERS}")
    try:
        config = dict(json.loads(text or "{}").items())
    except (ValueError, AttributeError) as error:
        raise ValueError(f"the config of {file} is no JSON object: fetch it again") from error
    return file, {name.removeprefix(start): value for name, value in config.items() if name.startswith(start)}


def _tensors(file: Path, start: str) -> Iterator[tuple[str, np.ndarray]]:
    """The tensors of a network by their names within it."""
    tensors = flatten_dict(load_params(file), sep="/")
    if not any(name.startswith(start) for name in tensors):
        parts = ", ".join(sorted({name.partition(".")[0] for name in tensors})) or "nothing"
        raise ValueError(f"{file} has no tensors of {start or 'any network'}; it has those of {parts}")
    for name, value in tensors.items():
        if name.startswith(start):
            yield name.removeprefix(start).removeprefix(BELOW), value


def _modules(file: Path, start: str, kernels: Mapping[str, tuple]) -> dict[str, dict[str, np.ndarray]]:
    """The factors of a network by the names of its modules, when all of them fit."""
    modules, wrong, seen = {}, [], {}
    for name, value in _tensors(file, start):
        role = next((role for role in ROLES if name.endswith(role)), "")
        if (module := name.removesuffix(role)) in kernels and role:
            modules.setdefault(module, {})[ROLES[role]] = value
        else:
            wrong.append(f"{name} is left over")
    for name, found in modules.items():
        kernel, shape = kernels[name]
        if reason := _misfit(found, shape):
            wrong.append(f"{name} {reason}")
        if (other := seen.setdefault(kernel, name)) != name:
            wrong.append(f"{name} and {other} are one")
    if wrong:
        more = f" and {len(wrong) - 8} more" if len(wrong) > 8 else ""
        raise ValueError(f"{file} is no LoRA of this network: {'; '.join(wrong[:8])}{more}")
    return modules


def _misfit(found: Mapping[str, np.ndarray], shape: tuple[int, ...]) -> str:
    """What is wrong with a module's factors, for a kernel of this shape."""
    if lacking := " and ".join(role for role in ("down", "up") if role not in found):
        return f"has no {lacking} factor"
    down, up, (*window, inputs, outputs) = found["down"].shape, found["up"].shape, shape
    rank = down[0] if down else 0
    if rank and down == (rank, inputs, *window) and up == (outputs, rank, *[1] * len(window)):
        return ""
    return f"has factors {down} and {up}, its weight is {(outputs, inputs, *window)}"
