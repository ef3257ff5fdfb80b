"""Batches that make no number of a loss, and what is left of them."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffusion_jax.training import nonfinite, parallel, state, step

KEY = jax.random.key(3)


def spoiled(toy):
    """The toy's step, which a batch can spoil: its loss, or only its gradient."""

    def loss(params, batch, keys, rows=None):
        value, metrics = toy.loss(params, batch, keys)
        value = value * jnp.where(jnp.any(batch["bad"] == 1), jnp.nan, 1.0)
        rough = jnp.sqrt(jnp.where(jnp.any(batch["bad"] == 2), 0 * params["bias"], 1 + 0 * params["bias"]))
        return value + rough - rough.astype(jnp.int32), metrics

    return step.make_train_step(loss, toy.optimizer, 0.9)


def batches(toy, *bad, size=8):
    return [batch | {"bad": np.full(size, kind, np.int32)} for kind, batch in zip(bad, toy.batches(size), strict=False)]


@pytest.mark.parametrize("kind", [1, 2])
def test_a_bad_batch_changes_nothing_but_the_count(toy, kind):
    take = jax.jit(nonfinite.skipping(spoiled(toy)))
    good, bad, last = batches(toy, 0, kind, 0)
    one, metrics = take(toy.state(), good, KEY)
    assert metrics["skipped"] == 0
    two, skipped = take(one, bad, KEY)
    chex.assert_trees_all_equal(two, one._replace(step=one.step + 1))
    assert {name: float(value) for name, value in skipped.items()} == dict.fromkeys(metrics, 0) | {"skipped": 1}
    three, after = take(two, last, KEY)
    expected, plain = jax.jit(spoiled(toy))(one._replace(step=one.step + 1), last, KEY)
    chex.assert_trees_all_close(three, expected, rtol=1e-6)
    assert after["drawn"] == plain["drawn"]


def test_without_it_the_same_batch_spoils_all(toy):
    for kind in (1, 2):
        now, metrics = jax.jit(spoiled(toy))(toy.state(), batches(toy, kind)[0], KEY)
        assert np.isfinite(metrics["loss"]) == (kind == 2)
        assert not np.isfinite(metrics["gradient_norm"])
        assert np.isnan(now.params["bias"])


def test_good_batches_are_learned_from_as_ever(toy):
    ours, plain = jax.jit(nonfinite.skipping(toy.train_step)), jax.jit(toy.train_step)
    one, other = toy.state(), toy.state()
    for batch in batches(toy, 0, 0, 0, 0):
        one, metrics = ours(one, {"image": batch["image"]}, KEY)
        other, expected = plain(other, {"image": batch["image"]}, KEY)
        assert float(metrics.pop("skipped")) == 0
        chex.assert_trees_all_close((one, metrics), (other, expected), rtol=1e-6)


def test_one_bad_row_on_one_of_eight_devices_skips_the_step_on_all(toy):
    mesh = parallel.device_mesh()
    take = parallel.jit_parallel(nonfinite.skipping(spoiled(toy)), mesh, parallel.everywhere(mesh))
    (batch,) = batches(toy, 0)
    batch["bad"][5] = 1
    before = jax.device_get(toy.state())
    now, metrics = take(
        parallel.replicate(toy.state(), mesh), parallel.split_batch(batch, mesh, 8), parallel.replicate(KEY, mesh)
    )
    chex.assert_trees_all_equal(jax.device_get(now), before._replace(step=before.step + 1))
    assert metrics["skipped"] == 1


def test_it_needs_no_more_than_one_copy_of_the_parameters():
    """Compiled with the state donated, as it runs."""
    import optax

    size = 1 << 20

    def loss(params, batch, keys, rows=None):
        return jnp.sum((params["w"] - jnp.mean(batch["image"].astype(jnp.float32))) ** 2), {}

    optimizer = optax.adam(0.1)
    plain = step.make_train_step(loss, optimizer, 0.9)
    like = jax.eval_shape(lambda: state.init_state({"w": jnp.zeros(size)}, optimizer))
    image = {"image": jax.ShapeDtypeStruct((8, 4, 4, 3), jnp.uint8)}

    def needed(train_step):
        memory = jax.jit(train_step, donate_argnums=0).lower(like, image, KEY).compile().memory_analysis()
        return memory.temp_size_in_bytes + memory.output_size_in_bytes - memory.alias_size_in_bytes

    assert needed(nonfinite.skipping(plain)) < needed(plain) + 1.01 * 4 * size  # float32


def test_means_are_of_the_steps_that_were_taken():
    window = [dict(loss=1.0, skipped=0.0), dict(loss=0.0, skipped=1.0), dict(loss=3.0, skipped=0.0)]
    assert nonfinite.means(window) == dict(loss=2.0, skipped=1.0)
    assert nonfinite.means(window[1:2]) == dict(skipped=1.0)
    assert nonfinite.means([dict(loss=1.0), dict(loss=2.0)]) == dict(loss=1.5)


def test_how_many_in_a_row():
    counts = [0]
    for skipped in (0.0, 1.0, 1.0, 0.0, 1.0):
        counts.append(nonfinite.in_a_row(counts[-1], {"loss": 1.0, "skipped": skipped}))
    assert counts == [0, 0, 1, 2, 0, 1]
    assert nonfinite.in_a_row(0, {"loss": 1.0}) == 0
