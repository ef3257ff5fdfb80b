"""New words for a text encoder: that they are learned, alone, and which rows cannot be."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from diffusion_jax.models.t5 import T5Encoder
from diffusion_jax.training import lora, parallel, state, step
from diffusion_jax.training.adaptation import adapted
from diffusion_jax.training.textual_inversion import rows_of, with_tokens

VOCAB, DIM = 16, 12
MODULE = T5Encoder(VOCAB, dim=DIM, d_kv=4, d_ff=16, heads=2, layers=2)
WIDER = MODULE.clone(vocab=VOCAB + 2)
TOKENS = jnp.array([[5, VOCAB, 7, VOCAB + 1, 1]] * 8)  # two new words among old ones
MASK = jnp.ones_like(TOKENS, bool)


@pytest.fixture(scope="module")
def params():
    shapes = jax.eval_shape(MODULE.init, jax.random.key(0), TOKENS, MASK)["params"]
    numbers = np.random.default_rng(0)
    return jax.tree.map(lambda leaf: jnp.asarray(numbers.normal(0, 0.5, leaf.shape), leaf.dtype), shapes)


def embedded(params, tokens=TOKENS):
    return WIDER.apply({"params": params}, tokens, MASK)


def trained(params, rows, goal, devices=1, steps=300):
    """The package's own step, on the new words alone; the state and the first and last loss."""

    def loss(params, batch, keys, rows):
        return jnp.mean((embedded(params) - goal) ** 2), {}

    mesh = parallel.device_mesh(devices=jax.devices()[:devices])
    optimizer = optax.adam(optax.cosine_decay_schedule(0.05, steps))
    update = step.make_train_step(adapted(loss, tokens=with_tokens), optimizer, 0.9, fixed=tuple(params))
    update = parallel.jit_parallel(update, mesh, parallel.everywhere(mesh))
    now = state.init_state(jax.tree.map(jnp.copy, params | {"tokens": rows}), optimizer, fixed=tuple(params))
    now, key = parallel.replicate(now, mesh), parallel.replicate(jax.random.key(0), mesh)
    batch, losses = parallel.split_batch({"image": np.zeros((8, 1), np.uint8)}, mesh, 8), []
    for _ in range(steps):
        now, metrics = update(now, batch, key)
        losses.append(metrics["loss"])
    return jax.device_get(now), float(losses[0]), float(losses[-1])


def test_new_words_are_learned_and_all_else_stays(params):
    rows = rows_of(params, [3, 4])
    apart = jnp.asarray(np.random.default_rng(1).normal(0, 0.3, rows.shape), jnp.float32)
    after, first, last = trained(params, rows, embedded(with_tokens(params, rows + apart)))
    assert last < 0.01 * first
    chex.assert_trees_all_equal({name: after.params[name] for name in params}, params)
    assert {leaf.shape for leaf in jax.tree.leaves(after.opt_state[0].mu)} == {(2, DIM)}


def test_eight_devices_learn_the_same_word_as_one(params):
    goal, rows = jnp.zeros((8, 5, DIM)), rows_of(params, [3, 4])
    one, eight = (trained(params, rows, goal, devices, steps=3)[0] for devices in (1, 8))
    np.testing.assert_allclose(one.params["tokens"], eight.params["tokens"], rtol=1e-4)
    assert np.abs(one.params["tokens"] - rows).min() > 1e-3


def test_a_new_word_begins_as_an_old_one(params):
    wider = jax.jit(with_tokens)(params, jax.jit(lambda params: rows_of(params, [3, 4]))(params))
    old = TOKENS.at[:, 1].set(3).at[:, 3].set(4)
    np.testing.assert_array_equal(embedded(wider), embedded(wider, old))
    np.testing.assert_array_equal(embedded(wider, old), MODULE.apply({"params": params}, old, MASK))


def test_a_table_that_is_cut_among_devices(params):
    mesh = parallel.device_mesh()
    table = params["token_embedding"]["embedding"]
    cut = jax.device_put(table, NamedSharding(mesh, PartitionSpec("data")))
    rows = rows_of({"token_embedding": {"embedding": cut}}, [3, 15])
    np.testing.assert_array_equal(rows, table[np.array([3, 15])])
    found = jax.jit(with_tokens)({"token_embedding": {"embedding": cut}}, rows)
    np.testing.assert_array_equal(found["token_embedding"]["embedding"], jnp.concatenate([table, rows]))


def test_half_precision_is_that_of_the_table(params):
    half = jax.tree.map(lambda leaf: leaf.astype(jnp.bfloat16), params)
    rows = rows_of(half, [3])
    assert rows.dtype == jnp.float32
    assert with_tokens(half, rows)["token_embedding"]["embedding"].dtype == jnp.bfloat16


def test_words_and_factors_are_trained_together(params):
    factors = jax.tree.map(jnp.ones_like, lora.init(jax.random.key(0), params, 1, "attention/q/"))
    rows = rows_of(params, [3, 4])
    both = params | {"tokens": rows, "lora": factors}
    function = adapted(embedded, lora=lora.merged, tokens=with_tokens)
    np.testing.assert_array_equal(function(both), embedded(with_tokens(lora.merged(params, factors), rows)))
    gradients = jax.jit(jax.grad(lambda params: jnp.sum(function(params) ** 3)))(both)
    largest = {name: max(np.abs(leaf).max() for leaf in jax.tree.leaves(gradients[name])) for name in both}
    assert {name for name, value in largest.items() if value > 0} == {"tokens", "lora"}


@pytest.mark.parametrize(
    ("tokens", "table", "complaint"),
    [
        ([3, 16], "token_embedding/embedding", r"tokens in \[0, 16\): \[16\]"),
        ([-1], "token_embedding/embedding", r"\[-1\]"),
        ([], "token_embedding/embedding", "there are none"),
        (
            [3],
            "text_encoder/token_embedding/embedding",
            "no token embedding at text_encoder/token",
        ),
    ],
)
def test_words_that_cannot_be_are_refused(params, tokens, table, complaint):
    with pytest.raises(ValueError, match=complaint):
        rows_of(params, tokens, table)


@pytest.mark.parametrize(
    ("width", "table", "complaint"),
    [
        (DIM + 1, "token_embedding/embedding", "have 13 numbers each, where token_embedding/embedding has 12"),
        (DIM, "words", "no token embedding at words; there is .*token_embedding/embedding"),
    ],
)
def test_rows_that_do_not_fit_are_refused(params, width, table, complaint):
    with pytest.raises(ValueError, match=complaint):
        with_tokens(params, jnp.zeros((2, width)), table)
