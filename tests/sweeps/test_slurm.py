"""Runs as jobs: submitit's own executor of this machine stands for SLURM, and does with a job what SLURM's does."""

import json
import sys

import pytest

from diffusion_jax.sweeps import local, plan, slurm, standings

DONE = """
import pathlib, sys
home = pathlib.Path(sys.argv[1])
print("trained", flush=True)
done = home / "checkpoints" / "6"
done.mkdir(parents=True)
(done / "_CHECKPOINT_METADATA").write_text("{}")
"""


@pytest.fixture
def planned(sweep_file, tmp_path, monkeypatch):
    monkeypatch.setattr(slurm, "EVERY", 0.05)
    adds = 'add("a", sampling=dict(nfe=4)), add("b", sampling=dict(nfe=9)), add("c", ema_decay=0.5)'
    made = plan.read(
        sweep_file(adds, **{'config.label = ""': 'config.label = ""; config.figures = ()'}), 2, None, tmp_path
    )
    made.folder.mkdir()
    return made


def here(planned, settings):
    return slurm.executor(planned, settings, cluster="local")


def test_every_training_is_one_job_and_what_fails_fails_alone(planned, monkeypatch, capfd):
    def command(run, data_dir):
        return [
            sys.executable,
            "-c",
            "print('error: no'); raise SystemExit(3)" if run.arm == "c" else DONE,
            str(run.folder),
        ]

    monkeypatch.setattr(local, "command", command)
    assert slurm.run_all(planned, "data", {"timeout_min": 2}, here) == 1
    out = capfd.readouterr().out
    assert out.count(": begins") == 4  # 2 seeds x 2 trainings
    assert "c, seed 1: failed with code 3: error: no" in out
    assert out.endswith(f"3 arms x 2 seeds in {planned.folder}: 4 done, 2 failed\n")
    told = json.loads((planned.folder / "status.json").read_text())
    assert [run["state"] for run in told["runs"]] == ["done", "done", "failed"] * 2
    assert not (planned.folder / slurm.SUBMITTED).exists()
    for run in planned.runs:
        assert (run.folder / "config.py").exists()
        assert (run.folder / "log.txt").read_text() == ("error: no\n" if run.arm == "c" else "trained\n")
    monkeypatch.setattr(local, "command", lambda run, data_dir: [sys.executable, "-c", DONE, str(run.folder)])
    assert slurm.run_all(planned, "data", {}, here) == 0
    assert capfd.readouterr().out.count(": begins") == 2
    assert {at.state for at in standings.found(planned)} == {"done"}


def test_jobs_that_are_still_there_are_watched_and_not_submitted_again(planned, monkeypatch, capfd):
    monkeypatch.setattr(local, "command", lambda run, data_dir: [sys.executable, "-c", DONE, str(run.folder)])
    asked = []

    class Job:
        def __init__(self, folder=None, job_id="7"):
            self.job_id, self.looks = job_id, 0

        def done(self, force_check=False):
            self.looks += 1
            return self.looks > 2

        def result(self):
            return 1

    first = planned.runs[0]
    (planned.folder / slurm.SUBMITTED).write_text(json.dumps({slurm._key(planned, first): "31"}))
    by = here(planned, {})
    by._executor.job_class = Job
    monkeypatch.setattr(by._executor, "submit", lambda *words: asked.append(words))
    jobs = slurm.submitted(by, planned, [0], "data")
    assert [job.job_id for job in jobs.values()] == ["31"]
    assert asked == []


@pytest.mark.parametrize(
    ("told", "line"),
    [(["timeout_min"], "--slurm=timeout_min: write name=value"), (["=3"], "--slurm==3: write name=value")],
)
def test_settings_that_are_none_are_one_line(told, line):
    with pytest.raises(ValueError, match=line):
        slurm.settings_of(told)


def test_settings_are_numbers_where_they_can_be(planned):
    told = slurm.settings_of(["timeout_min=60", "slurm_partition=gpu"])
    assert told == {"timeout_min": 60, "slurm_partition": "gpu"}
    with pytest.raises(ValueError, match=r"--launcher=slurm: .*gpus"):
        here(planned, {"gpus": 1})


def test_a_job_that_is_taken_away_saves_and_comes_again(tmp_path):
    """What submitit calls before a job is requeued: the command is told to leave, and has time for it."""
    code = (
        "import signal, sys; print('here', flush=True); signal.sigwait([signal.SIGTERM]); print('saved'); sys.exit(7)"
    )
    block = "import signal; signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM]); "
    words = slurm.Words((sys.executable, "-c", block + code), str(tmp_path / "log.txt"))
    by_hand = slurm.subprocess.Popen(words.words, stdout=slurm.subprocess.PIPE)
    assert by_hand.stdout.readline() == b"here\n"
    slurm._children[:] = [by_hand]
    again = words.checkpoint()
    assert again.function == words
    assert by_hand.returncode == 7
    assert by_hand.stdout.read() == b"saved\n"
    by_hand.stdout.close()
