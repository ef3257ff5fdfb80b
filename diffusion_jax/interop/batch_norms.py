"""Batch norms folded into the convolutions before them, and tensors that are checked against those that are wanted.

Kernels of PyTorch are (out, in, rows, columns), ours (rows, columns, in, out); a convolution in groups has one channel
in.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np

COUNTER = "num_batches_tracked"  # of batch norms in PyTorch, and of no use here


def check(tensors: Mapping[str, np.ndarray], wanted: Mapping[str, tuple[int, ...]], what: str) -> None:
    """Raises ValueError for tensors that are missing, left over, of another shape than is wanted, or no batch norm."""
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
        raise ValueError(f"these tensors are no {what}: {'; '.join(wrong[:8])}{more}")


def folded(tensors: Mapping[str, np.ndarray], convolution: str, norm: str, epsilon: float) -> dict[str, np.ndarray]:
    """The kernel and the bias, float32, of a convolution and its batch norm as one; computed in float64."""
    kernel = np.asarray(tensors[f"{convolution}.weight"], np.float64).transpose(2, 3, 1, 0)
    scale, shift, mean, variance = (
        np.asarray(tensors[f"{norm}.{name}"], np.float64) for name in ("weight", "bias", "running_mean", "running_var")
    )
    factor = scale / np.sqrt(variance + epsilon)
    return {"kernel": float32(kernel * factor), "bias": float32(shift - mean * factor)}


def dense(tensors: Mapping[str, np.ndarray], name: str) -> dict[str, np.ndarray]:
    """A linear map of PyTorch's as ours, float32."""
    return {"kernel": float32(tensors[f"{name}.weight"].T), "bias": float32(tensors[f"{name}.bias"])}


def shapes(kernel: tuple[int, ...], convolution: str, norm: str) -> dict[str, tuple[int, ...]]:
    """Of the tensors that `folded` makes a kernel of this shape of."""
    rows, columns, inputs, outputs = kernel
    norms = {f"{norm}.{name}": (outputs,) for name in ("weight", "bias", "running_mean", "running_var")}
    return {f"{convolution}.weight": (outputs, inputs, rows, columns), **norms}


def at(tree: Any, path: tuple[str, ...]) -> Any:
    """What lies in nested dicts by a path."""
    for name in path:
        tree = tree[name]
    return tree


def nested(parts: Mapping[tuple[str, ...], Any]) -> dict[str, Any]:
    """Nested dicts of what goes to each path."""
    tree: dict[str, Any] = {}
    for (*parents, leaf), part in parts.items():
        node = tree
        for name in parents:
            node = node.setdefault(name, {})
        node[leaf] = part
    return tree


def float32(values: np.ndarray) -> np.ndarray:
    """As float32 and contiguous."""
    return np.ascontiguousarray(values, np.float32)
