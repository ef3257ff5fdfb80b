"""T5Gemma's encoder: masks, positions, windows and precision (agreement with torch: tests/reference)."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffusion_jax.models.t5gemma import T5GemmaEncoder, rotated

SMALL = dict(vocab=50, dim=24, d_kv=8, d_ff=40, heads=4, kv_heads=2, layers=2, query_scale=8**-0.5)


@functools.cache
def parameters(**overrides):
    one = jnp.zeros((1, 1), jnp.int32)
    module, rng = T5GemmaEncoder(**SMALL | overrides), np.random.default_rng(0)
    shapes = jax.eval_shape(module.init, jax.random.key(0), one, one == 0)
    return jax.tree.map(lambda leaf: jnp.asarray(rng.normal(0, 0.3, leaf.shape), leaf.dtype), shapes)


@functools.cache
def encode(**overrides):
    return jax.jit(T5GemmaEncoder(**SMALL | overrides).apply)


def batch(*lengths, total=9, seed=0):
    tokens = np.random.default_rng(seed).integers(0, SMALL["vocab"], (len(lengths), total)).astype(np.int32)
    return jnp.asarray(tokens), jnp.asarray(np.arange(total)[None, :] < np.array(lengths)[:, None])


def test_output_is_float32_of_the_models_width_and_zero_where_masked():
    tokens, mask = batch(9, 4, 0)
    y = encode()(parameters(), tokens, mask)
    assert y.shape == (3, 9, SMALL["dim"])
    assert y.dtype == jnp.float32
    assert (np.asarray(y)[~np.asarray(mask)] == 0).all()
    assert (np.abs(y).sum(-1) > 0)[np.asarray(mask)].all()


def test_parameter_count():
    s, leaves = SMALL, jax.tree.leaves(parameters())
    attention = 2 * s["dim"] * s["d_kv"] * (s["heads"] + s["kv_heads"])
    block = attention + 3 * s["dim"] * s["d_ff"] + 4 * s["dim"]
    assert sum(leaf.size for leaf in leaves) == s["vocab"] * s["dim"] + s["dim"] + 2 * block


@pytest.mark.parametrize("side", [1, -1], ids=["padded on the right", "padded on the left"])
def test_what_stands_at_masked_positions_changes_nothing(side):
    tokens, mask = batch(3, 9, 0)
    tokens, mask = tokens[:, ::side], mask[:, ::side]
    other = jnp.where(mask, tokens, (tokens + 7) % SMALL["vocab"])
    np.testing.assert_array_equal(*(encode()(parameters(), each, mask) for each in (tokens, other)))


def test_distances_alone_count_so_padding_on_either_side_changes_nothing():
    tokens, mask = batch(5, total=5)
    alone = encode()(parameters(), tokens, mask)
    for before, after in [(0, 3), (4, 0), (2, 2)]:
        pad = [(0, 0), (before, after)]
        padded = encode()(parameters(), jnp.pad(tokens, pad), jnp.pad(mask, pad))
        np.testing.assert_allclose(padded[:, before : before + 5], alone, atol=2e-5)


def test_the_order_of_tokens_is_seen():
    tokens, mask = batch(9)
    y, backward = (encode()(parameters(), each, mask) for each in (tokens, tokens[:, ::-1]))
    assert np.abs(y - backward[:, ::-1]).max() > 1e-2


def test_a_window_of_one_layer_is_a_wall_and_a_second_layer_looks_over_it():
    tokens, mask = batch(9)
    other = tokens.at[0, 0].add(1)
    for layers, seen in [(1, [0, 1, 2]), (2, range(9))]:
        change = dict(layers=layers, window=2)
        y, moved = (encode(**change)(parameters(**change), each, mask) for each in (tokens, other))
        assert np.flatnonzero(np.abs(y - moved).max((0, 2)) > 1e-6).tolist() == [*seen]


def test_turning_is_by_the_distance_and_keeps_lengths():
    x = np.random.default_rng(0).normal(size=(1, 6, 2, 8)).astype(np.float32)
    y = np.asarray(rotated(jnp.asarray(x), 100.0))
    planes = x[..., :4] + 1j * x[..., 4:]
    turned = planes * np.exp(1j * np.arange(6)[:, None, None] * 100.0 ** (-np.arange(4) / 4))
    np.testing.assert_allclose(y, np.concatenate([turned.real, turned.imag], -1), atol=1e-6)


def test_logits_stay_below_the_cap():
    """With a cap of nearly nothing all weights are equal, and every token gets the same mean of values."""
    tokens, mask = batch(9)
    y = encode(cap=1e-6, layers=1)(parameters(layers=1), tokens, mask)
    flat = encode(query_scale=0.0, layers=1)(parameters(layers=1), tokens, mask)
    np.testing.assert_allclose(y, flat, atol=1e-5)
    assert np.abs(encode(layers=1)(parameters(layers=1), tokens, mask) - flat).max() > 1e-3


def test_half_precision_is_near_and_not_the_same():
    tokens, mask = batch(9, 5)
    y, half = (encode(**each)(parameters(), tokens, mask) for each in ({}, {"dtype": jnp.bfloat16}))
    assert half.dtype == jnp.float32
    error = np.abs(y - half).max() / np.abs(y).max()
    assert 1e-5 < error < 0.1


def test_dropout_acts_where_it_is_asked_for():
    tokens, mask = batch(9)
    module = encode(dropout=0.5)
    still = module(parameters(), tokens, mask)
    np.testing.assert_array_equal(still, encode()(parameters(), tokens, mask))
    moving = [module(parameters(), tokens, mask, jax.random.key(seed)[None]) for seed in (0, 1)]
    assert not np.array_equal(*moving)
    assert not np.array_equal(moving[0], still)
