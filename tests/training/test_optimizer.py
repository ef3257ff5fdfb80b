"""The learning rate at each step, and what weight decay acts on."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from diffusion_jax.training import optimizer


def rates(steps, **settings):
    """The learning rates, read off AdamW: for a constant gradient each update is minus the rate."""
    opt = optimizer.adamw(b1=0.0, b2=0.0, eps=0.0, clip_norm=1e9, **settings)
    params = {"w": jnp.zeros(())}

    def one(opt_state, _):
        updates, opt_state = opt.update({"w": jnp.ones(())}, opt_state, params)
        return opt_state, -updates["w"]

    return np.asarray(jax.lax.scan(one, opt.init(params), length=steps)[1])


def test_constant():
    np.testing.assert_allclose(rates(5, learning_rate=0.3), 0.3, rtol=1e-6)


def test_warm_up_is_linear_from_zero_and_then_constant():
    np.testing.assert_allclose(rates(8, learning_rate=1.0, warmup_steps=4), [0, 0.25, 0.5, 0.75, 1, 1, 1, 1])


def test_cosine_after_the_warm_up_ends_at_zero_and_stays_there():
    found = rates(15, learning_rate=2.0, warmup_steps=2, decay_steps=12)
    t = np.arange(11) / 10
    np.testing.assert_allclose(found, [0, 1, *(1 + np.cos(np.pi * t)), 0, 0], atol=1e-6)


def test_cosine_without_warm_up_begins_at_the_top():
    assert rates(3, learning_rate=2.0, decay_steps=100)[0] == 2.0


def test_decay_acts_on_kernels_and_embeddings_alone():
    params = {"kernel": jnp.ones((3, 3)), "conv": jnp.ones((1, 1, 2, 2)), "bias": jnp.ones(3), "scale": jnp.ones(())}
    opt = optimizer.adamw(learning_rate=0.5, weight_decay=0.1)
    updates, _ = opt.update(jax.tree.map(jnp.zeros_like, params), opt.init(params), params)
    moved = {name: float(jnp.abs(update).max()) for name, update in updates.items()}
    assert moved == pytest.approx({"kernel": 0.05, "conv": 0.05, "bias": 0.0, "scale": 0.0})


def test_gradients_are_clipped_by_their_common_norm():
    opt = optimizer.adamw(learning_rate=1.0, clip_norm=1.0)
    params = {"a": jnp.zeros(()), "b": jnp.zeros(())}
    _, opt_state = opt.update({"a": jnp.float32(30.0), "b": jnp.float32(40.0)}, opt.init(params), params)
    first_moment = optax.tree.get(opt_state, "mu")
    assert float(first_moment["a"]) == pytest.approx(0.1 * 0.6)
    assert float(first_moment["b"]) == pytest.approx(0.1 * 0.8)


@pytest.mark.parametrize(
    "wrong",
    [
        dict(warmup_steps=10, decay_steps=10),
        dict(warmup_steps=10, decay_steps=5),
        dict(warmup_steps=-1),
        dict(learning_rate=-1.0),
        dict(clip_norm=0.0),
        dict(weight_decay=-0.1),
    ],
)
def test_senseless_numbers(wrong):
    with pytest.raises(ValueError, match="optimizer: ") as raised:
        optimizer.adamw(**{"learning_rate": 1e-3} | wrong)
    assert all(name in str(raised.value) for name in wrong)
