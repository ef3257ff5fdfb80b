"""launch/slurm.sbatch under programs that pretend to be SLURM's: what they hear, and what becomes of the job."""

import json
import os
import shutil
import signal
import subprocess
import time

import pytest

SLURM = "launch/slurm.sbatch"
ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
SUBMITTED = [
    "--job-name=trial",
    "--nodes=1",
    "--ntasks-per-node=2",
    "--signal=B:USR1@31",
    f"--chdir={ROOT}",
    f"--output={ROOT}/runs/slurm-%j.log",
    "--partition=gpu",
    "--time=24:00:00",
    f"{ROOT}/launch/slurm.sbatch",
    "--",
]


@pytest.fixture
def job(machine, tmp_path):
    """Submits words with the log in the test's own folder, and returns how the job ended."""
    machine.settings(SBATCH_FLAGS=f"(--output={tmp_path}/job.log)")

    def submit(*words, **more):
        result = machine.call(SLURM, "--", *words, **more)
        assert result.code == 0, result.err
        return json.loads((machine.state / "job.json").read_text())

    return submit


def test_dry_run_prints_what_is_submitted(machine):
    result = machine.call(SLURM, "--dry-run", "--", "train", "--names=('a b',)")
    assert result.code == 0
    assert result.out.splitlines() == [
        f"mkdir -p {ROOT}/runs",
        " ".join(["sbatch", *SUBMITTED, "train", "'--names=('\\''a b'\\'',)'"]),
    ]
    assert not machine.calls("sbatch")


def test_submitting_says_the_same_to_sbatch(machine):
    (machine.programs / "srun").write_text("#!/bin/sh\n")
    machine.settings(TRAIN="(train --workdir='my runs')")
    assert "Submitted batch job 7" in machine.call(SLURM).out
    assert machine.calls("sbatch") == [[*SUBMITTED, "train", "--workdir=my runs"]]


def test_sbatch_reads_the_same_where_it_is_typed_by_hand():
    with open(f"{ROOT}/{SLURM}") as file:
        directives = [line.split()[1] for line in file if line.startswith("#SBATCH")]
    assert directives == ["--job-name=diffusion-jax", "--requeue", "--open-mode=append", "--signal=B:USR1@140"]


@pytest.mark.parametrize(
    ("about", "changes", "words"),
    [
        ("takes no word 4", {}, ["4", "--", "train"]),
        ("sets no NODES TASKS_PER_NODE", {"NODES": None, "TASKS_PER_NODE": None}, ["--", "train"]),
        ("sets no TRAIN", {"TRAIN": None}, []),
        ("NODES is '0'", {"NODES": "0"}, ["--", "train"]),
        ("RUN_NAME is 'My_Run'", {"RUN_NAME": "My_Run"}, ["--", "train"]),
    ],
)
def test_wrong_settings_are_one_line(machine, refused, about, changes, words):
    machine.settings(**changes)
    refused(about, SLURM, *words)


def test_no_slurm_is_one_line(machine, refused):
    (machine.programs / "sbatch").unlink()
    refused("no program sbatch", SLURM, "--", "train")


def test_a_job_from_elsewhere_is_one_line(machine, tmp_path):
    copy = shutil.copy(f"{ROOT}/{SLURM}", tmp_path)
    done = subprocess.run(
        ["bash", copy], env=machine.environment | {"SLURM_JOB_ID": "7"}, cwd=tmp_path, capture_output=True, text=True
    )
    assert done.returncode == 2
    assert done.stderr.startswith("error: no launch/settings in")


def test_a_killed_process_puts_the_job_back_and_it_goes_on(machine, job, standin, tmp_path):
    ended = job(*standin, tmp_path, "1:kill")
    assert (ended["code"], ended["restarts"]) == (0, 1), ended["log"]
    assert "code 137: back to the queue" in ended["log"]
    for i in (0, 1):
        assert f"{i}: process {i} of 2 on 2 devices gathered [1, 2]" in ended["log"]
        assert (tmp_path / f"attempts.{i}").read_text() == "[1, 2]\n[1, 2]\n"
    assert machine.calls("scontrol").count(["requeue", "7"]) == 1


@pytest.mark.parametrize(
    ("script", "code", "restarts"),
    [
        ("exit 75", 75, 2),
        ("if [[ $SLURM_PROCID == 1 ]]; then exit 1; fi; sleep 300", 1, 0),
    ],
)
def test_the_code_decides(job, script, code, restarts):
    ended = job("bash", "-c", script)
    assert (ended["code"], ended["restarts"]) == (code, restarts), ended["log"]


def test_an_error_counts_more_than_the_loss_that_it_causes(machine, job):
    machine.settings(GRACE="10")
    ended = job("bash", "-c", "if [[ $SLURM_PROCID == 1 ]]; then exit 2; fi; exit 75")
    assert (ended["code"], ended["restarts"]) == (2, 0), ended["log"]


def test_before_the_time_limit_all_save_and_the_job_is_put_back(machine, job, tmp_path):
    script = (
        "if [[ -n ${SLURM_RESTART_COUNT:-} ]]; then exit 0; fi; "
        "trap 'touch \"$FAKES/saved.$SLURM_PROCID\"; exit 143' TERM; "
        'touch "$FAKES/waits.$SLURM_PROCID"; while true; do sleep 0.1; done'
    )
    process = machine.start(SLURM, "--", "bash", "-c", script)
    while not all((machine.state / f"waits.{i}").exists() for i in (0, 1)):
        assert process.poll() is None
        time.sleep(0.1)
    os.kill(int((machine.state / "batch.pid").read_text()), signal.SIGUSR1)
    process.communicate(timeout=60)
    ended = json.loads((machine.state / "job.json").read_text())
    assert (ended["code"], ended["restarts"]) == (0, 1), ended["log"]
    assert machine.calls("scancel") == [["--signal=TERM", "7"]]
    assert all((machine.state / f"saved.{i}").exists() for i in (0, 1))


def test_cores_of_a_task_are_passed_on(machine, job, tmp_path):
    machine.settings(SBATCH_FLAGS=f"(--output={tmp_path}/job.log --cpus-per-task=3)")
    job("true")
    (words,) = machine.calls("srun")
    assert words[:4] == ["--label", "--kill-on-bad-exit=1", "--cpus-per-task=3", "launch/process"]
