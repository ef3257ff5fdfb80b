"""BERT encoder: its masks, its positions, its sizes and its precision (agreement with torch: tests/reference)."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffusion_jax.models.bert import BertEncoder

SMALL = {"vocab": 50, "dim": 24, "d_ff": 40, "heads": 3, "layers": 2, "positions": 12}


def init():
    tokens, mask = jnp.zeros((1, 4), jnp.int32), jnp.ones((1, 4), bool)
    return BertEncoder(**SMALL).init(jax.random.key(0), tokens, mask)


@functools.cache
def parameters():
    """Random ones drawn by numpy, since compiling `init` takes longer than all that is tested with it."""
    rng = np.random.default_rng(0)
    return jax.tree.map(lambda leaf: jnp.asarray(rng.normal(0, 0.3, leaf.shape), leaf.dtype), jax.eval_shape(init))


@functools.cache
def encode(**overrides):
    return jax.jit(BertEncoder(**{**SMALL, **overrides}).apply)


def batch(*lengths, total=9, seed=0):
    tokens = np.random.default_rng(seed).integers(0, SMALL["vocab"], (len(lengths), total)).astype(np.int32)
    mask = np.arange(total)[None, :] < np.array(lengths)[:, None]
    return jnp.asarray(tokens), jnp.asarray(mask)


def test_output_is_float32_of_the_models_width_and_zero_where_masked():
    tokens, mask = batch(9, 4)
    y = encode()(parameters(), tokens, mask)
    assert y.shape == (2, 9, SMALL["dim"])
    assert y.dtype == jnp.float32
    assert (np.asarray(y)[~np.asarray(mask)] == 0).all()
    assert (np.abs(y).sum(-1) > 0)[np.asarray(mask)].all()


def test_parameter_count():
    s, leaves = SMALL, jax.tree.leaves(parameters())
    dim, d_ff = s["dim"], s["d_ff"]
    block = 4 * (dim * dim + dim) + (dim * d_ff + d_ff) + (d_ff * dim + dim) + 2 * 2 * dim
    assert sum(leaf.size for leaf in leaves) == (s["vocab"] + s["positions"] + 2) * dim + 2 * dim + 2 * block
    assert {leaf.dtype for leaf in leaves} == {jnp.dtype("float32")}


@pytest.mark.parametrize("side", [1, -1], ids=["padded on the right", "padded on the left"])
def test_what_stands_at_masked_positions_changes_nothing(side):
    tokens, mask = batch(3, 9, 0)
    tokens, mask = tokens[:, ::side], mask[:, ::side]
    other = jnp.where(mask, tokens, (tokens + 7) % SMALL["vocab"])
    assert (tokens != other).any()
    np.testing.assert_array_equal(*(encode()(parameters(), each, mask) for each in (tokens, other)))


def test_padding_on_the_right_changes_nothing_and_on_the_left_moves_the_text():
    tokens, mask = batch(5, 5, total=5)
    alone = encode()(parameters(), tokens, mask)
    padded = [
        encode()(parameters(), jnp.pad(tokens, pad), jnp.pad(mask, pad))
        for pad in ([(0, 0), (0, 1)], [(0, 0), (0, 7)], [(0, 0), (1, 0)])
    ]
    for same in padded[:2]:
        np.testing.assert_allclose(same[:, :5], alone, atol=1e-5)
    assert np.abs(padded[2][:, 1:] - alone).max() > 1e-2


def test_the_order_of_tokens_is_seen():
    tokens, mask = batch(9, 9)
    y, backward = (encode()(parameters(), each, mask) for each in (tokens, tokens[:, ::-1]))
    assert np.abs(y - backward[:, ::-1]).max() > 1e-2


def test_a_row_without_text_is_zero_and_leaves_its_neighbors_alone():
    tokens, mask = batch(0, 4)
    y = encode()(parameters(), tokens, mask)
    assert (y[0] == 0).all()
    np.testing.assert_array_equal(y[1], encode()(parameters(), tokens, mask.at[0].set(True))[1])


@pytest.mark.parametrize("lengths", [(9, 0), (9, 4)])
def test_every_parameter_learns_beside_any_padding_but_the_biases_of_keys(lengths):
    """They raise all logits of a softmax alike, so nothing depends on them."""
    tokens, mask = batch(*lengths)
    weight = jax.random.normal(jax.random.key(1), (2, 9, SMALL["dim"]))
    grads = jax.jit(jax.grad(lambda p: (encode()(p, tokens, mask) * weight).sum()))(parameters())
    for path, grad in jax.tree_util.tree_leaves_with_path(grads):
        name = jax.tree_util.keystr(path, simple=True, separator="/")
        assert np.isfinite(grad).all(), name
        assert (np.abs(grad).max() > 1e-3) == (not name.endswith("key/bias")), name


def test_initial_scales():
    """Kernels and tables as published; norms do nothing yet, and biases are zero."""
    for path, leaf in jax.tree_util.tree_leaves_with_path(jax.jit(init)()):
        mean, deviation = {"scale": (1, 0), "bias": (0, 0)}.get(path[-1].key, (0, 0.02))
        assert np.std(leaf) == pytest.approx(deviation, rel=0.25), path
        assert np.mean(leaf) == pytest.approx(mean, abs=0.008), path


def test_bfloat16_stays_near_float32_and_so_do_its_gradients():
    tokens, mask = batch(9, 4)
    weight = jax.random.normal(jax.random.key(1), (2, 9, SMALL["dim"]))

    def both(dtype):
        apply = encode(dtype=dtype)
        grads = jax.grad(lambda params: (apply(params, tokens, mask) * weight).sum())(parameters())
        return apply(parameters(), tokens, mask), jnp.concatenate([leaf.ravel() for leaf in jax.tree.leaves(grads)])

    for exact, rounded in zip(both(jnp.float32), both(jnp.bfloat16), strict=True):
        assert rounded.dtype == jnp.float32
        error = np.linalg.norm(exact - rounded) / np.linalg.norm(exact)
        assert 1e-4 < error < 3e-2  # below: it did not compute in bfloat16 at all


def test_dropout_draws_from_its_keys_and_only_in_training():
    params, (tokens, mask) = parameters(), batch(9, 4)
    model = BertEncoder(**SMALL, dropout=0.5)
    train = jax.jit(lambda key: model.apply(params, tokens, mask, jax.random.split(key)))
    first, again, other = (train(jax.random.key(seed)) for seed in (0, 0, 1))
    np.testing.assert_array_equal(first, again)
    assert np.abs(first - other).max() > 0.1
    np.testing.assert_array_equal(encode(dropout=0.5)(params, tokens, mask), encode()(params, tokens, mask))


def test_a_token_outside_the_vocabulary_is_loud():
    tokens, mask = batch(9, 4)
    y = encode()(parameters(), tokens.at[0, 1].set(SMALL["vocab"]), mask)
    assert np.isnan(y[0]).any()


def test_a_text_longer_than_its_positions_is_refused():
    encode()(parameters(), *batch(12, total=12))
    with pytest.raises(ValueError, match="13 tokens and this BERT has 12 positions"):
        encode()(parameters(), *batch(13, total=13))


@pytest.mark.parametrize(
    ("overrides", "complaint"),
    [({"activation": "tanh"}, "'tanh'; BERT here has gelu"), ({"heads": 5}, "24 does not divide among 5 heads")],
)
def test_what_it_cannot_be_is_refused(overrides, complaint):
    with pytest.raises(ValueError, match=complaint):
        BertEncoder(**{**SMALL, **overrides})
