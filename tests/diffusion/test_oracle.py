"""What theory says of the exact answers. A new law is a new row of LAWS."""

from collections.abc import Callable
from functools import cache, partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffusion_jax.diffusion import keys, oracle
from diffusion_jax.types import Cond

CLASSES, SHAPE = 3, (1, 2, 1)
LEVELS = [1e-3, 0.1, 1.0, 30.0, 1e3]


class Row(NamedTuple):
    """A law of pictures of two pixels or, for integrals, of one; and a cond for a batch of the given size."""

    law: Callable  # (pixels, dtype) -> Oracle
    cond: Callable


def unrelated(batch):
    """A text that is nobody's label."""
    return Cond(jnp.full((batch, 2, CLASSES), 7.0), jnp.ones((batch, 2), bool))


def first_label(batch):
    return oracle.label(jnp.zeros(batch, int), CLASSES)


def any_label(batch):
    return oracle.unlabeled(batch, CLASSES)


def pictures(pixels, dtype, count=CLASSES):
    values = [[-1.0, 0.5], [0.2, 0.4], [0.9, -0.6], [-0.3, -0.3], [0.7, 0.8]]
    return jnp.asarray(values, dtype)[:count, None, :pixels, None]


def weights(dtype):
    return jnp.array([1.0, 3.0, 2.0], dtype)


def independent(pixels, dtype):
    return oracle.gaussian(pictures(pixels, dtype)[1], pictures(pixels, dtype)[0])


def correlated(pixels, dtype):
    return oracle.gaussian(pictures(pixels, dtype)[0], jnp.array([[0.5, 0.3], [0.3, 0.4]], dtype)[:pixels, :pixels])


def mixture(pixels, dtype, make=oracle.mixture):
    return make(pictures(pixels, dtype), jnp.array([0.2, 0.5, 0.3], dtype), weights(dtype))


def labeled_dataset(pixels, dtype, std=0.25):
    return oracle.labeled_dataset(pictures(pixels, dtype, 5), jnp.array([0, 1, 0, 2, 1]), CLASSES, std, chunk=3)


def worse(pixels, dtype):
    labeled = mixture(pixels, dtype, oracle.labeled_mixture)
    return oracle.perturbed(labeled, 0.4, oracle.unlabeled(1, CLASSES), 0.3)


labeled = partial(mixture, make=oracle.labeled_mixture)
LAWS = {
    "gaussian": Row(independent, unrelated),
    "correlated": Row(correlated, unrelated),
    "labeled_mixture": Row(labeled, first_label),
    "labeled_dataset": Row(partial(labeled_dataset, std=0.0), first_label),
    "worse": Row(worse, first_label),
}
BROAD = Row(mixture, unrelated)  # draws of it are near any of the pictures
every_row = pytest.mark.parametrize("row", LAWS.values(), ids=LAWS)


def answers(row, x, sigma, dtype):
    """D, score and log_p of one law."""
    law, cond = row.law(x.shape[2], dtype), row.cond(len(x))
    return law.denoise(x, sigma, cond), law.score(x, sigma, cond), law.log_p(x, sigma, cond)


@cache
def levels_of(row, dtype):
    """Draws x of the law at each sigma, since the answers matter where data are: (level, batch, ...), (level,)."""

    @jax.jit
    def draw(key):
        given = keys.for_example(key, 0, 6)
        sigmas = jnp.asarray(LEVELS, dtype)
        eps = keys.normal(keys.for_purpose(given, "noise"), SHAPE, dtype)
        x_0 = row.law(2, dtype).sample(given, row.cond(6))
        return x_0[None] + sigmas[:, None, None, None, None] * eps[None], sigmas

    return draw(jax.random.key(1))


def at_each(function, levels):
    """What a function of (x, sigma) says at each level; one program."""
    run = jax.jit(lambda levels: jax.lax.map(lambda level: function(*level), levels))
    return jax.tree.map(np.asarray, run(levels))


@pytest.fixture(scope="module")
def found():
    """What was computed of each row, once for all tests."""
    return {}


@pytest.fixture
def computed(row, found, x64):
    """The answers at draws x in float32 of the levels: by name, the type of computation and what they are about."""

    def double(x, sigma):
        law = row.law(2, jnp.float64)
        return *answers(row, x, sigma, jnp.float64), jax.grad(lambda x: jnp.sum(law.log_p(x, sigma, row.cond(6))))(x)

    def single(x, sigma):
        half = x.astype(jnp.bfloat16)
        batches = [jnp.concatenate([x, half.astype(x.dtype)]), half[:2]]
        return [answers(row, batch, sigma, jnp.float32) for batch in batches]

    if id(row) not in found:
        x, sigma = levels_of(row, jnp.float32)
        (both, half), exact = at_each(single, (x, sigma)), at_each(double, (x.astype(float), sigma.astype(float)))
        parts = {"half": half, "double": exact[:3], "slope": exact[3]}
        parts |= {"single": [part[:, :6] for part in both], "rounded": [part[:, 6:8] for part in both]}
        found[id(row)] = parts | {"x": np.asarray(x, float), "sigma": np.array(LEVELS)[:, None, None, None, None]}
    return found[id(row)]


@every_row
def test_the_score_is_the_gradient_of_log_p_and_moves_x_to_its_estimate(computed):
    (denoised, score, _), sigma = computed["double"], computed["sigma"]
    np.testing.assert_allclose(sigma * score, sigma * computed["slope"], rtol=1e-8, atol=1e-8)
    np.testing.assert_allclose(denoised, computed["x"] + sigma**2 * score, rtol=1e-6, atol=1e-6)  # Tweedie


@every_row
def test_float32_keeps_its_digits_at_every_level(computed):
    single, double, sigma = computed["single"], computed["double"], computed["sigma"]
    assert {answer.dtype for answer in single} == {np.dtype(np.float32)}
    np.testing.assert_allclose(single[0], double[0], rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(sigma * single[1], sigma * double[1], rtol=1e-5, atol=2e-4)
    np.testing.assert_allclose(single[2], double[2], rtol=1e-5, atol=1e-3)


@every_row
def test_half_precision_and_a_batch_of_another_size_make_no_difference(computed):
    """Two examples in half precision, and the same x among twelve in float32; only D is rounded."""
    half, single = computed["half"], computed["rounded"]
    assert [answer.dtype for answer in half] == [jnp.bfloat16, jnp.float32, jnp.float32]
    np.testing.assert_allclose(half[0].astype(float), single[0], rtol=2**-8)
    for answer, expected in zip(half[1:], single[1:], strict=True):
        assert np.isfinite(answer).all()
        np.testing.assert_allclose(answer, expected, rtol=1e-5)


@every_row
def test_the_density_of_one_pixel_integrates_to_one(row, x64):
    x, sigmas = jnp.linspace(-8, 8, 40001), jnp.array([0.02, 0.5])
    run = lambda sigma: row.law(1, jnp.float64).log_p(x[:, None, None, None], sigma, row.cond(x.size))  # noqa: E731
    np.testing.assert_allclose(np.trapezoid(np.exp(at_each(run, (sigmas,))), x), 1, rtol=1e-6)


@every_row
def test_draws_have_the_law_that_the_other_answers_are_about(row, x64):
    """Their moments, and the averages over them that define p(x) and E[x_0 | x], within four standard errors."""
    count, sigma, far = 20_000, 0.6, 1e4

    @jax.jit
    def run(key, x):
        law = row.law(2, jnp.float64)
        hidden = lambda x: law.denoise(x.reshape(1, *SHAPE), jnp.asarray(far), row.cond(1)).reshape(-1)  # noqa: E731
        draws = law.sample(keys.for_example(key, 0, count), row.cond(count))
        known = law.denoise(x, jnp.asarray(sigma), row.cond(2)), law.log_p(x, jnp.asarray(sigma), row.cond(2))
        # in so much noise the picture is hidden: what is left are the mean and the covariance of the data
        return (
            draws.reshape(count, 2),
            hidden(jnp.zeros(2)),
            far**2 * jax.jacfwd(hidden)(jnp.zeros(2)),
            *known,
        )

    x = np.array([[0.3, -0.2], [-0.9, 0.6]])
    found = run(jax.random.key(0), jnp.asarray(x).reshape(2, *SHAPE))
    x_0, mean, covariance, denoised, log_p = map(np.asarray, found)
    products = np.einsum("ni,nj->nij", x_0 - mean[None], x_0 - mean[None])
    for each, exact in [(x_0, mean), (products, covariance)]:
        assert (abs(each.mean(0) - exact) < 4 * each.std(0) / count**0.5 + 1e-6).all()
    for i in range(2):
        likelihood = np.exp(-0.5 * np.sum((x[i][None] - x_0) ** 2, 1) / sigma**2) / (2 * np.pi * sigma**2)
        assert abs(likelihood.mean() - np.exp(log_p[i])) < 4 * likelihood.std() / count**0.5
        share = likelihood / likelihood.sum()
        estimate = share @ x_0
        error = np.sqrt(share**2 @ (x_0 - estimate[None]) ** 2)
        assert (abs(estimate - denoised[i].reshape(2)) < 4 * error).all()


@pytest.mark.parametrize("sigma", [0.1, 1.0, 10.0])
@pytest.mark.parametrize("std", [0.2, 0.0])
def test_the_mixture_is_what_integration_gives(sigma, std, text, x64):
    """E[x_0 | x] of one pixel, by summing over a fine grid of x_0."""
    means, weights, x = np.array([-0.7, 0.4]), np.array([1.0, 3.0]), np.linspace(-2, 2, 5)
    if std:
        x_0 = np.linspace(-3, 3, 20001)[:, None]
        prior = (weights * np.exp(-0.5 * (x_0 - means) ** 2 / std**2)).sum(1, keepdims=True)
    else:
        x_0, prior = means[:, None], weights[:, None]
    posterior = prior * np.exp(-0.5 * ((x - x_0) / sigma) ** 2)
    expected = (posterior * x_0).sum(0) / posterior.sum(0)
    law = oracle.mixture(jnp.asarray(means)[:, None, None, None], std, jnp.asarray(weights))
    ours = law.denoise(jnp.asarray(x)[:, None, None, None], jnp.asarray(sigma), text(5))
    np.testing.assert_allclose(ours[:, 0, 0, 0], expected, atol=1e-8)


def one_gaussian(dtype):
    means = pictures(2, dtype)
    return oracle.mixture(means[:1], 0.4, jnp.ones(1, dtype)), oracle.gaussian(means[0], 0.4)


def diagonal(dtype):
    mean, std = pictures(2, dtype)[0], jnp.array([[[0.3], [0.8]]], dtype)
    return oracle.gaussian(mean, jnp.diag(std.reshape(-1) ** 2)), oracle.gaussian(mean, std)


def memorized(dtype):
    points = pictures(2, dtype, 5)
    return oracle.dataset(points, chunk=2), oracle.mixture(points, 0.0, jnp.ones(5, dtype))


def blurred_data(dtype):
    points = pictures(2, dtype, 5)
    return oracle.perturbed(oracle.dataset(points), 0.3), oracle.dataset(points, 0.3)


def blurred_twice(dtype):
    law = mixture(2, dtype)
    return oracle.perturbed(oracle.perturbed(law, 0.3), 0.4), oracle.perturbed(law, 0.5)


def bound(law, cond):
    """The law given this cond, whatever it is told."""
    return law._replace(
        denoise=lambda x, sigma, _: law.denoise(x, sigma, cond(len(x))),
        score=lambda x, sigma, _: law.score(x, sigma, cond(len(x))),
        log_p=lambda x, sigma, _: law.log_p(x, sigma, cond(len(x))),
    )


def one_component(dtype):
    return bound(labeled(2, dtype), first_label), oracle.gaussian(pictures(2, dtype)[0], 0.2)


def all_components(dtype):
    return bound(labeled(2, dtype), any_label), mixture(2, dtype)


def one_label(dtype):
    chosen = pictures(2, dtype, 5)[jnp.array([0, 2])]
    return bound(labeled_dataset(2, dtype), first_label), oracle.dataset(chosen, 0.25)


def all_forgotten(dtype):
    forgetful = oracle.perturbed(labeled(2, dtype), 0.0, any_label(1), 1.0)
    return bound(forgetful, first_label), mixture(2, dtype)


def none_forgotten(dtype):
    attentive = oracle.perturbed(labeled(2, dtype), 0.0, any_label(1), 0.0)
    return bound(attentive, first_label), oracle.gaussian(pictures(2, dtype)[0], 0.2)


SAME = [
    *(one_gaussian, diagonal, memorized, blurred_data, blurred_twice, one_component, all_components),
    *(one_label, all_forgotten, none_forgotten),
]


NAMES = ("denoise", "log_p")  # the score is the gradient of this one


@pytest.mark.parametrize("pair", SAME, ids=lambda pair: pair.__name__)
def test_laws_that_theory_says_are_one_are_one(pair, text, x64):
    def both(x, sigma):
        return [[getattr(law, name)(x, sigma, text(6)) for name in NAMES] for law in pair(jnp.float64)]

    for one, other in zip(*at_each(both, levels_of(BROAD, jnp.float64)), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-9, atol=1e-9)


def test_the_chunks_make_no_difference(x64):
    """With a label for each example, so that some chunks hold nothing for it."""
    points, labels, cond = pictures(2, jnp.float64, 5), jnp.array([0, 1, 0, 2, 1]), oracle.label(jnp.arange(6) % 3, 3)

    def each(x, sigma):
        laws = [oracle.labeled_dataset(points, labels, CLASSES, 0.0, chunk) for chunk in (5, 1, 2, 4, 99)]
        return [[getattr(law, name)(x, sigma, cond) for name in NAMES] for law in laws]

    whole, *others = at_each(each, levels_of(BROAD, jnp.float64))
    for answer, other in ((a, b) for parts in others for a, b in zip(whole, parts, strict=True)):
        np.testing.assert_allclose(other, answer, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize(("make", "shares"), [(labeled, [1, 3, 2]), (labeled_dataset, [2, 2, 1])])
def test_the_law_without_a_label_is_the_posterior_sum_of_those_with_one(make, shares, x64):
    """p(y | x) by Bayes from the densities: it sums to one, and averages D and score."""
    conds = [any_label(6), *(oracle.label(jnp.full(6, which), CLASSES) for which in range(CLASSES))]

    def each(x, sigma):
        law = make(2, jnp.float64)
        stacked = jax.tree.map(lambda *each: jnp.concatenate(each), *conds)
        many = jnp.concatenate([x] * len(conds))
        answers = law.denoise(many, sigma, stacked), law.score(many, sigma, stacked), law.log_p(many, sigma, stacked)
        return [answer.reshape(len(conds), *answer[:6].shape) for answer in answers]

    *averaged, log_p = at_each(each, levels_of(BROAD, jnp.float64))
    prior = np.array(shares)[None, :, None] / sum(shares)
    of_label = prior * np.exp(log_p[:, 1:] - log_p[:, :1])
    np.testing.assert_allclose(of_label.sum(1), 1, rtol=1e-8)
    for answer in averaged:
        mean = (of_label[..., None, None, None] * answer[:, 1:]).sum(1)
        np.testing.assert_allclose(answer[:, 0], mean, rtol=1e-8, atol=1e-8)


def test_soft_labels_and_a_label_for_each_example():
    law, x = labeled(2, jnp.float32), jnp.zeros((3, *SHAPE))
    each = law.denoise(x, jnp.asarray(1.0), oracle.label(jnp.arange(3), CLASSES))
    for which in range(3):
        alone = oracle.gaussian(pictures(2, jnp.float32)[which], [0.2, 0.5, 0.3][which])
        np.testing.assert_allclose(each[which], alone.denoise(x, jnp.asarray(1.0), unrelated(3))[which], rtol=1e-5)
    twice = any_label(3)._replace(text_emb=2 * jnp.ones((3, 1, CLASSES)))
    np.testing.assert_allclose(*(law.log_p(x, jnp.asarray(1.0), cond) for cond in (twice, any_label(3))), rtol=1e-5)


def test_an_unrelated_text_is_refused_by_a_law_with_labels_and_ignored_by_one_without():
    x, sigma = jnp.zeros((2, *SHAPE)), jnp.asarray(1.0)
    for law in (labeled(2, jnp.float32), labeled_dataset(2, jnp.float32)):
        for cond in (unrelated(2), oracle.unlabeled(2, 4)):
            with pytest.raises(ValueError, match=r"3 labels: text_emb must be \(batch, 1, 3\)"):
                law.denoise(x, sigma, cond)
            with pytest.raises(ValueError, match="3 labels"):
                law.sample(keys.for_example(jax.random.key(0), 0, 2), cond)


def test_a_covariance_of_another_size_is_refused():
    with pytest.raises(ValueError, match=r"2 pixels cannot have the shape \(3, 3\)"):
        oracle.gaussian(jnp.zeros(SHAPE), jnp.eye(3))


def test_a_singular_covariance_keeps_its_data_on_their_line(some_keys, x64):
    """Two pixels that are always equal: whatever x is, so is the estimate, and so are the draws."""
    law = oracle.gaussian(jnp.zeros(SHAPE), jnp.ones((2, 2)))
    x = jnp.array([[3.0, -1.0], [0.2, 0.5]]).reshape(2, *SHAPE)
    for picture in (law.denoise(x, jnp.asarray(0.01), unrelated(2)), law.sample(some_keys(2), unrelated(2))):
        np.testing.assert_allclose(picture[:, :, 0], picture[:, :, 1], atol=1e-7)


@pytest.mark.parametrize("spread", [np.array([[[0.5], [1.5]]]), np.array([[0.5, 0.3], [0.3, 0.4]])])
def test_the_flow_solves_the_equation_of_the_samplers(spread, text, x64):
    x, sigma = jnp.linspace(-2, 2, 8).reshape(4, 1, 2, 1), jnp.asarray(2.0)
    mean, spread = jnp.array([[[0.3], [-0.2]]]), jnp.asarray(spread)
    flow = lambda sigma_next: oracle.gaussian_flow(mean, spread, x, sigma, sigma_next)  # noqa: E731
    np.testing.assert_allclose(flow(sigma), x, rtol=1e-12)
    for sigma_next in jnp.array([2.0, 0.5, 0.01]):
        here, slope = jax.jvp(flow, (sigma_next,), (jnp.ones(()),))
        x_0 = oracle.gaussian(mean, spread).denoise(here, sigma_next, text(4))
        np.testing.assert_allclose(slope, (here - x_0) / sigma_next, rtol=1e-9)


def test_the_draw_of_a_key_does_not_depend_on_the_batch(some_keys):
    sample = jax.jit(worse(2, jnp.float32).sample)
    draws = sample(some_keys(6), first_label(6))
    np.testing.assert_array_equal(draws[:2], sample(some_keys(2), first_label(2)))
    assert len(np.unique(draws)) == draws.size


def test_blurs_of_blurs_draw_noise_that_is_independent(some_keys):
    """One point blurred twice: were the two noises one, the deviation would be the sum 0.7 and not 0.5."""
    point = oracle.dataset(jnp.zeros((1, 8, 8, 1)))
    twice = oracle.perturbed(oracle.perturbed(point, 0.3), 0.4)
    spread = np.std(jax.jit(twice.sample)(some_keys(64), unrelated(64)))
    assert abs(spread / 0.5 - 1) < 4 / (2 * 64 * 64) ** 0.5


def test_settings_may_be_traced_without_compiling_again():
    @jax.jit
    def run(std, probability, sigma):
        points = pictures(2, jnp.float32, 5)
        law = oracle.labeled_dataset(points, jnp.array([0, 1, 0, 2, 1]), CLASSES, std)
        worse = oracle.perturbed(law, std, any_label(1), probability)
        return worse.denoise(jnp.ones((2, *SHAPE)), sigma, first_label(2))

    changes = [(0.1, 0.2, 1.0), (0.3, 0.2, 1.0), (0.1, 0.9, 1.0), (0.1, 0.2, 0.5)]
    found = {float(run(*map(jnp.asarray, settings))[0, 0, 0, 0]) for settings in changes}
    assert len(found) == 4
    assert run._cache_size() == 1
