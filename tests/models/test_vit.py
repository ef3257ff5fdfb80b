"""A ViT's parts beside what defines them; tests/reference compares the whole with transformers'."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffusion_jax.models.vit import VisionTransformer, between

SMALL = dict(dim=8, d_ff=16, heads=2, layers=2, patch=4, grid=3)


@pytest.mark.parametrize(("grid", "size"), [(3, 3), (5, 9), (37, 16)])
def test_interpolation_keeps_what_is_constant_and_is_cubic_between(grid, size):
    matrix = between(grid, size)
    np.testing.assert_allclose(matrix.sum(1), 1, atol=1e-6)
    assert (np.count_nonzero(np.abs(matrix) > 1e-7, axis=1) <= 4).all()
    if size == grid:
        np.testing.assert_allclose(matrix, np.eye(grid), atol=1e-6)
    np.testing.assert_allclose(matrix, matrix[::-1, ::-1], atol=1e-6)


def test_half_way_the_nearest_four_weigh_as_the_kernel_says():
    """a = -3/4 at distances of 1.5 and 0.5: a / 8 and 1 / 2 - a / 8."""
    np.testing.assert_allclose(between(8, 4)[1, 1:5], [-0.09375, 0.59375, 0.59375, -0.09375], atol=1e-6)


def test_an_offset_is_as_if_there_were_so_many_more():
    np.testing.assert_allclose(between(8, 4, 4.0), np.eye(8)[:4], atol=1e-6)
    np.testing.assert_allclose(between(9, 5, 2.0), between(9, 7)[:5], atol=1e-6)


def test_the_result_is_the_class_token_and_sees_each_patch(stirred):
    module = VisionTransformer(**SMALL)
    x = jax.random.normal(jax.random.key(0), (2, 12, 12, 3))
    params = stirred(module.init(jax.random.key(1), x)["params"])
    found = jax.jit(module.apply)({"params": params}, x)
    assert found.shape == (2, 8)
    for row in (0, 4, 8):
        changed = jax.jit(module.apply)({"params": params}, x.at[0, row, 11].add(3.0))
        assert np.abs(changed[0] - found[0]).max() > 1e-3
        np.testing.assert_allclose(changed[1], found[1], atol=1e-5)
    # Patches are told apart by their places alone.
    turned = jax.jit(module.apply)({"params": params}, jnp.roll(x, 4, axis=1))
    assert np.abs(turned - found).max() > 1e-3
    level = params | {"positions": params["positions"].at[1:].set(0.0)}
    a, b = (jax.jit(module.apply)({"params": level}, each) for each in (x, jnp.roll(x, 4, axis=1)))
    np.testing.assert_allclose(a, b, atol=1e-4)


def test_other_sizes_have_their_positions_in_between(stirred):
    module = VisionTransformer(**SMALL)
    x = jax.random.normal(jax.random.key(0), (1, 12, 12, 3))
    params = stirred(module.init(jax.random.key(1), x)["params"])
    large = jax.random.normal(jax.random.key(2), (1, 20, 24, 3))
    found = module.apply({"params": params}, large)
    assert found.shape == (1, 8)
    assert np.abs(module.clone(offset=0.1).apply({"params": params}, large) - found).max() > 1e-4


@pytest.mark.parametrize(
    ("change", "reason"), [({"heads": 3}, "3 heads do not"), ({"activation": "x"}, "ViT here has")]
)
def test_what_it_cannot_be_is_told(change, reason):
    with pytest.raises(ValueError, match=reason):
        VisionTransformer(**SMALL | change)
