"""What theory says of the samplers, against denoisers that are exact. A new sampler is a new row of TABLE."""

import itertools
from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffusion_jax.diffusion import grids, guidance, keys, oracle, samplers
from diffusion_jax.diffusion import parameterization as p
from diffusion_jax.diffusion import schedules as s
from diffusion_jax.diffusion.denoiser import denoiser
from diffusion_jax.diffusion.samplers.adaptive import adaptive

LOW, HIGH = 0.05, 20.0


class Row(NamedTuple):
    """What is declared of a sampler, and shown below."""

    sampler: Callable
    order: int | None  # of convergence to the solution of the ODE; None where noise is added
    calls: Callable = lambda n: n  # of the network, at n levels
    levels: Callable = lambda sigmas: sigmas  # where the network is called first at each level


def twice(n):
    return 2 * n - 1


def churned(sigmas):
    return sigmas * jnp.where((sigmas >= 0.11) & (sigmas <= 10), 2**0.5, 1)


TABLE = {
    "euler": Row(samplers.euler, 1),
    "ddim": Row(samplers.ddim, 1),
    "ddim_noisy": Row(partial(samplers.ddim, eta=0.7), None),
    "ancestral": Row(samplers.ancestral, None),
    "heun": Row(samplers.heun, 2, twice),
    "heun_churn": Row(partial(samplers.heun_churn, s_tmin=0.11, s_tmax=10.0), None, twice, churned),
    "heun_churn_none": Row(partial(samplers.heun_churn, s_churn=0.0), 2, twice),
    "restart": Row(partial(samplers.restart, sigma_lo=0.5, sigma_hi=2.0), None, lambda n: 2 * n - 1 + 12),
    "dpm_2s": Row(samplers.dpm_2s, 2, twice),
    "dpm_2s_late": Row(partial(samplers.dpm_2s, r=0.7), 2, twice),
    "dpm_3s": Row(samplers.dpm_3s, 3, lambda n: 3 * n - 2),
    "dpmpp_2m": Row(samplers.dpmpp_2m, 2),
    "dpmpp_2m_sde": Row(samplers.dpmpp_2m_sde, None),
    "dpmpp_3m": Row(samplers.dpmpp_3m, 3),
    "dpmpp_3m_published": Row(partial(samplers.dpmpp_3m, curvature=0.5), 2),
    "unipc_1": Row(partial(samplers.unipc, order=1), 2),  # the corrector is one order above
    "unipc_2": Row(partial(samplers.unipc, order=2), 3),
    "unipc_2_bh1": Row(partial(samplers.unipc, order=2, variant="bh1"), 3),
    "unipc_3": Row(samplers.unipc, 4),
    "deis_2": Row(partial(samplers.deis, order=2), 2),
    "deis_3": Row(samplers.deis, 3),
    "lms_2": Row(partial(samplers.lms, order=2), 2),
    "lms_3": Row(partial(samplers.lms, order=3), 3),
    "lms_4": Row(samplers.lms, 4),
    "ipndm": Row(samplers.ipndm, 2),  # whatever the order of its weights: those are right for even steps alone
}
NOISY = [name for name, row in TABLE.items() if row.order is None]
every_row = pytest.mark.parametrize("row", TABLE.values(), ids=TABLE)


def mean():
    return jnp.array([[[0.3], [-0.2]], [[0.9], [0.0]]])


def std():
    return jnp.array([[[0.3], [1.0]], [[0.6], [1.5]]])  # each pixel has another


def mixture():
    return oracle.mixture(jnp.stack([mean(), -mean()]), 0.4, jnp.array([1.0, 2.0])).denoise


def noise(batch, high=HIGH):
    return high * jnp.asarray(np.random.default_rng(0).normal(size=(batch, 2, 2, 1)))


@pytest.fixture(scope="module")
def solved():
    """What is solved exactly, once for all samplers."""
    return {}


@pytest.mark.parametrize("name", [name for name, row in TABLE.items() if row.order])
def test_the_order_of_convergence(name, solved, text, some_keys, x64):
    row, denoise, cond, given = TABLE[name], mixture(), text(3), some_keys(3)
    high = 80.0  # where the estimate hardly moves: the first steps, of lower order, then do not count
    if not solved:
        solve = jax.jit(partial(adaptive, denoise, tolerance=1e-12))
        solved["x"] = solve(noise(3, high), jnp.array([high, LOW]), cond)
    run = jax.jit(partial(row.sampler, denoise))
    for grid in (grids.uniform_log_snr, grids.karras):
        ends = [run(noise(3, high), grid(n + 1, LOW, high), cond, given) for n in (192, 384)]
        errors = [float(jnp.abs(end - solved["x"]).max()) for end in ends]
        slope = np.log2(errors[0] / errors[1])
        assert abs(slope - row.order) < 0.2, (grid, slope, errors)


def test_the_truth_is_the_exact_solution(text, x64):
    high, low = jnp.array(HIGH), jnp.array(LOW)
    start = noise(3)
    found = jax.jit(partial(adaptive, oracle.gaussian(mean(), std()).denoise))(start, jnp.stack([high, low]), text(3))
    exact = oracle.gaussian_flow(mean(), std(), start, high, low)
    np.testing.assert_allclose(found, oracle.gaussian(mean(), std()).denoise(exact, low, text(3)), rtol=1e-8)


@every_row
def test_the_network_is_called_as_often_as_declared(row, text, some_keys):
    """In the compiled program, where each call reports itself."""
    calls, levels = [], 4

    def denoise(x, sigma, cond):
        jax.debug.callback(lambda sigma: calls.append(float(sigma)), sigma)
        return 0.5 * x

    given = jnp.ones((2, 1, 1, 1)), grids.karras(levels, LOW, HIGH), text(2), some_keys(2)
    jax.block_until_ready(jax.jit(partial(row.sampler, denoise))(*given))
    jax.effects_barrier()
    assert len(calls) == row.calls(levels)
    assert samplers.steps_for(row.sampler, len(calls)) == levels
    assert samplers.steps_for(row.sampler, row.calls(1)) == 1
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
@every_row
def test_one_point_is_found_at_any_number_of_levels(row, levels, text, some_keys):
    point = jnp.array([[[0.3], [-0.2]]])
    found = row.sampler(
        oracle.gaussian(point, 0 * point).denoise,
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
    denoise = oracle.gaussian(center, jnp.full(shape, data_std)).denoise
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


@pytest.mark.parametrize(
    "sampler",
    [partial(samplers.ancestral, data_std=1.0), partial(samplers.heun_churn, s_tmin=0.11, s_noise=1.0)]
    + [TABLE[name].sampler for name in NOISY if name != "heun_churn"],  # its s_noise is not 1, to suit networks
)
def test_noisy_samplers_tend_to_the_data_in_many_steps(sampler, text, some_keys):
    off_mean, off_variance = moments_at_the_end(sampler, 0.5, 600, text, some_keys)
    assert abs(off_mean) < 3.5
    assert abs(off_variance) < 4.5  # what is left of the first-order error is under one


def test_with_another_deviation_few_steps_are_not_exact(text, some_keys):
    assert moments_at_the_end(samplers.ancestral, 0.5, 5, text, some_keys)[1] < -10


def test_samplers_that_theory_says_are_one_are_one(text, some_keys):
    denoise = mixture()
    run = lambda sampler, **k: sampler(denoise, noise(4), grids.karras(5, LOW, HIGH), text(4), some_keys(4), **k)  # noqa: E731
    straight, noisy = run(samplers.euler), run(samplers.ancestral)
    np.testing.assert_allclose(run(samplers.ddim), straight, atol=1e-5)
    np.testing.assert_allclose(run(samplers.ddim, eta=1.0), noisy, atol=1e-5)
    assert abs(noisy - straight).max() > 0.01
    for one_value in (
        partial(samplers.deis, order=1),
        partial(samplers.lms, order=1),
        partial(samplers.ipndm, order=1),
    ):
        np.testing.assert_allclose(run(one_value), straight, atol=1e-5)
    np.testing.assert_allclose(run(samplers.dpmpp_2m_sde, eta=0.0), run(samplers.dpmpp_2m), atol=1e-5)
    np.testing.assert_allclose(run(samplers.heun_churn, s_churn=0.0), run(samplers.heun), atol=1e-5)
    np.testing.assert_allclose(run(samplers.restart, times=0), run(samplers.heun), atol=1e-5)


def test_no_two_samplers_are_one_but_those(text, some_keys):
    denoise, x, sigmas = mixture(), noise(4), grids.karras(5, LOW, HIGH)
    pictures = [np.asarray(TABLE[name].sampler(denoise, x, sigmas, text(4), some_keys(4))) for name in TABLE]
    for i, one in enumerate(pictures):
        same = [name for name, other in zip(TABLE, pictures, strict=True) if abs(one - other).max() < 1e-5]
        assert set(same) <= {list(TABLE)[i], "euler", "ddim", "heun", "heun_churn_none"}, same


def test_churn_is_the_published_algorithm(text, some_keys):
    """Algorithm 2 of Karras et al. (2022), in numpy; t_N = 0, and the last step is one of Euler."""
    denoise, sigmas, cond, given = mixture(), grids.karras(6, LOW, HIGH), text(3), some_keys(3)
    s_churn, s_tmin, s_tmax, s_noise = 2.0, 0.3, 15.0, 1.01
    times, x = [*np.asarray(sigmas, np.float64), 0.0], np.asarray(noise(3), np.float64)

    def slope(x, t):
        return (x - np.asarray(denoise(jnp.asarray(x, jnp.float32), jnp.float32(t), cond), np.float64)) / t

    for i, (t, t_next) in enumerate(itertools.pairwise(times)):
        gamma = min(s_churn / len(sigmas), 2**0.5 - 1) if s_tmin <= t <= s_tmax else 0.0
        t_hat = t + gamma * t
        index = 2 * i if i else 0  # by which the sampler draws: that of the visit which ends the step before
        eps = np.asarray(keys.normal(keys.folded(keys.for_purpose(given, "sampler"), index), (2, 2, 1)))
        x_hat = x + (t_hat**2 - t**2) ** 0.5 * s_noise * eps
        d = slope(x_hat, t_hat)
        x = x_hat + (t_next - t_hat) * d
        if t_next:
            x = x_hat + (t_next - t_hat) * (0.5 * d + 0.5 * slope(x, t_next))
    found = samplers.heun_churn(
        denoise, noise(3), sigmas, cond, given, s_churn=s_churn, s_tmin=s_tmin, s_tmax=s_tmax, s_noise=s_noise
    )
    np.testing.assert_allclose(found, x, atol=2e-5)


def test_restart_goes_back_up_at_the_level_asked_for(text, some_keys):
    visited = []

    def denoise(x, sigma, cond):
        jax.debug.callback(lambda sigma: visited.append(float(sigma)), sigma, ordered=True)
        return 0.5 * x

    sigmas = jnp.array([8.0, 4.0, 2.0, 1.0])
    restart = partial(samplers.restart, sigma_lo=2.1, sigma_hi=5.0, times=2, levels=2)
    jax.block_until_ready(restart(denoise, noise(1), sigmas, text(1), some_keys(1)))
    jax.effects_barrier()
    np.testing.assert_allclose(visited, [8, 4, 4, 2, 5, 2, 5, 2, 2, 1, 1], rtol=1e-5)


@every_row
def test_gradients_exist(row, text, some_keys):
    """Of the picture in the noise, in the levels, and in what the network is made of."""

    def total(x, ends, width):
        denoise = oracle.gaussian(mean(), width * std()).denoise
        return jnp.sum(jnp.sin(row.sampler(denoise, x, grids.karras(5, *ends), text(2), some_keys(2))))

    gradients = jax.jit(jax.grad(total, argnums=(0, 1, 2)))(noise(2), jnp.array([LOW, HIGH]), jnp.array(1.0))
    for gradient in gradients:
        assert jnp.isfinite(gradient).all()
        assert jnp.abs(gradient).max() > 0


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


@every_row
def test_the_batch_size_makes_no_difference(row, text, some_keys):
    denoise = mixture()

    def run(first, last):
        cond = jax.tree.map(lambda c: c[first:last], text(4))
        return row.sampler(denoise, noise(4)[first:last], grids.karras(5, LOW, HIGH), cond, some_keys(4)[first:last])

    np.testing.assert_allclose(run(0, 4)[1:3], run(1, 3), atol=1e-6)


@pytest.mark.parametrize("name", NOISY)
def test_another_key_is_another_picture(name, text, some_keys):
    denoise = oracle.gaussian(mean(), std()).denoise
    one, other = (
        TABLE[name].sampler(denoise, noise(2), grids.karras(5, LOW, HIGH), text(2), some_keys(2, step))
        for step in (0, 1)
    )
    assert (abs(one - other) > 1e-3).any(axis=(1, 2, 3)).all()


@every_row
def test_the_trace_begins_with_the_noise_and_ends_with_the_picture(row, text, some_keys):
    denoise, sigmas = oracle.gaussian(mean(), std()).denoise, grids.karras(5, LOW, HIGH)
    picture, path = row.sampler(denoise, noise(2), sigmas, text(2), some_keys(2), trace=True)
    assert path.x.shape == path.x_0.shape == (5, 2, 2, 2, 1)
    np.testing.assert_allclose(path.x[0], noise(2), rtol=1e-6)
    np.testing.assert_array_equal(path.x_0[-1], picture)
    estimates = jax.vmap(lambda x, sigma: denoise(x, sigma, text(2)))(path.x, row.levels(sigmas))
    np.testing.assert_allclose(path.x_0, estimates, atol=1e-5)


def test_range_scale_and_eta_may_be_traced_without_compiling_again(text, some_keys):
    exact = oracle.network(oracle.gaussian(mean(), std()).denoise, s.cosine(), p.v_prediction)
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


def test_many_scales_and_seeds_are_one_program(text, some_keys):
    null = jax.tree.map(lambda c: c[:1], text(2))
    exact = oracle.gaussian(mean(), std()).denoise

    def denoise(x, sigma, cond):
        return exact(x, sigma, cond) + 0.1 * jnp.mean(cond.text_emb, axis=(1, 2))[:, None, None, None]

    @jax.jit
    def run(scales, steps):
        def one(scale, step):
            guided = guidance.cfg(denoise, null, scale)
            given = keys.for_example(jax.random.key(0), step, 2)
            return samplers.unipc(guided, noise(2), grids.karras(4, LOW, HIGH), text(2), given)

        return jax.vmap(jax.vmap(one, (None, 0)), (0, None))(scales, steps)

    scales = jnp.linspace(1.0, 8.0, 64)
    pictures = run(scales, jnp.arange(8))
    assert pictures.shape == (64, 8, 2, 2, 2, 1)
    assert run._cache_size() == 1
    alone = run(scales[5:6], jnp.arange(3, 4))
    np.testing.assert_allclose(pictures[5, 3], alone[0, 0], atol=1e-5)


@pytest.mark.parametrize("prediction", [p.v_prediction, p.eps_prediction])
@every_row
def test_half_precision_noise_over_the_widest_range_stays_finite(row, prediction, text, some_keys):
    exact = oracle.network(oracle.gaussian(mean(), std()).denoise, s.cosine(), prediction)
    half = lambda x_t, log_snr, cond: exact(x_t, log_snr, cond).astype(jnp.bfloat16)  # noqa: E731
    sigmas = grids.uniform_log_snr(6, jnp.exp(-10.0), jnp.exp(10.0))
    x = (sigmas[0] * keys.normal(some_keys(2), (2, 2, 1))).astype(jnp.bfloat16)
    picture = row.sampler(denoiser(half, s.cosine(), prediction), x, sigmas, text(2), some_keys(2))
    assert picture.dtype == jnp.float32
    assert jnp.isfinite(picture).all()
