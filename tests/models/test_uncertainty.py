import jax
import jax.numpy as jnp
import numpy as np

from diffusion_jax.diffusion.weighting import with_uncertainty
from diffusion_jax.models.uncertainty import Uncertainty


def test_at_first_it_is_zero_and_the_loss_the_plain_one():
    log_snr = jnp.linspace(-20, 20, 9)
    module = Uncertainty(16)
    params = module.init(jax.random.key(0), log_snr)
    assert [leaf.shape for leaf in jax.tree.leaves(params)] == [(16, 1)]
    u = module.apply(params, log_snr)
    assert u.dtype == jnp.float32
    np.testing.assert_array_equal(u, np.zeros(9))
    np.testing.assert_array_equal(with_uncertainty(jnp.arange(9.0), u), np.arange(9.0))


def test_a_level_has_its_own_number_in_a_batch_of_any_size():
    log_snr = jnp.array([-3.0, 0.5, 4.0])
    module = Uncertainty(16)
    params = {"params": {"out": {"kernel": jnp.asarray(np.random.default_rng(0).normal(size=(16, 1)), jnp.float32)}}}
    together = module.apply(params, log_snr)
    np.testing.assert_allclose(module.apply(params, log_snr[1:2]), together[1:2], atol=1e-6)
    assert abs(jnp.diff(together)).min() > 1e-2


def test_gradient_descent_finds_the_logarithm_of_the_error_at_each_level():
    """The error of an exact network for normal data, from low noise to high."""
    log_snr = jnp.linspace(-10, 10, 101)
    error = 1 / (1 + jnp.exp(-log_snr))
    module = Uncertainty()
    start = module.init(jax.random.key(0), log_snr)

    def loss(params):
        return with_uncertainty(error, module.apply(params, log_snr)).mean()

    def step(carry, _):
        params, speed = carry
        speed = jax.tree.map(lambda v, g: 0.99 * v - 0.01 * g, speed, jax.grad(loss)(params))
        return (jax.tree.map(jnp.add, params, speed), speed), None

    (params, _), _ = jax.jit(lambda p: jax.lax.scan(step, (p, jax.tree.map(jnp.zeros_like, p)), length=3000))(start)
    np.testing.assert_allclose(module.apply(params, log_snr), jnp.log(error), atol=0.1)
