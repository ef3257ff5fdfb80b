from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffusion_jax.diffusion import noise_levels, oracle, weighting
from diffusion_jax.diffusion import parameterization as p
from diffusion_jax.diffusion import schedules as s
from diffusion_jax.diffusion.loss import diffusion_loss, eps_error
from diffusion_jax.diffusion.loss import scatter as scatter_of

PREDICTIONS = [p.eps_prediction, p.x0_prediction, p.v_prediction, p.flow_prediction, p.edm_prediction]
every_prediction = pytest.mark.parametrize("prediction", PREDICTIONS)
SHAPE = (2, 2, 1)
WEIGHTINGS = [
    weighting.constant,
    weighting.x0_error,
    weighting.truncated_snr,
    weighting.min_snr,
    weighting.soft_min_snr,
    weighting.p2,
    weighting.clipped_v,
    weighting.sigmoid,
    weighting.edm,
    partial(weighting.per_log_snr, weighting=weighting.sigmoid, schedule=s.cosine()),
    partial(weighting.elbo, schedule=s.cosine()),
]


def gaussian():
    mean, std = jnp.array([[[0.3], [-0.2]], [[0.9], [0.0]]]), jnp.array([[[0.5], [1.0]], [[0.2], [0.8]]])
    return oracle.gaussian(mean, std).denoise


def pictures(batch, dtype=jnp.float32):
    return jnp.asarray(np.random.default_rng(0).uniform(-1, 1, (batch, *SHAPE)), dtype)


def loss_of(network, x_0, cond, keys, schedule, prediction, levels=noise_levels.uniform, weight=weighting.min_snr):
    run = partial(diffusion_loss, schedule=schedule, parameterization=prediction, noise_levels=levels, weighting=weight)
    return run(network, x_0, cond, keys)


@every_prediction
@pytest.mark.parametrize("alpha_sigma", [s.variance_preserving, s.variance_exploding, s.straight_line])
def test_one_denoiser_has_one_loss_however_it_is_told(prediction, alpha_sigma, some_keys, text, x64):
    schedule = s.cosine()._replace(alpha_sigma=alpha_sigma)
    exact = gaussian()
    told = loss_of(
        oracle.network(exact, schedule, prediction), pictures(6), text(6), some_keys(6), schedule, prediction
    )
    plain = oracle.network(exact, s.cosine(), p.eps_prediction)
    expected = loss_of(plain, pictures(6), text(6), some_keys(6), s.cosine(), p.eps_prediction)
    np.testing.assert_allclose(told[0], expected[0], rtol=1e-9)
    np.testing.assert_allclose(told[1]["eps_error"], expected[1]["eps_error"], rtol=1e-9)


@every_prediction
@pytest.mark.parametrize("log_snr", [-20.0, -10.0, 0.0, 10.0, 20.0])
def test_in_float32_the_error_in_eps_keeps_its_digits_at_any_level(prediction, log_snr, text, x64):
    """The network is off by a known amount, so the error in eps is known: factor times that amount."""

    def error(dtype):
        x_0, eps = pictures(2, dtype), pictures(2, dtype)[::-1] * 2
        levels = jnp.full(2, log_snr, dtype)
        y = p.target(x_0, eps, *s.variance_preserving(levels), prediction)
        run = partial(eps_error, schedule=s.cosine(), parameterization=prediction)
        return run(lambda x_t, log_snr, cond: y + 0.25, x_0, eps, levels, text(2))

    single, double = error(jnp.float32), error(jnp.float64)
    assert single.dtype == jnp.float32
    np.testing.assert_allclose(single, double, rtol=1e-5)


@every_prediction
@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_loss_and_gradient_are_finite_at_the_extremes(prediction, dtype, text):
    levels, weights = (
        jnp.array([-20.0, 20.0, 0.0]),
        [weighting.constant, weighting.min_snr, weighting.sigmoid, weighting.edm],
    )
    run = partial(eps_error, schedule=s.cosine(), parameterization=prediction)

    def losses(parameter):
        network = lambda x_t, log_snr, cond: (parameter * x_t).astype(dtype)  # noqa: E731
        error = run(network, pictures(3, dtype), pictures(3)[::-1], levels, text(3))
        return jnp.stack([jnp.mean(weight(levels) * error) for weight in weights])

    values, gradients = losses(jnp.asarray(0.5)), jax.jacfwd(losses)(jnp.asarray(0.5))
    assert values.dtype == jnp.float32
    assert jnp.isfinite(values).all()
    assert (jnp.isfinite(gradients) & (gradients != 0)).all()


@every_prediction
@pytest.mark.parametrize("alpha_sigma", [s.variance_preserving, s.variance_exploding, s.straight_line])
def test_the_posterior_mean_has_the_least_loss_under_every_weighting(prediction, alpha_sigma, text, x64):
    """Sixteen examples with the moments of normal data and noise: for a linear denoiser, their mean is the expectation.

    The denoiser is changed by a constant, or by a multiple of x: this way and that, the loss rises by the same amount.
    """
    schedule = s.cosine()._replace(alpha_sigma=alpha_sigma)
    mean, std = jnp.full((1, *SHAPE), 0.3), jnp.full((1, *SHAPE), 0.7)
    signs = jnp.array([[-1.0, -1.0, 1.0, 1.0], [-1.0, 1.0, -1.0, 1.0]])  # one deviation from the mean, in all pairs
    data, eps = (jnp.broadcast_to(jnp.tile(sign, 4)[:, None, None, None], (16, *SHAPE)) for sign in signs)
    x_0, levels = mean + std * data, jnp.repeat(jnp.array([-6.0, -1.0, 1.0, 6.0]), 4)

    def losses(change):
        exact = oracle.gaussian(mean[0], std[0]).denoise

        def denoise(x, sigma, cond):
            return exact(x, sigma, cond) + change[0] + change[1] * x

        network = oracle.network(denoise, schedule, prediction)
        run = partial(eps_error, schedule=schedule, parameterization=prediction)
        error = run(network, x_0, eps, levels, text(16))
        return jnp.stack([jnp.mean((weight(levels) * error).reshape(4, 4), axis=1) for weight in WEIGHTINGS])

    changes = jnp.array([[0.0, 0.0], [0.1, 0.0], [-0.1, 0.0], [0.0, 0.1], [0.0, -0.1]])
    least, up, down, more, less = jax.jit(jax.vmap(losses))(changes)
    assert least.shape == (len(WEIGHTINGS), 4)
    for one, other in ((up, down), (more, less)):
        assert (one > least * (1 + 1e-6)).all()
        np.testing.assert_allclose(one - least, other - least, rtol=1e-6)


def test_the_weights_of_a_law_multiply_the_error(some_keys, text):
    zero = lambda x_t, log_snr, cond: jnp.zeros_like(x_t)  # noqa: E731
    run = partial(loss_of, zero, pictures(4), text(4), some_keys(4), s.cosine(), p.eps_prediction)
    plain = run()
    thrice = run(levels=lambda keys, schedule: (noise_levels.uniform(keys, schedule), jnp.full(len(keys), 3.0)))
    np.testing.assert_allclose(thrice[0], 3 * plain[0], rtol=1e-6)
    np.testing.assert_allclose(thrice[1]["eps_error"], 3 * plain[1]["eps_error"], rtol=1e-6)


def test_pictures_in_half_precision_have_a_loss_in_float32(some_keys, text):
    network = lambda x_t, log_snr, cond: x_t.astype(jnp.bfloat16)  # noqa: E731
    loss, metrics = loss_of(network, pictures(3, jnp.bfloat16), text(3), some_keys(3), s.cosine(), p.v_prediction)
    assert loss.dtype == metrics["eps_error"].dtype == jnp.float32
    assert jnp.isfinite(loss)


def test_the_loss_is_the_mean_of_weight_times_error(some_keys, text):
    zero = lambda x_t, log_snr, cond: jnp.zeros_like(x_t)  # noqa: E731
    run = partial(loss_of, zero, pictures(4), text(4), some_keys(4), s.cosine(), p.eps_prediction)
    loss, metrics = run(weight=lambda log_snr: jnp.full_like(log_snr, 3.0))
    np.testing.assert_allclose(loss, 3 * metrics["eps_error"], rtol=1e-6)
    assert abs(metrics["eps_error"] - 1) < 4 * (2 / 16) ** 0.5  # of 16 normal numbers, the mean square


def test_an_example_has_its_error_in_a_batch_of_any_size(some_keys, text):
    """The loss of five is the mean of those of the five alone, each with its own key."""
    network = oracle.network(gaussian(), s.cosine(), p.v_prediction)
    x_0, cond, keys = pictures(5), text(5), some_keys(5)
    run = jax.jit(lambda x_0, cond, keys: loss_of(network, x_0, cond, keys, s.cosine(), p.v_prediction)[0])
    alone = [run(x_0[i : i + 1], jax.tree.map(lambda c, i=i: c[i : i + 1], cond), keys[i : i + 1]) for i in range(5)]
    np.testing.assert_allclose(run(x_0, cond, keys), np.mean(alone), rtol=1e-5)


def test_settings_may_be_traced_without_compiling_again(some_keys, text):
    @jax.jit
    def loss(gamma, shift, log_snr_min):
        network = oracle.network(gaussian(), s.cosine(), p.v_prediction)
        schedule = s.shifted(s.cosine(log_snr_min), shift)
        weight = partial(weighting.min_snr, gamma=gamma)
        return loss_of(network, pictures(3), text(3), some_keys(3), schedule, p.v_prediction, weight=weight)[0]

    values = [
        loss(*settings) for settings in [(5.0, 1.0, -10.0), (1.0, 1.0, -10.0), (5.0, 2.0, -10.0), (5.0, 1.0, -4.0)]
    ]
    assert len({float(value) for value in values}) == 4
    assert loss._cache_size() == 1


def test_a_schedule_that_scatters_less_is_learned_and_the_loss_stays(some_keys, text):
    """By gradient descent on the knots, from log_snr even in t, for an exact network under the weight of the ELBO."""
    batch = 256
    data = oracle.gaussian(jnp.zeros((4, 4, 1)), 0.5)
    x_0, cond = data.sample(some_keys(batch), text(batch)), text(batch)

    def objective(falls):
        schedule = s.from_knots(falls)
        network = oracle.network(data.denoise, schedule, p.v_prediction)
        parts = dict(schedule=schedule, parameterization=p.v_prediction, noise_levels=noise_levels.stratified)
        return network, parts | dict(weighting=partial(weighting.elbo, schedule=schedule))

    def scatter(falls, step):
        network, parts = objective(falls)
        return scatter_of(network, x_0, cond, some_keys(batch, step), **parts)

    def mean(falls):
        network, parts = objective(falls)
        return diffusion_loss(network, x_0, cond, some_keys(batch, 99), **parts)[0]

    def step(falls, index):
        slope = jax.grad(scatter)(falls, index)
        return falls - 0.1 * (1 - index / 60) * slope / jnp.linalg.norm(slope), None

    start = jnp.zeros(8)
    learned, _ = jax.jit(lambda falls: jax.lax.scan(step, falls, jnp.arange(60)))(start)
    before, after = (float(jax.jit(scatter)(falls, 99)) for falls in (start, learned))
    assert after - 1 < 0.4 * (before - 1), (before, after)
    np.testing.assert_allclose(jax.jit(mean)(learned), jax.jit(mean)(start), rtol=0.1)
