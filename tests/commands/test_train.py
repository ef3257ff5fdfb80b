"""Training as a person meets it: begun, killed, gone on with, refused, out of disk, out of numbers."""

import gc
import json
import re
import signal
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path

import chex
import jax
import numpy as np
import orbax.checkpoint as ocp
import pytest
from PIL import Image

from diffusion_jax import agreement, placement
from diffusion_jax.training import checkpoint_files, parallel
from diffusion_jax.training.metrics import read_metrics

QUICK = ("--config.train.validate_every=0", "--config.train.sample_every=0")


def state_of(workdir):
    """All numbers of the newest checkpoint, and its step."""
    step = max(checkpoint_files.steps_in(workdir / "checkpoints"))
    path = workdir / "checkpoints" / str(step)
    with ocp.PyTreeCheckpointer() as reader:
        tree = checkpoint_files.stored_shapes(path)
        to_numpy = jax.tree.map(lambda _: ocp.RestoreArgs(restore_type="np.ndarray"), tree)
        return step, reader.restore(path / "state", restore_args=to_numpy)


def validations(workdir):
    return [record for record in read_metrics(workdir / "metrics.jsonl") if "validation/gap" in record]


@pytest.fixture
def train(command, mini):
    return lambda workdir, *words: command("train", f"--config={mini}", f"--workdir={workdir}", *words)


def test_what_a_run_folder_holds(trained_once):
    names = {path.name for path in trained_once.iterdir()}
    assert names == {
        "config.json", "versions.json", "metrics.jsonl", "tensorboard", "samples", "curves.png", "checkpoints",
        "heartbeat", "lock",
    }  # fmt: skip
    assert sorted(checkpoint_files.steps_in(trained_once / "checkpoints")) == [6, 8]
    assert [path.name for path in sorted((trained_once / "samples").iterdir())] == [
        "step_0000005.png",
        "step_0000008.png",
    ]
    with Image.open(trained_once / "samples" / "step_0000008.png") as picture:
        assert picture.width > 2 * 112
    records = read_metrics(trained_once / "metrics.jsonl")
    assert [r["step"] for r in records if "train/loss" in r] == [2, 4, 6, 8]
    assert [r["step"] for r in records if "validation/gap" in r] == [4, 8]
    assert records[-1]["validation/examples"] == 11
    assert json.loads((trained_once / "versions.json").read_text()).keys() >= {"jax", "flax", "python", "devices"}
    assert json.loads((trained_once / "config.json").read_text())["optimizer"]["learning_rate"] == 3e-2


def test_the_step_compiles_once(trained_once):
    assert (trained_once.parent / "traces").read_text() == "1"


def test_training_twice_gives_the_same_parameters_and_a_tidy_terminal(train, trained_once, tmp_path):
    code, out, err = train(tmp_path / "again", "--config.train.sample_every=0", "--config.train.save_every=0")
    assert (code, err) == (0, "")
    cut, *lines = out.splitlines()
    assert cut == "of 11 training captions, 11 are longer than what is read of them"
    starts = ["step 2/8", "step 4/8", "step 4", "step 6/8", "step 8/8", "step 8"]
    assert [line.split(",")[0].split(":")[0] for line in lines] == starts
    assert all(
        re.fullmatch(r"step ./8, loss 0\.\d{4}, [\d,]+ images/s, 0:00:\d\d to go", lines[i]) for i in (0, 1, 3, 4)
    )
    assert "wrong captions change the error by" in lines[2]
    chex.assert_trees_all_equal(state_of(tmp_path / "again"), state_of(trained_once))
    assert validations(tmp_path / "again") == validations(trained_once)


def test_stopped_and_gone_on_with_is_never_stopped(train, trained_once, tmp_path):
    words = ("--config.train.sample_every=0", "--config.train.save_every=0")
    assert train(tmp_path, *words, "--config.train.steps=5")[0] == 0
    code, out, _ = train(tmp_path, *words)
    assert code == 0
    assert f"going on from step 5 in {tmp_path}" in out
    chex.assert_trees_all_equal(state_of(tmp_path), state_of(trained_once))
    judged = validations(tmp_path)
    assert [record["step"] for record in judged] == [4, 5, 8]  # the shorter run was judged at its end
    assert [judged[0], judged[2]] == validations(trained_once)


def test_a_run_that_has_ended_says_so_and_changes_nothing(train, trained):
    before = (trained / "metrics.jsonl").read_bytes()
    code, out, _ = train(trained)
    assert code == 0
    assert f"{trained} is trained: step 8 of 8" in out
    assert (trained / "metrics.jsonl").read_bytes() == before


@contextmanager
def launched(mini, workdir, env, *words):
    """The same command in a process of its own, which does not outlive the test."""
    line = [sys.executable, "-m", "diffusion_jax", "train", f"--config={mini}", f"--workdir={workdir}", *words]
    process = subprocess.Popen(line, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def until(condition, process, seconds=900):
    end = time.monotonic() + seconds
    while not condition():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < end, "nothing happened"
        time.sleep(0.003)


def last_logged(workdir):
    path = workdir / "metrics.jsonl"
    return max([record["step"] for record in read_metrics(path)], default=0) if path.exists() else 0


@pytest.mark.slow
def test_killed_at_several_moments_ends_with_the_same_parameters(train, mini, tmp_path, alone):
    """Asked to leave; killed in the middle of a save; killed between two; then left alone, while another one knocks."""
    plan = dict(steps=24, validate_every=12, sample_every=0, save_every=4)
    words = [f"--config.train.{name}={value}" for name, value in plan.items()]
    never, killed = tmp_path / "never", tmp_path / "killed"
    assert train(never, *words)[0] == 0

    def unfinished():
        return list((killed / "checkpoints").glob(checkpoint_files.UNFINISHED))

    with launched(mini, killed, alone, *words) as process:
        until(lambda: last_logged(killed) >= 2, process)
        process.send_signal(signal.SIGTERM)
        out, err = process.communicate(timeout=900)
        assert (process.returncode, err) == (143, "")
    left_at = max(checkpoint_files.steps_in(killed / "checkpoints"))
    assert out.endswith(f"left at step {left_at}, as asked; the same command goes on from there\n")

    with launched(mini, killed, alone, *words) as process:
        until(unfinished, process)
        process.kill()
    assert unfinished()

    with launched(mini, killed, alone, *words) as process:
        until(lambda: last_logged(killed) >= left_at + 3, process)
        time.sleep(0.05)
        process.kill()
    assert max(checkpoint_files.steps_in(killed / "checkpoints")) < 24

    with launched(mini, killed, alone, *words) as process:
        until(lambda: f" {process.pid} " in Path("/proc/locks").read_text(), process)
        process.send_signal(signal.SIGSTOP)  # so that it has not ended when the other one knocks
        code, _, line = train(killed, *words)
        process.send_signal(signal.SIGCONT)
        assert code == 1
        assert line == f"error: another process trains in {killed}: wait for it, or choose another --workdir\n"
        _, err = process.communicate(timeout=900)
        assert (process.returncode, err) == (0, "")

    chex.assert_trees_all_equal(state_of(killed), state_of(never))
    assert validations(killed) == validations(never)
    assert not unfinished()


def test_more_devices_learn_the_same(train, trained_once, tmp_path, monkeypatch):
    two = device_mesh(devices=jax.devices()[:2])
    monkeypatch.setattr(parallel, "device_mesh", lambda **_: two)
    monkeypatch.setattr(placement, "make_step", make_step)
    assert train(tmp_path, *QUICK, "--config.train.steps=4", "--config.train.save_every=0")[0] == 0
    here, there = (read_metrics(folder / "metrics.jsonl") for folder in (tmp_path, trained_once))
    for one, other in zip(here, there[:2], strict=True):
        for name in ("step", "train/loss", "train/eps_error", "train/gradient_norm"):
            assert one[name] == pytest.approx(other[name], rel=1e-4)


make_step, device_mesh = placement.make_step, parallel.device_mesh  # the real ones, before fixtures replace them


# orbax drops the writes that it had planned, and Python says so when it finds them
@pytest.mark.filterwarnings("ignore:coroutine .* was never awaited:RuntimeWarning")
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_a_full_disk_is_one_line_and_loses_nothing(train, trained, file_size_limit):
    with file_size_limit(9000):
        code, _, err = train(trained, *QUICK, "--config.train.steps=9")
    gc.collect()
    assert (code, err) == (
        1,
        f"error: training stopped: a checkpoint could not be written to {trained}/checkpoints: File too large; "
        f"the last good checkpoint is step 8, and the same command goes on in {trained}\n",
    )
    assert train(trained, *QUICK, "--config.train.steps=9")[0] == 0
    assert state_of(trained)[0] == 9


def test_a_loss_that_is_no_number_stops_the_run_before_it_is_saved(train, tmp_path, monkeypatch):
    real = placement.make_step

    def spoiled(*arguments):
        take = real(*arguments)

        def step(now, batch):
            bad = jax.tree.map(lambda p: p * np.nan, now.params)
            return take(now._replace(params=bad) if int(now.step) == 2 else now, batch)

        return step

    monkeypatch.setattr(placement, "make_step", spoiled)
    code, _, err = train(tmp_path, *QUICK, "--config.train.save_every=1")
    names = "eps_error, gradient_norm, loss, parameter_norm"
    assert code == 1
    assert err == (
        f"error: training diverged at step 3: {names} are not finite; "
        f"the last good checkpoint is step 2, in {tmp_path}\n"
    )
    assert sorted(checkpoint_files.steps_in(tmp_path / "checkpoints")) == [1, 2]


@pytest.mark.parametrize(
    ("words", "differs"),
    [
        (["--config.seed=5"], "seed: 0 -> 5"),
        (["--config.optimizer.learning_rate=0.5"], "optimizer.learning_rate: 0.03 -> 0.5"),
        (
            ["--config.batch_size=16", "--config.denoiser.channels=16"],
            "batch_size: 8 -> 16; denoiser.channels: 8 -> 16",
        ),
    ],
)
def test_a_folder_of_another_config_is_refused(train, trained, words, differs):
    code, _, err = train(trained, *words)
    advice = "choose another --workdir, or go on with --allow_changed"
    assert (code, err) == (1, f"error: {trained} has another config ({differs}): {advice}\n")
    assert json.loads((trained / "config.json").read_text())["seed"] == 0


def test_another_config_that_is_allowed_is_a_diff_on_the_screen(train, trained):
    words = ("--config.optimizer.learning_rate=0.5", "--config.ema_decay=0.9", "--config.train.steps=9", *QUICK)
    assert train(trained, *words)[0] == 1
    code, out, _ = train(trained, *words, "--allow_changed")
    assert code == 0
    lines = ["changed: ema_decay: 0.999 -> 0.9", "changed: optimizer.learning_rate: 0.03 -> 0.5"]
    assert out.splitlines()[:3] == [*lines, f"going on from step 8 in {trained}"]
    assert json.loads((trained / "config.json").read_text())["optimizer"]["learning_rate"] == 0.5
    assert train(trained, *words)[0] == 0  # it is its own config from now on


def test_what_does_not_change_the_learning_may_change(train, trained):
    words = [
        "--config.train.steps=9",
        "--config.sampling.nfe=4",
        "--config.loader.prefetch=2",
        "--config.validation_size=8",
    ]
    code, out, _ = train(trained, *words, *QUICK)
    assert code == 0
    assert "going on from step 8" in out
    assert json.loads((trained / "config.json").read_text())["train"]["steps"] == 9


def test_what_the_loader_does_to_pictures_may_not(trained_once, tmp_path):
    from ml_collections import ConfigDict

    old = json.loads((trained_once / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(old))
    changed = ConfigDict(old | {"loader": old["loader"] | {"fit": "pad"}})
    with pytest.raises(ValueError, match=r"has another config \(loader.fit: None -> pad\)"):
        agreement.agree_on_config(tmp_path, changed)


def test_a_damaged_checkpoint_is_left_aside_and_the_one_before_goes_on(train, trained, trained_once):
    newest = trained / "checkpoints" / "8"
    largest = max((p for p in (newest / "state").rglob("*") if p.is_file()), key=lambda p: p.stat().st_size)
    largest.write_bytes(largest.read_bytes()[:-100])
    code, out, err = train(trained, *QUICK)
    assert (code, err) == (0, "")
    name = largest.relative_to(newest)
    assert out.startswith(
        f"checkpoint {newest} cannot be read ({name} is damaged): going on from step 6, and that one is now 8.damaged\n"
        f"going on from step 6 in {trained}\n"
    )
    assert (trained / "checkpoints" / "8.damaged").is_dir()
    chex.assert_trees_all_equal(state_of(trained), state_of(trained_once))


def test_the_checkpoint_of_another_model_is_one_line(train, trained, tmp_path):
    config = json.loads((trained / "config.json").read_text())
    config["text_encoder"]["d_ff"] = 24
    (trained / "config.json").write_text(json.dumps(config))
    code, _, err = train(trained, "--config.text_encoder.d_ff=24")
    assert code == 1
    assert "does not hold the parameters of its config" in err
    assert "text_encoder/block_0/feed_forward/" in err
    assert err.count("\n") == 1


@pytest.mark.parametrize(
    ("words", "code", "line"),
    [
        (["--config.batchsize=8"], 2, "the config has no entry batchsize: did you mean batch_size?"),
        (["--config.denoiser.chanels=8"], 2, "no entry chanels: did you mean channels?"),
        (["--config.batch_size=many"], 2, "--config.batch_size=many"),
        (["--config.batch_size=2.5"], 2, "--config.batch_size=2.5"),
        (["--config.batch_size=0"], 1, "batch_size=0 does not divide among 1 devices: use a multiple of 1"),
        (
            ["--config.schedule.name=cosin"],
            1,
            "config.schedule: diffusion_jax.diffusion.schedules has no 'cosin': did you mean",
        ),
        (["--config.sampling.sampler.name=dpmp"], 1, "config.sampler: diffusion_jax.diffusion.samplers has no 'dpmp'"),
        (["--config.weighting.name=edn"], 1, "did you mean edm"),
        (["--config.noise_levels.name=unifrom"], 1, "did you mean uniform"),
        (["--config.schedule.name=variance_preserving"], 1, "has no 'variance_preserving'"),
        (["--config.sampling.nfe=0"], 1, "nfe is 0, but this sampler calls the network at least 1 time"),
        (["--config.sampling.sigma_min=100."], 1, "must be positive and below"),
        (["--config.train.log_every=0"], 1, "config.train.log_every is 0: it must be at least 1"),
        (["--config.train.save_every=-1"], 1, "config.train.save_every is -1: it must be at least 0"),
        (["--config.train.skip_nonfinite=-1"], 1, "config.train.skip_nonfinite is -1: it must be at least 0"),
        (["--config.microbatch=3"], 1, "config.microbatch=3 has to divide batch_size=8"),
        (["--config.microbatch=-8"], 1, "config.microbatch=-8 has to divide batch_size=8"),
        (["--config.parallel.name=pmapp"], 1, "config.parallel.name is 'pmapp': it is jit or pmap"),
        (["--config.parallel.mesh.dat=2"], 2, "no entry dat: did you mean data?"),
        (["--config.learned_schedule=8", "--config.microbatch=4"], 1, "the scatter of a batch's losses is no mean"),
        (["--profile=5:3"], 1, "--profile=5:3: give a number of steps"),
        (["--config.data.size=4"], 1, "shapes needs size >= 16"),
        (["--config.resolution=18"], 1, "a picture of 18x18 pixels does not divide by 4"),
        (["--config.tokenizer.max_length=1"], 1, "max_length is 1"),
        (["--config.optimizer.clip_norm=0."], 2, "no entry clip_norm"),
        (["--config.seed=-1"], 1, "seed is -1"),
        (["--workdir="], 2, "--workdir is required"),
    ],
)
def test_bad_settings_are_one_line(train, tmp_path, words, code, line):
    found, _, err = train(tmp_path / "run", *words)
    assert line in err
    assert (found, err.count("\n")) == (code, 1)
    assert not (tmp_path / "run" / "checkpoints").exists()


def test_a_batch_that_does_not_divide_among_the_devices(train, tmp_path, monkeypatch):
    monkeypatch.setattr(parallel, "device_mesh", device_mesh)
    code, _, err = train(tmp_path / "run", "--config.batch_size=12")
    assert (code, err) == (1, "error: batch_size=12 does not divide among 8 devices: use a multiple of 8\n")


def test_no_data(command, tmp_path):
    code, _, err = command(
        "train", "--config=experiments/demo.py", f"--workdir={tmp_path / 'run'}", f"--data_dir={tmp_path}"
    )
    assert code == 1
    assert err == f"error: no emoji data in {tmp_path / 'emoji'}: run `diffusion-jax data build emoji` first.\n"
    assert not (tmp_path / "run").exists()


def test_no_workdir(command, mini):
    code, _, err = command("train", f"--config={mini}")
    assert (code, err) == (2, "error: --workdir is required: the folder for the run\n")


def test_dry_run_tells_the_cost_and_writes_nothing(command, mini, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    code, out, err = command("train", f"--config={mini}", "--config.batch_size=16", "--dry_run")
    assert (code, err) == (0, "")
    config, _, rest = out.partition("\n}\n")
    assert json.loads(config + "}")["batch_size"] == 16
    lines = [line.split(maxsplit=1) for line in rest.splitlines() if line and line[0] == " "]
    counts = {what: int(number.replace(",", "")) for number, what in lines if "MiB" not in what}
    parts = {
        name: sum(n for what, n in counts.items() if what.startswith(f"{name}."))
        for name in ("text_encoder", "denoiser")
    }
    assert parts == {name: counts[name] for name in parts}
    assert counts["parameters in all"] == counts["of them trained"] == sum(parts.values())
    memory = {what: float(number.replace(",", "")) for number, what in lines if "MiB" in what}
    assert memory.keys() >= {"MiB  state and batch", "MiB  in all"}
    assert memory["MiB  in all"] >= 4 * 4 * counts["parameters in all"] / 2**20 * 0.9
    assert not list(tmp_path.iterdir())
