"""Signs of life, by a clock that is told the time."""

import datetime
import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from diffusion_jax.training.heartbeat import heartbeat, read, straggler


class Clock:
    now = 100.0

    def __call__(self):
        return self.now


def run(folder, process, own, waits, steps=5, clock=None, first=1, **settings):
    """Steps of so many seconds of its own, and so many of waiting."""
    clock = clock or Clock()
    heart = heartbeat(folder, 32, process, every=0, clock=clock, **settings)
    for step in range(first, first + steps):
        clock.now += own
        with heart.waiting():
            clock.now += waits
        heart.beat(step)


def test_what_a_file_says(tmp_path):
    run(tmp_path, process=3, own=0.125, waits=0.375)
    (path,) = (tmp_path / "heartbeat").iterdir()
    assert path.name == "3.json"
    record = json.loads(path.read_text())
    age = datetime.datetime.now(datetime.UTC) - datetime.datetime.fromisoformat(record.pop("time"))
    assert abs(age) < datetime.timedelta(hours=1)
    assert record == {
        "process": 3,
        "host": socket.gethostname(),
        "pid": os.getpid(),
        "step": 5,
        "step_seconds": 0.5,
        "own_seconds": 0.125,
        "images_per_second": 64,
    }


def test_written_at_once_and_then_at_most_so_often(tmp_path):
    clock, seen = Clock(), []
    heart = heartbeat(tmp_path, 32, every=10, clock=clock)
    for step in range(1, 26):
        heart.beat(step)
        seen.append(json.loads((tmp_path / "heartbeat" / "0.json").read_text())["step"])
        clock.now += 1
    assert seen == [1] * 10 + [11] * 10 + [21] * 5


def test_the_first_beat_has_no_figures_and_the_last_steps_alone_count(tmp_path):
    clock = Clock()
    heart = heartbeat(tmp_path, 32, every=0, window=3, clock=clock)
    clock.now += 1000  # compiles
    heart.beat(1)
    (record,) = read(tmp_path, 1)
    assert [record[name] for name in ("step_seconds", "own_seconds", "images_per_second")] == [None] * 3
    for step, seconds in enumerate([50, 4, 2, 4], 2):
        clock.now += seconds
        heart.beat(step)
    (record,) = read(tmp_path, 1)
    assert (record["step_seconds"], record["images_per_second"]) == (4, 9.6)


def test_a_full_disk_stops_nothing(tmp_path, file_size_limit):
    clock = Clock()
    with file_size_limit(10):
        run(tmp_path, 0, 0.5, 0.5, clock=clock)
    assert read(tmp_path, 1) == []
    assert list((tmp_path / "heartbeat").iterdir()) == []
    run(tmp_path, 0, 0.5, 0.5, clock=clock)
    assert len(read(tmp_path, 1)) == 1


@pytest.mark.parametrize(
    ("own", "line"),
    [
        ([0.5, 0.5, 0.5, 0.75], "process 3 (HOST), 0.75 s of its own in a step of 0.8 s, median of all 0.5 s"),
        ([0.02, 0.5], "process 1 (HOST), 0.5 s of its own in a step of 0.8 s, median of all 0.02 s"),
        ([0.6, 0.7, 0.72, 0.01], None),  # that one is quick makes nobody slow
        ([0.5, 0.6, 0.6, 0.7], None),
        ([0.001, 0.001, 0.05, 0.001], None),  # fifty times as long, and hidden behind the devices
        ([0.9], None),
        ([], None),
    ],
)
def test_who_makes_the_others_wait(tmp_path, own, line):
    for process, seconds in enumerate(own):
        run(tmp_path, process, seconds, 0.8 - seconds)
    run(tmp_path, 8, 0.79, 0.01)  # of a run that had more processes
    expected = line and f"slowest host: {line}".replace("HOST", socket.gethostname())
    assert straggler(tmp_path, max(len(own), 1)) == expected


def test_files_that_cannot_be_read_are_left_out(tmp_path):
    run(tmp_path, 0, 0.1, 0.1)
    for process, text in enumerate(["", "[1]", '{"process": 3}'], 1):
        (tmp_path / "heartbeat" / f"{process}.json").write_text(text)
    assert [record["process"] for record in read(tmp_path, 9)] == [0]
    assert straggler(tmp_path, 9) is None


TOGETHER = """
import os, sys, time
import jax, numpy as np
from pathlib import Path
from jax.experimental import multihost_utils
from diffusion_jax.training.heartbeat import heartbeat
number = int(sys.argv[2])
jax.distributed.initialize(f"127.0.0.1:{sys.argv[3]}", 2, number)
heart = heartbeat(Path(sys.argv[1]), 8, number, every=0)
for step in range(1, 6):
    time.sleep(0.5 * number)
    with heart.waiting():
        multihost_utils.process_allgather(np.ones(3))
    heart.beat(step)
"""


def test_of_two_real_processes_that_wait_for_each_other_the_slow_one_is_named(tmp_path):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    paths = os.pathsep.join([str(Path(__file__).parents[2]), os.environ.get("PYTHONPATH", "")])
    started = [
        subprocess.Popen(
            [sys.executable, "-c", TOGETHER, str(tmp_path), str(number), str(port)],
            env=os.environ | {"PYTHONPATH": paths},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
        )
        for number in range(2)
    ]
    try:
        told = [process.communicate(timeout=300)[1] for process in started]
        assert [process.returncode for process in started] == [0, 0], told
    finally:
        for process in started:
            process.kill()
            process.wait()
    quick, slow = read(tmp_path, 2)
    assert min(quick["step_seconds"], slow["step_seconds"], slow["own_seconds"]) >= 0.5  # the wait is in both
    assert straggler(tmp_path, 2).startswith(f"slowest host: process 1 ({socket.gethostname()}), ")
