"""An interval of noise levels, bounds of the picture, and the training half."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffusion_jax.diffusion import guidance as g

X = jnp.asarray(np.random.default_rng(0).normal(size=(3, 2, 2, 2)), jnp.float32)
SIGMA = jnp.asarray(1.5)


def denoise(x, sigma, cond):
    """A denoiser that minds its text, and not linearly."""
    return jnp.tanh(x * cond.text_emb[:, :1, :1, None] + sigma)


@pytest.fixture
def null(text):
    return text(1, -2.0)


@pytest.mark.parametrize(
    ("low", "high", "is_guided"),
    [(0.0, 9.0, True), (1.0, 1.5, True), (1.5, 9.0, False), (0.0, 1.4, False), (1.5, 1.5, False), (2.0, 1.0, False)],
)
def test_guidance_acts_within_its_interval_alone(low, high, is_guided, text, null):
    guided = g.cfg(denoise, null, 4.0)
    expected = (guided if is_guided else denoise)(X, SIGMA, text(3))
    np.testing.assert_allclose(g.within(denoise, guided, low, high)(X, SIGMA, text(3)), expected, atol=1e-6)


def always(x_0):
    return lambda x, sigma, cond: x_0


@pytest.mark.parametrize("percentile", [50.0, 99.5, 100.0])
def test_a_picture_within_its_bounds_is_not_touched(percentile, text):
    inside = jnp.linspace(-1, 1, 24).reshape(3, 2, 2, 2)
    same = g.dynamic_threshold(always(inside), percentile)(X, SIGMA, text(3))
    np.testing.assert_array_equal(same, inside)


@pytest.mark.parametrize("percentile", [50.0, 99.5, 100.0])
def test_a_saturated_picture_is_brought_within_its_bounds(percentile, text):
    given = X.at[0].multiply(0.1)  # the first is not saturated
    after = g.dynamic_threshold(always(given), percentile)(X, SIGMA, text(3))
    assert (abs(after) <= 1).all()
    np.testing.assert_array_equal(after[0], given[0])
    size = np.percentile(np.abs(given), percentile, axis=(1, 2, 3), keepdims=True).clip(1)
    np.testing.assert_allclose(after, np.clip(given, -size, size) / size, rtol=1e-5)


def test_percentile_100_only_scales_and_each_example_alone(text):
    after = g.dynamic_threshold(always(X * 5), 100.0)(X, SIGMA, text(3))
    np.testing.assert_allclose(abs(after).max(axis=(1, 2, 3)), 1, rtol=1e-6)
    np.testing.assert_allclose(after / after[:, :1, :1, :1], X / X[:, :1, :1, :1], rtol=1e-4)
    alone = g.dynamic_threshold(always(X[1:2] * 5), 100.0)(X[1:2], SIGMA, text(1))
    np.testing.assert_array_equal(alone, after[1:2])


def test_the_static_threshold_clips(text):
    np.testing.assert_array_equal(g.static_threshold(always(X * 5))(X, SIGMA, text(3)), np.clip(X * 5, -1, 1))


@pytest.mark.parametrize("probability", [0.0, 0.1, 0.5, 1.0])
def test_texts_are_dropped_with_their_probability_whole(probability, text, null, some_keys):
    cond = text(1000, 5.0)
    dropped = jax.jit(partial(g.drop, null_cond=null._replace(text_mask=jnp.zeros((1, 2), bool))))
    after = dropped(cond, probability=probability, keys=some_keys(1000))
    lost = np.asarray(after.text_emb[:, 0, 0] == -2)
    assert abs(lost.mean() - probability) <= 4 * (probability * (1 - probability) / 1000) ** 0.5
    np.testing.assert_array_equal(after.text_emb[lost], np.full((lost.sum(), 2, 3), -2.0))
    np.testing.assert_array_equal(after.text_emb[~lost], cond.text_emb[~lost])
    np.testing.assert_array_equal(after.text_mask, np.repeat(~lost[:, None], 2, axis=1))


def test_what_is_dropped_depends_on_the_key_of_the_example_alone(text, null, some_keys):
    few, many = (g.drop(text(n, 5.0), null, 0.5, some_keys(n)) for n in (8, 40))
    np.testing.assert_array_equal(few.text_emb, many.text_emb[:8])
    other = g.drop(text(40, 5.0), null, 0.5, some_keys(40, step=1))
    assert (many.text_emb != other.text_emb).any()
