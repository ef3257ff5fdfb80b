"""What one process meets: batches that make no number, a training that stands still, checkpoints worth keeping.

Kills and damaged checkpoints are in test_train.py, faults of several processes in test_processes.py.
"""

import json
import shutil
import subprocess
import sys

import chex
import jax
import numpy as np
import pytest

from diffusion_jax import placement
from diffusion_jax.training import checkpoint_files, parallel
from diffusion_jax.training.metrics import read_metrics
from tests.commands.test_processes import CONFIG, flat
from tests.commands.test_train import QUICK, device_mesh, make_step, state_of

SPOILED = """
import jax.numpy as jnp

def weigh(log_snr):
    return jnp.where(log_snr > 9.0, jnp.nan, 1.0)  # some examples of some batches
"""
STALLING = """
import time

from diffusion_jax.data import shapes
from diffusion_jax.data.examples import Indexed

READ = []

def source(split, size):
    real = shapes.shapes(split, size=size)

    def get(index):
        READ.append(index)
        if split == "train" and len(READ) > 80:
            time.sleep(600)
        return real[index]

    return Indexed(len(real), get)
"""


@pytest.fixture
def spoiled(command, mini, tmp_path, monkeypatch):
    """A training, some of whose batches make no number of the loss."""
    (tmp_path / "spoiled_weighting.py").write_text(SPOILED)
    monkeypatch.syspath_prepend(tmp_path)
    config = tmp_path / "spoiled.py"
    lines = [
        "    config.weighting = dict(name='spoiled_weighting:weigh')",
        "    config.train.update(dict(steps=12, log_every=1, validate_every=0, sample_every=0, save_every=4))",
        "    return config",
    ]
    config.write_text(mini.read_text().replace("    return config", "\n".join(lines)))
    return lambda workdir, *words: command("train", f"--config={config}", f"--workdir={workdir}", *words)


def test_batches_without_a_number_are_skipped_and_counted_and_a_resumed_run_skips_the_same(spoiled, tmp_path):
    skip = "--config.train.skip_nonfinite=9"
    assert spoiled(tmp_path / "whole", skip)[0] == 0
    records = [r for r in read_metrics(tmp_path / "whole" / "metrics.jsonl") if "train/skipped" in r]
    skipped = [r["step"] for r in records if r["train/skipped"]]
    assert [r["step"] for r in records] == list(range(1, 13))
    assert 1 <= len(skipped) < 12
    assert all(("train/loss" in r) != bool(r["train/skipped"]) for r in records)

    assert spoiled(tmp_path / "parts", skip, "--config.train.steps=5")[0] == 0
    assert spoiled(tmp_path / "parts", skip)[0] == 0
    chex.assert_trees_all_equal(state_of(tmp_path / "parts"), state_of(tmp_path / "whole"))

    code, _, err = spoiled(tmp_path / "stopped")  # the default: the first one ends it
    assert code == 1
    assert err.startswith(f"error: training diverged at step {skipped[0]}: ")


def test_too_many_in_a_row_end_it(spoiled, tmp_path, monkeypatch):
    (tmp_path / "spoiled_weighting.py").write_text(SPOILED.replace("9.0", "-99.0"))  # all of them
    monkeypatch.delitem(sys.modules, "spoiled_weighting", raising=False)
    code, _, err = spoiled(tmp_path / "run", "--config.train.skip_nonfinite=3", "--config.ema_decay=0.5")
    message = "step 4: the loss or its gradient is not finite, 4 times in a row; there is no checkpoint yet"
    assert (code, err) == (1, f"error: training diverged at {message}, in {tmp_path / 'run'}\n")


@pytest.mark.slow
def test_a_training_that_stands_still_says_where_and_goes_on_when_started_again(mini, tmp_path, alone):
    (tmp_path / "stalling.py").write_text(STALLING)
    config = tmp_path / "stalled.py"
    lines = ["    config.data.name = 'stalling:source'", "    return config"]
    config.write_text(mini.read_text().replace("    return config", "\n".join(lines)))
    words = ["--config.train.steps=14", "--config.train.save_every=1", *QUICK]
    run = tmp_path / "run"
    line = [sys.executable, "-m", "diffusion_jax", "train", f"--config={config}", f"--workdir={run}", *words]
    environment = alone | {"PYTHONPATH": f"{alone['PYTHONPATH']}:{tmp_path}"}

    stalled = [*line, "--config.train.watchdog_minutes=0.5"]
    found = subprocess.run(stalled, env=environment, capture_output=True, text=True, timeout=900, check=False)
    assert found.returncode == 75, found.stderr
    assert "no step for 30 seconds: leaving with exit code 75" in found.stderr
    stacks = (run / "stacks_0.txt").read_text()
    assert "loop.py" in stacks
    beat = json.loads((run / "heartbeat" / "0.json").read_text())
    assert beat["step"] >= 1
    reached = max(checkpoint_files.steps_in(run / "checkpoints"))
    assert 1 <= reached < 14

    (tmp_path / "stalling.py").write_text(STALLING.replace("> 80", "> 8000"))
    found = subprocess.run(line, env=environment, capture_output=True, text=True, timeout=900, check=False)
    assert found.returncode == 0, found.stderr
    assert f"going on from step {reached}" in found.stdout


def test_the_best_checkpoint_stays(command, mini, trained_once, tmp_path):
    """By the held-out error of the runs that were judged, beside the newest."""
    workdir = tmp_path / "run"
    shutil.copytree(trained_once, workdir)
    words = ["train", f"--config={mini}", f"--workdir={workdir}", "--config.train.sample_every=0"]
    plan = ["steps=14", "validate_every=2", "save_every=2", "keep=1", "keep_best=2"]
    assert command(*words, *(f"--config.train.{setting}" for setting in plan))[0] == 0
    records = read_metrics(workdir / "metrics.jsonl")
    judged = {r["step"]: r["validation/matched"] for r in records if "validation/matched" in r and r["step"] > 8}
    best = sorted(judged, key=judged.get)[:2]
    assert sorted(checkpoint_files.steps_in(workdir / "checkpoints")) == sorted({14, *best})


def test_eight_devices_then_four_then_one_end_where_one_would_have(command, tmp_path, monkeypatch):
    """And under fsdp before: each goes on from the checkpoint of the one before it."""
    config = tmp_path / "config.py"
    config.write_text(CONFIG)
    monkeypatch.setattr(placement, "make_step", make_step)

    def train(workdir, devices, steps, *words):
        mesh = device_mesh(devices=jax.devices()[:devices], **dict(words))
        monkeypatch.setattr(parallel, "device_mesh", lambda **_: mesh)
        plan = [f"--config.train.{n}={v}" for n, v in dict(steps=steps, validate_every=0, sample_every=0).items()]
        assert command("train", f"--config={config}", f"--workdir={workdir}", *plan)[0] == 0

    train(tmp_path / "one", 1, 20)
    for devices, steps, *words in ((8, 6, ("fsdp", 4)), (8, 11), (4, 16), (1, 20)):
        train(tmp_path / "many", devices, steps, *words)
    (_, found), (_, expected) = state_of(tmp_path / "many"), state_of(tmp_path / "one")
    for part in ("params", "ema_params"):
        here, there = (flat(tree[part]) for tree in (found, expected))
        assert np.abs(here - there).max() <= 1e-5 * np.abs(there).max()
    losses = [[r["train/loss"] for r in read_metrics(tmp_path / run / "metrics.jsonl")] for run in ("many", "one")]
    assert len(losses[0]) == 20
    np.testing.assert_allclose(*losses, rtol=1e-5)
