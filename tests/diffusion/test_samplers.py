"""What theory says of the samplers, against denoisers that are exact."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffusion_jax.diffusion import grids, guidance, keys, oracle, samplers
from diffusion_jax.diffusion import parameterization as p
from diffusion_jax.diffusion import schedules as s
from diffusion_jax.diffusion.denoiser import denoiser

SAMPLERS = [samplers.euler, samplers.ddim, samplers.ancestral, samplers.heun, samplers.dpmpp_2m]
NOISY = [partial(samplers.ddim, eta=0.7), samplers.ancestral]
every_sampler = pytest.mark.parametrize("sampler", SAMPLERS)
LOW, HIGH = 0.05, 20.0


def mean():
    return jnp.array([[[0.3], [-0.2]], [[0.9], [0.0]]])


def std():
    return jnp.array([[[0.3], [1.0]], [[0.6], [1.5]]])  # each pixel has another


def mixture():
    return oracle.mixture(jnp.stack([mean(), -mean()]), 0.4, jnp.array([1.0, 2.0]))


def noise(batch):
    return HIGH * jnp.asarray(np.random.default_rng(0).normal(size=(batch, 2, 2, 1)))


def gaussian_case(cond, given):
    """The exact solution is a formula."""
    denoise, low, high = oracle.gaussian(mean(), std()), jnp.asarray(LOW), jnp.asarray(HIGH)
    return denoise, denoise(oracle.gaussian_flow(mean(), std(), noise(3), high, low), low, cond)


def mixture_case(cond, given):
    """The exact solution is what Heun's method finds in 3,000 steps."""
    denoise = mixture()
    return denoise, samplers.heun(denoise, noise(3), grids.uniform_log_snr(3000, LOW, HIGH), cond, given)


@pytest.mark.parametrize(("sampler", "order"), [(samplers.euler, 1), (samplers.heun, 2), (samplers.dpmpp_2m, 2)])
@pytest.mark.parametrize("case", [gaussian_case, mixture_case])
def test_the_order_of_convergence(sampler, order, case, text, some_keys, x64):
    """ddim without noise is euler, which another test shows."""
    cond, given, steps = text(3), some_keys(3), [64, 128, 256]
    denoise, exact = case(cond, given)
    run = jax.jit(partial(sampler, denoise))
    for grid in (grids.uniform_log_snr, grids.karras):
        errors = [float(jnp.abs(run(noise(3), grid(n + 1, LOW, HIGH), cond, given) - exact).max()) for n in steps]
        slope = -np.polyfit(np.log(steps), np.log(errors), 1)[0]
        assert abs(slope - order) < 0.2, (slope, errors)


@every_sampler
def test_the_network_is_called_as_often_as_declared(sampler, text, some_keys):
    """In the compiled program, where each call reports itself."""
    calls, levels = [], 4

    def denoise(x, sigma, cond):
        jax.debug.callback(lambda sigma: calls.append(float(sigma)), sigma)
        return 0.5 * x

    given = jnp.ones((2, 1, 1, 1)), grids.karras(levels, LOW, HIGH), text(2), some_keys(2)
    jax.block_until_ready(jax.jit(partial(sampler, denoise))(*given))
    jax.effects_barrier()
    assert len(calls) == (2 * levels - 1 if sampler is samplers.heun else levels)
    assert samplers.steps_for(sampler, len(calls)) == levels
    assert samplers.steps_for(sampler, 1) == 1
    np.testing.assert_allclose([max(calls), min(calls)], [HIGH, LOW], rtol=1e-4)


@pytest.mark.parametrize(
    ("sampler", "nfe", "message"),
    [
        (samplers.euler, 0, "nfe is 0, but this sampler calls the network at least 1"),
        (samplers.heun, -3, "nfe is -3"),
        (samplers.heun, 20, "nfe 20 cannot be had with this sampler: take 19 or 21"),
        (lambda denoise, x, sigmas, cond, keys: denoise(x, sigmas[0], cond), 5, "do not grow evenly"),
    ],
)
def test_a_cost_that_cannot_be_had_is_refused(sampler, nfe, message):
    with pytest.raises(ValueError, match=message):
        samplers.steps_for(sampler, nfe)


@pytest.mark.parametrize("levels", [1, 3])
@every_sampler
def test_one_point_is_found_at_any_number_of_levels(sampler, levels, text, some_keys):
    point = jnp.array([[[0.3], [-0.2]]])
    found = sampler(
        oracle.gaussian(point, 0 * point),
        80 * jnp.ones((2, 1, 2, 1)),
        grids.karras(levels, 0.01, 80.0),
        text(2),
        some_keys(2),
    )
    np.testing.assert_allclose(found, jnp.stack([point, point]), atol=1e-6)


def moments_at_the_end(sampler, data_std, levels, text, some_keys):
    """Mean and variance of 16,384 pixels at the last level, in units of the standard error of those that are exact."""
    shape, sigmas = (16, 16, 1), grids.karras(levels, 0.1, 10.0)
    center, given = jnp.full(shape, 0.5), some_keys(64)
    start = center[None] + (data_std**2 + sigmas[0] ** 2) ** 0.5 * keys.normal(keys.for_purpose(given, "noise"), shape)
    denoise = oracle.gaussian(center, jnp.full(shape, data_std))
    _, path = jax.jit(partial(sampler, denoise, trace=True))(start, sigmas, text(64), given)
    x = np.asarray(path.x[-1], np.float64)
    exact = data_std**2 + float(sigmas[-1]) ** 2
    return (x.mean() - 0.5) / (exact / x.size) ** 0.5, (x.var() / exact - 1) / (2 / x.size) ** 0.5


@pytest.mark.parametrize("data_std", [0.3, 1.0])
def test_ancestral_is_exact_in_few_steps_for_normal_data_of_the_deviation_it_is_told(data_std, text, some_keys):
    sampler = partial(samplers.ancestral, data_std=data_std)
    off_mean, off_variance = moments_at_the_end(sampler, data_std, 3, text, some_keys)
    assert abs(off_mean) < 3.5
    assert abs(off_variance) < 3.5


@pytest.mark.parametrize("sampler", [partial(samplers.ancestral, data_std=1.0), *NOISY])
def test_noisy_samplers_tend_to_the_data_in_many_steps(sampler, text, some_keys):
    off_mean, off_variance = moments_at_the_end(sampler, 0.5, 600, text, some_keys)
    assert abs(off_mean) < 3.5
    assert abs(off_variance) < 4.5  # what is left of the first-order error is under one


def test_with_another_deviation_few_steps_are_not_exact(text, some_keys):
    assert moments_at_the_end(samplers.ancestral, 0.5, 5, text, some_keys)[1] < -10


def test_samplers_that_theory_says_are_one_are_one(text, some_keys):
    denoise = mixture()
    run = lambda sampler, **k: sampler(denoise, noise(3), grids.karras(6, LOW, HIGH), text(3), some_keys(3), **k)  # noqa: E731
    straight, noisy = run(samplers.euler), run(samplers.ancestral)
    np.testing.assert_allclose(run(samplers.ddim), straight, atol=1e-5)
    np.testing.assert_allclose(run(samplers.ddim, eta=1.0), noisy, atol=1e-5)
    assert abs(noisy - straight).max() > 0.01
    np.testing.assert_array_equal(run(samplers.euler, trace=True)[0], straight)


def test_ddim_is_the_published_step_for_x_t(text, some_keys):
    """Equation 12 of Song et al. (2021) with the deviation of equation 16, in alpha_t and sigma_t."""
    log_snr, before, eta = jnp.array(-1.0), jnp.array(-3.0), 0.6
    (a, b), (a_before, b_before) = s.variance_preserving(log_snr), s.variance_preserving(before)
    x, x_0 = jnp.full((1, 1, 1, 1), 7.0), jnp.full((1, 1, 1, 1), 0.4)
    deviation = eta * (b / b_before) * jnp.sqrt(1 - (a_before / a) ** 2)
    eps = (a_before * x - a_before * x_0) / b_before
    x_t = a * x_0 + jnp.sqrt(b**2 - deviation**2) * eps
    sigmas = jnp.exp(-0.5 * jnp.stack([before, log_snr]))
    _, path = samplers.ddim(lambda *_: x_0, x, sigmas, text(1), some_keys(1), eta=eta, trace=True)
    fresh = keys.normal(keys.folded(keys.for_purpose(some_keys(1), "sampler"), 0), (1, 1, 1))
    np.testing.assert_allclose(path.x[1], (x_t + deviation * fresh) / a, rtol=1e-5)


@pytest.mark.parametrize("sampler", [*NOISY, samplers.dpmpp_2m])
def test_the_batch_size_makes_no_difference(sampler, text, some_keys):
    denoise = mixture()

    def run(first, last):
        cond = jax.tree.map(lambda c: c[first:last], text(4))
        return sampler(denoise, noise(4)[first:last], grids.karras(5, LOW, HIGH), cond, some_keys(4)[first:last])

    np.testing.assert_allclose(run(0, 4)[1:3], run(1, 3), atol=1e-6)


@pytest.mark.parametrize("sampler", NOISY)
def test_another_key_is_another_picture(sampler, text, some_keys):
    denoise = oracle.gaussian(mean(), std())
    one, other = (
        sampler(denoise, noise(2), grids.karras(5, LOW, HIGH), text(2), some_keys(2, step)) for step in (0, 1)
    )
    assert (abs(one - other) > 1e-3).any(axis=(1, 2, 3)).all()


@every_sampler
def test_the_trace_begins_with_the_noise_and_ends_with_the_picture(sampler, text, some_keys):
    denoise, sigmas = oracle.gaussian(mean(), std()), grids.karras(5, LOW, HIGH)
    picture, path = sampler(denoise, noise(2), sigmas, text(2), some_keys(2), trace=True)
    assert path.x.shape == path.x_0.shape == (5, 2, 2, 2, 1)
    np.testing.assert_allclose(path.x[0], noise(2), rtol=1e-6)
    np.testing.assert_array_equal(path.x_0[-1], picture)
    estimates = jax.vmap(lambda x, sigma: denoise(x, sigma, text(2)))(path.x, sigmas)
    np.testing.assert_allclose(path.x_0, estimates, atol=1e-5)


def test_range_scale_and_eta_may_be_traced_without_compiling_again(text, some_keys):
    exact = oracle.network(oracle.gaussian(mean(), std()), s.cosine(), p.v_prediction)
    null = jax.tree.map(lambda c: c[:1], text(2))

    @jax.jit
    def run(sigma_min, sigma_max, scale, eta):
        guided = guidance.cfg(denoiser(exact, s.cosine(), p.v_prediction), null, scale)
        sigmas = grids.karras(4, sigma_min, sigma_max)
        return samplers.ddim(guided, noise(2), sigmas, text(2), some_keys(2), eta=eta)

    changes = [(0.05, 20.0, 1.0, 0.0), (0.1, 20.0, 1.0, 0.0), (0.05, 10.0, 1.0, 0.0), (0.05, 20.0, 1.0, 0.9)]
    pictures = [np.asarray(run(*map(jnp.asarray, settings))) for settings in [*changes, (0.05, 20.0, 5.0, 0.0)]]
    assert run._cache_size() == 1
    assert all(abs(picture - pictures[0]).max() > 1e-3 for picture in pictures[1:4])
    np.testing.assert_allclose(pictures[4], pictures[0], atol=1e-5)  # it minds no text, so no scale


@pytest.mark.parametrize(
    ("sampler", "prediction"), [*((sampler, p.v_prediction) for sampler in SAMPLERS), (samplers.heun, p.eps_prediction)]
)
def test_half_precision_noise_over_the_widest_range_stays_finite(sampler, prediction, text, some_keys):
    exact = oracle.network(oracle.gaussian(mean(), std()), s.cosine(), prediction)
    half = lambda x_t, log_snr, cond: exact(x_t, log_snr, cond).astype(jnp.bfloat16)  # noqa: E731
    sigmas = grids.uniform_log_snr(6, jnp.exp(-10.0), jnp.exp(10.0))
    x = (sigmas[0] * keys.normal(some_keys(2), (2, 2, 1))).astype(jnp.bfloat16)
    picture = sampler(denoiser(half, s.cosine(), prediction), x, sigmas, text(2), some_keys(2))
    assert picture.dtype == jnp.float32
    assert jnp.isfinite(picture).all()
