import json

import pytest


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
