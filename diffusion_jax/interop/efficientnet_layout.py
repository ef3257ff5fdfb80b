"""EfficientNet-Lite0 as efficientnet_lite_pytorch names its tensors, and with its batch norms, as ours.

The names are those of lukemelas/EfficientNet-PyTorch.
"""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from diffusion_jax.interop import batch_norms
from diffusion_jax.models.efficientnet import STAGES, EfficientNetLite0

EPSILON = 1e-3  # of every batch norm


def params(tensors: Mapping[str, np.ndarray]) -> dict[str, Any]:
    """The parameters of `EfficientNetLite0`, as float32 arrays of numpy, from a state dict as numpy arrays.

    Each batch norm is folded, in float64, into the convolution before it. Raises ValueError for tensors that are
    missing, left over, of another shape, or no batch norm.
    """
    batch_norms.check(tensors, _shapes(), "EfficientNet-Lite0")
    parts = {path: batch_norms.folded(tensors, *names, EPSILON) for path, *names in _pairs()}
    return batch_norms.nested(parts | {("classes",): batch_norms.dense(tensors, "_fc")})


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
    for path, *names in _pairs():
        shapes |= batch_norms.shapes(batch_norms.at(ours, path)["kernel"].shape, *names)
    return shapes
