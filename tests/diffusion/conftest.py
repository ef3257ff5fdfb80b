"""Strict types for the pure maths, and small things that its tests share."""

import jax
import jax.numpy as jnp
import pytest

from diffusion_jax.diffusion import keys
from diffusion_jax.types import Cond


@pytest.fixture(autouse=True)
def _strict_types():
    with jax.numpy_dtype_promotion("strict"):
        yield


@pytest.fixture
def x64():
    """float64 throughout: where an order of convergence is measured, float32 hides it."""
    with jax.enable_x64(True):
        yield


@pytest.fixture
def some_keys():
    """Keys for a batch of the given size; the keys of a smaller batch are the first of a larger one."""
    return lambda batch, step=0: keys.for_example(jax.random.key(7), step, batch)


@pytest.fixture
def text():
    """A Cond for a batch of the given size, every example with text of its own: `value` plus its index."""

    def make(batch, value=0.0):
        text_emb = jnp.broadcast_to((value + jnp.arange(batch, dtype=float))[:, None, None], (batch, 2, 3))
        return Cond(text_emb, jnp.ones((batch, 2), bool))

    return make
