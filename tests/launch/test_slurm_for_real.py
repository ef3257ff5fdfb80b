"""launch/slurm.sbatch under SLURM itself, on this machine alone: where slurmctld is installed, and as root."""

import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest

from tests.commands.conftest import MINI
from tests.commands.test_train import state_of
from tests.launch.conftest import wait_for
from tests.launch.test_train import CONFIG, STEPS, kill_one

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
SLURMCTLD = shutil.which("slurmctld", path=f"{os.environ['PATH']}:/usr/sbin")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        SLURMCTLD is None or os.geteuid() != 0, reason="needs slurmctld (apt-get install slurm-wlm munge) and root"
    ),
]


@pytest.fixture(scope="module")
def slurm():
    """The environment in which sbatch and its like reach a SLURM of this module's own."""
    folder = tempfile.mkdtemp(prefix="slurm")  # short: munge's socket lies in it
    subprocess.run([HERE / "loopback_slurm", "start", folder], check=True, timeout=60)
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("SLURM_", "SBATCH_"))}
    yield environment | {
        "SLURM_CONF": f"{folder}/slurm.conf",
        "LAUNCH_ENV": f"{folder}/settings",
        "JAX_PLATFORMS": "cpu",
        "XLA_FLAGS": "--xla_backend_optimization_level=0",
        "PYTHONPATH": str(ROOT),
        "DIFFUSION_JAX_HEARTBEAT_TIMEOUT": "30",
    }
    subprocess.run([HERE / "loopback_slurm", "stop", folder], check=True, timeout=60)
    shutil.rmtree(folder)


@pytest.fixture
def submit(slurm, tmp_path):
    """Submits a command as a job of two tasks; returns () -> (its state, its restarts, its log) once it has ended."""
    numbers = []

    def ask(*words):
        return subprocess.run(words, env=slurm, capture_output=True, text=True, check=True, timeout=60, cwd=ROOT).stdout

    def submitted(*command, **changes):
        settings = dict(RUN_NAME="trial", NODES=1, TASKS_PER_NODE=2, RESTARTS=2, GRACE=2, SAVE_SECONDS=60, **changes)
        settings["SBATCH_FLAGS"] = f"(--output={tmp_path}/job.log)"
        Path(slurm["LAUNCH_ENV"]).write_text("".join(f"{name}={value}\n" for name, value in settings.items()))
        numbers.append(ask(str(ROOT / "launch/slurm.sbatch"), "--", *map(str, command)).split()[-1])
        return numbers[-1]

    def ended(number):
        for _ in range(4500):
            shown = ask("scontrol", "--oneliner", "show", "job", number).split()
            facts = dict(word.split("=", 1) for word in shown if "=" in word)
            if facts["JobState"] in ("COMPLETED", "FAILED", "CANCELLED", "TIMEOUT", "NODE_FAIL"):
                return facts["JobState"], int(facts["Restarts"]), (tmp_path / "job.log").read_text()
            time.sleep(0.2)
        raise AssertionError(f"job {number} did not end: {facts}")

    submitted.ended, submitted.ask = ended, ask
    yield submitted
    for number in numbers:
        ask("scancel", "--quiet", number)


@pytest.fixture
def standin(tmp_path):
    return [sys.executable, HERE / "standin.py", tmp_path]


def test_a_killed_process_puts_the_job_back_and_it_goes_on(submit, standin, tmp_path):
    state, restarts, log = submit.ended(submit(*standin, "1:kill"))
    assert (state, restarts) == ("COMPLETED", 1), log
    assert "code 137: back to the queue" in log
    for i in (0, 1):
        assert log.count(f"{i}: process {i} of 2 on 2 devices gathered [1, 2]") == 2
        assert (tmp_path / f"attempts.{i}").read_text() == "[1, 2]\n[1, 2]\n"


def test_an_error_ends_the_job(submit, standin):
    state, restarts, log = submit.ended(submit(*standin, "0:1"))
    assert (state, restarts) == ("FAILED", 0), log


def test_restarts_are_counted(submit):
    state, restarts, log = submit.ended(submit("bash", "-c", "exit 75"))
    assert (state, restarts) == ("FAILED", 2), log
    assert "code 75, and no more restarts (2): giving up" in log


def test_before_the_time_limit_all_save_and_the_job_is_put_back(submit, standin, tmp_path):
    number = submit(*standin, "wait")
    wait_for(*(tmp_path / f"waits.{i}" for i in (0, 1)), seconds=120)
    submit.ask("scancel", "--batch", "--signal=USR1", number)  # what SLURM sends to the script, and to it alone
    state, restarts, log = submit.ended(number)
    assert (state, restarts) == ("COMPLETED", 1), log
    assert all((tmp_path / f"saved.{i}").exists() for i in (0, 1))


def test_a_cancelled_job_saves_and_stays_away(submit, standin, tmp_path):
    number = submit(*standin, "wait")
    wait_for(*(tmp_path / f"waits.{i}" for i in (0, 1)), seconds=120)
    submit.ask("scancel", number)
    state, restarts, log = submit.ended(number)
    assert (state, restarts) == ("CANCELLED", 0), log
    assert all((tmp_path / f"saved.{i}").exists() for i in (0, 1))


def test_a_training_is_killed_put_back_and_goes_on_to_its_end(submit, tmp_path):
    (tmp_path / "config.py").write_text(CONFIG)
    words = ("-m", "diffusion_jax", "train", f"--config={tmp_path}/config.py", f"--workdir={tmp_path}/run")
    number = submit(sys.executable, *words)
    kill_one(tmp_path / "run", lambda: log_of(tmp_path) if "launch: left with code" in log_of(tmp_path) else "")
    state, restarts, log = submit.ended(number)
    assert (state, restarts) == ("COMPLETED", 1), log
    assert "going on from step" in log
    assert state_of(tmp_path / "run")[0] == STEPS


SWEEP = f"""{MINI}
mini = get_config


def get_config():
    config = mini()
    config.train.update(dict(steps=4, validate_every=0, sample_every=0))
    config.label = ""
    return config


def sweep(add):
    add("a")
    add("drawn", sampling=dict(cfg_scale=1.0))
    add("crashes", weighting=dict(name="min_snr", gama=5.0))
"""


def test_a_sweep_trains_and_measures_in_jobs(slurm, tmp_path):
    (tmp_path / "sweep.py").write_text(SWEEP)
    line = [sys.executable, "-m", "diffusion_jax", "sweep", tmp_path / "sweep.py", f"--workdir={tmp_path}", "--seeds=1"]
    line += ["--launcher=slurm", "--slurm=timeout_min=20"]
    done = subprocess.run(line, env=slurm, cwd=ROOT, capture_output=True, text=True, timeout=600)
    assert done.returncode == 1, done.stderr
    assert "crashes, seed 0: failed with code 1: error: config.weighting" in done.stdout
    assert done.stdout.count(": done at step 4/4") == 2
    told = json.loads((tmp_path / "sweep" / "status.json").read_text())
    assert [(run["state"], run["figures"] is not None) for run in told["runs"]] == [
        ("done", True), ("done", True), ("failed", False),
    ]  # fmt: skip


def log_of(folder):
    return (folder / "job.log").read_text() if (folder / "job.log").exists() else ""
