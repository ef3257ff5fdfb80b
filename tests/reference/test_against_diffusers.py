"""The benchmark itself, on the smallest config: both workers start, agree, and are timed."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
pytestmark = pytest.mark.reference


def bench(*words):
    line = [sys.executable, "benchmarks/against_diffusers.py", f"--torch_python={sys.executable}", *words]
    return subprocess.run(line, cwd=ROOT, capture_output=True, text=True, env=os.environ | {"XLA_FLAGS": ""})


def test_both_are_timed_in_turns(tmp_path):
    done = bench("experiments/tiny.py@2", "--rounds=2", "--nfe=2", f"--out={tmp_path / 'figures.json'}")
    assert done.returncode == 0, done.stderr
    (figures,) = json.loads((tmp_path / "figures.json").read_text())
    assert [line.split()[1] for line in done.stdout.splitlines()] == ["forward", "sample", "train"]
    for operation in ("forward", "sample", "train"):
        ours, theirs = figures[operation]["seconds_ours_theirs"]
        assert figures[operation]["ratio_of_medians"] == pytest.approx(theirs / ours)
    assert max(figures["theirs"]["distances"].values()) < 1e-3
    assert "torch" in figures["theirs"]["versions"]


def test_no_such_config():
    done = bench("experiments/nothing.py")
    assert done.returncode == 1
    assert done.stderr == "error: no config experiments/nothing.py\n"
