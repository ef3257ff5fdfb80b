import jax.numpy as jnp
import numpy as np
import pytest

from diffusion_jax.diffusion import denoiser as d
from diffusion_jax.diffusion import oracle
from diffusion_jax.diffusion import parameterization as p
from diffusion_jax.diffusion import schedules as s

PREDICTIONS = [p.eps_prediction, p.x0_prediction, p.v_prediction, p.flow_prediction, p.edm_prediction]
SCALINGS = [s.variance_preserving, s.variance_exploding, s.straight_line]
MEANS = np.random.default_rng(1).uniform(-1, 1, (3, 2, 2, 1))


def echo(x_t, log_snr, cond):
    """A network that says what it was given."""
    return x_t + log_snr[:, None, None, None]


@pytest.mark.parametrize("prediction", PREDICTIONS)
@pytest.mark.parametrize("scaling", SCALINGS)
@pytest.mark.parametrize("sigma", [0.01, 1.0, 50.0])
def test_one_denoiser_comes_back_from_every_prediction_and_scaling(prediction, scaling, sigma, text, x64):
    schedule = s.cosine()._replace(alpha_sigma=scaling)
    exact = oracle.mixture(jnp.asarray(MEANS), 0.3, jnp.array([1.0, 2.0, 1.0])).denoise
    rebuilt = d.denoiser(oracle.network(exact, schedule, prediction), schedule, prediction)
    x = sigma * jnp.asarray(np.random.default_rng(2).normal(size=(4, 2, 2, 1)))
    sigma = jnp.asarray(sigma)
    np.testing.assert_allclose(rebuilt(x, sigma, text(4)), exact(x, sigma, text(4)), atol=1e-9)


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
@pytest.mark.parametrize("log_snr", [-20.0, 20.0])
@pytest.mark.parametrize("prediction", PREDICTIONS)
def test_extreme_levels_are_finite(prediction, log_snr, dtype, text):
    denoise = d.denoiser(echo, s.cosine(), prediction)
    sigma = d.sigma_of(jnp.asarray(log_snr))
    x_0 = denoise((sigma * jnp.ones((2, 2, 2, 1))).astype(dtype), sigma, text(2))
    assert x_0.dtype == dtype
    assert jnp.isfinite(x_0).all()


def test_the_network_is_told_log_snr_of_every_example(text):
    told = []
    network = lambda x_t, log_snr, cond: (told.append(log_snr), x_t)[1]  # noqa: E731
    d.denoiser(network, s.rectified_flow(), p.flow_prediction)(jnp.ones((3, 2, 2, 1)), jnp.asarray(2.0), text(3))
    np.testing.assert_allclose(told[0], np.full(3, -2 * np.log(2)), rtol=1e-6)


@pytest.mark.parametrize(("scaling", "sigma_data"), [(s.variance_preserving, 1.0), (s.variance_exploding, 0.5)])
def test_unit_variance_is_the_identity_or_the_c_in_of_edm(scaling, sigma_data, text):
    log_snr = jnp.array([-8.0, 0.0, 8.0])
    x_t = jnp.asarray(np.random.default_rng(3).normal(size=(3, 2, 2, 1)), jnp.float32)
    seen = d.unit_variance(lambda x_t, log_snr, cond: x_t, scaling, sigma_data)(x_t, log_snr, text(3))
    c_in = (
        1.0 if scaling is s.variance_preserving else 1 / np.sqrt(np.exp(-log_snr) + sigma_data**2)[:, None, None, None]
    )
    np.testing.assert_allclose(seen, c_in * x_t, rtol=1e-5)


@pytest.mark.parametrize("sigma", [0.05, 1.0, 20.0])
@pytest.mark.parametrize("scaling", SCALINGS)
def test_with_unit_variance_and_v_the_scaling_of_x_t_makes_no_difference(scaling, sigma, text):
    """So exploding variance and preserved variance are one model, and only the choice of levels is left of them."""
    schedule = s.cosine()._replace(alpha_sigma=scaling)
    x, sigma, cond = jnp.linspace(-3, 3, 8).reshape(2, 2, 2, 1), jnp.asarray(sigma), text(2)
    here = d.denoiser(d.unit_variance(echo, scaling), schedule, p.v_prediction)(x, sigma, cond)
    np.testing.assert_allclose(here, d.denoiser(echo, s.cosine(), p.v_prediction)(x, sigma, cond), rtol=1e-4, atol=1e-5)


def test_the_range_of_a_schedule_is_that_of_sigma():
    np.testing.assert_allclose(d.sigma_range(s.edm(0.01, 50.0)), (0.01, 50.0), rtol=1e-4)
    np.testing.assert_allclose(d.sigma_range(s.cosine()), (np.exp(-5), np.exp(5)), rtol=1e-3)
