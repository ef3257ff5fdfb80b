"""The figures of a trained model, from its folder."""

import json

import numpy as np
import pytest


def test_figures_of_a_run(command, trained):
    code, out, err = command("evaluate", f"--workdir={trained}", "--count=11")
    assert (code, err) == (0, "")
    figures = json.loads((trained / "evaluation.json").read_text())
    assert figures["validation/examples"] == figures["alignment/examples"] == 11
    assert figures["validation/gap"] == pytest.approx(figures["validation/shuffled"] - figures["validation/matched"])
    assert len(figures["validation/matched_by_level"]) == 6
    assert figures["alignment_of_real_pictures/caption"] == 1.0  # the parser reads what the data set draws
    assert 0 <= figures["alignment/caption"] <= 1
    assert all(name in out for name in figures)
    last = [json.loads(line) for line in (trained / "metrics.jsonl").read_text().splitlines()][-1]
    assert last["step"] == 8
    assert figures["validation/matched"] == pytest.approx(last["validation/matched"], rel=1e-5)  # as in training


@pytest.mark.parametrize(
    ("words", "code", "line"),
    [
        (["--workdir=nowhere"], 1, "nowhere is no run folder"),
        ([], 1, "give either --workdir=RUN or --pretrained=NAME"),
        (["--workdir=x", "--count=0"], 2, "--count=0"),
    ],
)
def test_what_cannot_be_evaluated_is_one_line(command, words, code, line):
    found, _, err = command("evaluate", *words)
    assert line in err
    assert (found, err.count("\n")) == (code, 1)


def test_no_data(command, trained, tmp_path):
    config = json.loads((trained / "config.json").read_text())
    (trained / "config.json").write_text(json.dumps(config | {"data": {"name": "emoji"}}))
    code, _, err = command("evaluate", f"--workdir={trained}", f"--data_dir={tmp_path / 'none'}")
    assert code == 1
    assert "run `diffusion-jax data build emoji` first" in err


@pytest.fixture(scope="module")
def averaging(mini, tmp_path_factory):
    """A config that keeps averages of two lengths."""
    path = tmp_path_factory.mktemp("averaging") / "config.py"
    lines = [
        "    config.ema_lengths = (0.05, 0.1)",
        "    config.train.update(dict(snapshot_every=2, sample_every=0, validate_every=0))",
        "    return config",
    ]
    path.write_text(mini.read_text().replace("    return config", "\n".join(lines)))
    return path


def test_averages_of_any_length_are_judged_and_a_resumed_run_keeps_the_same(command, averaging, tmp_path):
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    assert command("train", f"--config={averaging}", f"--workdir={whole}")[0] == 0
    for steps in (5, 8):
        words = ("train", f"--config={averaging}", f"--workdir={parts}", f"--config.train.steps={steps}")
        assert command(*words)[0] == 0
    files = [path.name for path in sorted((whole / "ema").iterdir())]
    assert len(files) == 4  # after steps 2, 4, 6 and 8
    for name in files:
        assert (parts / "ema" / name).read_bytes() == (whole / "ema" / name).read_bytes()

    code, out, _ = command("evaluate", f"--workdir={whole}", "--ema=0.05,0.1", "--count=11")
    assert code == 0
    figures = json.loads((whole / "evaluation.json").read_text())
    matched = {name: figures[f"{name}validation/matched"] for name in ("", "ema_0.05/", "ema_0.1/")}
    assert len(set(matched.values())) == 3
    assert all(np.isfinite(list(matched.values())))
    assert "ema_0.1/validation/gap" in out


@pytest.mark.parametrize(
    ("words", "code", "line"),
    [
        (["--ema=short"], 2, "--ema=short: write numbers, such as 0.05,0.1"),
        (["--ema=0.5"], 1, "0.5"),
        (["--ema=0.05"], 1, "ema"),
    ],
)
def test_averages_that_cannot_be_made_are_one_line(command, trained, words, code, line):
    found, _, err = command("evaluate", f"--workdir={trained}", "--count=11", *words)
    assert (found, err.count("\n")) == (code, 1)
    assert line in err
