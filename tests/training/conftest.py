"""A network of four numbers: everything around it is real, and compiles in a moment."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from diffusion_jax.diffusion import keys as random_keys
from diffusion_jax.training import state, step


def toy_loss(params, batch, keys, rows=None):
    """Guess a noisy picture's noise from the picture, the level from nothing, and report what was drawn."""
    keys = keys if rows is None else keys[rows]
    x_0 = batch["image"].astype(jnp.float32) / 127.5 - 1
    eps = random_keys.normal(random_keys.for_purpose(keys, "noise"), x_0.shape[1:])
    guess = jnp.tanh((x_0 + eps) * params["scale"] + params["bias"])
    loss = jnp.mean((guess - eps) ** 2)
    return loss, {"drawn": jnp.sum(jax.lax.bitcast_convert_type(eps, jnp.int32) % 1009).astype(jnp.float32)}


def toy_batches(size=8, seed=0):
    """Endless batches of noise pictures."""
    numbers = np.random.default_rng(seed)
    while True:
        yield {"image": numbers.integers(0, 256, (size, 4, 4, 3), np.uint8)}


class Toy:
    """The parts of a training, and a fresh first state at each call."""

    optimizer = optax.adam(0.1)
    loss = staticmethod(toy_loss)
    batches = staticmethod(toy_batches)
    train_step = staticmethod(step.make_train_step(toy_loss, optimizer, 0.9))

    @classmethod
    def state(cls, size=3):
        params = {"scale": jnp.linspace(0.5, 1.0, size), "bias": jnp.zeros(())}
        params["scale"] = params["scale"].reshape(1, 1, 1, size)
        return state.init_state(params, cls.optimizer)


@pytest.fixture
def toy():
    return Toy
