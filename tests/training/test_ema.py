"""The average is what its formula says, forgets its beginning, and is no alias of the parameters."""

import jax.numpy as jnp
import numpy as np
import pytest

from diffusion_jax.training import ema


@pytest.mark.parametrize(("step", "decay"), [(0, 0.1), (1, 2 / 11), (90, 0.91), (8989, 0.999), (10**6, 0.999)])
def test_decay_rises_to_its_value(step, decay):
    assert float(ema.decay_at(jnp.int32(step), 0.999)) == pytest.approx(decay, rel=1e-6)


def test_update_is_a_weighted_mean_in_the_averages_type():
    average = {"a": jnp.full((2,), 4.0), "b": jnp.full((1,), 8.0, jnp.bfloat16)}
    fresh = {"a": jnp.zeros((2,)), "b": jnp.zeros((1,), jnp.bfloat16)}
    new = ema.update(average, fresh, jnp.float32(0.75))
    np.testing.assert_array_equal(new["a"], [3.0, 3.0])
    assert new["b"].dtype == jnp.bfloat16
    assert float(new["b"][0]) == 6.0


def test_the_initial_weights_are_soon_forgotten():
    average, fresh = {"a": jnp.float32(1000.0)}, {"a": jnp.float32(1.0)}
    for step in range(100):
        average = ema.update(average, fresh, ema.decay_at(jnp.int32(step), 0.999))
    assert float(average["a"]) == pytest.approx(1.0, abs=0.01)  # a constant 0.999 would leave 900 of the 1000


def test_equal_stays_exactly_equal():
    average = {"a": jnp.float32(0.1)}
    assert float(ema.update(average, average, jnp.float32(0.9))["a"]) == float(average["a"])
