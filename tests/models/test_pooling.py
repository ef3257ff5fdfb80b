"""One vector a sentence."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffusion_jax.models.pooling import mean_pooled

MASK = np.array([[1, 1, 1, 1], [0, 1, 0, 1], [1, 0, 0, 0], [0, 0, 0, 0]], bool)


def embedded(dtype=np.float32):
    return jnp.asarray(np.random.default_rng(0).normal(1, 1, (4, 4, 6)), dtype)


@pytest.mark.parametrize(("dtype", "tolerance"), [(jnp.float32, 1e-6), (jnp.bfloat16, 1e-6)])
def test_is_the_direction_of_the_mean_in_float32(dtype, tolerance):
    text_emb = embedded(dtype)
    found = mean_pooled(text_emb, jnp.asarray(MASK))
    assert found.dtype == jnp.float32
    for row, mask, vector in zip(np.asarray(text_emb, np.float64)[:3], MASK, found, strict=False):
        mean = row[mask].mean(0)
        np.testing.assert_allclose(vector, mean / np.linalg.norm(mean), atol=tolerance)


def test_masked_positions_change_nothing_whatever_they_hold():
    text_emb, mask = embedded(), jnp.asarray(MASK)
    other = jnp.where(mask[:, :, None], text_emb, jnp.nan)
    np.testing.assert_array_equal(mean_pooled(text_emb, mask), mean_pooled(other, mask))


def test_no_text_is_zero_and_has_no_gradient():
    text_emb, mask = embedded(), jnp.asarray(MASK)
    assert (mean_pooled(text_emb, mask)[3] == 0).all()
    grad = jax.grad(lambda text_emb: mean_pooled(text_emb, mask)[:, 0].sum())(text_emb)
    assert (grad[3] == 0).all()
    assert np.isfinite(grad).all()
    assert (np.abs(grad).sum(-1) > 0)[:3].tolist() == MASK[:3].tolist()
