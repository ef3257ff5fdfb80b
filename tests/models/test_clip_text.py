"""CLIP's text encoder: who sees whom, where it pools, its layers, sizes and precision (with torch: tests/reference)."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffusion_jax.models.clip_text import ClipTextEncoder

END = 49
SMALL = {"vocab": 50, "dim": 24, "d_ff": 40, "heads": 3, "layers": 2, "max_length": 9, "projection": 5}
SMALL |= {"end_token": END}


def init(**overrides):
    tokens, mask = jnp.zeros((1, 4), jnp.int32), jnp.ones((1, 4), bool)
    return ClipTextEncoder(**{**SMALL, **overrides}).init(jax.random.key(0), tokens, mask)


@functools.cache
def parameters():
    """Random ones drawn by numpy, since compiling `init` takes longer than all that is tested with it."""
    rng = np.random.default_rng(0)
    return jax.tree.map(lambda leaf: jnp.asarray(rng.normal(0, 0.3, leaf.shape), leaf.dtype), jax.eval_shape(init))


@functools.cache
def encode(method="__call__", **overrides):
    return jax.jit(functools.partial(ClipTextEncoder(**{**SMALL, **overrides}).apply, method=method))


def batch(*lengths, total=9, seed=0):
    """Rows of text that ends with the end token, and then random padding."""
    tokens = np.random.default_rng(seed).integers(0, END, (len(lengths), total)).astype(np.int32)
    tokens[np.arange(len(lengths)), np.array(lengths) - 1] = END
    mask = np.arange(total)[None, :] < np.array(lengths)[:, None]
    return jnp.asarray(tokens), jnp.asarray(mask)


def test_outputs_are_float32_and_zero_where_masked():
    tokens, mask = batch(9, 4)
    text_emb, pooled = encode("with_pooled")(parameters(), tokens, mask)
    assert (text_emb.shape, pooled.shape) == ((2, 9, SMALL["dim"]), (2, SMALL["projection"]))
    assert text_emb.dtype == pooled.dtype == jnp.float32
    assert (np.asarray(text_emb)[~np.asarray(mask)] == 0).all()
    assert (np.abs(text_emb).sum(-1) > 0)[np.asarray(mask)].all()
    np.testing.assert_array_equal(encode()(parameters(), tokens, mask), text_emb)
    np.testing.assert_array_equal(encode("pooled")(parameters(), tokens, mask), pooled)


def test_parameter_count_whatever_is_skipped():
    dim, d_ff = SMALL["dim"], SMALL["d_ff"]
    block = 4 * (dim * dim + dim) + 2 * dim * d_ff + d_ff + dim + 4 * dim
    ends = (SMALL["vocab"] + SMALL["max_length"]) * dim + 2 * dim + dim * SMALL["projection"]
    for overrides in ({}, {"skip": 2}, {"skip": 1, "final_norm": False}):
        leaves = jax.tree.leaves(jax.eval_shape(functools.partial(init, **overrides)))
        assert sum(leaf.size for leaf in leaves) == ends + 2 * block
        assert {leaf.dtype for leaf in leaves} == {jnp.dtype("float32")}


def test_a_token_changes_what_stands_at_and_after_it_alone():
    tokens, mask = batch(9)
    y = encode()(parameters(), tokens, mask)
    for at in range(9):
        other = encode()(parameters(), tokens.at[0, at].set((tokens[0, at] + 7) % END), mask)
        changed = np.abs(y - other)[0].max(axis=-1)
        assert (changed[:at] == 0).all(), at
        assert (changed[at:] > 1e-3).all(), at


@pytest.mark.parametrize("overrides", [{}, {"skip": 1}, {"final_norm": False}, {"end_token": None}])
def test_what_stands_at_masked_positions_changes_nothing(overrides):
    tokens, mask = batch(4, 9)
    mask = mask.at[1, 3].set(False)  # a hole, where causality alone would let the content through
    for padding in (END, 0, SMALL["vocab"] - 2):
        other = jnp.where(mask, tokens, padding)
        assert (tokens != other).any()
        for method in ("__call__", "pooled"):
            run = encode(method, **overrides)
            np.testing.assert_array_equal(run(parameters(), tokens, mask), run(parameters(), other, mask))


def test_the_amount_of_padding_changes_nothing_with_a_mask_or_without():
    tokens, mask = batch(5, total=5)
    alone = encode()(parameters(), tokens, mask)
    for more in (1, 4):
        padded = jnp.pad(tokens, [(0, 0), (0, more)], constant_values=END)
        for seen in (jnp.pad(mask, [(0, 0), (0, more)]), jnp.ones((1, 5 + more), bool)):
            np.testing.assert_allclose(encode()(parameters(), padded, seen)[:, :5], alone, atol=1e-5)


def test_a_row_without_text_is_zero_and_leaves_its_neighbors_alone():
    tokens, mask = batch(9, 4)
    none = mask.at[0].set(False)
    for method in ("__call__", "pooled"):
        y = encode(method)(parameters(), tokens, none)
        assert (y[0] == 0).all()
        np.testing.assert_array_equal(y[1], encode(method)(parameters(), tokens, mask)[1])


@pytest.mark.parametrize(
    ("end_token", "row", "at"),
    [
        (END, [3, 4, END, 7, END], 2),  # the first, where padding is the end token too
        (END, [END, 4, 8, 7, 6], 0),
        (END, [3, 4, 8, 7, 6], 0),  # none: the start of the row
        (30, [3, 40, 30, 7, END], 2),  # whichever token is said to be the end
        (None, [3, 40, 30, 41, 41], 3),  # the first of the highest
    ],
)
def test_pooled_is_the_normalized_state_at_the_end_token(end_token, row, at):
    tokens, mask = jnp.asarray([row], jnp.int32), jnp.ones((1, 5), bool)
    options = {"end_token": end_token, "projection": 0}
    states = encode(**options)(parameters(), tokens, mask)
    for skipped in ({}, {"skip": 1}, {"final_norm": False}):  # which pooled does not go by
        found = encode("pooled", **options, **skipped)(parameters(), tokens, mask)
        np.testing.assert_allclose(found, states[:, at], atol=1e-6)
    kernel = parameters()["params"]["text_projection"]["kernel"]
    projected = encode("pooled", end_token=end_token)(parameters(), tokens, mask)
    np.testing.assert_allclose(projected, found @ kernel, atol=1e-5)


def test_skipped_blocks_are_those_of_a_shallower_encoder():
    tokens, mask = batch(9, 4)
    params = {name: value for name, value in parameters()["params"].items() if name != "block_1"}
    for final_norm in (True, False):
        skipped = encode(skip=1, final_norm=final_norm)(parameters(), tokens, mask)
        shallow = encode(layers=1, final_norm=final_norm)({"params": params}, tokens, mask)
        np.testing.assert_allclose(skipped, shallow, atol=1e-6)
    embedded = encode(skip=2, final_norm=False)(parameters(), tokens, mask)
    table, places = params["token_embedding"]["embedding"], params["position_embedding"]
    np.testing.assert_allclose(embedded[0], table[tokens[0]] + places, atol=1e-6)


@pytest.mark.parametrize(
    ("overrides", "blind"),
    [({}, ()), ({"activation": "gelu"}, ()), ({"skip": 1}, ("block_1",)), ({"final_norm": False}, ("final_norm",))],
)
def test_every_parameter_learns_but_those_left_out(overrides, blind):
    tokens, mask = batch(9, 4)
    weight = jax.random.normal(jax.random.key(1), (2, 9, SMALL["dim"]))
    run = encode(**overrides)
    for path, grad in jax.tree_util.tree_leaves_with_path(
        jax.jit(jax.grad(lambda p: (run(p, tokens, mask) * weight).sum()))(parameters())
    ):
        names = [key.key for key in path[1:]]
        assert np.isfinite(grad).all(), path
        if names[0] in (*blind, "text_projection"):
            assert (grad == 0).all(), path
        elif names[-2:] != ["k", "bias"]:  # it moves all logits of a query alike
            assert np.abs(grad).max() > 1e-4, path


def test_initial_scales_are_the_published_ones():
    dim, layers = SMALL["dim"], SMALL["layers"]
    expected = {"token_embedding": 0.02, "position_embedding": 0.01, "fc1": (2 * dim) ** -0.5}
    expected |= dict.fromkeys(["q", "k", "v", "text_projection"], dim**-0.5)
    expected |= dict.fromkeys(["out", "fc2"], (2 * layers * dim) ** -0.5)
    for path, leaf in jax.tree_util.tree_leaves_with_path(jax.jit(init)()):
        names = [key.key for key in path]
        if names[-1] in ("scale", "bias"):
            assert (leaf == (names[-1] == "scale")).all(), path
        else:
            name = next(name for name in reversed(names) if name in expected)
            assert np.std(leaf) == pytest.approx(expected[name], rel=0.25), path


def test_bfloat16_stays_near_float32():
    tokens, mask = batch(9, 4)
    for exact, rounded in zip(
        encode("with_pooled")(parameters(), tokens, mask),
        encode("with_pooled", dtype=jnp.bfloat16)(parameters(), tokens, mask),
        strict=True,
    ):
        assert rounded.dtype == jnp.float32
        error = np.linalg.norm(exact - rounded) / np.linalg.norm(exact)
        assert 1e-4 < error < 2e-2  # below: it did not compute in bfloat16 at all


def test_a_common_offset_of_all_channels_cancels():
    """In the norms: x - mean is taken before it is squared, or little would be left of it in float32."""
    tokens, mask = batch(9, 4)
    params = parameters()["params"]
    moved = {"params": params | {"position_embedding": params["position_embedding"] + 300.0}}
    y, same = (encode()(p, tokens, mask) for p in ({"params": params}, moved))
    np.testing.assert_allclose(y, same, atol=2e-3)


@pytest.mark.parametrize(
    ("overrides", "length", "message"),
    [
        ({}, 10, "captions of 10 tokens, where CLIP has 9 positions"),
        ({"skip": 3}, 4, "skip is 3; of 2 blocks, 0 to 2"),
        ({"skip": -1}, 4, "skip is -1"),
        ({"heads": 5}, 4, "5 heads do not divide a dim of 24"),
        ({"activation": "relu"}, 4, "the activation is 'relu'; CLIP here has quick_gelu or gelu"),
    ],
)
def test_what_cannot_be_is_refused(overrides, length, message):
    tokens, mask = batch(3, total=length)
    with pytest.raises(ValueError, match=message):
        ClipTextEncoder(**{**SMALL, **overrides}).apply(parameters(), tokens, mask)


def test_a_token_outside_the_vocabulary_is_loud():
    tokens, mask = batch(9, 4)
    y = encode()(parameters(), tokens.at[0, 1].set(SMALL["vocab"]), mask)
    assert np.isnan(y[0]).any()
