"""One update: what moves, what is reported, and on what the noise depends."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax

from diffusion_jax.diffusion import keys as random_keys
from diffusion_jax.training import step


def test_a_step_moves_what_it_should(toy):
    before = toy.state()
    after, metrics = jax.jit(toy.train_step)(before, next(toy.batches()), jax.random.key(0))
    assert int(after.step) == 1
    chex.assert_trees_all_equal_shapes_and_dtypes(before, after)
    keys = random_keys.for_example(jax.random.key(0), jnp.int32(0), 8)
    gradients = jax.grad(lambda p: toy.loss(p, next(toy.batches()), keys)[0])(before.params)
    np.testing.assert_allclose(metrics["gradient_norm"], optax.tree.norm(gradients), rtol=1e-5)
    np.testing.assert_allclose(metrics["parameter_norm"], optax.tree.norm(after.params), rtol=1e-6)
    moved = jax.tree.map(lambda a, b: jnp.abs(a - b).max(), before.params, after.params)
    assert min(jax.tree.leaves(moved)) > 0.05
    kept = jax.tree.map(lambda old, new: 0.1 * old + 0.9 * new, before.params, after.params)
    chex.assert_trees_all_close(after.ema_params, kept, rtol=1e-5)


def test_noise_is_a_function_of_key_step_and_place(toy):
    run = jax.jit(toy.train_step)
    batch = next(toy.batches())

    def drawn(key, at):
        return float(run(toy.state()._replace(step=jnp.int32(at)), batch, jax.random.key(key))[1]["drawn"])

    assert drawn(0, 5) == drawn(0, 5)
    assert len({drawn(0, 5), drawn(0, 6), drawn(1, 5)}) == 3


def test_an_example_draws_the_same_in_a_batch_of_any_size():
    keys = [random_keys.for_example(jax.random.key(0), 3, size) for size in (2, 8)]
    draws = [np.asarray(random_keys.normal(random_keys.for_purpose(k, "noise"), (4,))) for k in keys]
    np.testing.assert_array_equal(draws[0], draws[1][:2])


def test_parameters_that_overflow_show_in_the_step_that_breaks_them(toy):
    broken = step.make_train_step(toy.loss, optax.sgd(1e38), 0.9)
    toy_state = toy.state()._replace(opt_state=optax.sgd(1e38).init(toy.state().params))
    _, metrics = jax.jit(broken)(toy_state, next(toy.batches()), jax.random.key(0))
    assert np.isfinite(metrics["loss"])
    assert not np.isfinite(metrics["parameter_norm"])
