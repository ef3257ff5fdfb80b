import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffusion_jax.diffusion import keys


def data(keys_):
    return np.asarray(jax.random.key_data(keys_))


@pytest.mark.parametrize("draw", [lambda k: keys.normal(k, (2, 3)), keys.uniform])
def test_an_example_draws_the_same_in_a_batch_of_any_size(some_keys, draw):
    np.testing.assert_array_equal(draw(some_keys(2)), draw(some_keys(5))[:2])


@pytest.mark.parametrize("purposes", [("noise", "level"), ("drop", "sampler"), ("noise", "noise ")])
def test_purposes_steps_and_examples_are_independent(some_keys, purposes):
    several = [keys.for_purpose(some_keys(3, step), purpose) for step in (0, 1) for purpose in purposes]
    assert len(np.unique(np.concatenate([data(k) for k in several]), axis=0)) == 12


def test_a_purpose_means_the_same_for_one_key_and_for_many(some_keys):
    many = some_keys(3)
    np.testing.assert_array_equal(data(keys.for_purpose(many[1], "noise")), data(keys.for_purpose(many, "noise"))[1])


def test_the_step_may_be_traced(some_keys):
    traced = jax.jit(lambda step: keys.for_example(jax.random.key(7), step, 2))(jnp.asarray(4))
    np.testing.assert_array_equal(data(traced), data(some_keys(2, 4)))


def test_normal_numbers_are_normal(some_keys):
    x = np.asarray(keys.normal(some_keys(64), (16, 16, 1)))
    error = x.size**-0.5
    assert x.shape == (64, 16, 16, 1)
    assert abs(x.mean()) < 4 * error
    assert abs(x.var() - 1) < 4 * 2**0.5 * error
    between = np.corrcoef(x.reshape(64, -1))[np.triu_indices(64, 1)]  # one example and another
    assert abs(between.std() * 16 - 1) < 4 / (2 * between.size) ** 0.5
