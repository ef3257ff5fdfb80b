"""Real processes that stand still, in each of the ways that there are."""

import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from diffusion_jax.training.watchdog import watching

ROOT = Path(__file__).parents[2]
BEGIN = """
import ctypes, os, signal, sys, time
from pathlib import Path
from diffusion_jax.training.watchdog import watching

def stands_still(sleep):
    sleep(1000)

"""
STILL = """
with watching(0.5, Path(sys.argv[1]), process=3) as watchdog:
    for _ in range(3):
        watchdog.beat()
    stands_still({sleep})
"""


def ended(code, folder, env=None):
    """The exit code and stderr of a Python program, which does not outlive the test."""
    paths = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    line = [sys.executable, "-c", BEGIN + code, str(folder)]
    done = subprocess.run(
        line, env=os.environ | {"PYTHONPATH": paths} | (env or {}), capture_output=True, text=True, timeout=300
    )
    return done.returncode, done.stderr


@pytest.mark.parametrize("sleep", ["time.sleep", "ctypes.CDLL(None).sleep"])
def test_who_waits_without_pythons_lock_leaves_with_75(tmp_path, sleep):
    code, err = ended(STILL.format(sleep=sleep), tmp_path)
    assert code == 75
    line, *stacks = err.splitlines()
    assert line.endswith("Z no step for 0.5 seconds: leaving with exit code 75")
    assert any(row.endswith(" in stands_still") for row in stacks)
    assert any(row.startswith("Current thread") for row in stacks)
    (written,) = tmp_path.iterdir()
    assert written.name == "stacks_3.txt"
    assert written.read_text().count(" in stands_still\n") == 1


def test_who_never_gives_back_pythons_lock_is_ended_by_an_alarm(tmp_path):
    code, err = ended(STILL.format(sleep="ctypes.PyDLL(None).sleep"), tmp_path)
    assert code == -signal.SIGALRM
    assert " in stands_still\n" in err
    assert not list(tmp_path.iterdir())


def test_a_folder_that_takes_no_file_keeps_nobody(tmp_path):
    code, err = ended(STILL.format(sleep="time.sleep"), tmp_path / "nowhere")
    assert code == 75
    assert " in stands_still\n" in err


def test_dumps_follow_each_other_in_the_file(tmp_path):
    for _ in range(2):
        assert ended(STILL.format(sleep="time.sleep"), tmp_path)[0] == 75
    assert (tmp_path / "stacks_3.txt").read_text().count(" in stands_still\n") == 2


ALIVE = """
with watching(2, Path(sys.argv[1])) as watchdog:
    for _ in range(20):
        time.sleep(0.1)
        watchdog.beat()
    with watchdog.longer(100):
        time.sleep(3)
        ctypes.PyDLL(None).sleep(1)
    time.sleep(0.1)
time.sleep(4)
os.kill(os.getpid(), signal.SIGKILL) if signal.getitimer(signal.ITIMER_REAL)[0] else print("alive")
"""


def test_who_goes_on_is_left_alone(tmp_path):
    assert ended(ALIVE, tmp_path) == (0, "")
    assert not list(tmp_path.iterdir())


def test_after_what_takes_longer_the_measure_is_as_before(tmp_path):
    again = """
with watching(0.5, Path(sys.argv[1])) as watchdog:
    watchdog.beat()
    with watchdog.longer(1000):
        time.sleep(2)
    stands_still(time.sleep)
"""
    assert ended(again, tmp_path)[0] == 75


def test_the_first_step_may_take_longer(tmp_path):
    first = """
with watching(0.2, Path(sys.argv[1]), begin={begin}) as watchdog:
    time.sleep(2)
os.write(1, b"compiled")
"""
    assert ended(first.format(begin=1000), tmp_path) == (0, "")
    assert ended(first.format(begin=1), tmp_path)[0] == 75


COLLECTIVE = """
import jax, numpy as np
from jax.experimental import multihost_utils
number = int(os.environ["NUMBER"])
jax.distributed.initialize(f"127.0.0.1:{os.environ['PORT']}", 2, number)

def waits_for_the_other():
    multihost_utils.process_allgather(np.ones(3))

waits_for_the_other()
if number == 1:
    time.sleep(1000)
with watching(1, Path(sys.argv[1]), process=number) as watchdog:
    watchdog.beat()
    waits_for_the_other()
"""


def test_a_collective_that_the_other_process_never_joins(tmp_path):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    paths = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    shared = os.environ | {"PYTHONPATH": paths, "PORT": str(port)}
    other = subprocess.Popen(
        [sys.executable, "-c", BEGIN + COLLECTIVE, str(tmp_path)],
        env=shared | {"NUMBER": "1"},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        found, err = ended(COLLECTIVE, tmp_path, {"PORT": str(port), "NUMBER": "0"})
    finally:
        other.kill()
        other.wait()
    assert found == 75
    assert " in waits_for_the_other\n" in err
    assert (tmp_path / "stacks_0.txt").exists()


def test_none(tmp_path):
    with watching(0, tmp_path) as watchdog:
        watchdog.beat()
        with watchdog.longer():
            pass
        assert signal.getitimer(signal.ITIMER_REAL)[0] == 0
    with pytest.raises(ValueError, match=r"^a watchdog cannot wait for -1 seconds"), watching(-1, tmp_path):
        pass
