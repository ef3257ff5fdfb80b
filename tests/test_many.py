"""Many trainings in one program are the trainings that they would be one by one; each is an ordinary run.

Adam divides each gradient by its own size, so a gradient that is zero but for rounding moves its parameter by chance;
eps is 1e-3 here, see tests/training/test_layouts.py.
"""

import contextlib
import shutil

import jax
import numpy as np
import pytest
from ml_collections import ConfigDict

from diffusion_jax import many, run
from diffusion_jax.training import checkpoint, checkpoint_files, parallel
from diffusion_jax.training import many as stacking
from diffusion_jax.training.metrics import read_metrics

STEPS, TOLERANCE = 10, 2e-6
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
    config.train.update(dict(steps=STEPS, log_every=1, validate_every=0, sample_every=0, save_every=5))
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
    """What a run has measured, its last averaged parameters, and the names and shapes of all that it has saved."""
    records = [r for r in read_metrics(folder / "metrics.jsonl") if "train/loss" in r]
    measured = np.array([[r["step"], r["train/loss"], r["train/gradient_norm"]] for r in records])
    params, step = checkpoint.load_params(folder)
    assert step == STEPS
    stored = checkpoint_files.stored_shapes(folder / "checkpoints" / str(step))
    return measured, params, jax.tree.map(lambda leaf: tuple(leaf.shape), stored)


def flat(tree):
    return np.concatenate([np.ravel(leaf).astype(np.float64) for leaf in jax.tree.leaves(tree)])


@pytest.fixture(scope="module")
def on():
    """A context in which trainings have so many devices."""
    devices, device_mesh, mesh_of = jax.devices(), parallel.device_mesh, stacking.mesh_of

    @contextlib.contextmanager
    def limited(count):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(parallel, "device_mesh", lambda **_: device_mesh(devices=devices[:count]))
            patch.setattr(stacking, "mesh_of", lambda runs: mesh_of(runs, devices[:count]))
            yield

    return limited


@pytest.fixture(scope="module")
def apart(on, tmp_path_factory):
    """The ends of the runs, one by one."""
    home = tmp_path_factory.mktemp("apart")
    with on(1):
        for name, config in runs_of(ARMS, (0, 1)):
            run.train(config, home / name, "data")
    return {folder.name: end_of(folder) for folder in home.iterdir()}


def assert_same(folder, expected):
    measured, params, shapes = end_of(folder)
    expected_measured, expected_params, expected_shapes = expected
    assert shapes == expected_shapes
    np.testing.assert_allclose(measured, expected_measured, rtol=TOLERANCE)
    assert np.abs(flat(params) - flat(expected_params)).max() <= TOLERANCE * np.abs(flat(expected_params)).max()


def test_runs_are_further_apart_than_the_tolerance(apart):
    """So that one taken for another, or drawn with another's key, is found."""
    ends = list(apart.values())
    for number, (_, params, _) in enumerate(ends):
        for _, other_params, _ in ends[:number]:
            far = np.abs(flat(params) - flat(other_params)).max()
            assert far > 100 * TOLERANCE * np.abs(flat(params)).max()


@pytest.mark.parametrize("devices", [1, 8])
def test_one_program_is_the_runs_one_by_one(apart, on, devices, tmp_path):
    names, configs = zip(*runs_of(ARMS, (0, 1)), strict=True)
    with on(devices):
        assert many.train(configs, [tmp_path / name for name in names], "data") == {}
    for name in names:
        assert_same(tmp_path / name, apart[name])


def test_killed_and_begun_again_all_reach_the_same_end(apart, on, tmp_path):
    """Together, though they had come to different steps; and one of them alone, as the ordinary run that it is."""
    names, configs = zip(*runs_of(ARMS, (0,)), strict=True)
    folders = [tmp_path / name for name in names]
    with on(1):
        many.train(configs, folders, "data")
        for folder, first in zip(folders, (5, 5, STEPS), strict=True):
            for step in checkpoint_files.steps_in(folder / "checkpoints"):
                if step > first:
                    shutil.rmtree(folder / "checkpoints" / str(step))
        shutil.rmtree(folders[0] / "checkpoints" / "5")  # killed before its first checkpoint
        shutil.copytree(folders[1], tmp_path / "alone")
        assert many.train(configs, folders, "data") == {}
        run.train(configs[1], tmp_path / "alone", "data")
    assert "going on from step 5" in (folders[1] / "log.txt").read_text()
    for name in names:
        assert_same(tmp_path / name, apart[name])
    assert_same(tmp_path / "alone", apart[names[1]])


def test_one_that_diverges_stops_no_other(apart, on, tmp_path):
    arms = {"base": {}, "wild": {"optimizer.learning_rate": 1e30}, "averaged": ARMS["averaged"]}
    names, configs = zip(*runs_of(arms, (0,)), strict=True)
    with on(1):
        failed = many.train(configs, [tmp_path / name for name in names], "data")
    (folder,) = failed
    assert folder == tmp_path / "wild_0"
    assert failed[folder].startswith("training diverged at step ")
    assert (folder / "log.txt").read_text().endswith(f"error: {failed[folder]}\n")
    assert max(checkpoint_files.steps_in(folder / "checkpoints"), default=0) < STEPS
    for name in ("base_0", "averaged_0"):
        assert_same(tmp_path / name, apart[name])


def test_configs_of_two_programs_are_refused(tmp_path):
    _, configs = zip(*runs_of({"base": {}, "wide": {"denoiser.channels": 16}}, (0,)), strict=True)
    with pytest.raises(ValueError, match=r"a and .*b are not one program but for its numbers: train them apart"):
        many.train(configs, [tmp_path / "a", tmp_path / "b"], "data")
    assert not list(tmp_path.iterdir())
