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
]


@pytest.mark.parametrize(("weighting", "paper", "factor"), PUBLISHED)
def test_the_loss_is_that_of_the_paper(weighting, paper, factor):
    np.testing.assert_allclose(weighting(LOG_SNR) * factor, paper, rtol=1e-5)


@pytest.mark.parametrize("weighting", [w.constant, w.min_snr, w.clipped_v, w.sigmoid, w.edm])
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
