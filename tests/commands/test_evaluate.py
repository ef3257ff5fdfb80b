"""The figures of a trained model, from its folder."""

import json

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
