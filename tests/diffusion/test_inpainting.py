"""What is known stays, and what is not comes to fit it."""

import itertools
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffusion_jax.diffusion import grids, keys, oracle, samplers
from diffusion_jax.diffusion.inpainting import inpaint, repaint

LOW, HIGH = 0.05, 20.0
ONE_OF_FOUR = jnp.array([True, False, False, False]).reshape(1, 2, 2, 1)
BLACK_OR_WHITE = jnp.stack([jnp.ones((2, 2, 1)), -jnp.ones((2, 2, 1))])


def mixture():
    """All pixels light or all dark: one pixel says which."""
    return oracle.mixture(BLACK_OR_WHITE, 0.5, jnp.ones(2)).denoise


def start(some_keys, batch, high=HIGH):
    return high * keys.normal(keys.for_purpose(some_keys(batch), "start"), (2, 2, 1))


def pictures(batch):
    return jnp.asarray(np.random.default_rng(0).uniform(-1, 1, (batch, 2, 2, 1)), jnp.float32)


def with_inpaint(sampler):
    def run(denoise, x, sigmas, cond, keys, x_0, mask, **settings):
        return sampler(inpaint(denoise, x_0, mask), x, sigmas, cond, keys, **settings)

    return run


METHODS = {
    "euler": with_inpaint(samplers.euler),
    "heun": with_inpaint(samplers.heun),
    "ancestral": with_inpaint(samplers.ancestral),
    "replacement": partial(repaint, times=1),
    "repaint": partial(repaint, times=3, jump=2),
}


@pytest.mark.parametrize("name", METHODS)
def test_what_is_known_stays_exactly_and_settings_compile_once(name, text, some_keys):
    """And no result depends on the batch."""

    @jax.jit
    def run(ends, x_0, mask, x, cond, given):
        def picture(x, x_0, cond, given):
            return METHODS[name](mixture(), x, grids.karras(6, *ends), cond, given, x_0=x_0, mask=mask)

        every = x, x_0, cond, given
        return picture(*every), picture(*jax.tree.map(lambda each: each[1:3], every))

    x_0, ends = pictures(4), jnp.array([LOW, HIGH])
    given = start(some_keys, 4), text(4), some_keys(4)
    masks = ONE_OF_FOUR, ~ONE_OF_FOUR, jnp.ones_like(ONE_OF_FOUR)
    for mask in masks:
        every, part = run(ends, x_0, mask, *given)
        kept = np.broadcast_to(mask, x_0.shape)
        np.testing.assert_array_equal(every[kept], x_0[kept])
        assert (kept | (every != x_0)).all()
        np.testing.assert_allclose(part, every[1:3], atol=1e-5)
    first, other = (run(scale * ends, x_0, masks[0], *given)[0] for scale in (1, 2))
    assert abs(first - other).max() > 1e-3
    assert run._cache_size() == 1


@pytest.mark.parametrize("name", ["euler", "repaint"])
def test_gradients_exist(name, text, some_keys):
    """Of the picture in what is known, in the first noise, and in the levels."""

    @jax.jit
    def gradients(x, ends, x_0):
        def total(x, ends, x_0):
            given = grids.karras(6, *ends), text(2), some_keys(2)
            return jnp.sum(METHODS[name](mixture(), x, *given, x_0=x_0, mask=ONE_OF_FOUR))

        return jax.grad(total, argnums=(0, 1, 2))(x, ends, x_0)

    for gradient in gradients(start(some_keys, 2), jnp.array([LOW, HIGH]), pictures(2)):
        assert jnp.isfinite(gradient).all()
        assert jnp.abs(gradient).max() > 0


def test_with_nothing_known_they_are_plain_samplers(text, some_keys):
    x, nothing = start(some_keys, 3), jnp.zeros((1, 2, 2, 1), bool)

    @jax.jit
    def run(*given):
        known = dict(x_0=pictures(3), mask=nothing)
        others = [METHODS[name](mixture(), *given, **known) for name in ("ancestral", "replacement")]
        return samplers.ancestral(mixture(), *given), others

    plain, others = run(x, grids.karras(6, LOW, HIGH), text(3), some_keys(3))
    for other in others:
        np.testing.assert_allclose(other, plain, atol=1e-5)


def test_with_nothing_known_going_up_and_down_changes_no_distribution(text, some_keys):
    """For normal data of the deviation it is told, few levels are exact: so are the levels that noise leads back to."""
    shape, data_std, sigmas = (8, 8, 1), 0.5, grids.karras(5, 0.1, 10.0)
    given, zero = some_keys(256), jnp.zeros(shape)
    x = (data_std**2 + sigmas[0] ** 2) ** 0.5 * keys.normal(keys.for_purpose(given, "start"), shape)
    run = partial(repaint, oracle.gaussian(zero, zero + data_std).denoise, times=3, jump=2, data_std=data_std)
    nothing = jnp.zeros((1, *shape), bool)
    _, path = jax.jit(partial(run, trace=True))(x, sigmas, text(256), given, x_0=x, mask=nothing)
    x = np.asarray(path.x[-1], np.float64)
    exact = data_std**2 + 0.1**2
    assert abs(x.mean()) < 3.5 * (exact / x.size) ** 0.5
    assert abs(x.var() / exact - 1) < 3.5 * (2 / x.size) ** 0.5


@pytest.mark.parametrize(
    ("n", "times", "jump", "expected"),
    [
        (4, 2, 1, [0, 0, 1, 1, 2, 2, 3]),
        (5, 2, 2, [0, 1, 0, 1, 2, 3, 2, 3, 4]),
        (6, 2, 2, [0, 1, 2, 1, 2, 3, 4, 3, 4, 5]),
        (3, 5, 3, [0, 1, 2]),
        (1, 2, 1, [0]),
    ],
)
def test_the_levels_are_visited_in_the_published_order(n, times, jump, expected, text, some_keys):
    visited, sigmas = [], grids.karras(n, 1.0, 2.0)

    def denoise(x, sigma, cond):
        visited.append(float(sigma))
        return x

    with jax.disable_jit():
        repaint(
            denoise,
            start(some_keys, 1),
            sigmas,
            text(1),
            some_keys(1),
            x_0=pictures(1),
            mask=ONE_OF_FOUR,
            times=times,
            jump=jump,
        )
    np.testing.assert_allclose(visited, np.asarray(sigmas)[expected])
    assert len(visited) == n + (times - 1) * jump * ((n - 1) // jump)


def test_what_is_known_has_the_noise_of_its_level_one_noise_or_fresh(text, some_keys):
    """At every level before the picture is put together, of 2,048 pictures."""
    batch, sigmas = 2048, grids.uniform_log_snr(4, 0.1, 10.0)
    x_0 = jnp.broadcast_to(pictures(1), (batch, 2, 2, 1))
    x = x_0 + start(some_keys, batch, 10.0)
    told = []

    def denoise(x, sigma, cond):
        jax.debug.callback(lambda x: told.append(np.asarray(x[:, 0, 0, 0])), x, ordered=True)
        return mixture()(x, sigma, cond)

    correlations = {}
    for name in ("euler", "ancestral", "replacement"):
        told.clear()
        run = jax.jit(partial(METHODS[name], denoise))
        jax.block_until_ready(run(x, sigmas, text(batch), some_keys(batch), x_0=x_0, mask=ONE_OF_FOUR))
        jax.effects_barrier()
        eps = (np.stack(told) - np.asarray(x_0)[None, :, 0, 0, 0]) / np.asarray(sigmas)[:, None]
        assert (abs(eps.mean(1)) < 3.5 / batch**0.5).all()
        assert (abs(eps.var(1) - 1) < 3.5 * (2 / batch) ** 0.5).all()
        correlations[name] = np.corrcoef(eps)[1, 2]
    ratio = float(sigmas[2] / sigmas[1])  # of the noise at a lower level, what that above is made of
    for name, expected in [("euler", 1.0), ("ancestral", ratio), ("replacement", 0.0)]:
        assert abs(correlations[name] - expected) < 3.5 / batch**0.5 + 1e-4, correlations


def test_resampling_finds_the_picture_that_fits_far_more_often(text, some_keys):
    """One pixel of four is known; the others follow it in a share of the pictures that is here told apart."""
    batch, sigmas = 512, grids.karras(12, LOW, HIGH)
    x_0 = jnp.broadcast_to(BLACK_OR_WHITE[:1], (batch, 2, 2, 1))
    x = start(some_keys, batch)

    def share(method):
        picture = jax.jit(partial(method, mixture()))(
            x, sigmas, text(batch), some_keys(batch), x_0=x_0, mask=ONE_OF_FOUR
        )
        return float((jnp.mean(picture[:, 1], axis=(1, 2)) > 0).mean())

    shares = [share(METHODS["euler"]), *(share(partial(repaint, times=times, jump=1)) for times in (1, 10))]
    for few, more in itertools.pairwise(shares):
        error = ((few * (1 - few) + more * (1 - more)) / batch) ** 0.5
        assert more - few > 3.5 * error, shares
    assert shares[0] > 0.5
    assert shares[-1] > 0.85


@pytest.mark.parametrize("settings", [dict(times=0), dict(jump=0)])
def test_what_cannot_be_gone_is_refused(settings, text, some_keys):
    x = start(some_keys, 1)
    with pytest.raises(ValueError, match="at least 1"):
        repaint(mixture(), x, jnp.ones(3), text(1), some_keys(1), x_0=x, mask=ONE_OF_FOUR, **settings)
