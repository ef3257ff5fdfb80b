"""Tensors of pytorch-fid's names become our parameters, or the reason is told."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffusion_jax.interop import inception_layout
from diffusion_jax.models.inception import Inception

PATH = "Mixed_7c.branch3x3dbl_3b"


@pytest.fixture(scope="module")
def tensors():
    rng = np.random.default_rng(0)
    shapes = inception_layout._shapes()
    made = {name: rng.standard_normal(shape, np.float32) for name, shape in shapes.items()}
    made |= {name: np.abs(value) for name, value in made.items() if name.endswith("running_var")}
    return made | {f"{PATH}.bn.num_batches_tracked": np.array(7)}


def test_there_is_a_tensor_for_each_parameter_in_its_shape(tensors):
    ours = inception_layout.params(tensors)
    wanted = jax.eval_shape(Inception().init, jax.random.key(0), jnp.zeros((1, 75, 75, 3)))["params"]
    assert jax.tree.map(lambda x: (x.shape, x.dtype), ours) == jax.tree.map(lambda x: (x.shape, x.dtype), wanted)


def test_a_batch_norm_is_folded_into_its_convolution(tensors):
    """By the definition: the norm of what the convolution alone gives, at one pixel."""
    ours = inception_layout.params(tensors)["Mixed_7c"]["branch3x3dbl_3b"]
    window = np.random.default_rng(1).normal(size=ours["kernel"].shape[:3])
    convolved = np.einsum("oirc,rci->o", tensors[f"{PATH}.conv.weight"], window)
    scale, shift, mean, variance = (
        tensors[f"{PATH}.bn.{name}"] for name in ("weight", "bias", "running_mean", "running_var")
    )
    expected = (convolved - mean) / np.sqrt(variance + 1e-3) * scale + shift
    found = np.einsum("rcio,rci->o", ours["kernel"], window) + ours["bias"]
    np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"fc.bias": None}, "no Inception-v3 of FID: fc.bias is missing"),
        ({"AuxLogits.fc.weight": np.zeros(3)}, "AuxLogits.fc.weight is left over"),
        ({"fc.bias": np.zeros(1000)}, r"fc.bias is \(1000,\), not \(1008,\)"),  # torchvision's own
        ({"Conv2d_1a_3x3.bn.running_var": np.full(32, -1.0)}, "running_var is negative"),
    ],
)
def test_other_tensors_are_refused(tensors, change, reason):
    wrong = {name: value for name, value in (tensors | change).items() if value is not None}
    with pytest.raises(ValueError, match=reason):
        inception_layout.params(wrong)
