import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("what", ["train", "sample"])
def test_figures_are_written_and_agree(command, mini, tmp_path, what):
    out = tmp_path / "figures.json"
    code, *_ = command("bench", what, f"--config={mini}", "--repeats=2", f"--out={out}")
    assert code == 0
    figures = json.loads(out.read_text())
    low, high = figures["images_per_second_10_to_90_percent"]
    assert 0 < low <= figures["images_per_second"] <= high
    assert figures["flop_per_second"] == pytest.approx(figures["flop"] / figures["seconds"])
    assert figures["utilization"] == pytest.approx(figures["flop_per_second"] / figures["matmul_flop_per_second"])
    assert figures["memory_mib"] > 0


def test_another_word_is_refused(command, mini):
    code, *said = command("bench", "running", f"--config={mini}")
    assert code == 2
    assert "bench train" in "".join(map(str, said))


def test_bytes_are_counted_on_devices_that_the_command_simulates(mini, tmp_path):
    """In a process that would have one device."""
    out = tmp_path / "scale.json"
    environment = os.environ | {"XLA_FLAGS": "--xla_backend_optimization_level=0", "PYTHONPATH": str(ROOT)}
    words = ["bench", "scale", f"--config={mini}", "--devices=2", "--layouts=data", f"--out={out}"]
    done = subprocess.run(
        [sys.executable, "-m", "diffusion_jax", *words], env=environment, capture_output=True, text=True, cwd=tmp_path
    )
    assert done.returncode == 0, done.stderr
    figures = json.loads(out.read_text())
    sizes = {kind: [(row["devices"], row["batch"]) for row in figures[kind]] for kind in ("weak", "strong")}
    assert sizes == {"weak": [(1, 4), (2, 8)], "strong": [(1, 8), (2, 8)]}
    for one, two in (figures["weak"], figures["strong"]):
        assert (one["collectives"], one["sent"]) == ([], 0)
        assert [(each["kind"], each["count"], each["times"]) for each in two["collectives"]] == [("all-reduce", 1, 1)]
        assert f"{two['sent']:,.0f}" in done.stdout


def test_a_number_of_devices_that_makes_no_sense_is_one_line(command, mini):
    code, _, said = command("bench", "scale", f"--config={mini}", "--devices=6")
    assert (code, said) == (1, "error: --devices=6: give a power of two, from 2 on\n")
