"""EfficientNet-Lite0 as efficientnet_lite_pytorch names its tensors, and with its batch norms, as ours.

The names are those of lukemelas/EfficientNet-PyTorch. Kernels of PyTorch are (out, in, rows, columns), ours (rows,
columns, in, out); a convolution in groups has one channel in.
"""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from diffusion_jax.models.efficientnet import STAGES, EfficientNetLite0

EPSILON = 1e-3  # of every batch norm
COUNTER = "num_batches_tracked"  # of batch norms in PyTorch, and of no use here


def params(tensors: Mapping[str, np.ndarray]) -> dict[str, Any]:
    """The parameters of `EfficientNetLite0`, as float32 arrays of numpy, from a state dict as numpy arrays.

    Each batch norm is folded, in float64, into the convolution before it. Raises ValueError for tensors that are
    missing, left over, of another shape, or no batch norm.
    """
    wanted = _shapes()
    found = {name: np.shape(tensor) for name, tensor in tensors.items() if not name.endswith(COUNTER)}
    wrong = [f"{name} is missing" for name in wanted if name not in found]
    wrong += [f"{name} is left over" for name in found if name not in wanted]
    wrong += [
        f"{name} is {found[name]}, not {shape}" for name, shape in wanted.items() if found.get(name, shape) != shape
    ]
    wrong += [
        f"{name} is negative" for name in wanted if name.endswith("running_var") and np.any(tensors.get(name, 0) < 0)
    ]
    if wrong:
        more = f" and {len(wrong) - 8} more" if len(wrong) > 8 else ""
        raise ValueError(f"these tensors are no EfficientNet-Lite0: {'; '.join(wrong[:8])}{more}")
    ours: dict[str, Any] = {}
    for path, convolution, norm in _pairs():
        parent = ours
        for name in path:
            parent = parent.setdefault(name, {})
        parent.update(_folded(tensors, convolution, norm))
    ours["classes"] = {"kernel": _float32(tensors["_fc.weight"].T), "bias": _float32(tensors["_fc.bias"])}
    return ours


def _folded(tensors: Mapping[str, np.ndarray], convolution: str, norm: str) -> dict[str, np.ndarray]:
    kernel = np.asarray(tensors[f"{convolution}.weight"], np.float64).transpose(2, 3, 1, 0)
    scale, shift, mean, variance = (
        np.asarray(tensors[f"{norm}.{name}"], np.float64) for name in ("weight", "bias", "running_mean", "running_var")
    )
    factor = scale / np.sqrt(variance + EPSILON)
    return {"kernel": _float32(kernel * factor), "bias": _float32(shift - mean * factor)}


def _float32(values: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(values, np.float32)


def _pairs() -> list[tuple[tuple[str, ...], str, str]]:
    """Our path, their convolution, and their batch norm after it."""
    pairs = [(("stem",), "_conv_stem", "_bn0"), (("head",), "_conv_head", "_bn1")]
    for number, stage in enumerate(each for each in STAGES for _ in range(each.blocks)):
        for ours, convolution, norm in (
            ("expand", "_expand_conv", "_bn0"),
            ("depthwise", "_depthwise_conv", "_bn1"),
            ("project", "_project_conv", "_bn2"),
        ):
            if ours != "expand" or stage.expansion > 1:
                within = f"_blocks.{number}"
                pairs.append(((f"block_{number}", ours), f"{within}.{convolution}", f"{within}.{norm}"))
    return pairs


def _shapes() -> dict[str, tuple[int, ...]]:
    """Of every tensor of a state dict but the counters, by the shapes of our module."""
    module = EfficientNetLite0()
    ours = jax.eval_shape(module.init, jax.random.key(0), jnp.zeros((1, 32, 32, 3)))["params"]
    classes, features = ours["classes"]["kernel"].shape[::-1]
    shapes: dict[str, tuple[int, ...]] = {"_fc.weight": (classes, features), "_fc.bias": (classes,)}
    for path, convolution, norm in _pairs():
        node = ours
        for name in path:
            node = node[name]
        rows, columns, inputs, outputs = node["kernel"].shape
        shapes[f"{convolution}.weight"] = (outputs, inputs, rows, columns)
        shapes |= {f"{norm}.{name}": (outputs,) for name in ("weight", "bias", "running_mean", "running_var")}
    return shapes
