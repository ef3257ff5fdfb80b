"""What theory says of guidance. A new kind is a new row of TABLE."""

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffusion_jax.diffusion import grids, oracle, samplers
from diffusion_jax.diffusion import guidance as g
from diffusion_jax.diffusion import parameterization as p
from diffusion_jax.diffusion import schedules as s

X = jnp.asarray(np.random.default_rng(0).normal(size=(3, 2, 2, 2)), jnp.float32)
SIGMA = jnp.asarray(1.5)
GRID = jnp.array([9.0, 3.0, 1.5, 0.1])
SCHEDULE = s.cosine()


def denoise(x, sigma, cond):
    """A denoiser that minds its text, and not linearly."""
    return jnp.tanh(x * cond.text_emb[:, :1, :1, None] + sigma) * (1 + 0.3 * x)


def weaker(x, sigma, cond):
    return 0.5 * denoise(x, sigma, cond)


def log_p(x, sigma, cond):
    return -jnp.sum(jnp.square(x - cond.text_emb[:, :1, :1, None]), axis=(1, 2, 3)) / (1 + sigma)


class Row(NamedTuple):
    """A kind of guidance with two settings, and for which of them it is no guidance."""

    make: Callable  # (null_cond, another cond, first setting, second) -> Denoiser
    none: tuple[float, float] = (1.0, 0.7)


TABLE = {
    "cfg": Row(lambda null, other, a, b: g.cfg(denoise, null, a * b), (1.0, 1.0)),
    "cfg_scheduled": Row(lambda null, other, a, b: g.cfg(denoise, null, lambda sigma: a + b * sigma), (1.0, 0.0)),
    "linear_ramp": Row(lambda null, other, a, b: g.cfg(denoise, null, g.linear_ramp(a, b, SCHEDULE)), (1.0, 1.0)),
    "cosine_ramp": Row(lambda null, other, a, b: g.cfg(denoise, null, g.cosine_ramp(a, 1.0, SCHEDULE, b))),
    "cfg_plus_plus": Row(
        lambda null, other, a, b: g.cfg(denoise, null, g.cfg_plus_plus(a, jnp.stack([9.0, 1.0, 0.1 * b]))),
        (1 - 0.1, 1.0),
    ),
    "autoguidance": Row(lambda null, other, a, b: g.autoguidance(denoise, lambda *at: b * weaker(*at), a)),
    "composed": Row(lambda null, other, a, b: g.composed(denoise, null, a, [other], [b]), (1.0, 0.0)),
    "composed_array": Row(
        lambda null, other, a, b: g.composed(denoise, null, a, [other, null], jnp.stack([b, 2 * b])), (1.0, 0.0)
    ),
    "rescaled": Row(lambda null, other, a, b: g.rescaled(denoise, null, a, b)),
    "rescaled_flow": Row(lambda null, other, a, b: g.rescaled(denoise, null, a, b, p.flow_prediction, s.straight_line)),
    "apg": Row(lambda null, other, a, b: g.apg(denoise, null, a, b)),
    "apg_shortened": Row(lambda null, other, a, b: g.apg(denoise, null, a, longest=b)),
    "cfg_zero_star": Row(lambda null, other, a, b: g.cfg_zero_star(denoise, null, a, 2 * b), (1.0, 0.8)),
    "classifier": Row(lambda null, other, a, b: g.classifier(denoise, lambda *at: b * log_p(*at), a), (0.0, 0.7)),
}
every_row = pytest.mark.parametrize("row", TABLE.values(), ids=TABLE)


@pytest.fixture
def null(text):
    return text(1, -2.0)


@every_row
def test_settings_and_level_are_traced_and_each_counts(row, text, null):
    @jax.jit
    def run(a, b, sigma):
        return row.make(null, text(1, 0.5), a, b)(X, sigma, text(3))

    changes = [(3.0, 0.9, 1.5), (4.0, 0.9, 1.5), (3.0, 0.6, 1.5), (3.0, 0.9, 1.6), (*row.none, 1.5)]
    values = [np.asarray(run(*map(jnp.asarray, settings))) for settings in changes]
    assert run._cache_size() == 1
    assert values[0].dtype == np.float32
    assert all(np.abs(value - values[0]).max() > 1e-4 for value in values[1:])
    np.testing.assert_allclose(values[4], denoise(X, SIGMA, text(3)), atol=2e-6)


@every_row
def test_no_example_depends_on_the_others(row, text, null):
    @jax.jit
    def run(x, cond):
        return row.make(null, text(1, 0.5), jnp.asarray(3.0), jnp.asarray(0.9))(x, SIGMA, cond)

    alone = run(X[1:2], jax.tree.map(lambda c: c[1:2], text(3)))
    np.testing.assert_allclose(run(X, text(3))[1:2], alone, rtol=1e-5)


@every_row
def test_gradients_exist(row, text, null):
    @jax.jit
    @partial(jax.grad, argnums=(0, 1, 2))
    def gradients(x, sigma, settings):
        return jnp.sum(jnp.sin(row.make(null, text(1, 0.5), *settings)(x, sigma, text(3))))

    for gradient in gradients(X, SIGMA, jnp.array([3.0, 0.9])):
        assert jnp.isfinite(gradient).all()
        assert jnp.abs(gradient).max() > 0


def test_gradients_are_finite_where_what_is_divided_by_is_zero(text, null):
    """Where D is zero, where it minds no text, and where the network's output is zero: a velocity, or a v."""
    answers = (lambda x: 0 * x), (lambda x: 0.3 * x), (lambda x: x / (1 + SIGMA)), (lambda x: 1 / (1 + SIGMA**2) * x)
    kinds = g.rescaled, g.apg, partial(g.apg, longest=0.9), g.cfg_zero_star

    @jax.jit
    def gradients(x):
        def total(x, kind, answer):
            return jnp.sum(jnp.sin(kind(lambda x, sigma, cond: answer(x), null, 3.0)(x, SIGMA, text(3))))

        return [jax.grad(total)(x, kind, answer) for kind in kinds for answer in answers]

    for gradient in gradients(X):
        assert jnp.isfinite(gradient).all()


def test_scale_one_is_the_text_to_the_bit_and_scale_zero_none(text, null):
    cond = text(3)
    np.testing.assert_array_equal(g.cfg(denoise, null, 1.0)(X, SIGMA, cond), denoise(X, SIGMA, cond))
    untold = g.without_text(denoise, null)(X, SIGMA, cond)
    np.testing.assert_allclose(g.cfg(denoise, null, 0.0)(X, SIGMA, cond), untold, atol=1e-6)
    everywhere = jax.tree.map(lambda n: jnp.repeat(n, 3, 0), null)
    np.testing.assert_array_equal(untold, denoise(X, SIGMA, everywhere))


@pytest.mark.parametrize("scale", [0.5, 3.0, 12.0])
@pytest.mark.parametrize("batch_of_null", [1, 3])
def test_one_call_on_a_doubled_batch_is_two_calls(scale, batch_of_null, text):
    calls = []

    def counted(x, sigma, cond):
        calls.append(x.shape[0])
        return denoise(x, sigma, cond)

    cond, null = text(3), text(batch_of_null, -2.0)
    guided = g.cfg(counted, null, scale)(X, SIGMA, cond)
    without = denoise(X, SIGMA, jax.tree.map(lambda n: jnp.broadcast_to(n, (3, *n.shape[1:])), null))
    np.testing.assert_allclose(guided, without + scale * (denoise(X, SIGMA, cond) - without), atol=1e-5)
    g.composed(counted, null, scale, [cond, null], [1.0, -1.0])(X, SIGMA, cond)
    assert calls == [6, 12]


def plain(*settings):
    return lambda null: g.cfg(denoise, null, *settings)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (lambda null: g.autoguidance(denoise, g.without_text(denoise, null), 4.0), plain(4.0)),
        (lambda null: g.apg(denoise, null, 4.0, eta=1.0), plain(4.0)),
        (lambda null: g.rescaled(denoise, null, 4.0, share=0.0), plain(4.0)),
        (lambda null: g.composed(denoise, null, 4.0, [], []), plain(4.0)),
        (lambda null: g.composed(denoise, null, 4.0, [null], [2.0]), plain(4.0)),
        (plain(lambda sigma: 2 * sigma), plain(3.0)),
        (plain(g.cfg_plus_plus(0.6, GRID)), plain(0.6 / (1 - 0.1 / 1.5))),
        (lambda null: g.within(denoise, plain(4.0)(null), 0.0, SIGMA), plain(4.0)),
        (lambda null: g.within(denoise, plain(4.0)(null), SIGMA, 9.0), plain(1.0)),
    ],
)
def test_guidance_that_theory_says_is_one_is_one(one, other, text, null):
    run = lambda make: make(null)(X, SIGMA, text(3))  # noqa: E731
    np.testing.assert_allclose(run(one), run(other), atol=1e-5)


@pytest.mark.parametrize(
    "kind",
    [
        lambda null, scale: g.autoguidance(denoise, weaker, scale),
        lambda null, scale: g.composed(denoise, null, scale, [null], [scale]),
        lambda null, scale: g.composed(denoise, null, 1.0, [null], [scale]),
        lambda null, scale: g.rescaled(denoise, null, scale),
        lambda null, scale: g.apg(denoise, null, scale),
        lambda null, scale: g.cfg_zero_star(denoise, null, scale),
        lambda null, scale: g.classifier(denoise, log_p, scale),
    ],
)
def test_every_kind_takes_a_schedule_for_its_scale(kind, text, null):
    scheduled, fixed = (kind(null, scale)(X, SIGMA, text(3)) for scale in (lambda sigma: 2 * sigma, 3.0))
    np.testing.assert_allclose(scheduled, fixed, atol=1e-5)


def test_texts_that_are_composed_add_up_in_any_order(text, null):
    def run(others, weights):
        return g.composed(denoise, null, 2.0, others, weights)(X, SIGMA, text(3))

    a, b = text(1, 0.5), text(3, 0.8)
    both = run([a, b], [1.5, -0.7])
    np.testing.assert_allclose(run([b, a], [-0.7, 1.5]), both, atol=1e-5)
    np.testing.assert_allclose(run([a, b, a], [1.0, -0.7, 0.5]), both, atol=1e-5)
    np.testing.assert_allclose(run([text(3)], [1.5]), g.cfg(denoise, null, 3.5)(X, SIGMA, text(3)), atol=1e-5)
    assert abs(run([a, b], [-0.7, 1.5]) - both).max() > 0.1


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda text: g.cfg(denoise, longer(text), 2.0), r"\(5, 3\) and \(2, 3\)"),
        (lambda text: g.without_text(denoise, longer(text)), r"\(5, 3\) and \(2, 3\)"),
        (lambda text: g.composed(denoise, text(1), 2.0, [text(1)], [1.0, 2.0]), "1 other conditions but 2 weights"),
        (lambda text: g.classifier(denoise, lambda x, sigma, cond: jnp.sum(x), 1.0), r"shape \(\)"),
    ],
)
def test_what_does_not_fit_is_refused(make, message, text):
    with pytest.raises(ValueError, match=message):
        make(text)(X, SIGMA, text(3))


def longer(text):
    return text(1)._replace(text_emb=jnp.zeros((1, 5, 3)), text_mask=jnp.ones((1, 5), bool))


def test_the_exact_classifier_makes_the_exact_conditional_denoiser(text):
    """Of a mixture: with one component's index for a text, log p(y | x) = log softmax of the log densities."""
    means = jnp.asarray(np.random.default_rng(1).normal(size=(3, 2, 2, 2)), jnp.float32)
    std, weights = 0.4, jnp.array([1.0, 2.0, 0.5])

    def log_p(x, sigma, cond):
        distance = jnp.sum(jnp.square(x[:, None] - means[None]), axis=(2, 3, 4))
        log_each = jax.nn.log_softmax(jnp.log(weights)[None] - 0.5 * distance / (std**2 + sigma**2))
        return jnp.take_along_axis(log_each, cond.text_emb[:, 0, :1].astype(int), axis=1)[:, 0]

    def exact(x, sigma, cond):
        return means + std**2 / (std**2 + sigma**2) * (x - means)  # text(3) asks for components 0, 1 and 2

    guided = g.classifier(oracle.mixture(means, std, weights).denoise, log_p, 1.0)
    for sigma in (0.3, 1.0, 5.0):
        level = jnp.asarray(sigma)
        np.testing.assert_allclose(guided(X, level, text(3)), exact(X, level, text(3)), atol=2e-5)


def test_cfg_plus_plus_is_the_published_step(text, null, some_keys):
    """Guided by lambda, the noise added again is that found without text; the last level is followed by sigma = 0."""
    strength, cond, sigmas, x = 0.6, text(3), grids.karras(6, 0.1, 9.0), 9 * X
    guided = g.cfg(denoise, null, g.cfg_plus_plus(strength, sigmas))
    found = samplers.euler(guided, x, sigmas, cond, some_keys(3))
    for sigma, after in zip(sigmas, [*sigmas[1:], 0.0], strict=True):
        with_text, without = denoise(x, sigma, cond), g.without_text(denoise, null)(x, sigma, cond)
        x = without + strength * (with_text - without) + after * (x - without) / sigma
    np.testing.assert_allclose(found, x, atol=1e-5)


@pytest.mark.parametrize(
    ("ramp", "expected"),
    [
        (g.linear_ramp, [1.0, 3.0, 5.0, 7.0, 9.0]),
        (g.cosine_ramp, [1.0, 5 - 8**0.5, 5.0, 5 + 8**0.5, 9.0]),
        (partial(g.cosine_ramp, power=2.0), [1 + 4 * (1 - np.cos(np.pi * t**2)) for t in (0, 0.25, 0.5, 0.75, 1)]),
    ],
)
def test_ramps_go_from_noise_to_picture(ramp, expected):
    scale, t = ramp(1.0, 9.0, SCHEDULE), jnp.array([1.0, 0.75, 0.5, 0.25, 0.0])
    sigma = jnp.exp(-0.5 * SCHEDULE.log_snr(t))
    np.testing.assert_allclose(jax.vmap(scale)(sigma), expected, atol=1e-4)
    np.testing.assert_allclose([scale(1e3 * sigma[0]), scale(1e-3 * sigma[-1])], [expected[0], expected[-1]], atol=1e-4)


@pytest.mark.parametrize(
    ("prediction", "alpha_sigma"),
    [
        (p.v_prediction, s.variance_preserving),
        (p.eps_prediction, s.variance_preserving),
        (p.x0_prediction, s.variance_preserving),
        (p.flow_prediction, s.straight_line),
        (p.edm_prediction, s.variance_exploding),
    ],
)
def test_wholly_rescaled_the_output_has_the_deviation_of_the_text_alone(prediction, alpha_sigma, text, null):
    def output(x_0):
        alpha_t, sigma_t = alpha_sigma(-2 * jnp.log(SIGMA))
        a, b = prediction(alpha_t, sigma_t)
        return a * x_0 + b * (X - x_0) / SIGMA

    def deviation(denoise):
        return np.std(output(denoise(X, SIGMA, text(3))), axis=(1, 2, 3))

    rescaled = partial(g.rescaled, denoise, null, 4.0, parameterization=prediction, alpha_sigma=alpha_sigma)
    guided, alone = g.cfg(denoise, null, 4.0), deviation(denoise)
    assert (abs(deviation(guided) / alone - 1) > 0.01).all()
    np.testing.assert_allclose(deviation(rescaled(share=1.0)), alone, rtol=1e-4)
    np.testing.assert_allclose(deviation(rescaled(share=0.5)), (alone + deviation(guided)) / 2, rtol=1e-4)


def inner(a, b):
    return np.sum(np.asarray(a, np.float64) * b, axis=(1, 2, 3))


def test_apg_leaves_what_is_orthogonal_and_no_more_than_the_longest(text, null):
    with_text = denoise(X, SIGMA, text(3))

    def change(**settings):
        return g.apg(denoise, null, 2.0, **settings)(X, SIGMA, text(3)) - with_text

    whole, across = change(eta=1.0), change(eta=0.0)
    np.testing.assert_allclose(inner(across, with_text), 0, atol=1e-4)
    np.testing.assert_allclose(inner(across, whole), inner(across, across), rtol=1e-4)  # the nearest such
    lengths = np.sqrt(inner(whole, whole))
    limit = float(np.median(lengths))
    short = change(eta=1.0, longest=limit)
    np.testing.assert_allclose(np.sqrt(inner(short, short)), np.minimum(lengths, limit), rtol=1e-5)
    np.testing.assert_allclose(short * (lengths / np.minimum(lengths, limit))[:, None, None, None], whole, rtol=1e-4)


def of_velocity(v):
    """D of a given velocity eps - x_0, in float32."""
    return lambda x, sigma, cond: (x - sigma * v(cond)[: x.shape[0]]) / (1 + sigma)


def velocities(with_text, without):
    """A denoiser with one velocity for text, and another for none."""
    return of_velocity(lambda cond: jnp.concatenate([with_text, without]))


def test_zero_star_is_cfg_where_the_scale_found_is_one_and_nothing_where_velocities_are_proportional(text, null):
    draw = np.random.default_rng(2).normal(size=(2, *X.shape))
    v_null = draw[0]
    across = draw[1] - (inner(draw[1], v_null) / inner(v_null, v_null))[:, None, None, None] * v_null
    v_null, across = jnp.asarray(v_null, jnp.float32), jnp.asarray(across, jnp.float32)

    def run(make, with_text):
        return make(velocities(with_text, v_null), null, 4.0)(X, SIGMA, text(3))

    np.testing.assert_allclose(run(g.cfg_zero_star, v_null + across), run(g.cfg, v_null + across), atol=1e-5)
    alone = (X - SIGMA * 3 * v_null) / (1 + SIGMA)
    np.testing.assert_allclose(run(g.cfg_zero_star, 3 * v_null), alone, atol=1e-5)
    assert abs(run(g.cfg, 3 * v_null) - alone).max() > 0.1


def test_zero_star_is_the_published_velocity(text, null):
    def velocity(denoise):
        return (X - (1 + SIGMA) * denoise(X, SIGMA, text(3))) / SIGMA

    v_cond, v_null = velocity(denoise), velocity(g.without_text(denoise, null))
    best = (inner(v_cond, v_null) / inner(v_null, v_null))[:, None, None, None]
    expected = best * v_null + 4 * (v_cond - best * v_null)
    np.testing.assert_allclose(velocity(g.cfg_zero_star(denoise, null, 4.0)), expected, atol=1e-4)


def test_at_first_zero_star_stands_still_without_a_call(text, null, some_keys):
    called = []

    def counted(x, sigma, cond):
        jax.debug.callback(lambda sigma: called.append(float(sigma)), sigma)
        return denoise(x, sigma, cond)

    guided = g.cfg_zero_star(counted, null, 4.0, sigma_zero=1.5)
    _, path = samplers.euler(guided, 9 * X, GRID, text(3), some_keys(3), trace=True)
    jax.effects_barrier()
    x_t = path.x / (1 + GRID)[:, None, None, None, None]  # on the straight line alpha_t = 1 / (1 + sigma)
    np.testing.assert_allclose(x_t[1:3], jnp.stack([x_t[0], x_t[0]]), rtol=1e-5)
    assert abs(x_t[3] - x_t[0]).max() > 0.1
    np.testing.assert_allclose(sorted(called), [0.1, 1.5], rtol=1e-6)
