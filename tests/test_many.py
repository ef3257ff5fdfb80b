"""Many trainings in one program are the trainings that they would be one by one; each is an ordinary run.

Adam divides each gradient by its own size, so a gradient that is zero but for rounding moves its parameter by chance;
eps is 1e-3 here, see tests/training/test_layouts.py.
"""

import jax
import numpy as np
import pytest
from ml_collections import ConfigDict

from diffusion_jax import many, run
from diffusion_jax.training import checkpoint, checkpoint_files, parallel
from diffusion_jax.training.metrics import read_metrics

STEPS, TOLERANCE = 12, 2e-5
ARMS = {
    "base": {},
    "shifted": {"schedule.shift": 3.0, "optimizer.learning_rate": 0.01},
    "averaged": {"ema_decay": 0.3, "weighting.gamma": 1.5, "caption_dropout": 0.6},
}


def small():
    from experiments import tiny

    config = tiny.get_config()
    config.batch_size, config.validation_size, config.caption_dropout = 8, 8, 0.1
    config.tokenizer.max_length = 12
    config.schedule = ConfigDict(dict(name="shifted", shift=1.0, schedule=dict(name="cosine")))
    config.weighting = ConfigDict(dict(name="min_snr", gamma=5.0))
    config.text_encoder.update(dict(dim=8, d_kv=4, d_ff=8, heads=1, layers=1))
    config.denoiser.update(dict(channels=8, multipliers=(1,), self_attention=(), cross_attention=(4,), patch=4))
    with config.unlocked():
        config.denoiser.head_dim = 8
        config.text_encoder.dropout = 0.1
        config.optimizer.eps = 1e-3
    config.optimizer.update(dict(learning_rate=3e-3, warmup_steps=2))
    config.train.update(dict(steps=STEPS, log_every=1, validate_every=6, sample_every=0, save_every=5))
    return config


def changed(config, changes):
    config = ConfigDict(config.to_dict())
    for name, value in changes.items():
        config.update_from_flattened_dict({name: value})
    return config


def runs_of(arms, seeds, **train):
    """(name, config) of each arm with each seed."""
    for seed in seeds:
        for name, changes in arms.items():
            config = changed(small(), changes | {"seed": seed})
            config.train.update(train)
            yield f"{name}_{seed}", config


def end_of(folder):
    """What a run has measured, and its last state."""
    records = read_metrics(folder / "metrics.jsonl")
    losses = [(r["step"], r["train/loss"], r["train/gradient_norm"]) for r in records if "train/loss" in r]
    held_out = [(r["step"], r["validation/matched"]) for r in records if "validation/matched" in r]
    checkpoints = checkpoint.open_checkpoints(folder)
    with_shapes = checkpoint_files.stored_shapes(checkpoints.folder / str(max(checkpoint_files.steps_in(checkpoints.folder))))
    checkpoint.close(checkpoints)
    params, step = checkpoint.load_params(folder)
    return np.array(losses), np.array(held_out), params, step, with_shapes


def flat(tree):
    return np.concatenate([np.ravel(leaf).astype(np.float64) for leaf in jax.tree.leaves(tree)])


@pytest.fixture(scope="module")
def on():
    """A context in which trainings have so many devices."""
    devices, device_mesh, mesh_of = jax.devices(), parallel.device_mesh, many.many.mesh_of

    def limited(count):
        patch = pytest.MonkeyPatch()
        patch.setattr(parallel, "device_mesh", lambda **settings: device_mesh(devices=devices[:count]))
        patch.setattr(many.many, "mesh_of", lambda runs: mesh_of(runs, devices[:count]))
        return patch.context() if False else _undone(patch)

    return limited


class _undone:
    def __init__(self, patch):
        self.patch = patch

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.patch.undo()


@pytest.fixture(scope="module")
def apart(on, tmp_path_factory):
    """The runs, one by one."""
    home = tmp_path_factory.mktemp("apart")
    with on(1):
        for name, config in runs_of(ARMS, (0, 1)):
            run.train(config, home / name, "data")
    return {folder.name: end_of(folder) for folder in home.iterdir()}


@pytest.mark.parametrize("devices", [1, 8])
def test_one_program_is_the_runs_one_by_one(apart, on, devices, tmp_path):
    names, configs = zip(*runs_of(ARMS, (0, 1)), strict=True)
    with on(devices):
        failed = many.train(configs, [tmp_path / name for name in names], "data")
    assert failed == {}
    for name in names:
        losses, held_out, params, step, shapes = end_of(tmp_path / name)
        expected_losses, expected_held_out, expected, _, expected_shapes = apart[name]
        print(name, np.abs(losses / expected_losses - 1).max(), np.linalg.norm(flat(params) - flat(expected)) / np.linalg.norm(flat(expected)), np.abs(flat(params) - flat(expected)).max()/np.abs(flat(expected)).max())
        assert step == STEPS
        assert shapes == expected_shapes
        np.testing.assert_allclose(losses, expected_losses, rtol=TOLERANCE)
        np.testing.assert_allclose(held_out, expected_held_out, rtol=TOLERANCE)
        assert np.abs(flat(params) - flat(expected)).max() <= TOLERANCE * np.abs(flat(expected)).max()
