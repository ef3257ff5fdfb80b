import json

import pytest


def test_a_plan_is_a_page_and_json(command, mini, tmp_path):
    out = tmp_path / "plan.json"
    code, said, *_ = command("plan", f"--config={mini}", "--devices=8", "--kind=v5p", "--images=8000", f"--out={out}")
    assert code == 0
    found = json.loads(out.read_text())
    assert found["steps"] == 1000
    assert found["memory"]["in all"] == sum(size for name, size in found["memory"].items() if name != "in all")
    for line in ("8 x v5p (data=8 x fsdp=1 x tensor=1), batches of 8, 1 at once on each device", "an assumption"):
        assert line in said
    assert f"{found['dollars']:,.0f} dollars at 4.20" in said


@pytest.mark.parametrize(
    ("flag", "code", "line"),
    [
        ("--kind=h10", 1, "--kind=h10: no such device is known; did you mean h100?"),
        ("--devices=3", 1, "batch_size=8 does not divide among 3 devices: use a multiple of 3"),
        ("--utilization=0", 1, "--utilization=0: it is a share of the peak, above 0 and at most 1"),
        ("--images=0", 1, "--images=0: training takes one at least; without the flag, the config's steps count"),
    ],
)
def test_bad_flags_are_one_line(command, mini, flag, code, line):
    found, _, said = command("plan", f"--config={mini}", "--devices=8", "--kind=v5p", flag)
    assert (found, said.strip()) == (code, f"error: {line}")


def test_devices_and_kind_have_to_be_said(command, mini):
    code, _, said = command("plan", f"--config={mini}", "--devices=8")
    assert code == 2
    assert "--kind is required" in said
