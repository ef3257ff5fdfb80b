"""Seed k of every arm begins with the same parameters, where shapes agree, and sees the same batches."""

import jax
import numpy as np
import pytest

from diffusion_jax import build
from diffusion_jax.sweeps import plan

SMALL = """config.batch_size = 8
    config.tokenizer.max_length = 12
    config.text_encoder.update(dict(dim=8, d_kv=4, d_ff=8, heads=1, layers=1))
    config.denoiser.update(dict(channels=8, multipliers=(1,), self_attention=(), cross_attention=(4,), patch=4))
    return config"""


@pytest.fixture
def begun(sweep_file, tmp_path):
    """The first parameters and the first two batches of each run of arms: {(arm, seed): (leaves by path, batches)}."""

    def begin(adds):
        found = {}
        for run in plan.read(sweep_file(adds, **{"return config": SMALL}), 2, None, tmp_path).runs:
            experiment = build.build(run.config)
            leaves = jax.tree_util.tree_leaves_with_path(jax.jit(experiment.init)(jax.random.key(run.config.seed)))
            batches = build.batches(run.config, experiment, "data")
            first = [next(batches) for _ in range(2)]
            batches.close()
            found[run.arm, run.seed] = {jax.tree_util.keystr(path): np.asarray(leaf) for path, leaf in leaves}, first
        return found

    return begin


def same_batches(one, other):
    return all(
        np.array_equal(a[name], b[name])
        for a, b in zip(one, other, strict=True)
        for name in ("image", "tokens", "mask")
    )


def test_arms_that_differ_in_a_number_begin_as_one(begun):
    found = begun('add("a", {"optimizer.learning_rate": 1e-4}), add("b", weighting=dict(name="min_snr", gamma=3.0))')
    for seed in (0, 1):
        (params, batches), (others, other_batches) = found["a", seed], found["b", seed]
        assert params.keys() == others.keys()
        assert all(np.array_equal(params[path], others[path]) for path in params)
        assert same_batches(batches, other_batches)
    (params, batches), (others, other_batches) = found["a", 0], found["a", 1]
    assert any(not np.array_equal(params[path], others[path]) for path in params)
    assert not same_batches(batches, other_batches)


def test_networks_of_other_shapes_share_what_has_the_same(begun):
    found = begun('add("a"), add("b", denoiser=dict(multipliers=(1, 2)))')
    (params, batches), (others, other_batches) = found["a", 1], found["b", 1]
    assert same_batches(batches, other_batches)
    agreeing = [path for path in params if path in others and params[path].shape == others[path].shape]
    random = [path for path in agreeing if params[path].std() > 0]
    assert len(random) >= 5
    assert all(np.array_equal(params[path], others[path]) for path in agreeing)
    assert params.keys() != others.keys()
