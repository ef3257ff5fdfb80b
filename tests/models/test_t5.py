"""T5 encoder: its masks, its buckets, its sizes and its precision (agreement with torch: tests/reference)."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffusion_jax.models.t5 import T5Encoder, position_buckets

SMALL = {"vocab": 50, "dim": 24, "d_kv": 5, "d_ff": 40, "heads": 3, "layers": 2}


def init(**overrides):
    tokens, mask = jnp.zeros((1, 4), jnp.int32), jnp.ones((1, 4), bool)
    return T5Encoder(**{**SMALL, **overrides}).init(jax.random.key(0), tokens, mask)


@functools.cache
def parameters(gated):
    """Random ones drawn by numpy, since compiling `init` takes longer than all that is tested with it."""
    rng = np.random.default_rng(0)
    shapes = jax.eval_shape(functools.partial(init, gated=gated))
    return jax.tree.map(lambda leaf: jnp.asarray(rng.normal(0, 0.3, leaf.shape), leaf.dtype), shapes)


@functools.cache
def encode(**overrides):
    return jax.jit(T5Encoder(**{**SMALL, **overrides}).apply)


def batch(*lengths, total=9, seed=0):
    tokens = np.random.default_rng(seed).integers(0, SMALL["vocab"], (len(lengths), total)).astype(np.int32)
    mask = np.arange(total)[None, :] < np.array(lengths)[:, None]
    return jnp.asarray(tokens), jnp.asarray(mask)


def expected_bucket(offset, buckets, max_distance):
    """The published formula in exact integers: floor((n - e) log(d / e) / log(D / e)), clipped to the last bucket."""
    n, distance = buckets // 2, abs(int(offset))
    e = n // 2
    bucket = distance
    if distance >= e:
        steps = range(1, n - e)
        bucket = e + sum(distance ** (n - e) * e**j >= max_distance**j * e ** (n - e) for j in steps)
    return bucket + (n if offset > 0 else 0)


@pytest.mark.parametrize(("buckets", "max_distance"), [(32, 128), (32, 256), (16, 64), (8, 20), (4, 8), (12, 50)])
def test_buckets_follow_the_published_formula(buckets, max_distance):
    length = 2 * max_distance + 3
    found = position_buckets(length, buckets, max_distance)
    assert found.dtype == np.int32
    for offset in range(1 - length, length):
        expected = expected_bucket(offset, buckets, max_distance)
        assert (np.diagonal(found, offset) == expected).all(), offset


def test_bucket_edges_of_the_published_sizes():
    row = position_buckets(300, 32, 128)[150]  # offsets -150 ... 149
    edges = {0: 0, -1: 1, 1: 17, -7: 7, -8: 8, -11: 8, -12: 9, -16: 10, -64: 14, -90: 14, -91: 15, -128: 15, 149: 31}
    assert {offset: int(row[150 + offset]) for offset in edges} == edges


@pytest.mark.parametrize(("buckets", "max_distance"), [(2, 128), (32, 8), (0, 1)])
def test_impossible_buckets_are_refused(buckets, max_distance):
    with pytest.raises(ValueError, match="buckets >= 4"):
        position_buckets(4, buckets, max_distance)


@pytest.mark.parametrize("gated", [True, False])
def test_output_is_float32_of_the_models_width_and_zero_where_masked(gated):
    tokens, mask = batch(9, 4)
    y = encode(gated=gated)(parameters(gated), tokens, mask)
    assert y.shape == (2, 9, SMALL["dim"])
    assert y.dtype == jnp.float32
    assert (np.asarray(y)[~np.asarray(mask)] == 0).all()
    assert (np.abs(y).sum(-1) > 0)[np.asarray(mask)].all()


@pytest.mark.parametrize("gated", [True, False])
def test_parameter_count(gated):
    s, leaves = SMALL, jax.tree.leaves(parameters(gated))
    block = 4 * s["dim"] * s["heads"] * s["d_kv"] + (3 if gated else 2) * s["dim"] * s["d_ff"] + 2 * s["dim"]
    assert sum(leaf.size for leaf in leaves) == s["vocab"] * s["dim"] + 32 * s["heads"] + 2 * block + s["dim"]
    assert {leaf.dtype for leaf in leaves} == {jnp.dtype("float32")}


def test_what_stands_at_masked_positions_changes_nothing():
    tokens, mask = batch(3, 9)
    other = jnp.where(mask, tokens, (tokens + 7) % SMALL["vocab"])
    assert (tokens != other).any()
    y, same = (encode(gated=True)(parameters(True), t, mask) for t in (tokens, other))
    np.testing.assert_array_equal(y, same)


def test_padding_on_either_side_and_its_amount_change_nothing():
    apply, params = encode(gated=True), parameters(True)
    tokens, mask = batch(5, 5, total=5)
    alone = apply(params, tokens, mask)
    for left, right in [(0, 4), (4, 0), (2, 2), (0, 1)]:
        pad = [(0, 0), (left, right)]
        padded = apply(params, jnp.pad(tokens, pad), jnp.pad(mask, pad))
        np.testing.assert_allclose(padded[:, left : left + 5], alone, atol=1e-5)


def test_the_order_of_tokens_is_seen():
    tokens, mask = batch(9, 9)
    y, backward = (encode(gated=True)(parameters(True), t, mask) for t in (tokens, tokens[:, ::-1]))
    assert np.abs(y - backward[:, ::-1]).max() > 1e-2


def test_a_row_without_text_is_zero_and_leaves_its_neighbors_alone():
    apply, params = encode(gated=True), parameters(True)
    tokens, mask = batch(0, 4)
    y = apply(params, tokens, mask)
    assert (y[0] == 0).all()
    np.testing.assert_array_equal(y[1], apply(params, tokens, mask.at[0].set(True))[1])


@pytest.mark.parametrize(("gated", "lengths"), [(True, (9, 0)), (False, (9, 4))])
def test_every_parameter_learns_beside_any_padding(gated, lengths):
    tokens, mask = batch(*lengths)
    weight = jax.random.normal(jax.random.key(1), (2, 9, SMALL["dim"]))
    grads = jax.jit(jax.grad(lambda p: (encode(gated=gated)(p, tokens, mask) * weight).sum()))(parameters(gated))
    for path, grad in jax.tree_util.tree_leaves_with_path(grads):
        assert np.isfinite(grad).all(), path
        assert np.abs(grad).max() > 1e-4, path


def test_initial_scales_are_the_published_ones():
    """Attention is not divided by sqrt(d_kv) because its queries start out that much smaller."""
    dim, d_kv, d_ff, heads = (SMALL[name] for name in ("dim", "d_kv", "d_ff", "heads"))
    expected = {"q": (dim * d_kv) ** -0.5, "o": (heads * d_kv) ** -0.5, "wo": d_ff**-0.5, "token_embedding": 1.0}
    expected |= dict.fromkeys(["k", "v", "wi_0", "wi_1", "position_bias"], dim**-0.5)
    for path, leaf in jax.tree_util.tree_leaves_with_path(jax.jit(init)()):
        name = path[-2].key
        if name.endswith("norm"):
            assert (leaf == 1).all(), name
        else:
            assert np.std(leaf) == pytest.approx(expected[name], rel=0.25), name


def test_bfloat16_stays_near_float32():
    tokens, mask = batch(9, 4)
    y = encode(gated=True)(parameters(True), tokens, mask)
    rounded = encode(gated=True, dtype=jnp.bfloat16)(parameters(True), tokens, mask)
    assert rounded.dtype == jnp.float32
    error = np.linalg.norm(y - rounded) / np.linalg.norm(y)
    assert 1e-4 < error < 1e-2  # below: it did not compute in bfloat16 at all


def test_dropout_draws_from_its_keys_and_only_in_training():
    params, (tokens, mask) = parameters(True), batch(9, 4)
    model = T5Encoder(**SMALL, dropout=0.5)
    train = jax.jit(lambda key: model.apply(params, tokens, mask, jax.random.split(key)))
    first, again, other = (train(jax.random.key(seed)) for seed in (0, 0, 1))
    np.testing.assert_array_equal(first, again)
    assert np.abs(first - other).max() > 0.1
    plain = encode(gated=True)(params, tokens, mask)
    np.testing.assert_array_equal(encode(gated=True, dropout=0.5)(params, tokens, mask), plain)


def test_a_token_outside_the_vocabulary_is_loud():
    tokens, mask = batch(9, 4)
    y = encode(gated=True)(parameters(True), tokens.at[0, 1].set(SMALL["vocab"]), mask)
    assert np.isnan(y[0]).any()
