"""Low-rank adaptation: kernels stay as they are, and a product of two thin matrices that is added to each is trained.

Hu et al., "LoRA: Low-Rank Adaptation of Large Language Models" (2021), section 4.1: W + (alpha / rank) B A, where A
begins random and B at zero, so that at first nothing changes. Kernels here are turned: kernel + (alpha / rank) down up.
No module knows of it, since only parameters change:

    factors = lora.init(key, params, rank=8, where=r"attention/(q|v)/")
    y = module.apply({"params": lora.merged(params, factors, alpha=8)}, x)

`adaptation.adapted` makes a loss out of this that trains the factors alone. `interop.lora_file` reads and writes them
as peft does. Left out, because sums of parameters cannot have it: dropout in front of `down`, an option of peft's.
A gradient of factors comes by way of its whole kernel's: what is saved is moments and files, not time in a step.
"""

import math
import re
import zlib

import jax
import jax.numpy as jnp
from flax.traverse_util import flatten_dict, unflatten_dict
from jax.typing import ArrayLike
from jaxtyping import Array, Key, PyTree

from diffusion_jax.types import Params


def init(key: Key[Array, ""], params: PyTree, rank: int, where: str = "") -> Params:
    """Factors for all kernels whose path a regular expression is found in: a tree that has them in place of the kernel.

    params: arrays or shapes, whose leaves called "kernel" can be adapted: matrices (in, out) and convolutions (height,
    width, in, out), not embeddings. where: searched in paths such as "block_0/attention/q/kernel"; "" is found in all.

    {"down": (..., in, rank), "up": (rank, out)}, float32. For a convolution, `down` is one with the same window to
    `rank` channels, and `up` acts at each position alone. `down` is uniform within 1 / sqrt(inputs), as in the paper's
    code and in peft, drawn by key and path: it does not depend on which others are adapted. `up` is zero.

    Raises ValueError for an expression that is none or is found in no kernel's path, and for a rank below 1 or above
    what a kernel can have: the smaller of its inputs and outputs.
    """
    kernels = {path: leaf.shape for path, leaf in flatten_dict(params, sep="/").items() if _name(path) == "kernel"}
    try:
        chosen = {path: shape for path, shape in kernels.items() if re.search(where, path)}
    except re.error as error:
        raise ValueError(f"LoRA: where={where!r} is no regular expression ({error})") from error
    if not chosen:
        raise ValueError(f"LoRA: where={where!r} is found in none of {len(kernels)} kernels' paths: {_some(kernels)}")
    if odd := [f"{path} {shape}" for path, shape in chosen.items() if len(shape) not in (2, 4)]:
        raise ValueError(f"LoRA: a kernel needs 2 or 4 axes: let where={where!r} leave out {_some(odd)}")
    if rank < 1:
        raise ValueError(f"LoRA: rank is {rank}: use 1 or more")
    if small := [f"{path} {shape}" for path, shape in chosen.items() if rank > min(math.prod(shape[:-1]), shape[-1])]:
        raise ValueError(f"LoRA: rank {rank} is above a side of {_some(small)}: lower it, or let where leave them out")
    draw = jax.nn.initializers.variance_scaling(1 / 3, "fan_in", "uniform")
    factors = {}
    for path, (*inputs, outputs) in chosen.items():
        factors[f"{path}/down"] = draw(jax.random.fold_in(key, zlib.crc32(path.encode())), (*inputs, rank), jnp.float32)
        factors[f"{path}/up"] = jnp.zeros((rank, outputs), jnp.float32)
    return unflatten_dict(factors, sep="/")


def merged(params: Params, lora: Params, alpha: ArrayLike | None = None) -> Params:
    """Parameters with kernel + (alpha / rank) down up in place of each kernel that the factors are for.

    lora: as from `init`; the rank is each pair's own. alpha: as in peft; None is each pair's rank, hence a factor of 1;
    0 is no change, and a trained alpha times a strength in between is what diffusers calls the adapter's weight. It may
    be traced. Sums are float32 and results have the kernels' dtype. To merge a second adaptation, merge it into this.

    Raises ValueError for factors of another model: those whose kernel is not there or has another shape are named.
    """
    flat, factors = flatten_dict(params, keep_empty_nodes=True, sep="/"), flatten_dict(lora, sep="/")
    pairs = {path: [factors.get(f"{path}/{name}") for name in ("down", "up")] for path in map(_parent, factors)}
    if wrong := [reason for path, pair in pairs.items() if (reason := _misfit(path, flat.get(path), *pair))]:
        raise ValueError(f"LoRA: these factors are of another model: {_some(wrong, 8)}")
    for path, (down, up) in pairs.items():
        kernel, rank = flat[path], up.shape[0]
        wide = jnp.promote_types(kernel.dtype, jnp.float32)
        change = jnp.tensordot(down, up, 1, precision=jax.lax.Precision.HIGHEST, preferred_element_type=wide)
        scale = 1.0 if alpha is None else jnp.asarray(alpha, wide) / rank
        flat[path] = (kernel.astype(wide) + scale * change).astype(kernel.dtype)
    return unflatten_dict(flat, sep="/")


def _misfit(path: str, kernel: Array | None, down: Array | None, up: Array | None) -> str:
    if kernel is None:
        return f"{path} is not there"
    if down is None or up is None:
        return f"{path} has no {'down' if down is None else 'up'}"
    if (*down.shape[:-1], up.shape[-1]) != kernel.shape or down.shape[-1] != up.shape[0]:
        return f"{path} is {kernel.shape}, the factors {down.shape} and {up.shape}"
    return ""


def _name(path: str) -> str:
    return path.rpartition("/")[2]


def _parent(path: str) -> str:
    return path.rpartition("/")[0]


def _some(items, count: int = 4) -> str:
    items = list(items)
    return ", ".join(items[:count]) + (f" and {len(items) - count} more" if len(items) > count else "")
