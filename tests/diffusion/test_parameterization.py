from functools import partial

import jax.numpy as jnp
import numpy as np
import pytest

from diffusion_jax.diffusion import parameterization as p
from diffusion_jax.diffusion import schedules as s

PREDICTIONS = [p.eps_prediction, p.x0_prediction, p.v_prediction, p.flow_prediction, p.edm_prediction]
every_prediction = pytest.mark.parametrize("prediction", PREDICTIONS)
every_scaling = pytest.mark.parametrize("scaling", [s.variance_preserving, s.variance_exploding, s.straight_line])
LEVELS = np.linspace(-20, 20, 9, dtype=np.float32)


@every_prediction
@every_scaling
def test_no_coefficient_loses_digits_in_float32_at_any_level(prediction, scaling, x64):
    def coefficients(dtype):
        alpha_t, sigma_t = (jnp.asarray(c, dtype) for c in scaling(jnp.asarray(LEVELS, jnp.float64)))
        return (
            *prediction(alpha_t, sigma_t),
            *p.skip_and_out(alpha_t, sigma_t, prediction),
            p.eps_error_factor(alpha_t, sigma_t, prediction),
        )

    for single, double in zip(coefficients(jnp.float32), coefficients(jnp.float64), strict=True):
        assert single.dtype == jnp.float32
        np.testing.assert_allclose(single, double, rtol=1e-6)


@every_prediction
@every_scaling
def test_x_0_comes_back_and_errors_follow(prediction, scaling, x64):
    rng = np.random.default_rng(0)
    x_0, eps, off = jnp.asarray(rng.normal(size=(3, 9, 2, 2, 1)))
    alpha_t, sigma_t = scaling(jnp.linspace(-8, 8, 9))
    a, b = alpha_t[:, None, None, None], sigma_t[:, None, None, None]
    c_skip, c_out = (c[:, None, None, None] for c in p.skip_and_out(alpha_t, sigma_t, prediction))
    factor = p.eps_error_factor(alpha_t, sigma_t, prediction)[:, None, None, None]
    y = p.target(x_0, eps, alpha_t, sigma_t, prediction)
    x_t = a * x_0 + b * eps
    np.testing.assert_allclose(c_skip * x_t + c_out * y, x_0, atol=1e-10)
    wrong_x_0 = c_skip * x_t + c_out * (y + off)
    wrong_eps = (x_t - a * wrong_x_0) / b
    np.testing.assert_allclose(wrong_eps - eps, factor * off, atol=1e-8)


ALPHA, SIGMA = (np.asarray(c) for c in s.variance_preserving(jnp.linspace(-6, 6, 7)))
RATIO = SIGMA / ALPHA
PUBLISHED = [  # (c_skip, c_out) with the variance preserved
    (p.eps_prediction, 1 / ALPHA, -SIGMA / ALPHA),
    (p.x0_prediction, 0 * ALPHA, 1 + 0 * SIGMA),
    (p.v_prediction, ALPHA, -SIGMA),
    (p.flow_prediction, 1 / (ALPHA + SIGMA), -SIGMA / (ALPHA + SIGMA)),
]


@pytest.mark.parametrize(("prediction", "c_skip", "c_out"), PUBLISHED)
def test_the_coefficients_are_the_published_ones(prediction, c_skip, c_out):
    ours = p.skip_and_out(jnp.asarray(ALPHA), jnp.asarray(SIGMA), prediction)
    np.testing.assert_allclose(ours, (c_skip, c_out), rtol=1e-5)


@pytest.mark.parametrize("sigma_data", [0.5, 1.0, 2.0])
def test_edm_is_the_preconditioning_of_karras(sigma_data):
    sigma = jnp.array([0.01, 0.3, 1.0, 20.0])
    length = np.sqrt(sigma**2 + sigma_data**2)
    ours = p.skip_and_out(jnp.ones(4), sigma, partial(p.edm_prediction, sigma_data=sigma_data))
    np.testing.assert_allclose(ours, (sigma_data**2 / length**2, sigma * sigma_data / length), rtol=1e-5)


def test_an_error_in_eps_is_itself_exactly():
    alpha_t, sigma_t = s.variance_preserving(jnp.asarray(LEVELS))
    assert (p.eps_error_factor(alpha_t, sigma_t, p.eps_prediction) == 1).all()


@pytest.mark.parametrize("log_snr", [-20.0, 0.0, 20.0])
@pytest.mark.parametrize("prediction", [p.v_prediction, partial(p.edm_prediction, sigma_data=1.0)])
@every_scaling
def test_v_has_unit_variance_for_unit_data_and_is_edm_with_the_sign_turned(prediction, scaling, log_snr):
    a, b = prediction(*scaling(jnp.asarray(log_snr)))
    np.testing.assert_allclose(a**2 + b**2, 1, rtol=1e-6)
    np.testing.assert_allclose((abs(a), abs(b)), np.abs(p.v_prediction(*scaling(jnp.asarray(log_snr)))), rtol=1e-6)
    assert a * b <= 0
