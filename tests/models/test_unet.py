import importlib

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffusion_jax import build
from diffusion_jax.models.attention import CrossAttention, SelfAttention
from diffusion_jax.models.blocks import ResidualBlock, depth_to_space, double, halve, space_to_depth
from diffusion_jax.models.embeddings import log_snr_features, masked_mean
from diffusion_jax.models.normalization import GroupNorm
from diffusion_jax.models.unet import UNet
from diffusion_jax.types import Cond

SMALL = dict(channels=8, multipliers=(1, 2), blocks=1, self_attention=(4,), cross_attention=(4,), head_dim=8)


def inputs(batch=2, size=8, length=5, dim=6, seed=0):
    draw = np.random.default_rng(seed)
    text = jnp.asarray(draw.normal(size=(batch, length, dim)), jnp.float32)
    mask = jnp.asarray(draw.random((batch, length)) < 0.6).at[:, 0].set(True)
    x_t = jnp.asarray(draw.normal(size=(batch, size, size, 3)), jnp.float32)
    return x_t, jnp.asarray(draw.normal(size=batch) * 4, jnp.float32), Cond(text, mask)


def drawn_params(module, *args, scale=0.2):
    """Random parameters for every leaf: at initialization many branches are silent, and would hide mistakes."""
    shapes = jax.eval_shape(lambda: module.init(jax.random.key(0), *args))
    draw = np.random.default_rng(1)
    return jax.tree.map(lambda s: jnp.asarray(draw.normal(size=s.shape) * scale, s.dtype), shapes)


@pytest.mark.parametrize(
    "options",
    [
        dict(),
        dict(resample="convolution"),
        dict(patch=2, self_attention=(), cross_attention=(4, 2)),
        dict(multipliers=(1,), self_attention=(8,)),
    ],
)
def test_output_has_the_pictures_shape_and_hears_every_input(options):
    unet, (x_t, log_snr, cond) = UNet(**SMALL | options), inputs()
    params = drawn_params(unet, x_t, log_snr, cond)
    apply = jax.jit(unet.apply)
    y = apply(params, x_t, log_snr, cond)
    assert y.shape == x_t.shape
    assert y.dtype == jnp.float32
    assert jnp.isfinite(y).all()
    others = (x_t + 1, log_snr, cond), (x_t, log_snr + 1, cond), (x_t, log_snr, cond._replace(text_emb=-cond.text_emb))
    for other in others:
        assert jnp.abs(apply(params, *other) - y).max() > 1e-3


def test_first_prediction_is_zero():
    unet, args = UNet(channels=8, multipliers=(1,), blocks=1), inputs(size=4)
    params = jax.jit(unet.init)(jax.random.key(0), *args)
    assert not jax.jit(unet.apply)(params, *args).any()


def test_masked_words_say_nothing():
    unet, (x_t, log_snr, cond) = UNet(**SMALL), inputs()
    params = drawn_params(unet, x_t, log_snr, cond)
    noise = jnp.where(cond.text_mask[:, :, None], cond.text_emb, 100.0)
    apply = jax.jit(unet.apply)
    expected = apply(params, x_t, log_snr, cond)
    np.testing.assert_allclose(apply(params, x_t, log_snr, cond._replace(text_emb=noise)), expected, atol=1e-5)


def test_text_without_any_word_is_finite():
    unet, (x_t, log_snr, cond) = UNet(**SMALL), inputs()
    params = drawn_params(unet, x_t, log_snr, cond)
    silent = cond._replace(text_mask=jnp.zeros_like(cond.text_mask))
    assert jnp.isfinite(jax.jit(unet.apply)(params, x_t, log_snr, silent)).all()


def test_examples_do_not_see_each_other():
    unet, (x_t, log_snr, cond) = UNet(**SMALL), inputs(batch=3)
    params = drawn_params(unet, x_t, log_snr, cond)
    together = jax.jit(unet.apply)(params, x_t, log_snr, cond)
    alone = jax.jit(unet.apply)(params, *jax.tree.map(lambda a: a[1:2], (x_t, log_snr, cond)))
    np.testing.assert_allclose(together[1:2], alone, atol=2e-5)


def test_dropout_acts_in_training_only():
    block, args = ResidualBlock(8, dropout=0.5), (jnp.ones((2, 4, 4, 8)), jnp.ones((2, 6)))
    params = drawn_params(block, *args)
    train = jax.jit(lambda key: block.apply(params, *args, jax.random.split(key)))
    assert jnp.abs(train(jax.random.key(0)) - train(jax.random.key(1))).max() > 1e-3
    np.testing.assert_array_equal(train(jax.random.key(0)), train(jax.random.key(0)))
    plain = ResidualBlock(8).apply(params, *args)
    np.testing.assert_allclose(block.apply(params, *args), plain, atol=1e-6)


def test_rematerialization_changes_no_gradient():
    args = inputs()
    small = dict(channels=8, multipliers=(1,), blocks=1)
    plain, lean = UNet(**small), UNet(**small, remat="nothing_saveable")
    params = drawn_params(plain, *args)
    gradients = [jax.jit(jax.grad(lambda p, m=m: (m.apply(p, *args) ** 2).mean()))(params) for m in (plain, lean)]
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6), *gradients)


def test_bfloat16_stays_near_float32():
    args = inputs()
    wide, narrow = UNet(**SMALL), UNet(**SMALL, dtype=jnp.bfloat16)
    params = drawn_params(wide, *args, scale=0.1)
    a, b = (jax.jit(m.apply)(params, *args) for m in (wide, narrow))
    assert b.dtype == jnp.float32
    assert jnp.linalg.norm(a - b) < 0.05 * jnp.linalg.norm(a)


def test_a_weaker_network_has_the_same_parameters():
    """What is skipped is left out as if what it adds were zero."""
    unet, args = UNet(**SMALL | dict(multipliers=(1,), cross_attention=())), inputs(size=4)
    params = drawn_params(unet, *args)["params"]
    skipped = ("middle_0", "up_0_1")
    last = {"residual": "conv_out", "self_attention": "out"}

    def silent(stage):
        return {
            name: part | {last[name]: jax.tree.map(jnp.zeros_like, part[last[name]])} for name, part in stage.items()
        }

    apply, zeroed = jax.jit(unet.apply), params | {name: silent(params[name]) for name in skipped}
    plain, expected = (apply({"params": values}, *args) for values in (params, zeroed))
    weaker = unet.clone(skipped=skipped), unet.clone(perturbed=("middle_0",))
    without, perturbed = (jax.jit(module.apply)({"params": params}, *args) for module in weaker)
    np.testing.assert_allclose(without, expected, atol=1e-5)
    assert all(jnp.abs(y - plain).max() > 1e-3 for y in (without, perturbed))


def test_perturbed_attention_passes_on_the_value_of_each_position():
    x = jnp.asarray(np.random.default_rng(0).normal(size=(2, 3, 3, 8)), jnp.float32)
    attention = SelfAttention(head_dim=4, perturbed=True)
    params = drawn_params(attention, x)["params"]
    h = GroupNorm().apply({"params": params["norm"]}, x)
    value = jnp.dot(h, params["qkv"]["kernel"][:, 16:]) + params["qkv"]["bias"][None, None, None, 16:]
    passed = jnp.dot(value, params["out"]["kernel"]) + params["out"]["bias"][None, None, None]
    np.testing.assert_allclose(attention.apply({"params": params}, x), x + passed, atol=1e-5)


@pytest.mark.parametrize("weaker", [dict(skipped=("middle_9",)), dict(perturbed=("up_0_0",))])
def test_a_stage_that_cannot_be_weaker_is_refused(weaker):
    """The second has no self-attention."""
    with pytest.raises(ValueError, match=r"to skip, or with self-attention to perturb: (middle_9|up_0_0)"):
        jax.eval_shape(UNet(**SMALL, **weaker).init, jax.random.key(0), *inputs())


def test_indivisible_pictures_are_refused():
    x_t, log_snr, cond = inputs(size=10)
    with pytest.raises(ValueError, match="does not divide by 4"):
        UNet(**SMALL | dict(patch=2)).init(jax.random.key(0), x_t, log_snr, cond)


def test_unknown_resampling_is_refused():
    with pytest.raises(ValueError, match="choose residual or convolution"):
        UNet(**SMALL, resample="strided").init(jax.random.key(0), *inputs())


@pytest.mark.parametrize(
    ("name", "millions"), [("adm64", 296.3), ("emoji32", 6.7), ("emoji64", 44.5), ("imagen64", 2100.3)]
)
def test_presets_have_the_size_that_the_readme_says(name, millions):
    config = importlib.import_module(f"experiments.{name}").get_config()
    params = jax.eval_shape(build.build(config).init, jax.random.key(0))["denoiser"]
    assert sum(leaf.size for leaf in jax.tree.leaves(params)) / 1e6 == pytest.approx(millions, abs=0.05)


@pytest.mark.parametrize("channels", [4, 32, 48])
def test_group_norm_is_flax_group_norm_then_film(channels):
    draw = np.random.default_rng(0)
    x = jnp.asarray(draw.normal(3.0, 2.0, size=(2, 4, 5, channels)), jnp.float32)
    film = jnp.asarray(draw.normal(size=(2, 2 * channels)), jnp.float32)
    ours = GroupNorm()
    params = drawn_params(ours, x, scale=1.0)
    groups = max(g for g in range(1, 33) if channels % g == 0)
    normalized = nn.GroupNorm(groups, epsilon=1e-5).apply(params, x)
    np.testing.assert_allclose(ours.apply(params, x), normalized, atol=1e-5)
    scale, shift = (s[:, None, None, :] for s in jnp.split(film, 2, axis=-1))
    np.testing.assert_allclose(ours.apply(params, x, film), normalized * (1 + scale) + shift, atol=1e-4)


def test_attention_over_one_word_is_that_word():
    x, cond = (
        jnp.ones((1, 2, 2, 8)),
        Cond(jnp.arange(24.0).reshape(1, 4, 6), jnp.asarray([[False, True, False, False]])),
    )
    attend = CrossAttention(head_dim=4)
    params = drawn_params(attend, x, cond)
    alone = Cond(cond.text_emb[:, 1:2], cond.text_mask[:, 1:2])
    np.testing.assert_allclose(attend.apply(params, x, cond), attend.apply(params, x, alone), atol=1e-6)


def test_space_to_depth_gathers_squares_and_back():
    x = jnp.arange(2 * 4 * 6 * 3, dtype=jnp.float32).reshape(2, 4, 6, 3)
    folded = space_to_depth(x, 2)
    assert folded.shape == (2, 2, 3, 12)
    np.testing.assert_array_equal(folded[1, 0, 2], x[1, 0:2, 4:6].reshape(-1))
    np.testing.assert_array_equal(depth_to_space(folded, 2), x)


def test_halving_undoes_doubling():
    x = jnp.arange(2 * 2 * 3 * 1, dtype=jnp.float32).reshape(2, 2, 3, 1)
    np.testing.assert_array_equal(double(x)[:, ::2, 1::2], x)
    np.testing.assert_array_equal(halve(double(x)), x)


def test_features_tell_noise_levels_apart():
    features = log_snr_features(jnp.linspace(-20.0, 20.0, 401), 128)
    distances = jnp.linalg.norm(features[:, None] - features[None, :], axis=-1) + 100 * jnp.eye(401)
    assert distances.min() > 0.5


def test_mean_of_no_words_is_zero():
    cond = Cond(jnp.ones((2, 3, 4)), jnp.asarray([[True, True, False], [False, False, False]]))
    np.testing.assert_array_equal(masked_mean(cond), [[1.0] * 4, [0.0] * 4])
