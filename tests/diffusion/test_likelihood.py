"""The density of a picture against densities that are formulas."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffusion_jax.diffusion import grids, oracle
from diffusion_jax.diffusion import likelihood as lik

LOW, HIGH, STD = 0.02, 500.0, 0.4
PIXEL = np.array([0.5]).reshape(1, 1, 1)
FOUR = np.array([0.3, -0.2, 0.9, 0.0]).reshape(2, 2, 1)
WEIGHTS = np.array([1.0, 2.0])


def mixture(center):
    return oracle.mixture(jnp.stack([jnp.asarray(center), -jnp.asarray(center)]), STD, jnp.asarray(WEIGHTS)).denoise


def log_density(x, center, sigma):
    """Of the mixture with noise of sigma, in numpy."""
    variance = STD**2 + sigma**2
    squared = np.stack([np.square(x - sign * center).sum((1, 2, 3)) for sign in (1, -1)])
    parts = np.log(WEIGHTS / WEIGHTS.sum())[:, None] - 0.5 * squared / variance
    return np.logaddexp(*parts) - 0.5 * center.size * np.log(2 * np.pi * variance)


def pictures(batch, shape):
    return 0.6 * jnp.asarray(np.random.default_rng(0).normal(size=(batch, *shape)))


@pytest.mark.parametrize("center", [PIXEL, FOUR], ids=["pixel", "four"])
def test_with_the_exact_trace_it_is_the_density(center, text, some_keys, x64):
    x_0 = pictures(5, center.shape)
    run = jax.jit(partial(lik.log_likelihood, mixture(center), divergence=lik.exact))
    found = run(x_0, grids.karras(41, LOW, HIGH), text(5), some_keys(5))
    np.testing.assert_allclose(found, log_density(np.asarray(x_0), center, LOW), atol=1e-3)


def test_the_error_falls_as_the_order_says(text, some_keys, x64):
    x_0 = pictures(3, FOUR.shape)
    runs = {o: jax.jit(partial(lik.log_likelihood, mixture(FOUR), divergence=lik.exact, order=o)) for o in lik.RULES}
    at = lambda order, n: runs[order](x_0, grids.karras(n + 1, LOW, HIGH), text(3), some_keys(3))  # noqa: E731
    solved = at(4, 2560)
    for order in lik.RULES:
        errors = [float(jnp.abs(at(order, n) - solved).max()) for n in (320, 640)]
        assert abs(np.log2(errors[0] / errors[1]) - order) < 0.15, (order, errors)


@pytest.mark.parametrize(("order", "levels"), [(1, 2), (2, 5), (4, 2)])
def test_normal_data_of_the_deviation_it_is_told_are_exact_in_any_number_of_steps(order, levels, text, some_keys):
    zero, data_std = jnp.zeros((2, 2, 1)), 0.7
    x_0 = pictures(4, (2, 2, 1)).astype(jnp.float32)
    found = lik.log_likelihood(
        oracle.gaussian(zero, zero + data_std).denoise,
        x_0,
        grids.karras(levels, LOW, 10.0),  # at 10 the data are still to be seen: the prior counts them
        text(4),
        some_keys(4),
        order=order,
        data_std=data_std,
    )
    variance = data_std**2 + LOW**2
    expected = -0.5 * np.square(x_0).sum((1, 2, 3)) / variance - 2 * np.log(2 * np.pi * variance)
    np.testing.assert_allclose(found, expected, rtol=1e-5)


def test_without_a_deviation_it_is_the_density_of_what_samplers_make(text, some_keys, x64):
    """Of normal data, from noise that has the variance of the noise alone: sigma^2 shrunk on its way to the picture."""
    std, high = 0.5, 2.0
    run = partial(
        lik.log_likelihood, oracle.gaussian(jnp.zeros((1, 1, 1)), jnp.full((1, 1, 1), std)).denoise, data_std=0.0
    )
    x_0 = pictures(3, (1, 1, 1))
    found = run(x_0, grids.uniform_log_snr(200, LOW, high), text(3), some_keys(3))
    variance = high**2 * (std**2 + LOW**2) / (std**2 + high**2)
    expected = -0.5 * (np.square(x_0[:, 0, 0, 0]) / variance + np.log(2 * np.pi * variance))
    np.testing.assert_allclose(found, expected, rtol=1e-5)


def test_the_estimate_has_no_bias_and_more_probes_less_noise(text, some_keys):
    batch = 1024
    x_0 = jnp.broadcast_to(pictures(1, FOUR.shape), (batch, 2, 2, 1)).astype(jnp.float32)
    denoise, sigmas = mixture(FOUR.astype(np.float32)), grids.karras(17, LOW, HIGH)
    expected = lik.log_likelihood(denoise, x_0[:1], sigmas, text(1), some_keys(1), lik.exact, order=2)
    variances = []
    for probes, draw in [(1, jax.random.rademacher), (8, jax.random.rademacher), (1, jax.random.normal)]:
        divergence = partial(lik.hutchinson, probes=probes, draw=draw)
        run = jax.jit(partial(lik.log_likelihood, denoise, divergence=divergence, order=2))
        found = np.asarray(run(x_0, sigmas, text(batch), some_keys(batch)), np.float64)
        assert abs(found.mean() - expected[0]) < 3.5 * found.std() / batch**0.5
        variances.append(found.var())
    assert 8 / 1.3 < variances[0] / variances[1] < 8 * 1.3
    assert variances[2] > variances[0] > 1e-4


def test_rademacher_probes_are_exact_where_pixels_are_independent(text, some_keys):
    std = jnp.array([0.2, 0.5, 1.0, 2.0]).reshape(2, 2, 1)
    function = lambda x: oracle.gaussian(0 * std, std).denoise(x, jnp.asarray(0.6), text(3))  # noqa: E731
    x, given = pictures(3, FOUR.shape).astype(jnp.float32), some_keys(3)
    expected = jnp.full(3, jnp.sum(std**2 / (std**2 + 0.6**2)))
    ways = lik.exact, lik.hutchinson, partial(lik.hutchinson, draw=jax.random.normal)
    (*same, (_, other)) = jax.jit(lambda *given: [way(function, *given) for way in ways])(x, given)
    for value, rate in same:
        np.testing.assert_allclose(value, function(x), rtol=1e-6)
        np.testing.assert_allclose(rate, expected, rtol=1e-6)
    assert abs(other - expected).max() > 0.1


@pytest.mark.parametrize("divergence", [lik.exact, lik.hutchinson])
def test_one_program_holds_the_network_once_and_fits_all_settings(divergence, text, some_keys):
    """The calls that are made are as many as declared."""
    traced, made = [], []

    def denoise(x, sigma, cond):
        traced.append(sigma)
        jax.debug.callback(lambda sigma: made.append(float(sigma)), sigma)
        return mixture(FOUR.astype(np.float32))(x, sigma, cond)

    run = jax.jit(partial(lik.log_likelihood, denoise, divergence=divergence))
    x_0 = pictures(2, FOUR.shape).astype(jnp.float32)
    values = [
        run(x_0, grids.karras(5, low, HIGH), text(2), some_keys(2), data_std=jnp.asarray(data_std))
        for low, data_std in [(LOW, 0.5), (0.5, 0.5), (LOW, 0.9)]
    ]
    jax.block_until_ready(values)
    jax.effects_barrier()
    assert run._cache_size() == 1
    assert len(traced) == 1
    assert len(made) == 3 * 4 * 4
    assert all(abs(values[0] - other).max() > 1e-3 for other in values[1:])


def test_the_batch_size_makes_no_difference_and_gradients_exist(text, some_keys):
    x_0 = pictures(4, FOUR.shape).astype(jnp.float32)

    @jax.jit
    def run(x_0, ends, width, cond, keys):
        def density(x_0, ends, width, cond=cond, keys=keys):
            denoise = oracle.gaussian(jnp.asarray(FOUR, jnp.float32), jnp.full(FOUR.shape, width)).denoise
            return lik.log_likelihood(denoise, x_0, grids.karras(5, *ends), cond, keys, order=2)

        every, back = jax.vjp(density, x_0, ends, width)
        part = density(x_0[1:3], ends, width, jax.tree.map(lambda c: c[1:3], cond), keys[1:3])
        return every, part, back(jnp.ones_like(every))

    every, part, gradients = run(x_0, jnp.array([LOW, 80.0]), jnp.asarray(STD), text(4), some_keys(4))
    np.testing.assert_allclose(part, every[1:3], rtol=1e-5)
    for gradient in gradients:
        assert jnp.isfinite(gradient).all()
        assert jnp.abs(gradient).max() > 0


def test_an_order_without_a_rule_is_refused(text, some_keys):
    with pytest.raises(ValueError, match=r"orders \[1, 2, 4\], not 3"):
        lik.log_likelihood(mixture(FOUR), pictures(1, FOUR.shape), jnp.ones(2), text(1), some_keys(1), order=3)


@pytest.mark.parametrize(("levels", "bits"), [(256, 8), (32, 5), (2, 1)])
def test_uniform_noise_needs_all_the_bits(levels, bits):
    log_density = jnp.full(3, -48 * np.log(2.0))  # of 48 numbers in [-1, 1]
    np.testing.assert_allclose(lik.bits_per_dimension(log_density, (4, 4, 3), levels), bits, rtol=1e-6)


def test_a_density_that_is_flat_on_each_level_needs_the_bits_of_the_discrete_picture(some_keys):
    share = np.random.default_rng(0).dirichlet(np.ones(256))
    picture = jnp.arange(256, dtype=jnp.uint8).reshape(4, 8, 8, 1)
    level = np.floor((np.asarray(lik.dequantize(some_keys(4), picture)) + 1) * 128).astype(int).clip(0, 255)
    found = lik.bits_per_dimension(jnp.asarray(np.log(share[level] * 128).sum((1, 2, 3))), (8, 8, 1))
    np.testing.assert_allclose(found, -np.log2(share[picture]).mean((1, 2, 3)), rtol=1e-5)


def test_bytes_become_numbers_within_their_own_level(some_keys):
    picture = jnp.asarray(np.random.default_rng(0).integers(0, 256, (64, 8, 8, 1)), jnp.uint8)
    found, few, others = (
        np.asarray(each, np.float64)
        for each in (
            lik.dequantize(some_keys(64), picture),
            lik.dequantize(some_keys(2), picture[:2]),
            lik.dequantize(some_keys(64, step=1), picture),
        )
    )
    above = (found + 1) * 128 - np.asarray(picture)
    assert (abs(found) <= 1).all()
    assert above.min() > -1e-4
    assert above.max() < 1 + 1e-4
    assert abs(above.mean() - 0.5) < 3.5 / (12 * above.size) ** 0.5
    assert abs(above.var() * 12 - 1) < 3.5 * (0.8 / above.size) ** 0.5  # a uniform number's squares have kurtosis 1.8
    np.testing.assert_array_equal(few, found[:2])
    assert (others != found).any()
