"""Dropout by keys: whose mask it is, where it acts, and that networks with it do not see the batch."""

from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.errors import NameInUseError
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from diffusion_jax.models.bert import BertEncoder
from diffusion_jax.models.dropout import Dropout, drop
from diffusion_jax.models.t5 import T5Encoder
from diffusion_jax.models.t5gemma import T5GemmaEncoder
from diffusion_jax.models.unet import UNet
from diffusion_jax.types import Cond

UNET = dict(channels=8, multipliers=(1, 2), blocks=1, self_attention=(4,), cross_attention=(4,), head_dim=8)
ENCODER = dict(vocab=50, dim=24, d_ff=40, layers=2)
NETWORKS = dict(
    unet=partial(UNet, **UNET),
    cheap_unet=partial(UNet, **UNET, resample="convolution"),
    lean_unet=partial(UNet, **UNET, remat="nothing_saveable"),
    t5=partial(T5Encoder, **ENCODER, d_kv=5, heads=3),
    gemma=partial(T5GemmaEncoder, **ENCODER, d_kv=8, heads=4, kv_heads=2),
    bert=partial(BertEncoder, **ENCODER, heads=3),
)


class Places(nn.Module):
    """What two places of one module, and one of a module within, make of the same numbers."""

    rate: float = 0.5
    names: tuple[str, str] = ("first", "second")

    @nn.compact
    def __call__(self, x, keys=None):
        first, second = (drop(x, self.rate, keys, name=name) for name in self.names)
        inner = Places(self.rate, name="inner")(x, keys) if self.name is None else (x,)
        return first, second, *inner[:2]


def some_keys(count, seed=0):
    return jax.random.split(jax.random.key(seed), count)


def batch_of(name, count):
    draw = np.random.default_rng(0)
    mask = jnp.asarray(np.arange(5) < draw.integers(1, 6, (count, 1)))
    if "unet" not in name:
        return jnp.asarray(draw.integers(0, 50, (count, 5)), jnp.int32), mask
    picture, level, text = (jnp.asarray(draw.normal(size=(count, *s)), jnp.float32) for s in ((8, 8, 3), (), (5, 6)))
    return picture, level, Cond(text, mask)


def drawn_params(module, *args):
    """Random ones for every leaf, since zeros would hide what is behind them."""
    draw, shapes = np.random.default_rng(1), jax.eval_shape(lambda: module.init(jax.random.key(0), *args))
    return jax.tree.map(lambda leaf: jnp.asarray(draw.normal(0, 0.2, leaf.shape), leaf.dtype), shapes)


def rows(tree, which):
    return jax.tree.map(lambda leaf: leaf[which], tree)


def test_a_mask_belongs_to_its_key_wherever_that_stands():
    keys, x = some_keys(6), jnp.ones((6, 4, 5))
    together = Dropout(0.4).apply({}, x, keys)
    assert len({np.asarray(mask).tobytes() for mask in together}) == 6
    for which in (slice(0, 3), slice(3, 6), slice(2, 3), np.array([5, 0, 3])):
        np.testing.assert_array_equal(Dropout(0.4).apply({}, x[which], keys[which]), together[which])


def test_eight_devices_draw_what_one_does():
    keys, x, act = some_keys(16), jnp.ones((16, 4, 5)), partial(Dropout(0.4).apply, {})
    alone = jax.jit(act)(x, keys)
    rows_of = NamedSharding(Mesh(np.array(jax.devices()), ("data",)), PartitionSpec("data"))
    cut = jax.jit(act, in_shardings=rows_of, out_shardings=rows_of)
    np.testing.assert_array_equal(cut(x, keys), alone)
    mapped = jax.pmap(act)(x.reshape(8, 2, 4, 5), keys.reshape(8, 2))
    np.testing.assert_array_equal(mapped.reshape(x.shape), alone)
    for exchange in ("all-reduce", "all-gather", "all-to-all", "collective-permute"):
        assert exchange not in cut.lower(x, keys).compile().as_text()


def test_a_kept_number_is_scaled_and_the_mean_stays():
    x = jnp.full((4000, 10), 3.0)
    y = np.asarray(Dropout(0.3).apply({}, x, some_keys(4000)))
    np.testing.assert_allclose(np.unique(y), [0, 3 / 0.7], rtol=1e-6)
    deviation = 3 * (0.3 / 0.7) ** 0.5  # of one number
    np.testing.assert_allclose(y.mean(), 3, atol=4 * deviation / y.size**0.5)
    np.testing.assert_allclose(y.mean(0), 3, atol=4 * deviation / len(y) ** 0.5)


def test_places_draw_other_masks():
    x = jnp.ones((1, 64))
    places = Places().apply({}, x, some_keys(1))
    assert len({np.asarray(mask).tobytes() for mask in places}) == 4
    for one, other in zip(places, Places().apply({}, x, some_keys(1)), strict=True):
        np.testing.assert_array_equal(one, other)
    with pytest.raises(NameInUseError):
        Places(names=("same", "same")).apply({}, x, some_keys(1))


@pytest.mark.parametrize(("rate", "keys"), [(0.0, some_keys(2)), (0.5, None)])
def test_without_rate_or_keys_nothing_is_drawn(rate, keys):
    x = jax.random.normal(jax.random.key(0), (2, 8))
    for y in Places(rate).apply({}, x, keys):
        np.testing.assert_array_equal(y, x)
    assert "random" not in str(jax.make_jaxpr(lambda x, keys: Places(rate).apply({}, x, keys))(x, keys))
    assert "random" in str(jax.make_jaxpr(lambda x, keys: Places(0.5).apply({}, x, keys))(x, some_keys(2)))


@pytest.mark.parametrize("rate", [-0.1, 1.0, 1.5, float("nan")])
@pytest.mark.parametrize("keys", [None, some_keys(2)])
def test_a_rate_that_is_none(rate, keys):
    with pytest.raises(ValueError, match=r"a rate lies in \[0, 1\)"):
        Dropout(rate).apply({}, jnp.ones((2, 3)), keys)


def test_bfloat16_stays_bfloat16():
    assert Dropout(0.5).apply({}, jnp.ones((2, 3), jnp.bfloat16), some_keys(2)).dtype == jnp.bfloat16


@pytest.mark.parametrize("name", NETWORKS)
def test_a_batch_at_once_is_its_halves(name):
    module, batch, keys = NETWORKS[name](dropout=0.3), batch_of(name, 4), some_keys(4)
    params = drawn_params(module, *batch)

    @jax.jit
    def outputs(params, batch, keys):
        return module.apply(params, *batch, keys)

    y = outputs(params, batch, keys)
    halves = [outputs(params, rows(batch, half), keys[half]) for half in (slice(0, 2), slice(2, 4))]
    largest = float(abs(y).max())
    np.testing.assert_allclose(jnp.concatenate(halves), y, rtol=0, atol=1e-6 * largest)
    assert abs(outputs(params, batch, some_keys(4, seed=1)) - y).max() > 0.01 * largest
    assert abs(outputs(params, batch, None) - y).max() > 0.01 * largest
    order = np.array([1, 0, 3, 2])  # its own inverse
    np.testing.assert_allclose(outputs(params, rows(batch, order), keys[order])[order], y, rtol=0, atol=1e-6 * largest)


def test_rematerialization_draws_the_same_masks():
    batch, keys = batch_of("unet", 2), some_keys(2)
    plain, lean = (NETWORKS[name](dropout=0.3) for name in ("unet", "lean_unet"))
    params = drawn_params(plain, *batch)
    gradients = [
        jax.jit(jax.grad(lambda p, keys, m=m: (m.apply(p, *batch, keys) ** 2).mean()))(params, keys)
        for m in (plain, lean)
    ]
    least = 1e-6 * max(
        float(abs(leaf).max()) for leaf in jax.tree.leaves(gradients[0])
    )  # some are zero but for rounding
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=least), *gradients)


@pytest.mark.parametrize("name", NETWORKS)
def test_dropout_names_no_parameter(name):
    with_it, without = NETWORKS[name](dropout=0.3), NETWORKS[name]()
    trees = [jax.eval_shape(module.init, jax.random.key(0), *batch_of(name, 1)) for module in (with_it, without)]
    assert trees[0] == trees[1]
    assert "dropout" not in str(trees[0])
