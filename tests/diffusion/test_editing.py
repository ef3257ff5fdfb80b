"""What theory says of going up to noise and down again, and of mixing."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffusion_jax.diffusion import editing, grids, keys, oracle, samplers
from diffusion_jax.types import Cond

LOW, HIGH = 0.05, 20.0


def mean():
    return jnp.array([[[0.3], [-0.2]], [[0.9], [0.0]]])


def std():
    return jnp.array([[[0.3], [1.0]], [[0.6], [1.5]]])


def mixture():
    return oracle.mixture(jnp.stack([mean(), -mean()]), 0.4, jnp.array([1.0, 2.0])).denoise


def pictures(batch, seed=0):
    return 0.7 * jnp.asarray(np.random.default_rng(seed).normal(size=(batch, 2, 2, 1)))


ORDERS = {  # of the way up, and of the way up and down
    "euler": (samplers.euler, 1, 1),
    "heun": (samplers.heun, 2, 3),  # a step and the step back differ by terms of even order alone
    "dpmpp_2m": (samplers.dpmpp_2m, 2, 2),
    "dpm_3s": (samplers.dpm_3s, 3, 3),
}


@pytest.mark.parametrize("name", ORDERS)
def test_up_and_down_again_is_the_picture_to_the_order_of_the_sampler(name, text, some_keys, x64):
    """And the noise on the way is that of the exact solution."""
    sampler, *orders = ORDERS[name]
    flow = oracle.gaussian_flow(mean(), std(), pictures(3), LOW, HIGH)
    given = text(3), some_keys(3)

    @jax.jit
    def errors(sigmas):
        up = editing.invert(sampler, mixture(), pictures(3), sigmas, *given)
        again = sampler(mixture(), up, sigmas, *given)
        noise = editing.invert(sampler, oracle.gaussian(mean(), std()).denoise, pictures(3), sigmas, *given)
        back = again - mixture()(pictures(3), sigmas[-1], given[0])
        return jnp.stack([jnp.abs(noise - flow).max(), jnp.abs(back).max()])

    few, more = (errors(grids.uniform_log_snr(n + 1, LOW, HIGH)) for n in (96, 192))
    slopes = np.log2(few / more)
    np.testing.assert_allclose(slopes, orders, atol=0.25)


@pytest.mark.parametrize(("strength", "levels"), [(0.0, 1), (0.04, 1), (0.3, 3), (0.7, 7), (0.74, 7), (1.0, 10)])
def test_the_strength_is_the_share_of_the_levels_that_are_kept(strength, levels):
    sigmas = grids.karras(10, LOW, HIGH)
    np.testing.assert_array_equal(editing.from_level(sigmas, strength), sigmas[10 - levels :])
    np.testing.assert_array_equal(editing.from_level(sigmas[:1], strength), sigmas[:1])


@pytest.mark.parametrize("strength", [-0.1, 1.1])
def test_a_strength_that_is_no_share_is_refused(strength):
    with pytest.raises(ValueError, match="in \\[0, 1\\], not"):
        editing.from_level(jnp.ones(3), strength)


def test_the_least_strength_is_one_denoise_and_the_full_one_begins_from_noise(text, some_keys):
    sigmas, cond, given = grids.karras(6, LOW, HIGH), text(3), some_keys(3)
    x_0 = pictures(3).astype(jnp.float32)
    eps = keys.normal(keys.for_purpose(given, "start"), (2, 2, 1))
    run = jax.jit(partial(editing.img2img, samplers.euler, mixture()))
    least = run(x_0, editing.from_level(sigmas, 0.0), cond, given)
    np.testing.assert_allclose(least, mixture()(x_0 + sigmas[-1] * eps, sigmas[-1], cond), atol=1e-5)
    scratch = jax.jit(partial(samplers.euler, mixture()))(sigmas[0] * eps, sigmas, cond, given)
    np.testing.assert_allclose(run(0 * x_0, editing.from_level(sigmas, 1.0), cond, given), scratch, atol=1e-5)
    assert abs(least - scratch).max() > 0.1


def test_what_is_left_of_the_picture_is_what_the_noise_leaves_of_it(text, some_keys):
    """Of normal data, a factor; it falls as the strength grows."""
    sigmas, cond, given = grids.uniform_log_snr(201, LOW, HIGH), text(1), some_keys(1)
    x_0 = pictures(1).astype(jnp.float32)
    factors = []
    for strength in (0.25, 0.5):
        cut = editing.from_level(sigmas, strength)
        edit = lambda x_0: editing.img2img(samplers.heun, oracle.gaussian(mean(), std()).denoise, x_0, cut, cond, given)  # noqa: E731, B023
        _, factor = jax.jit(lambda x_0: jax.jvp(edit, (x_0,), (jnp.ones_like(x_0),)))(x_0)  # noqa: B023
        variance = std() ** 2
        exact = jnp.sqrt((variance + LOW**2) / (variance + cut[0] ** 2)) * variance / (variance + LOW**2)
        np.testing.assert_allclose(factor[0], exact, rtol=2e-3)
        factors.append(np.asarray(factor))
    assert (factors[0] > factors[1]).all()


def test_settings_may_be_traced_batches_do_not_count_and_gradients_exist(text, some_keys):
    x_0 = pictures(4).astype(jnp.float32)

    @jax.jit
    def run(ends, width, x_0, cond, given):
        def both(x_0, ends, width, cond=cond, given=given):
            denoise, sigmas = oracle.gaussian(mean(), width * std()).denoise, grids.karras(5, *ends)
            up = editing.invert(samplers.heun, denoise, x_0, sigmas, cond, given)
            return up, editing.img2img(samplers.heun, denoise, x_0, sigmas, cond, given)

        every, back = jax.vjp(both, x_0, ends, width)
        part = both(x_0[1:3], ends, width, jax.tree.map(lambda c: c[1:3], cond), given[1:3])
        return every, part, back(jax.tree.map(jnp.ones_like, every))

    ends, width = jnp.array([LOW, HIGH]), jnp.asarray(1.0)
    first, part, gradients = run(ends, width, x_0, text(4), some_keys(4))
    for other in (run(2 * ends, width, x_0, text(4), some_keys(4)), run(ends, 2 * width, x_0, text(4), some_keys(4))):
        assert all(abs(a - b).max() > 1e-3 for a, b in zip(first, other[0], strict=True))
    assert run._cache_size() == 1
    for gradient in gradients:
        assert jnp.isfinite(gradient).all()
        assert jnp.abs(gradient).max() > 0
    for some, every in zip(part, first, strict=True):
        np.testing.assert_allclose(some, every[1:3], rtol=1e-5, atol=1e-5)


def norm(noise):
    return np.sqrt(np.sum(np.square(noise), axis=(1, 2, 3)))


def noises(some_keys):
    return [np.asarray(keys.normal(keys.for_purpose(some_keys(3), word), (16, 16, 3))) for word in ("first", "second")]


@jax.jit
def slerp(a, b, share):
    return editing.slerp(a, b, share)


@jax.jit
def slerp_and_gradients(a, b, share):
    value, back = jax.vjp(editing.slerp, a, b, share)
    return value, back(value)


def test_on_the_great_circle_the_angle_and_the_norm_change_evenly(some_keys):
    a, b = noises(some_keys)
    b = 2 * b

    def angle(x, y):
        return np.arccos(np.sum(x * y, axis=(1, 2, 3)) / norm(x) / norm(y))

    for share in (0.25, 0.5, 0.9):
        between = np.asarray(slerp(a, b, share))
        np.testing.assert_allclose(norm(between), (1 - share) * norm(a) + share * norm(b), rtol=1e-5)
        np.testing.assert_allclose(angle(a, between), share * angle(a, b), rtol=1e-4)
        np.testing.assert_allclose(slerp(b, a, 1 - share), between, atol=1e-5)
        np.testing.assert_allclose(slerp(a[1:2], b[1:2], share), between[1:2], atol=1e-6)
    straight = norm(0.5 * a + 0.25 * b) / norm(a)
    np.testing.assert_allclose(straight, 0.5**0.5, atol=0.05)


@pytest.mark.parametrize("apart", [0.0, 1e-6, 1e-3, 3e-3, 0.1, 1.0])
def test_noises_at_any_angle_have_something_between_them_and_a_gradient(apart, some_keys):
    a, other = noises(some_keys)
    b = a + apart * other
    value, gradients = slerp_and_gradients(a, b, 0.3)
    scale = norm(a) * apart
    assert (norm(value - (0.7 * a + 0.3 * b)) <= 0.2 * scale * apart + 1e-4).all()
    assert all(np.isfinite(gradient).all() for gradient in gradients)
    np.testing.assert_allclose(slerp(a, b, 0.0), a, atol=1e-5)
    np.testing.assert_allclose(slerp(a, b, 1.0), b, atol=1e-5)


def test_between_two_texts_all_words_count_and_padding_does_not():
    emb = jnp.asarray(np.random.default_rng(0).normal(size=(2, 2, 3, 4)), jnp.float32)
    a, b = (
        Cond(emb[i].at[~mask].set(1e6), mask)
        for i, mask in enumerate(jnp.array([[[1, 1, 0], [1, 0, 0]], [[1, 1, 1], [1, 1, 0]]], bool))
    )
    run = jax.jit(editing.lerp_cond)
    for share, mask in [(0.0, a.text_mask), (0.3, b.text_mask), (1.0, b.text_mask)]:
        found = run(a, b, jnp.asarray(share))
        np.testing.assert_array_equal(found.text_mask, mask)
        expected = (1 - share) * np.where(a.text_mask[..., None], emb[0], 0)
        expected += share * np.where(b.text_mask[..., None], emb[1], 0)
        np.testing.assert_allclose(found.text_emb, expected, atol=1e-6)
    assert run._cache_size() == 1


def test_texts_of_two_lengths_are_refused(text):
    longer = jax.tree.map(lambda c: jnp.concatenate([c, c], axis=1), text(2))
    with pytest.raises(ValueError, match=r"\(2, 2, 3\) and \(2, 4, 3\)"):
        editing.lerp_cond(text(2), longer, 0.5)
