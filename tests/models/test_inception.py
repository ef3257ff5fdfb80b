"""Inception-v3's pools and size; tests/reference compares the whole with its definition in PyTorch's functions."""

import jax
import jax.numpy as jnp
import numpy as np

from diffusion_jax.models.inception import BLOCKS, Block, Inception, Pool


def pooled(kind, stride, x):
    return np.asarray(Block(((Pool(kind, stride),),)).apply({}, jnp.asarray(x)[None, :, :, None]))[0, :, :, 0]


def test_averages_leave_out_what_is_beyond_the_edges():
    x = np.arange(12.0, dtype=np.float32).reshape(3, 4)
    found = pooled("average", 1, x)
    expected = [[x[max(i - 1, 0) : i + 2, max(j - 1, 0) : j + 2].mean() for j in range(4)] for i in range(3)]
    np.testing.assert_allclose(found, expected, rtol=1e-6)
    np.testing.assert_allclose(pooled("average", 1, np.ones((2, 2), np.float32)), np.ones((2, 2)), rtol=1e-6)


def test_maxima_are_of_the_picture_alone():
    x = -1 - np.arange(25.0, dtype=np.float32).reshape(5, 5)
    np.testing.assert_array_equal(pooled("max", 1, x)[0], [-1, -1, -2, -3, -4])  # no zero from beyond the edges
    np.testing.assert_array_equal(pooled("max", 2, x), x[::2, ::2][:2, :2])


def test_the_whole_has_the_published_size():
    """torchvision's has 21,785,568 parameters before the classifier, of which each of 17,216 channels has one less."""
    module = Inception()
    pictures = jnp.zeros((2, 299, 299, 3))
    params = jax.eval_shape(module.init, jax.random.key(0), pictures)
    features, logits = jax.eval_shape(module.apply, params, pictures)
    assert features.shape == (2, 2048)
    assert logits.shape == (2, 1008)
    assert sum(leaf.size for leaf in jax.tree.leaves(params)) == 21_785_568 - 17_216 + 2049 * 1008
    assert list(BLOCKS)[-1] == "Mixed_7c"
    assert [branch[0] for branch in BLOCKS["Mixed_7c"]][-1] == Pool("max")
    assert [branch[0] for branch in BLOCKS["Mixed_7b"]][-1] == Pool("average")
