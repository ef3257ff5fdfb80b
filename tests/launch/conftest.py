"""A machine that has the fakes of fakes/ and a few plain programs on its PATH, and nothing that reaches a cluster."""

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
# fmt: off
PLAIN = (
    "bash", "cat", "cp", "dirname", "env", "flock", "git", "grep", "gzip", "kill", "mkdir", "mktemp", "mv", "rm", "sed",
    "sh", "sleep", "tail", "tar", "tee", "touch", "true", "tr", "wc",
)
# fmt: on
KEPT = ("JAX_COMPILATION_CACHE_DIR", "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS")
SETTINGS = {
    "TRAIN": "(train-nothing)",
    "RUN_NAME": "trial",
    "RESTARTS": "2",
    "GRACE": "1",
    "SAVE_SECONDS": "30",
    "NODES": "1",
    "TASKS_PER_NODE": "2",
    "SBATCH_FLAGS": "(--partition=gpu --time=24:00:00)",
    "PROJECT": "my-project",
    "ZONE": "my-zone",
    "ACCELERATOR": "v5litepod-16",
    "RUNTIME": "v2-alpha-tpuv5-lite",
    "SLICES": "1",
    "TPU_FLAGS": "(--spot)",
    "SSH_FLAGS": "()",
    "SETUP": "'touch was-set-up'",
    "POLL": "0",
    "IMAGE": "somewhere/diffusion-jax:1",
    "VOLUME_CLAIM": "share",
    "VOLUME_PATH": "/mnt/share",
    "PODS": "2",
    "GPUS_PER_POD": "8",
    "TPU_KIND": "tpu-v5-lite-podslice",
    "TPU_TOPOLOGY": "4x4",
    "HOSTS_PER_SLICE": "2",
    "CHIPS_PER_HOST": "4",
}


def wait_for(*files, seconds=60):
    """Until all these files are there."""
    for _ in range(10 * seconds):
        if all(file.exists() for file in files):
            return
        time.sleep(0.1)
    raise AssertionError(f"{[file.name for file in files if not file.exists()]} never came")


@pytest.fixture
def machine(tmp_path):
    """A launcher's surroundings: `settings(NAME=value)`, `start(words)`, `call(words)`, `calls(program)`."""
    programs, plain, state = (tmp_path / name for name in ("programs", "plain", "state"))
    for folder in (programs, plain, state):
        folder.mkdir()
    for name in PLAIN:
        if place := shutil.which(name):
            (plain / name).symlink_to(place)
    for fake in (HERE / "fakes").glob("*.py"):
        if not fake.stem.startswith("_"):
            program = programs / fake.stem
            program.write_text(f'#!/bin/sh\nexec {sys.executable} {fake} "$@"\n')
            program.chmod(0o755)
    values, started = dict(SETTINGS), []
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("SLURM_", "JAX_", "TPU_"))}
    environment |= {name: value for name, value in os.environ.items() if name in KEPT}
    environment |= {
        "PATH": f"{programs}:{plain}",
        "LAUNCH_ENV": str(tmp_path / "settings"),
        "FAKES": str(state),
        "PYTHONPATH": str(ROOT),
        "JAX_PLATFORMS": "cpu",
        "XLA_FLAGS": "--xla_backend_optimization_level=0",
        "TF_CPP_MIN_LOG_LEVEL": "3",
    }

    def settings(**changes):
        values.update(changes)
        lines = [f"{name}={value}\n" for name, value in values.items() if value is not None]
        (tmp_path / "settings").write_text("".join(lines))

    def start(*words, **more):
        process = subprocess.Popen(
            [str(ROOT / words[0]), *map(str, words[1:])],
            env=environment | more,
            cwd=tmp_path,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        started.append(process)
        return process

    def call(*words, **more):
        process = start(*words, **more)
        out, err = process.communicate(timeout=900)
        return SimpleNamespace(code=process.returncode, out=out, err=err)

    def calls(program):
        log = state / f"{program}.jsonl"
        return [json.loads(line) for line in log.read_text().splitlines()] if log.exists() else []

    settings()
    yield SimpleNamespace(
        settings=settings, start=start, call=call, calls=calls, environment=environment, state=state, programs=programs
    )
    for process in started:
        process.kill()
        process.communicate(timeout=60)
    end_what_knows(f"FAKES={state}")


def end_what_knows(setting):
    """Kills every process that has this in its environment: what a test left running, and nothing else."""
    for entry in Path("/proc").glob("[0-9]*/environ"):
        with contextlib.suppress(OSError):
            if setting.encode() in entry.read_bytes().split(b"\0"):
                os.kill(int(entry.parent.name), signal.SIGKILL)


@pytest.fixture
def standin():
    """The words that run standin.py in place of a training."""
    return [sys.executable, str(HERE / "standin.py")]


@pytest.fixture
def refused(machine):
    """Calls a launcher that must refuse: one line that says `about`, and nothing was done."""

    def refuse(about, *words, **more):
        result = machine.call(*words, **more)
        assert result.code in (1, 2)
        assert result.out == ""
        lines = result.err.splitlines()
        assert len(lines) == 1, result.err
        assert lines[0].startswith("error: ")
        assert about in lines[0]
        assert not any(machine.state.glob("*.jsonl"))

    return refuse
