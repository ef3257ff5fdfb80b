"""A sweep as a person meets it, in processes of its own: told to leave, gone on with, typed twice, grown, crashed."""

import json
import shutil
import signal
import subprocess
import sys
import time

import pytest

from diffusion_jax.__main__ import main
from diffusion_jax.training import checkpoint_files, run_folder
from diffusion_jax.training.metrics import read_metrics

SWEEP = '''
"""Which average?"""

from mini import get_config as mini


def get_config():
    config = mini()
    config.train.update(dict(steps=80, log_every=1, validate_every=0, sample_every=0, save_every=0))
    config.sampling.prompts = ()
    return config


def sweep(add):
    add("short", ema_decay=0.5)
    add("long", ema_decay=0.9)
'''
CRASHES = '    add("crashes", weighting=dict(name="min_snr", gama=5.0))\n'


def states(folder):
    told = json.loads((folder / "status.json").read_text())
    return {(run["arm"], run["seed"]): run["state"] for run in told["runs"]}


def files(folder):
    """When every file of the run folders was written."""
    return {path: path.stat().st_mtime_ns for path in folder.glob("*/seed_*/**/*") if path.is_file()}


@pytest.fixture
def here(alone, mini, monkeypatch):
    """The children of the sweep have one device, and find the small config; this process reads it too."""
    for name in ("XLA_FLAGS", "PYTHONPATH"):
        monkeypatch.setenv(name, alone[name])
    monkeypatch.setenv("PYTHONPATH", f"{alone['PYTHONPATH']}:{mini.parent}")
    monkeypatch.syspath_prepend(mini.parent)


@pytest.fixture(scope="module")
def swept(alone, mini, tmp_path_factory):
    """A sweep that was told to leave in its first run: its file, its folder, and the states and code it left with."""
    file = tmp_path_factory.mktemp("question") / "average.py"
    file.write_text(SWEEP)
    env = alone | {"PYTHONPATH": f"{alone['PYTHONPATH']}:{mini.parent}"}
    line = [sys.executable, "-m", "diffusion_jax", "sweep", str(file), "--seeds=2", f"--workdir={file.parent}"]
    with subprocess.Popen(line, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as process:
        end = time.monotonic() + 600
        while process.poll() is None and not list(file.parent.glob("*/*/seed_0/heartbeat/0.json")):
            assert time.monotonic() < end, "nothing happened"
            time.sleep(0.01)
        process.send_signal(signal.SIGTERM)
        out, _ = process.communicate()
    folder = file.parent / "average"
    left = process.returncode, out, states(folder)
    (first,) = folder.glob("short-*/seed_0")
    saved = checkpoint_files.steps_in(first / "checkpoints")
    with pytest.MonkeyPatch.context() as patch:
        for name in ("XLA_FLAGS", "PYTHONPATH"):
            patch.setenv(name, env[name])
        patch.syspath_prepend(mini.parent)
        patch.syspath_prepend(alone["PYTHONPATH"])
        code = main(["sweep", str(file), "--seeds=2", f"--workdir={file.parent}"])
    return file, folder, left, saved, code


@pytest.fixture
def copied(swept, tmp_path, here):
    """A copy that a test may change: the file, the folder, and the words of the command."""
    file, folder, *_ = swept
    shutil.copytree(folder, tmp_path / "average")
    file = shutil.copy(file, tmp_path / "average.py")
    return file, tmp_path / "average", ("sweep", file, "--seeds=2", f"--workdir={tmp_path}")


def test_told_to_leave_it_saves_and_says_so(swept):
    _, _, (code, out, left), saved, _ = swept
    assert code == 143, out
    assert left == {("short", 0): "left", ("long", 0): "waiting", ("short", 1): "waiting", ("long", 1): "waiting"}
    assert out.endswith("left, as asked; the same command goes on from there\n")
    assert len(saved) == 1
    assert 0 < saved[0] < 80


def test_the_same_command_goes_on_to_the_end(swept):
    _, folder, _, saved, code = swept
    assert code == 0
    assert set(states(folder).values()) == {"done"}
    (log,) = folder.glob("short-*/seed_0/log.txt")
    assert f"going on from step {saved[0]} in" in log.read_text()
    for run in folder.glob("*/seed_*"):
        assert 80 in checkpoint_files.steps_in(run / "checkpoints")


def test_every_run_is_measured_by_what_its_arm_shares_with_the_others(swept):
    _, folder, *_ = swept
    told = json.loads((folder / "status.json").read_text())
    assert (told["decides"], told["replicates"]) == ("held_out/error", "training")
    records = {(run["arm"], run["seed"]): json.loads((folder / run["figures"]).read_text()) for run in told["runs"]}
    assert {(each["arm"], each["seed"], each["step"]) for each in records.values()} == {(*run, 80) for run in records}
    errors = {run: each["figures"]["held_out/error"]["value"] for run, each in records.items()}
    assert len(set(errors.values())) == 4
    assert all(0 < error < 10 for error in errors.values())


def test_an_arm_that_only_draws_differently_is_not_trained(copied, command):
    file, folder, words = copied
    before = files(folder)
    with open(file, "a") as text:
        text.write('    add("unguided", ema_decay=0.9, sampling=dict(cfg_scale=1.0))\n')
    code, out, err = command(*words)
    assert (code, err) == (0, "")
    assert out.endswith(f"3 arms x 2 seeds in {folder}: 6 done\n")
    after = files(folder)
    assert {path: after[path] for path in before} == before
    assert {path.parent.parent.name for path in after.keys() - before.keys()} == {"seed_0", "seed_1"}
    told = json.loads((folder / "status.json").read_text())
    record = json.loads((folder / told["runs"][-1]["figures"]).read_text())
    assert (record["arm"], record["axes"]["cfg_scale"]) == ("unguided", 1.0)
    assert told["runs"][-1]["folder"] == told["runs"][-2]["folder"]


def test_what_cannot_be_measured_is_said_and_the_code_says_so(copied, command):
    file, folder, words = copied
    with open(file, "a") as text:
        text.write('    add("too_few", ema_decay=0.9, figures=(dict(name="pixels"),))\n')
    code, out, _ = command(*words)
    assert code == 1
    assert out.endswith("3 arms x 2 seeds in " + str(folder) + ": 6 done\n")
    told = json.loads((folder / "status.json").read_text())
    assert [run["figures"] is None for run in told["runs"]] == [False, False, True] * 2


def test_typed_again_it_does_nothing(copied, command):
    _, folder, words = copied
    before = files(folder)
    code, out, err = command(*words)
    assert (code, err) == (0, "")
    assert out.splitlines()[0] == f"2 arms x 2 seeds in {folder}: 4 done"
    assert files(folder) == before


def test_arms_are_paired_by_their_seed(swept):
    """Only the averages differ: the same batches, first parameters, noise and levels give the same losses."""
    _, folder, *_ = swept
    losses = {}
    for run in folder.glob("*/seed_*"):
        records = [(r["step"], r["train/loss"]) for r in read_metrics(run / "metrics.jsonl") if "train/loss" in r]
        assert [step for step, _ in records] == list(range(1, 81))
        losses[run.parent.name.split("-")[0], run.name] = records
    assert losses["short", "seed_0"] == losses["long", "seed_0"]
    assert losses["short", "seed_1"] == losses["long", "seed_1"]
    assert losses["short", "seed_0"] != losses["short", "seed_1"]


def test_an_arm_that_crashes_stops_no_other_and_those_that_were_there_are_left_alone(copied, command):
    file, folder, words = copied
    (lost,) = folder.glob("long-*/seed_1")
    shutil.rmtree(lost)
    before = files(folder)
    with open(file, "a") as text:
        text.write(CRASHES)
    code, out, err = command(*words)
    assert (code, err) == (1, "")
    failed = "failed with code 1: error: config.weighting: min_snr takes no argument 'gama': did you mean gamma?"
    assert f"crashes, seed 0: {failed}" in out
    assert f"crashes, seed 1: {failed}" in out
    assert "long, seed 1: done at step 80/80, loss 0." in out
    assert out.endswith(f"3 arms x 2 seeds in {folder}: 4 done, 2 failed\n")
    assert states(folder)["crashes", 1] == "failed"
    after = files(folder)
    assert {path: after[path] for path in before} == before


def test_dry_run_prints_the_plan_and_changes_nothing(copied, command):
    _, folder, words = copied
    before, told = files(folder), (folder / "status.json").read_bytes()
    code, out, err = command(*words, "--seeds=3", "--dry_run")
    assert (code, err) == (0, "")
    lines = out.splitlines()
    assert lines[:4] == ["Which average?", "", "arm short", "    ema_decay: 0.999 -> 0.5"]
    assert sum(line.endswith("seed_0: done, step 80/80") for line in lines) == 2
    assert sum(line.endswith("seed_2: waiting, step 0/80") for line in lines) == 2
    assert lines[-1] == f"2 arms x 3 seeds in {folder}: 4 done, 2 waiting"
    assert (files(folder), (folder / "status.json").read_bytes()) == (before, told)


def test_two_sweeps_in_one_folder_do_not_meet(copied, command):
    _, folder, words = copied
    with run_folder.lock(folder):
        code, _, err = command(*words)
    assert code == 1
    assert err == f"error: another process trains in {folder}: wait for it, or choose another --workdir\n"


@pytest.mark.parametrize(
    ("words", "code", "line"),
    [
        (("nowhere.py",), 1, "no sweep file nowhere.py"),
        (("experiments/ablations/null.py", "--seeds=0"), 1, "--seeds=0: a sweep needs one at least"),
        (
            ("experiments/tiny.py",),
            1,
            "experiments/tiny.py has no sweep(): a sweep file has get_config() and sweep(add)",
        ),
        (("experiments/ablations/null.py", "--launcher=slurm"), 1, "--launcher=slurm: there is no SLURM to submit to"),
        (("experiments/ablations/null.py", "--launcher=cloud"), 2, "--launcher=cloud"),
        (("experiments/ablations/null.py", "--preset=gpu"), 2, "--preset=gpu"),
        ((), 2, "wrong words []"),
    ],
)
def test_bad_words_are_one_line(command, words, code, line, tmp_path):
    found, _, said = command("sweep", *words, f"--workdir={tmp_path}")
    assert found == code
    assert line in said
    assert said.startswith("error: ")
    assert not list(tmp_path.iterdir())


def first_losses(run):
    return [r["train/loss"] for r in read_metrics(run / "metrics.jsonl") if "train/loss" in r and r["step"] <= 10]


def test_together_runs_that_are_one_program_are_trained_in_one_process(copied, command):
    """Each is then the run that it was one by one; what is done stays, and a crash is told of its run alone."""
    file, folder, words = copied
    before = {run: first_losses(run) for run in folder.glob("*/seed_*")}
    for run in before:
        shutil.rmtree(run)
    with open(file, "a") as text:
        text.write(CRASHES)
    code, out, _ = command(*words, "--together", "--dry_run")
    told = "one program: short, seed 0; long, seed 0; short, seed 1; long, seed 1, which differ in ema_decay"
    assert code == 0
    assert told in out.splitlines()
    assert not before.keys() & set(folder.glob("*/seed_*"))
    code, out, err = command(*words, "--together")
    assert (code, err) == (1, "")
    assert out.endswith(f"3 arms x 2 seeds in {folder}: 4 done, 2 failed\n")
    (log,) = folder.glob("together-*.log")
    assert "4 trainings in one program, which differ in ema_decay" in log.read_text()
    for run, expected in before.items():
        assert first_losses(run) == pytest.approx(expected, rel=1e-3)  # later, Adam has made much of the rounding
        assert 80 in checkpoint_files.steps_in(run / "checkpoints")
