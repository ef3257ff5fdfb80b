"""What holds for any schedule, prediction, level, shape and type, tried on random ones."""

import jax
import jax.numpy as jnp
import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as some

from diffusion_jax.diffusion import grids, keys, oracle, samplers
from diffusion_jax.diffusion import parameterization as p
from diffusion_jax.diffusion import schedules as s
from diffusion_jax.types import Cond

thoroughly = settings(deadline=None, derandomize=True, database=None, max_examples=25)
a_few = settings(deadline=None, derandomize=True, database=None, max_examples=5)
number = some.floats
scaling = some.sampled_from([s.variance_preserving, s.variance_exploding, s.straight_line])
simple = some.one_of(
    some.builds(s.cosine, number(-12, -4), number(4, 12)),
    some.builds(s.linear_beta, number(0.05, 1), number(5, 30)),
    some.builds(s.scaled_linear, number(0.1, 1), number(8, 30)),
    some.builds(s.sigmoid, number(-4, -0.5), number(0.5, 4), number(0.5, 2)),
    some.builds(s.rectified_flow, number(-12, -4), number(4, 12)),
    some.builds(s.edm, number(0.002, 0.1), number(5, 100), number(1, 10)),
    some.builds(s.log_linear, number(-12, -4), number(4, 12)),
    some.builds(s.laplace, number(-2, 2), number(0.5, 2), number(-9, -4), number(4, 9)),
    some.builds(lambda falls: s.from_knots(jnp.asarray(falls)), some.lists(number(-2, 2), min_size=2, max_size=9)),
)
schedule = some.recursive(
    simple,
    lambda inner: some.one_of(
        some.builds(s.shifted, inner, number(0.25, 8)),
        some.builds(s.truncated, inner, number(-3, -1), number(1, 3)),
        some.builds(s.interpolated, inner, inner, number(0, 1)),
        some.builds(lambda one, how: one._replace(alpha_sigma=how), inner, scaling),
    ),
    max_leaves=4,
)
prediction = some.sampled_from([p.eps_prediction, p.x0_prediction, p.v_prediction, p.flow_prediction, p.edm_prediction])


@thoroughly
@given(schedule)
def test_any_schedule_falls_has_its_inverse_and_gradients(schedule):
    t = jnp.linspace(0, 1, 65)
    log_snr = schedule.log_snr(t)
    assert jnp.isfinite(log_snr).all()
    assert (jnp.diff(log_snr) < 0).all()
    slope = jnp.maximum(jnp.abs(jnp.gradient(log_snr, t[1] - t[0])), 1)
    back = schedule.log_snr(schedule.t(log_snr))
    np.testing.assert_array_less(abs(back - log_snr) / slope, 1e-4)  # which is t, there and back, where it is steep
    alpha_t, sigma_t = schedule.alpha_sigma(log_snr)
    np.testing.assert_allclose(2 * jnp.log(alpha_t / sigma_t), log_snr, atol=2e-3, rtol=2e-3)
    assert (jax.vmap(jax.grad(schedule.log_snr))(t[1:-1]) < 0).all()


@thoroughly
@given(schedule, prediction, number(0.02, 0.98), some.integers(0, 2**31))
def test_any_prediction_holds_the_picture_and_the_noise(schedule, prediction, t, seed):
    x_0, eps = np.random.default_rng(seed).normal(size=(2, 3, 2, 2, 1)).astype(np.float32)
    alpha_t, sigma_t = schedule.alpha_sigma(schedule.log_snr(jnp.full(3, t)))
    y = p.target(jnp.asarray(x_0), jnp.asarray(eps), alpha_t, sigma_t, prediction)
    c_skip, c_out = (c[:, None, None, None] for c in p.skip_and_out(alpha_t, sigma_t, prediction))
    x_t = alpha_t[:, None, None, None] * x_0 + sigma_t[:, None, None, None] * eps
    scale = float(1 + jnp.abs(c_skip * x_t).max() + jnp.abs(c_out * y).max())
    np.testing.assert_allclose(c_skip * x_t + c_out * y, x_0, atol=2e-5 * scale)


@a_few
@given(
    some.sampled_from(samplers.__all__),
    some.sampled_from(["float32", "bfloat16", "float16"]),
    some.tuples(*[some.integers(1, 4)] * 4),
    some.integers(1, 6),
    number(0.01, 0.2),
    number(2, 150),
)
def test_any_sampler_takes_any_shape_type_and_range(name, dtype, shape, levels, low, high):
    """The answer has the type of the levels, and the spread of data that are nearly a point."""
    given_keys = keys.for_example(jax.random.key(3), 0, shape[0])
    cond = Cond(jnp.zeros((shape[0], 1, 1)), jnp.ones((shape[0], 1), bool))
    data = oracle.gaussian(jnp.full(shape[1:], 0.25), 0.01)
    x = jnp.clip(high * keys.normal(given_keys, shape[1:]), -6e4, 6e4).astype(dtype)
    found = getattr(samplers, name)(data.denoise, x, grids.karras(levels, low, high), cond, given_keys)
    assert (found.shape, found.dtype) == (x.shape, jnp.float32)
    np.testing.assert_allclose(found, 0.25, atol=0.08)
