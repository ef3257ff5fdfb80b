"""EfficientNet-Lite0's parts beside what defines them; tests/reference compares the whole with PyTorch's."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from diffusion_jax.models.efficientnet import STAGES, Block, Depthwise, EfficientNetLite0, Stage


@pytest.mark.parametrize(
    ("window", "stride", "size"), [(3, 1, (6, 5)), (3, 2, (6, 8)), (3, 2, (7, 5)), (5, 2, (8, 7)), (5, 1, (2, 3))]
)
def test_depthwise_is_a_convolution_in_groups(window, stride, size):
    x = jax.random.normal(jax.random.key(0), (2, *size, 3))
    params = {
        "kernel": jax.random.normal(jax.random.key(1), (window, window, 1, 3)),
        "bias": jnp.array([1.0, -2.0, 0.5]),
    }
    layout = ("NHWC", "HWIO", "NHWC")
    expected = lax.conv_general_dilated(
        x, params["kernel"], (stride, stride), "SAME", dimension_numbers=layout, feature_group_count=3
    )
    found = Depthwise(window, stride).apply({"params": params}, x)
    np.testing.assert_allclose(found, expected + params["bias"][None, None, None], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("stride", "channels", "shortcut"), [(1, 4, True), (2, 4, False), (1, 6, False)])
def test_a_shortcut_is_where_shapes_allow_it(stride, channels, shortcut):
    x = jax.random.normal(jax.random.key(0), (1, 4, 4, 4))
    block = Block(Stage(1, 3, stride, 6, channels), stride)
    params = jax.tree.map(jnp.zeros_like, block.init(jax.random.key(0), x))
    expected = x if shortcut else jnp.zeros((1, 4 // stride, 4 // stride, channels))
    np.testing.assert_array_equal(block.apply(params, x), expected)


def test_the_whole_has_the_published_size():
    """4.7 million parameters by tensorflow/tpu's table, with the batch norms' that are folded here."""
    module = EfficientNetLite0()
    pictures = jnp.zeros((2, 224, 224, 3))
    params = jax.eval_shape(module.init, jax.random.key(0), pictures)
    features, logits = jax.eval_shape(module.apply, params, pictures)
    assert features.shape == (2, 1280)
    assert logits.shape == (2, 1000)
    assert sum(leaf.size for leaf in jax.tree.leaves(params)) == 4_631_000
    assert sum(stage.blocks for stage in STAGES) == 16
