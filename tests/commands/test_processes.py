"""Trainings in several real processes, joined over loopback: what they learn, and what they survive."""

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import chex
import jax
import numpy as np
import pytest
from PIL import Image

from diffusion_jax.training import checkpoint_files
from diffusion_jax.training.metrics import read_metrics
from tests.commands.conftest import MINI
from tests.commands.test_train import last_logged, state_of

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
STEPS, TOLERANCE = 20, 1e-5
CONFIG = f"""{MINI}
mini = get_config


def get_config():
    config = mini()
    with config.unlocked():
        config.optimizer.eps = 1e-3  # see tests/training/test_layouts.py
    config.noise_levels.name = "stratified"
    config.train.update(dict(steps=20, log_every=1, validate_every=20, sample_every=20, save_every=5, keep=9))
    return config
"""
SHAPES = {  # processes, devices of each, and how the training is laid out on them
    "2 x 2": (2, 2, ()),
    "4 x 1": (4, 1, ()),
    "2 x 2, fsdp": (2, 2, ("--config.parallel.mesh.fsdp=4", "--config.parallel.mesh.data=1")),
    "2 x 2, pmap in parts": (2, 2, ("--config.parallel.name=pmap", "--config.microbatch=4")),
}


@pytest.fixture(scope="session")
def config_file(tmp_path_factory):
    path = tmp_path_factory.mktemp("processes") / "config.py"
    path.write_text(CONFIG)
    return path


@contextlib.contextmanager
def started(config_file, workdir, processes, devices, *words, only=None, **settings):
    """The processes of one training, or only those of some numbers; their output goes to WORKDIR/../<number>.txt."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    flags = os.environ["XLA_FLAGS"] + f" --xla_force_host_platform_device_count={devices}"
    environment = os.environ | {"XLA_FLAGS": flags, "PYTHONPATH": str(ROOT), "DIFFUSION_JAX_HEARTBEAT_TIMEOUT": "10"}
    if processes > 1:
        environment |= {"JAX_COORDINATOR_ADDRESS": f"127.0.0.1:{port}", "JAX_NUM_PROCESSES": str(processes)}
    line = [sys.executable, "-m", "diffusion_jax", "train", f"--config={config_file}", f"--workdir={workdir}", *words]
    group = []
    try:
        for number in range(processes) if only is None else only:
            with open(workdir.parent / f"{workdir.name}_{number}.txt", "w") as file:
                told = environment | {"JAX_PROCESS_ID": str(number)} if processes > 1 else environment
                told |= settings
                group.append(subprocess.Popen(line, env=told, stdout=file, stderr=subprocess.STDOUT, cwd=ROOT))
        yield group
    finally:
        for process in group:
            process.kill()
            process.wait()


def said(workdir, number=0):
    return (workdir.parent / f"{workdir.name}_{number}.txt").read_text()


def ended(config_file, workdir, *arguments, **settings):
    """The exit codes of a training that is left to itself."""
    with started(config_file, workdir, *arguments, **settings) as group:
        return [process.wait(timeout=900) for process in group]


def reached(workdir, group, step):
    """Wait until a training has logged a step."""
    end = time.monotonic() + 900
    while last_logged(workdir) < step:
        assert all(process.poll() is None for process in group), said(workdir)
        assert time.monotonic() < end, "nothing happened"
        time.sleep(0.005)


def flat(tree):
    return np.concatenate([np.ravel(leaf).astype(np.float64) for leaf in jax.tree.leaves(tree)])


def assert_the_same_training(found, expected):
    """The last states are within rounding, and so are the losses of all steps and the pictures."""
    (step, here), (last, there) = state_of(found), state_of(expected)
    assert step == last == STEPS
    for part in ("params", "ema_params"):
        difference = np.abs(flat(here[part]) - flat(there[part]))
        assert difference.max() <= TOLERANCE * np.abs(flat(there[part])).max()
    losses = [
        [r["train/loss"] for r in read_metrics(run / "metrics.jsonl") if "train/loss" in r] for run in (found, expected)
    ]
    assert len(losses[0]) == STEPS
    np.testing.assert_allclose(*losses, rtol=TOLERANCE)
    pictures = [
        np.asarray(Image.open(run / "samples" / f"step_{STEPS:07d}.png")).astype(int) for run in (found, expected)
    ]
    assert np.abs(pictures[0] - pictures[1]).max() <= 1


@pytest.fixture(scope="module")
def alone_once(config_file, tmp_path_factory):
    """The training by one process on one device."""
    workdir = tmp_path_factory.mktemp("one") / "run"
    assert ended(config_file, workdir, 1, 1) == [0], said(workdir)
    return workdir


@pytest.fixture(scope="module")
def four_once(config_file, tmp_path_factory):
    """The training by two processes with two devices each."""
    workdir = tmp_path_factory.mktemp("four") / "run"
    assert ended(config_file, workdir, 2, 2) == [0, 0], said(workdir)
    return workdir


def test_two_processes_learn_what_one_learns(alone_once, four_once):
    assert_the_same_training(four_once, alone_once)
    assert "step 20" in said(four_once, 0)
    assert "step" not in said(four_once, 1)  # one of them speaks


@pytest.mark.parametrize("shape", [name for name in SHAPES if name != "2 x 2"])
def test_processes_learn_what_one_learns(alone_once, config_file, tmp_path, shape):
    processes, devices, words = SHAPES[shape]
    assert ended(config_file, tmp_path / "run", processes, devices, *words) == [0] * processes, said(tmp_path / "run")
    assert_the_same_training(tmp_path / "run", alone_once)


def test_interrupted_in_every_way_it_ends_bit_for_bit_where_it_would_have(config_file, four_once, alone_once, tmp_path):
    """SIGTERM to one of two; kill -9 of one in the middle of a save; kill -9 of all; then others go on with it."""
    run, arguments = tmp_path / "run", (2, 2)
    with started(config_file, run, *arguments) as group:
        reached(run, group, 3)
        group[1].send_signal(signal.SIGTERM)
        assert [process.wait(timeout=900) for process in group] == [143, 143], said(run)
    left_at = max(checkpoint_files.steps_in(run / "checkpoints"))
    assert f"left at step {left_at}, as asked" in said(run)

    with started(config_file, run, *arguments) as group:
        while not list((run / "checkpoints").glob(checkpoint_files.UNFINISHED)):
            assert group[0].poll() is None, said(run)
            time.sleep(0.001)
        group[1].kill()
        assert group[0].wait(timeout=900) not in (0, 1, 2), said(run)  # JAX ends it, naming the one that is gone
    assert "going on from step" in said(run)

    with started(config_file, run, *arguments) as group:
        reached(run, group, max(checkpoint_files.steps_in(run / "checkpoints")) + 1)
        for process in group:
            process.kill()
    between = Path(shutil.copytree(run, tmp_path / "between"))

    assert ended(config_file, run, *arguments) == [0, 0], said(run)
    chex.assert_trees_all_equal(state_of(run), state_of(four_once))

    for name, (processes, devices, words) in {
        "one": (1, 1, ()),
        "fsdp": (1, 8, ("--config.parallel.mesh.fsdp=8",)),
    }.items():
        other = Path(shutil.copytree(between, tmp_path / name))
        assert max(checkpoint_files.steps_in(other / "checkpoints")) < STEPS
        assert ended(config_file, other, processes, devices, *words) == [0] * processes, said(other)
        assert "going on from step" in said(other)
        assert_the_same_training(other, alone_once)


def test_a_process_that_never_comes_is_named(config_file, tmp_path):
    codes = ended(config_file, tmp_path / "run", 3, 1, only=(0, 2), DIFFUSION_JAX_JOIN_TIMEOUT="30")
    assert codes == [75, 75]
    for number in (0, 2):
        line = "error: of 3 processes, 1 did not come within 30 s: process 1; look at their output"
        assert said(tmp_path / "run", number).startswith(line)


def test_an_error_of_the_first_process_is_that_of_all(config_file, four_once):
    codes = ended(config_file, four_once, 2, 1, "--config.seed=5")
    assert codes == [1, 1]
    for number in (0, 1):
        assert "has another config (seed: 0 -> 5)" in said(four_once, number)
