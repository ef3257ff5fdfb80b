"""Tensors of PyTorch's names become our parameters, their batch norms folded in, or the reason is told."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffusion_jax.interop import efficientnet_layout
from diffusion_jax.models.efficientnet import EfficientNetLite0


@pytest.fixture(scope="module")
def tensors():
    rng = np.random.default_rng(0)
    shapes = efficientnet_layout._shapes()
    made = {name: rng.normal(size=shape).astype(np.float32) for name, shape in shapes.items()}
    made |= {name: np.abs(value) for name, value in made.items() if name.endswith("running_var")}
    return made | {"_bn0.num_batches_tracked": np.array(7)}


def test_there_is_a_tensor_for_each_parameter_in_its_shape(tensors):
    ours = efficientnet_layout.params(tensors)
    module = EfficientNetLite0()
    wanted = jax.eval_shape(module.init, jax.random.key(0), jnp.zeros((1, 32, 32, 3)))["params"]
    assert jax.tree.map(lambda x: (x.shape, x.dtype), ours) == jax.tree.map(lambda x: (x.shape, x.dtype), wanted)


def test_a_batch_norm_is_folded_into_its_convolution(tensors):
    """By the definition: the norm of what the convolution alone gives, at one pixel."""
    ours = efficientnet_layout.params(tensors)["block_3"]["project"]
    pixel = np.random.default_rng(1).normal(size=ours["kernel"].shape[2])
    convolved = tensors["_blocks.3._project_conv.weight"][:, :, 0, 0] @ pixel
    scale, shift, mean, variance = (
        tensors[f"_blocks.3._bn2.{name}"] for name in ("weight", "bias", "running_mean", "running_var")
    )
    expected = (convolved - mean) / np.sqrt(variance + 1e-3) * scale + shift
    np.testing.assert_allclose(pixel @ ours["kernel"][0, 0] + ours["bias"], expected, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"_fc.bias": None}, "_fc.bias is missing"),
        ({"_blocks.16._bn0.weight": np.zeros(3)}, "_blocks.16._bn0.weight is left over"),
        ({"_fc.bias": np.zeros(10)}, r"_fc.bias is \(10,\), not \(1000,\)"),
        ({"_bn0.running_var": np.full(32, -1.0)}, "_bn0.running_var is negative"),
    ],
)
def test_other_tensors_are_refused(tensors, change, reason):
    wrong = {name: value for name, value in (tensors | change).items() if value is not None}
    with pytest.raises(ValueError, match=reason):
        efficientnet_layout.params(wrong)
