"""Two real processes, with two devices each, write and read checkpoints together."""

import contextlib
import json
import os
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import chex
import pytest

from diffusion_jax.training import checkpoint
from diffusion_jax.training.checkpoint_files import LISTING, UNFINISHED
from tests.training.checkpoint_worker import a_state

ROOT = Path(__file__).parents[2]


@contextlib.contextmanager
def launched(*words, processes=2, devices=2, **environment):
    """The worker in so many processes, none of which outlives the test."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    flags = f"--xla_force_host_platform_device_count={devices} --xla_backend_optimization_level=0"
    paths = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    shared = os.environ | {"XLA_FLAGS": flags, "PYTHONPATH": paths} | environment
    if processes > 1:
        shared |= {"JAX_COORDINATOR_ADDRESS": f"127.0.0.1:{port}", "JAX_NUM_PROCESSES": str(processes)}
    line = [sys.executable, "-m", "tests.training.checkpoint_worker", *map(str, words)]
    pipes = dict(stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    started = [
        subprocess.Popen(line, env=shared | {"JAX_PROCESS_ID": str(number)}, **pipes) for number in range(processes)
    ]
    try:
        yield started
    finally:
        for process in started:
            process.kill()
            process.communicate()


def run_all(*words, code=0, **settings):
    """What each process reports."""
    with launched(*words, **settings) as started:
        told = [process.communicate(timeout=300) for process in started]
    assert [process.returncode for process in started] == [code] * len(started), told
    return [json.loads(out.splitlines()[-1]) for out, _ in told]


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """A run folder with the checkpoints of steps 1 and 2, cut by rows over four devices of two processes."""
    run = tmp_path_factory.mktemp("run")
    assert run_all(run, "rows", 1, 2) == [{"saved": 2, "devices": 4, "processes": 2}] * 2
    return run


@pytest.fixture
def copied(written, tmp_path):
    """The same as a copy that may be damaged."""
    return shutil.copytree(written, tmp_path / "run")


def names(run):
    return sorted(path.name for path in (run / "checkpoints").iterdir())


@pytest.mark.parametrize(
    ("layout", "processes", "devices"),
    [("rows", 2, 2), ("tiles", 2, 2), ("columns", 2, 2), ("whole", 2, 1), ("rows", 1, 4), ("whole", 1, 1)],
)
def test_restored_bit_for_bit_by_others(written, layout, processes, devices):
    total = processes * devices
    expected = {"step": 2, "data": {"next": 2}, "equal": True, "said": [], "devices": total, "processes": processes}
    assert run_all(written, layout, "restore", processes=processes, devices=devices) == [expected] * processes
    assert names(written) == ["1", "2"]


def test_a_sharded_average_is_read_by_one_process(written):
    params, step = checkpoint.load_params(written)
    assert step == 2
    chex.assert_trees_all_equal(params, a_state(2).ema_params)


def test_saved_by_one_process_and_restored_by_two(tmp_path):
    run_all(tmp_path, "whole", 7, processes=1, devices=1)
    assert [told["equal"] for told in run_all(tmp_path, "tiles", "restore")] == [True, True]


@pytest.mark.parametrize("share", [0, 1])
def test_a_file_that_one_process_finds_damaged_sends_both_back(copied, share):
    newest = copied / "checkpoints" / "2"
    name = sorted(json.loads((newest / LISTING).read_text()))[share]
    (newest / name).write_bytes((newest / name).read_bytes() + b"\n")
    line = f"checkpoint {newest} cannot be read ({name} is damaged): going on from step 1"
    told = run_all(copied, "tiles", "restore")
    assert [each["said"] for each in told] == [[f"{line}, and that one is now 2.damaged"], [line]]
    assert [(each["step"], each["data"], each["equal"]) for each in told] == [(1, {"next": 1}, True)] * 2
    assert names(copied) == ["1", "2.damaged"]
    run_all(copied, "rows", 2, 3)
    assert names(copied) == ["2", "2.damaged", "3"]


def test_none_is_whole(copied):
    for step in ("1", "2"):
        (copied / "checkpoints" / step / "data" / "metadata").unlink()
    told = run_all(copied, "rows", "restore", code=1)
    assert told[0] == told[1]
    assert told[0]["error"].startswith(
        f"ValueError: checkpoint {copied}/checkpoints/2 cannot be read (data/metadata is "
    )
    assert names(copied) == ["1", "2"]


def test_the_best_and_the_newest_stay(tmp_path):
    run_all(tmp_path, "rows", "1:0.5", "2:0.25", "3:0.75", "4", "5:1")
    assert names(tmp_path) == ["2", "4", "5"]


def test_killed_in_the_middle_of_a_save(copied):
    with launched(copied, "tiles", 3, FAULT="stop") as started:
        assert "all is written but the digests\n" in iter(started[0].stdout.readline, "")
        for process in started:
            process.kill()
    (left,) = (copied / "checkpoints").glob(UNFINISHED)
    told = run_all(copied, "rows", "restore")
    assert [(each["step"], each["equal"]) for each in told] == [(2, True)] * 2
    assert not left.exists()


@pytest.mark.slow
@pytest.mark.parametrize("where", ["0 1", "0", "1"])
def test_a_full_disk_ends_both(copied, where):
    """Where only one of them has no room, the other gives up after its patience."""
    told = run_all(
        copied, "rows", 3, code=1, FAULT="full disk", WHERE=where, SETTINGS='{"size": 100000, "patience": 10}'
    )
    reasons = [
        "File too large" if str(n) in where else "another process did not write its part in time" for n in (0, 1)
    ]
    line = f"OSError: a checkpoint could not be written to {copied}/checkpoints: "
    assert [each["error"] for each in told] == [line + reason for reason in reasons]
    assert [each["step"] for each in run_all(copied, "rows", "restore")] == [2, 2]
    assert names(copied) == ["1", "2"]
