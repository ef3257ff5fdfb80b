import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffusion_jax.diffusion import oracle

MEAN, STD = np.array([[[0.3], [-0.2]]]), np.array([[[0.5], [1.5]]])


@pytest.mark.parametrize("sigma", [0.1, 1.0, 10.0])
@pytest.mark.parametrize("std", [0.2, 0.0])
def test_the_mixture_is_what_integration_gives(sigma, std, text, x64):
    """E[x_0 | x] of one pixel, by summing over a fine grid of x_0."""
    means, weights, x = np.array([-0.7, 0.4]), np.array([1.0, 3.0]), np.linspace(-2, 2, 5)
    if std:
        x_0 = np.linspace(-3, 3, 20001)[:, None]
        prior = (weights * np.exp(-0.5 * (x_0 - means) ** 2 / std**2)).sum(1, keepdims=True)
    else:
        x_0, prior = means[:, None], weights[:, None]
    posterior = prior * np.exp(-0.5 * ((x - x_0) / sigma) ** 2)
    expected = (posterior * x_0).sum(0) / posterior.sum(0)
    denoise = oracle.mixture(jnp.asarray(means)[:, None, None, None], std, jnp.asarray(weights))
    ours = denoise(jnp.asarray(x)[:, None, None, None], jnp.asarray(sigma), text(5))
    np.testing.assert_allclose(ours[:, 0, 0, 0], expected, atol=1e-8)


def test_a_mixture_of_one_is_a_gaussian(text):
    x, sigma, std, mean = (
        jnp.linspace(-2, 2, 8).reshape(4, 1, 2, 1),
        jnp.asarray(0.7),
        0.4,
        jnp.asarray(MEAN, jnp.float32),
    )
    one = oracle.mixture(mean[None], std, jnp.ones(1))(x, sigma, text(4))
    np.testing.assert_allclose(one, oracle.gaussian(mean, jnp.full_like(mean, std))(x, sigma, text(4)), rtol=1e-5)


def test_the_flow_solves_the_equation_of_the_samplers(text, x64):
    x, sigma = jnp.linspace(-2, 2, 8).reshape(4, 1, 2, 1), jnp.asarray(2.0)
    mean, std = jnp.asarray(MEAN), jnp.asarray(STD)
    flow = lambda sigma_next: oracle.gaussian_flow(mean, std, x, sigma, sigma_next)  # noqa: E731
    for sigma_next in jnp.array([2.0, 0.5, 0.01]):
        here, slope = jax.jvp(flow, (sigma_next,), (jnp.ones(()),))
        x_0 = oracle.gaussian(mean, std)(here, sigma_next, text(4))
        np.testing.assert_allclose(slope, (here - x_0) / sigma_next, rtol=1e-9)
