import inspect

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffusion_jax.diffusion import schedules as s

SCHEDULES = {
    "cosine": s.cosine(),
    "cosine, wide": s.cosine(-20.0, 20.0),
    "linear_beta": s.linear_beta(),
    "sigmoid": s.sigmoid(),
    "sigmoid, steep": s.sigmoid(0.0, 3.0, 0.3),
    "rectified_flow": s.rectified_flow(),
    "edm": s.edm(),
    "geometric": s.geometric(),
    "scaled_linear": s.scaled_linear(),
    "log_linear": s.log_linear(),
    "laplace": s.laplace(),
    "from_betas": s.from_betas(jnp.linspace(1e-4, 0.02, 1000)),
    "from_knots": s.from_knots(jnp.array([0.3, -1.0, 0.0, 2.0])),
    "interpolated": s.interpolated(s.cosine(), s.rectified_flow(), 0.3),
    "zero_terminal_snr": s.zero_terminal_snr(s.scaled_linear()),
    "shifted": s.shifted(s.cosine(), 3.0),
    "truncated": s.truncated(s.linear_beta(), -4.0, 4.0),
}
RANGES = {  # of log_snr, at t = 1 and t = 0
    "cosine": (-10, 10),
    "cosine, wide": (-20, 20),
    "linear_beta": (-10.05, 10),
    "sigmoid": (-10, 10),
    "sigmoid, steep": (-10, 10),
    "rectified_flow": (-10, 10),
    "edm": (-2 * np.log(80), -2 * np.log(0.002)),
    "geometric": (-2 * np.log(80), -2 * np.log(0.002)),
    "scaled_linear": (-5.343, 10),
    "log_linear": (-10, 10),
    "laplace": (-10, 10),
    "from_betas": (-10.118, 9.2102),
    "from_knots": (-10, 10),
    "interpolated": (-10, 10),
    "zero_terminal_snr": (-20, 10),
    "shifted": (-10 - 2 * np.log(3), 10 - 2 * np.log(3)),
    "truncated": (-4, 4),
}
every_schedule = pytest.mark.parametrize("name", SCHEDULES)


@every_schedule
def test_log_snr_falls_through_its_range_and_t_undoes_it(name):
    schedule, t = SCHEDULES[name], jnp.linspace(0, 1, 201)
    log_snr = schedule.log_snr(t)
    assert log_snr.dtype == jnp.float32
    assert (jnp.diff(log_snr) < 0).all()
    np.testing.assert_allclose([log_snr[-1], log_snr[0]], RANGES[name], rtol=1e-3)
    np.testing.assert_allclose(schedule.t(log_snr), t, atol=1e-5)


@every_schedule
def test_the_gradients_are_finite_at_the_ends(name):
    schedule, ends = SCHEDULES[name], jnp.array([0.0, 0.5, 1.0])
    assert (jax.vmap(jax.grad(schedule.log_snr))(ends) < 0).all()
    for part in (0, 1):
        slope = jax.vmap(jax.grad(lambda x, part=part: schedule.alpha_sigma(x)[part]))(schedule.log_snr(ends))
        assert jnp.isfinite(slope).all()


@pytest.mark.parametrize(
    ("alpha_sigma", "kept"),
    [
        (s.variance_preserving, lambda a, b: a**2 + b**2),
        (s.variance_exploding, lambda a, b: a),
        (s.straight_line, lambda a, b: a + b),
    ],
)
def test_alpha_and_sigma_keep_what_they_say_and_have_the_log_snr(alpha_sigma, kept):
    log_snr = jnp.linspace(-20, 20, 81)
    alpha_t, sigma_t = alpha_sigma(log_snr)
    np.testing.assert_allclose(kept(alpha_t, sigma_t), 1, rtol=1e-6)
    np.testing.assert_allclose(2 * jnp.log(alpha_t / sigma_t), log_snr, atol=1e-5)


def snr_of(alpha_squared):
    return np.log(alpha_squared / (1 - alpha_squared))


T = np.linspace(0.02, 0.98, 25)


def logistic(x):
    return 1 / (1 + np.exp(-x))


def stable_diffusion_integral(t, beta_min=0.00085, beta_max=0.012):
    """Of beta(t) = (sqrt(beta_min) + t (sqrt(beta_max) - sqrt(beta_min)))^2, by 4,000 rectangles."""
    middles = (np.arange(4000) + 0.5) / 4000
    beta = (beta_min**0.5 + np.outer(t, middles) * (beta_max**0.5 - beta_min**0.5)) ** 2
    return t * beta.mean(axis=1)


FORMULAS = [  # the published one, in float64, beside a schedule that is hardly cut
    (s.cosine(-30.0, 30.0), snr_of(np.cos(np.pi * T / 2) ** 2)),
    (s.linear_beta(log_snr_max=30.0), snr_of(np.exp(-(0.1 * T + 19.9 * T**2 / 2)))),
    (
        s.sigmoid(-3.0, 2.0, 0.8, -30.0, 30.0),
        snr_of((logistic(2 / 0.8) - logistic((5 * T - 3) / 0.8)) / (logistic(2 / 0.8) - logistic(-3 / 0.8))),
    ),
    (s.rectified_flow(-30.0, 30.0), 2 * np.log((1 - T) / T)),
    (s.edm(), -2 * np.log((0.002 ** (1 / 7) + T * (80 ** (1 / 7) - 0.002 ** (1 / 7))) ** 7)),
    (s.geometric(), -2 * np.log(0.002 * (80 / 0.002) ** T)),
    (s.scaled_linear(log_snr_max=30.0), snr_of(np.exp(-1000 * stable_diffusion_integral(T)))),
    (s.log_linear(), 10 - 20 * T),
    (s.laplace(0.4, 0.5, -30.0, 30.0), 0.4 - 0.5 * np.sign(0.5 - T) * np.log(1 - 2 * abs(0.5 - T))),
    (s.from_knots(jnp.zeros(7)), 10 - 20 * T),
    (s.interpolated(s.cosine(), s.rectified_flow(), 1.0), s.rectified_flow().log_snr(jnp.asarray(T, jnp.float32))),
]


@pytest.mark.parametrize(("schedule", "log_snr"), FORMULAS)
def test_log_snr_is_the_published_formula(schedule, log_snr):
    np.testing.assert_allclose(schedule.log_snr(jnp.asarray(T, jnp.float32)), log_snr, atol=2e-4)


def test_linear_beta_is_the_limit_of_the_thousand_steps_of_ddpm():
    alpha_squared = np.cumprod(1 - np.linspace(1e-4, 0.02, 1000))
    t = jnp.asarray((np.arange(1000) + 1) / 1000, jnp.float32)
    middle = slice(100, 1000)
    ours = s.linear_beta(log_snr_max=30.0).log_snr(t)
    np.testing.assert_allclose(ours[middle], snr_of(alpha_squared)[middle], atol=0.1)


def test_a_table_of_betas_is_followed_step_by_step():
    betas = np.linspace(0.00085**0.5, 0.012**0.5, 1000) ** 2
    schedule, steps = s.from_betas(jnp.asarray(betas, jnp.float32)), np.array([0, 1, 400, 998, 999])
    log_snr = snr_of(np.cumprod(1 - betas))[steps]
    np.testing.assert_allclose(schedule.log_snr(jnp.asarray(steps / 999, jnp.float32)), log_snr, atol=2e-3)
    ours = s.scaled_linear(log_snr_max=30.0).log_snr(jnp.asarray((steps[2:] + 1) / 1000, jnp.float32))
    np.testing.assert_allclose(ours, log_snr[2:], atol=0.05)


def test_zero_terminal_snr_is_the_published_algorithm():
    """Algorithm 1 of Lin et al. (2024) on Stable Diffusion's table, in numpy."""
    betas = np.linspace(0.00085**0.5, 0.012**0.5, 1000) ** 2
    root = np.sqrt(np.cumprod(1 - betas))
    expected = snr_of(((root - root[-1]) * root[0] / (root[0] - root[-1]))[:-1] ** 2)
    table = s.from_betas(jnp.asarray(betas, jnp.float32))
    schedule = s.zero_terminal_snr(table, -12.0)
    covered = expected > -12
    found = schedule.log_snr(schedule.t(jnp.asarray(expected[covered], jnp.float32)))
    np.testing.assert_allclose(found, expected[covered], atol=1e-2)
    place = schedule.t(jnp.asarray(expected[[0, 500]], jnp.float32)) * (np.flatnonzero(covered)[-1] + 0.5) / 999
    np.testing.assert_allclose(place, np.array([0, 500]) / 999, atol=2e-3)


def test_a_learned_schedule_has_gradients():
    def level(falls, ends):
        schedule = s.from_knots(falls, *ends)
        return schedule.log_snr(jnp.array(0.4)) + schedule.t(jnp.array(1.0))

    gradients = jax.grad(level, argnums=(0, 1))(jnp.array([0.3, -1.0, 0.0, 2.0]), jnp.array([-9.0, 8.0]))
    assert all((abs(gradient) > 1e-4).all() for gradient in gradients)


def test_the_inverse_of_a_mixture_has_the_gradient_of_the_exact_one():
    mixed = s.interpolated(s.cosine(), s.rectified_flow(), 0.3)
    t = jnp.array(0.37)
    np.testing.assert_allclose(jax.grad(mixed.t)(mixed.log_snr(t)), 1 / jax.grad(mixed.log_snr)(t), rtol=1e-4)
    by_share = jax.grad(lambda share: s.interpolated(s.cosine(), s.rectified_flow(), share).t(jnp.array(2.0)))(0.3)
    each = [s.interpolated(s.cosine(), s.rectified_flow(), share).t(jnp.array(2.0)) for share in (0.2, 0.4)]
    np.testing.assert_allclose(by_share, (each[1] - each[0]) / 0.2, rtol=2e-2)


@pytest.mark.parametrize("shift", [0.5, 1.0, 3.0])
def test_a_shift_multiplies_sigma_as_in_simple_diffusion_and_stable_diffusion_3(shift):
    base, t = s.rectified_flow(), jnp.linspace(0, 1, 11)
    log_snr = s.shifted(base, shift).log_snr(t)
    np.testing.assert_allclose(log_snr, base.log_snr(t) - 2 * np.log(shift), atol=1e-5)
    tau = base.alpha_sigma(base.log_snr(t))[1]  # the time of the flow, which on a straight line is sigma_t
    np.testing.assert_allclose(base.alpha_sigma(log_snr)[1], shift * tau / (1 + (shift - 1) * tau), rtol=1e-4)


FORMULA_WITH_SETTINGS = [
    s.cosine, s.linear_beta, s.scaled_linear, s.sigmoid, s.rectified_flow, s.edm, s.geometric, s.log_linear, s.laplace,
]  # fmt: skip


@pytest.mark.parametrize("schedule", FORMULA_WITH_SETTINGS)
def test_settings_may_be_traced_arrays(schedule):

    settings = {name: p.default for name, p in inspect.signature(schedule).parameters.items()}
    t = jnp.linspace(0, 1, 5)
    traced = jax.jit(lambda settings: schedule(**settings).log_snr(t))(settings)
    np.testing.assert_allclose(traced, schedule().log_snr(t), rtol=1e-4, atol=1e-5)
