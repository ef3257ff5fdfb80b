"""The same `diffusion-jax train` under every launcher, in two processes: killed, begun again, the same in the end."""

import json
import os
import shutil
import signal
import sys
import time
from pathlib import Path

import chex
import pytest

from diffusion_jax.training.checkpoint_files import steps_in
from tests.commands.conftest import MINI
from tests.commands.test_train import state_of

pytestmark = pytest.mark.slow

STEPS = 24
CONFIG = f"""{MINI}
mini = get_config


def get_config():
    config = mini()
    config.train.update(dict(steps={STEPS}, log_every=1, validate_every=0, sample_every=0, save_every=3, keep=9))
    return config
"""


@pytest.fixture(scope="session")
def config_file(tmp_path_factory):
    path = tmp_path_factory.mktemp("launched") / "config.py"
    path.write_text(CONFIG)
    return path


@pytest.fixture
def train(config_file):
    """The words of the training, the same for all launchers."""
    return lambda workdir: [
        sys.executable, "-m", "diffusion_jax", "train", f"--config={config_file}", f"--workdir={workdir}"
    ]  # fmt: skip


@pytest.fixture(scope="session")
def undisturbed():
    """Where the state of the first training under launch/local is kept, which nothing disturbed."""
    return {}


@pytest.fixture
def expected(machine, train, undisturbed, tmp_path):
    if not undisturbed:
        result = machine.call("launch/local", "2", "--", *train(tmp_path / "undisturbed"))
        assert result.code == 0, result.out + result.err
        assert "[0] " in result.out
        assert f"step {STEPS}" in result.out
        undisturbed["state"] = state_of(tmp_path / "undisturbed")
    return undisturbed["state"]


def local(machine, words):
    return machine.start("launch/local", "2", "--", *words)


def slurm(machine, words):
    machine.settings(SBATCH_FLAGS=f"(--output={machine.state}/job.log)")
    return machine.start("launch/slurm.sbatch", "--", *words)


def tpu(machine, words):
    """Two slices of one machine, which are not there yet."""
    machine.settings(SLICES="2")
    return machine.start("launch/tpu/run", "--", *words)


def kubernetes_gpu(machine, words):
    return machine.start("launch/kubernetes/submit", "gpu", "--", *words)


def kubernetes_tpu(machine, words):
    """Two slices of one machine: process 1 is the first of the second slice."""
    machine.settings(SLICES="2", HOSTS_PER_SLICE="1")
    return machine.start("launch/kubernetes/submit", "tpu", "--", *words)


def pids_of(workdir):
    """The processes that train in this folder: those with its --workdir among their words."""
    for entry in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            words = entry.read_bytes().split(b"\0")
        except OSError:
            continue
        if b"train" in words[:4] and f"--workdir={workdir}".encode() in words:
            yield int(entry.parent.name)


def kill_one(workdir, gone):
    """kill -9 of one of two processes, when a state is saved (not only begun: the training does not wait for that).

    gone: () -> why that never comes.
    """
    for _ in range(90000):
        if steps_in(workdir / "checkpoints"):
            os.kill(max(pids_of(workdir)), signal.SIGKILL)
            return
        assert not (why := gone()), why
        time.sleep(0.01)
    raise AssertionError("nothing happened")


@pytest.mark.parametrize("launch", [local, slurm, tpu, kubernetes_gpu, kubernetes_tpu])
def test_killed_it_begins_again_and_ends_where_it_would_have(machine, expected, train, tmp_path, launch):
    machine.settings(GRACE="5")
    run = tmp_path / "run"
    launcher = launch(machine, train(run))
    kill_one(run, lambda: launcher.communicate() if launcher.poll() is not None else "")
    out, err = launcher.communicate(timeout=900)
    assert launcher.returncode == 0, out + err
    said = out + err + "".join(file.read_text() for file in machine.state.glob("job*"))
    for name in ("jobset.json",):
        if (machine.state / name).exists():
            said += json.loads((machine.state / name).read_text())["log"]
    assert "going on from step" in said
    chex.assert_trees_all_equal(state_of(run), expected)
    shutil.rmtree(run)
