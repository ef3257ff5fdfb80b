"""One training, laid out in every way there is: the same draws bit for bit, the same parameters but for rounding.

Adam divides each gradient by its own size, so a gradient that is zero but for rounding moves its parameter by chance.
Where eps is well above rounding, it does not: the optimizer here has 1e-3.
"""

import jax
import numpy as np
import pytest
from ml_collections import ConfigDict

from diffusion_jax import build, placement
from diffusion_jax.diffusion import keys as random_keys
from diffusion_jax.training import layout, parallel

STEPS, TOLERANCE = 20, 1e-5
WAYS = {
    "2 devices": (2, {}, 0, "jit"),
    "4 devices": (4, {}, 0, "jit"),
    "8 devices": (8, {}, 0, "jit"),
    "fsdp": (8, dict(fsdp=8), 0, "jit"),
    "data and fsdp": (8, dict(fsdp=2), 0, "jit"),
    "tensor": (4, dict(tensor=4), 0, "jit"),
    "data, fsdp and tensor": (8, dict(fsdp=2, tensor=2), 0, "jit"),
    "slices": (8, dict(fsdp=2, slices=2), 0, "jit"),
    "in parts": (1, {}, 4, "jit"),
    "in parts on 4 devices": (4, {}, 8, "jit"),
    "in parts, fsdp": (4, dict(fsdp=4), 8, "jit"),
    "pmap": (8, {}, 0, "pmap"),
    "pmap in parts": (4, {}, 8, "pmap"),
}


@pytest.fixture(scope="module")
def base():
    """A small model that has everything: text, both attentions, dropout in both parts, levels that see the batch."""
    from experiments import tiny

    config = tiny.get_config()
    config.batch_size = 16
    config.tokenizer.max_length = 12
    config.noise_levels = ConfigDict(dict(name="stratified"))
    config.text_encoder.update(dict(dim=16, d_kv=8, d_ff=32, heads=4, layers=1))
    with config.unlocked():
        config.text_encoder.dropout = 0.1
        config.optimizer.eps = 1e-3
    config.denoiser.update(
        dict(channels=32, multipliers=(1,), self_attention=(4,), cross_attention=(4,), patch=4, head_dim=8, dropout=0.1)
    )
    config.optimizer.update(dict(learning_rate=3e-3, warmup_steps=2))
    return config


@pytest.fixture(scope="module")
def trained(base):
    """A function from a layout to its training: the states' parameters, losses, and what each example drew."""
    real, known = build.build(base), {}

    def loss(params, batch, keys, rows=None):
        value, metrics = real.loss(params, batch, keys, rows)
        own = keys if rows is None else keys[rows]
        noise = random_keys.normal(random_keys.for_purpose(own, "noise"), (4,))
        bits = jax.lax.bitcast_convert_type(noise, np.int32) % 4093  # their mean is exact in float32, in any order
        return value, metrics | {"drawn": bits.astype(np.float32).mean()}

    experiment = real._replace(loss=loss)

    def train(name):
        if name in known:
            return known[name]
        devices, axes, microbatch, way = WAYS.get(name, (1, {}, 0, "jit"))
        config = ConfigDict(base.to_dict())
        config.microbatch = microbatch
        config.parallel = dict(name=way, mesh=dict(data=-1, **axes))
        mesh = placement.mesh_of(config, jax.devices()[:devices])
        where = placement.placed(experiment, mesh)
        now = placement.first_state(experiment, where, config.seed)
        first = jax.device_get(now.params)
        batches = build.batches(config, experiment, "data")
        take_step, history = placement.make_step(config, experiment, where), []
        for _, batch in zip(range(STEPS), batches, strict=False):
            now, metrics = take_step(now, batch)
            history.append({name: np.asarray(value) for name, value in metrics.items()})
        batches.close()
        known[name] = first, jax.device_get(now), history, jax.tree.map(lambda leaf: leaf.sharding.spec, now.params)
        return known[name]

    return train


def flat(tree):
    return np.concatenate([np.ravel(leaf).astype(np.float64) for leaf in jax.tree.leaves(tree)])


@pytest.mark.parametrize("way", WAYS)
def test_the_layout_changes_nothing_but_rounding(trained, way):
    first, last, history, _ = trained("1 device")
    here_first, here, here_history, _ = trained(way)
    assert [h["drawn"] for h in here_history] == [h["drawn"] for h in history]  # bit for bit
    np.testing.assert_array_equal(flat(here_first), flat(first))
    for name in ("loss", "eps_error", "gradient_norm"):
        losses, expected = ([h[name] for h in told] for told in (here_history, history))
        np.testing.assert_allclose(losses, expected, rtol=TOLERANCE)
    for part in ("params", "ema_params"):
        found, expected = flat(getattr(here, part)), flat(getattr(last, part))
        assert np.linalg.norm(found - expected) <= TOLERANCE * np.linalg.norm(expected)
        assert np.abs(found - expected).max() <= TOLERANCE * np.abs(expected).max()
    assert int(here.step) == STEPS


def test_it_learned_something(trained):
    """So that equal parameters are not those that nothing happened to."""
    first, last, history, _ = trained("1 device")
    assert np.linalg.norm(flat(last.params) - flat(first)) > 0.02 * np.linalg.norm(flat(first))
    assert len({float(h["drawn"]) for h in history}) == STEPS


def test_parameters_lie_where_the_rules_say(trained):
    """And no program gathered them for good: the state comes out of the step laid out as it went in."""
    *_, specs = trained("data, fsdp and tensor")
    attention = specs["denoiser"]["middle_0"]["self_attention"]
    assert tuple(attention["qkv"]["kernel"]) in {("fsdp", "tensor"), (None, "tensor")}
    assert attention["out"]["kernel"][0] == "tensor"
    assert tuple(specs["denoiser"]["middle_0"]["residual"]["conv_in"]["kernel"]) == (None, None, None, "fsdp")


@pytest.mark.parametrize(
    ("name", "shape", "sizes", "expected"),
    [
        ("a/self_attention/qkv/kernel", (64, 192), dict(fsdp=4, tensor=2), ("fsdp", "tensor")),
        ("a/self_attention/out/kernel", (64, 64), dict(fsdp=4, tensor=2), ("tensor", "fsdp")),
        ("opt_state/0/mu/block_0/feed_forward/wi_0/kernel", (64, 128), dict(fsdp=1, tensor=4), (None, "tensor")),
        ("block_0/feed_forward/wo/kernel", (128, 64), dict(fsdp=8, tensor=4), ("tensor", "fsdp")),
        ("residual/conv_in/kernel", (3, 3, 64, 128), dict(fsdp=4, tensor=4), (None, None, None, "fsdp")),
        ("residual/conv_in/kernel", (3, 3, 64, 66), dict(fsdp=4), (None, None, "fsdp")),  # the one that divides
        ("residual/conv_in/bias", (128,), dict(fsdp=4, tensor=4), ()),  # too small to be worth it
        ("token_embedding/embedding", (384, 193), dict(fsdp=8), ("fsdp",)),
        ("a/self_attention/qkv/kernel", (66, 66), dict(fsdp=4, tensor=4), ()),  # nothing divides
    ],
)
def test_rules(name, shape, sizes, expected):
    assert tuple(layout.spec(name, shape, sizes)) == expected


def test_bytes_on_each_device(base):
    experiment = build.build(base)
    for axes, share in ((dict(fsdp=1), 1.0), (dict(fsdp=8), 0.3)):
        where = placement.placed(experiment, parallel.device_mesh(**axes))
        each = layout.bytes_on_each(where.shapes, where.shardings)
        now = placement.first_state(experiment, where, seed=0)
        real = sum(leaf.addressable_shards[0].data.nbytes for leaf in jax.tree.leaves(now))
        assert each == real == sum(size for _, size in layout.by_axes(where.shapes, where.shardings).values())
        assert each <= share * sum(leaf.nbytes for leaf in jax.tree.leaves(now))
