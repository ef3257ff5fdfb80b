from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffusion_jax.diffusion import schedules as s
from diffusion_jax.diffusion import weighting as w

LOG_SNR = jnp.linspace(-8, 8, 33)
SNR = np.exp(np.asarray(LOG_SNR, np.float64))
SIGMA = SNR**-0.5
OF_EPS, OF_X0, OF_V = (
    1 + 0 * SNR,
    SNR,
    SNR / (1 + SNR),
)  # what the squared error of each is multiplied by to be that of eps

PUBLISHED = [  # the weighting here, the weight of the paper, and the error that the paper weighs
    (w.constant, 1 + 0 * SNR, OF_EPS),
    (w.min_snr, np.minimum(SNR, 5), OF_X0),
    (w.min_snr, np.minimum(SNR, 5) / SNR, OF_EPS),
    (w.min_snr, np.minimum(SNR, 5) / (1 + SNR), OF_V),
    (partial(w.min_snr, gamma=1.0), np.minimum(SNR, 1), OF_X0),
    (w.clipped_v, np.minimum(1 + SNR, 5), OF_X0),
    (partial(w.clipped_v, gamma=np.inf), 1 + 0 * SNR, OF_V),
    (w.sigmoid, 1 / (1 + np.exp(np.log(SNR) - 2)), OF_EPS),
    (w.edm, (SIGMA**2 + 0.25) / (0.5 * SIGMA) ** 2, OF_X0),
    (partial(w.edm, sigma_data=1.0), (SIGMA**2 + 1) / SIGMA**2, OF_X0),
    (partial(w.edm, sigma_data=1.0), 1 + 0 * SNR, OF_V),
    (w.constant, SNR, OF_X0),  # "SNR weighting"
    (w.x0_error, 1 + 0 * SNR, OF_X0),
    (w.truncated_snr, np.maximum(SNR, 1), OF_X0),
    (w.soft_min_snr, 4 * SNR / (SNR + 4), OF_X0),
    (partial(w.soft_min_snr, gamma=1 / 0.25), 1 / (SIGMA**2 + 0.25), OF_X0),
    (partial(w.soft_min_snr, gamma=1.0), SIGMA**2 / (SIGMA**2 + 1) ** 2, OF_V),  # as k-diffusion has it, sigma_data 1
    (partial(w.soft_min_snr, gamma=np.exp(2.0)), w.sigmoid(LOG_SNR), OF_EPS),
    (w.p2, 1 / (1 + SNR), OF_EPS),
    (partial(w.p2, k=0.3, gamma=0.5), (0.3 + SNR) ** -0.5, OF_EPS),
    (partial(w.p2, gamma=0.0), 1 + 0 * SNR, OF_EPS),
    (partial(w.elbo, schedule=s.log_linear(-8.0, 12.0)), 10 + 0 * SNR, OF_EPS),  # -1/2 of the slope, which is -20
]
WEIGHTINGS = [
    w.constant, w.x0_error, w.truncated_snr, w.min_snr, w.soft_min_snr, w.p2, w.clipped_v, w.sigmoid, w.edm,
]  # fmt: skip


@pytest.mark.parametrize(("weighting", "paper", "factor"), PUBLISHED)
def test_the_loss_is_that_of_the_paper(weighting, paper, factor):
    np.testing.assert_allclose(weighting(LOG_SNR) * factor, paper, rtol=1e-5)


@pytest.mark.parametrize("weighting", WEIGHTINGS)
def test_weights_are_finite_and_positive_at_the_ends(weighting):
    ends = weighting(jnp.array([-20.0, 20.0]))
    assert (jnp.isfinite(ends) & (ends > 0)).all()
    assert jnp.isfinite(jax.grad(lambda x: weighting(x).sum())(jnp.array([-20.0, 20.0]))).all()


@pytest.mark.parametrize(
    "schedule", [s.cosine(-6.0, 6.0), s.rectified_flow(-6.0, 6.0), s.sigmoid(log_snr_min=-6.0, log_snr_max=6.0)]
)
def test_per_log_snr_makes_the_expected_loss_independent_of_the_schedule(schedule, x64):
    t = (jnp.arange(4000.0) + 0.5) / 4000
    log_snr = schedule.log_snr(t)
    error = 1 / (1 + log_snr**2)
    plain = jnp.linspace(-6, 6, 100_001)
    expected = jnp.trapezoid(w.sigmoid(plain) / (1 + plain**2), plain)
    np.testing.assert_allclose(jnp.mean(w.per_log_snr(log_snr, w.sigmoid, schedule) * error), expected, rtol=1e-4)


@pytest.mark.parametrize("schedule", [s.cosine(-6.0, 5.0), s.linear_beta(log_snr_max=8.0), s.edm(0.02, 30.0)])
@pytest.mark.parametrize("std", [0.5, 2.0])
def test_the_elbo_of_an_exact_network_is_the_information_gained(schedule, std, x64):
    """log(1 + std^2 SNR) / 2 is the mutual information of x_0, normal with deviation std, and x_t (in nats)."""
    t = (jnp.arange(20_000.0) + 0.5) / 20_000
    log_snr = schedule.log_snr(t)
    error = std**2 / (1 + std**2 * jnp.exp(log_snr))  # of x_0, the variance given x_t; times SNR that of eps
    loss = jnp.mean(w.elbo(log_snr, schedule) * jnp.exp(log_snr) * error)
    first, last = schedule.log_snr(jnp.array([0.0, 1.0]))
    information = 0.5 * (jnp.log1p(std**2 * jnp.exp(first)) - jnp.log1p(std**2 * jnp.exp(last)))
    np.testing.assert_allclose(loss, information, rtol=1e-4)


def test_the_uncertainty_of_least_loss_is_the_logarithm_of_the_error():
    error = jnp.array([1e-4, 0.3, 1.0, 50.0])
    best = jnp.log(error)
    np.testing.assert_allclose(w.with_uncertainty(error, best), best + 1, rtol=1e-5)
    slope = jax.vmap(jax.grad(w.with_uncertainty, argnums=(0, 1)))(error, best)
    np.testing.assert_allclose(slope[0] * error, 1, rtol=1e-5)  # a change by one percent costs the same at all levels
    np.testing.assert_allclose(slope[1], 0, atol=1e-5)
    for off in (-2.0, -0.1, 0.1, 2.0):
        assert (w.with_uncertainty(error, best + off) > best + 1).all()
    np.testing.assert_array_equal(w.with_uncertainty(error, jnp.zeros(4)), error)
