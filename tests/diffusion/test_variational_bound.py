"""The bound against what it bounds, for networks that make no mistake."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffusion_jax.diffusion import keys, oracle
from diffusion_jax.diffusion import parameterization as p
from diffusion_jax.diffusion import schedules as s
from diffusion_jax.diffusion.variational_bound import variational_bound

LOW, HIGH = 0.01, 100.0
STD = jnp.array([0.3, 1.0, 0.6, 0.1]).reshape(2, 2, 1)
FOUR = jnp.array([0.3, -0.2, 0.9, 0.0]).reshape(2, 2, 1)


def bound(denoise, schedule=None, parameterization=p.v_prediction, **settings):
    schedule = schedule or s.geometric(LOW, HIGH)
    network = oracle.network(denoise, schedule, parameterization)
    return partial(variational_bound, network, schedule=schedule, parameterization=parameterization, **settings)


def total(found):
    return np.asarray(found.prior + found.diffusion + found.reconstruction, np.float64)


def normal_data(batch, some_keys):
    return STD[None] * keys.normal(keys.for_purpose(some_keys(batch), "data"), STD.shape)


def test_for_normal_data_it_is_the_sum_of_three_formulas(text, some_keys):
    """Also over a short range, where it is far from tight."""
    batch, data_std = 4096, 0.5
    x_0 = normal_data(batch, some_keys)

    @jax.jit
    def run(low, high):
        denoise = oracle.gaussian(0 * STD, STD).denoise
        return bound(denoise, s.geometric(low, high), data_std=data_std)(x_0, text(batch), some_keys(batch))

    for low, high in [(LOW, HIGH), (0.2, 2.0)]:
        found = [np.asarray(term, np.float64) for term in run(low, high)]
        sum_of_three_formulas(found, low, high, data_std)


def sum_of_three_formulas(found, low, high, data_std):
    batch = found[0].size
    variance, top = np.asarray(STD, np.float64) ** 2, high**2 + data_std**2
    expected = [
        0.5 * ((variance + high**2) / top - 1 + np.log(top / high**2)).sum(),
        0.5 * np.log((variance / low**2 + 1) / (variance / high**2 + 1)).sum(),
        2 * np.log(2 * np.pi * np.e * low**2),
    ]
    for term, value in zip(found[:3], expected, strict=True):
        assert abs(term.mean() - value) < 3.5 * term.std() / batch**0.5 + 1e-4
    entropy = 0.5 * np.log(2 * np.pi * np.e * variance).sum()
    slack = sum(expected) - entropy
    assert slack > 0
    if low == LOW:
        assert slack < 0.01
    off = sum(found[:3]) - entropy - slack
    assert abs(off.mean()) < 3.5 * off.std() / batch**0.5


def test_for_a_mixture_it_is_tight_and_for_a_wrong_network_it_is_not(text, some_keys):
    batch, std = 4096, 0.4
    given = some_keys(batch)
    side = jnp.sign(keys.uniform(keys.for_purpose(given, "side")) - 0.5)[:, None, None, None]
    x_0 = side * FOUR[None] + std * keys.normal(keys.for_purpose(given, "data"), FOUR.shape)
    squared = [np.square(np.asarray(x_0 - sign * FOUR[None], np.float64)).sum((1, 2, 3)) for sign in (1, -1)]
    density = np.logaddexp(*(-0.5 * each / std**2 for each in squared)) - np.log(2) - 2 * np.log(2 * np.pi * std**2)

    def slack(width):
        found = jax.jit(bound(oracle.mixture(jnp.stack([FOUR, -FOUR]), width, jnp.ones(2)).denoise))(
            x_0, text(batch), given
        )
        off = total(found) + density
        return off.mean(), off.std() / batch**0.5

    mean, error = slack(std)
    assert abs(mean) < 3.5 * error
    assert error < 0.1
    mean, error = slack(1.5 * std)
    assert mean > 5 * error


def test_of_the_schedule_only_the_ends_count_and_of_the_prediction_nothing(text, some_keys):
    ends = dict(log_snr_min=-9.0, log_snr_max=9.0)
    x_0 = normal_data(4, some_keys)
    rows = [
        (s.log_linear(**ends), p.eps_prediction),
        (s.cosine(**ends), p.v_prediction),
        (s.rectified_flow(**ends), p.flow_prediction),
        (s.edm(np.exp(-4.5), np.exp(4.5)), p.edm_prediction),
    ]
    denoise = oracle.gaussian(0 * STD, STD).denoise
    first, *others = jax.jit(lambda *given: [bound(denoise, *row, draws=3)(*given) for row in rows])(
        x_0, text(4), some_keys(4)
    )
    for other in others:
        for one, same in zip(first, other, strict=True):
            np.testing.assert_allclose(one, same, rtol=2e-3, atol=1e-4)


def test_with_unit_deviation_the_prior_term_is_that_of_vdm(text, some_keys):
    """For x_t of a variance-preserving schedule and p = N(0, 1)."""
    x_0, schedule = normal_data(3, some_keys), s.cosine(log_snr_min=-3.0)
    found = bound(oracle.gaussian(0 * STD, STD).denoise, schedule, data_std=1.0)(x_0, text(3), some_keys(3)).prior
    alpha, sigma = s.variance_preserving(jnp.asarray(-3.0))
    expected = 0.5 * jnp.sum((alpha * x_0) ** 2 + sigma**2 - 1 - 2 * jnp.log(sigma), axis=(1, 2, 3))
    np.testing.assert_allclose(found, expected, rtol=1e-4)


def test_the_error_is_that_of_one_picture_with_many_keys(text, some_keys):
    batch, draws = 2048, 24
    x_0 = jnp.broadcast_to(normal_data(1, some_keys), (batch, 2, 2, 1))
    found = jax.jit(bound(oracle.gaussian(0 * STD, STD).denoise, draws=draws))(x_0, text(batch), some_keys(batch))
    ratio = jnp.sqrt(jnp.mean(found.error**2)) / found.diffusion.std()
    assert 0.95 < ratio < 1.15


def test_settings_may_be_traced_batches_do_not_count_and_gradients_exist(text, some_keys):
    x_0, cond, given = normal_data(4, some_keys), text(4), some_keys(4)

    @jax.jit
    def run(width, low, data_std, x_0, cond, given):
        def mean(width):
            found = bound(oracle.gaussian(0 * STD, width * STD).denoise, s.geometric(low, HIGH), data_std=data_std)(
                x_0, cond, given
            )
            return jnp.mean(found.diffusion), found

        part = bound(oracle.gaussian(0 * STD, width * STD).denoise, s.geometric(low, HIGH), data_std=data_std)(
            x_0[1:3], jax.tree.map(lambda c: c[1:3], cond), given[1:3]
        )
        return *jax.grad(mean, has_aux=True)(width), part

    settings = [(1.0, LOW, 0.5), (1.0, 0.1, 0.5), (1.0, LOW, 30.0)]
    results = [run(*map(jnp.asarray, each), x_0, cond, given) for each in settings]
    assert run._cache_size() == 1
    assert all(np.isfinite(gradient) and gradient != 0 for gradient, _, _ in results)
    assert all((total(results[0][1]) != total(other)).all() for _, other, _ in results[1:])
    for _, every, part in results:
        np.testing.assert_allclose(total(part), total(every)[1:3], rtol=1e-4)


def test_one_draw_is_refused(text, some_keys):
    with pytest.raises(ValueError, match="less than 2 draws, not 1"):
        bound(oracle.gaussian(0 * STD, STD).denoise, draws=1)(normal_data(1, some_keys), text(1), some_keys(1))
