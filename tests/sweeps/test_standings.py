"""What is read of run folders, also of those that were cut short, and what a table says of it."""

import json

import pytest

from diffusion_jax.sweeps import plan, standings, table


@pytest.fixture
def planned(sweep_file, tmp_path):
    return plan.read(sweep_file(), 2, None, tmp_path / "sweeps")


def leave(run, step, records="", seconds_of_a_step=None, checkpoint=False):
    """A run folder as a training leaves it at a step."""
    (run.folder / "heartbeat").mkdir(parents=True)
    beat = dict(process=0, step=step, step_seconds=seconds_of_a_step, own_seconds=seconds_of_a_step)
    (run.folder / "heartbeat" / "0.json").write_text(json.dumps(beat))
    (run.folder / "metrics.jsonl").write_text(records)
    if checkpoint:
        (run.folder / "checkpoints" / str(step)).mkdir(parents=True)
        (run.folder / "checkpoints" / str(step) / "_CHECKPOINT_METADATA").write_text("{}")


HALF = '{"step": 2, "train/loss": 0.5}\n{"step": 2, "validation/gap": 0.1}\n{"step": 4, "train/lo'


def test_a_folder_that_is_not_there_waits(planned):
    assert {at.state for at in standings.found(planned)} == {"waiting"}
    assert {(at.step, at.loss, at.to_go) for at in standings.found(planned)} == {(0, None, None)}


def test_a_run_is_done_when_its_last_checkpoint_is_there(planned):
    leave(planned.runs[0], 6, HALF, checkpoint=True)
    leave(planned.runs[1], 6, HALF)  # it logged its last step, and was killed before it was saved
    done, killed, *_ = standings.found(planned)
    assert (done.state, done.step, done.loss, done.to_go) == ("done", 6, 0.5, 0.0)
    assert (killed.state, killed.step, killed.loss) == ("waiting", 6, 0.5)


def test_a_half_written_line_and_a_damaged_heartbeat_are_passed_over(planned):
    run = planned.runs[0]
    leave(run, 4, HALF, seconds_of_a_step=3.0)
    at = standings.looked_at(standings.Standing(run, "running"))
    assert (at.step, at.loss, at.to_go) == (4, 0.5, 6.0)
    (run.folder / "heartbeat" / "0.json").write_text('{"step": 5, "own')
    at = standings.looked_at(standings.Standing(run, "running"))
    assert (at.step, at.loss, at.to_go) == (2, 0.5, None)


def test_the_status_is_whole_and_keeps_what_runs_took(planned):
    standing = standings.Standing(planned.runs[1], "failed", 4, 0.25, None, 12.34, 1, "error: no")
    standings.write_status(planned, [*standings.found(planned)[:1], standing, *standings.found(planned)[2:]])
    told = json.loads((planned.folder / "status.json").read_text())
    assert {name: value for name, value in told.items() if name not in ("arms", "runs")} == {
        "question": "rates", "about": "Which rate?", "preset": "cpu", "seeds": 2, "replicates": "training",
        "decides": None, "against": None,
    }  # fmt: skip
    assert [arm["arm"] for arm in told["arms"]] == ["slow", "fast"]
    assert told["runs"][1] == dict(
        arm="fast", seed=0, folder=f"fast-{planned.arms[1].digest}/seed_0", state="failed", step=4, steps=6, loss=0.25,
        seconds=12.3, code=1, said="error: no", figures=None,
    )  # fmt: skip
    assert [at.seconds for at in standings.found(planned)] == [0.0, 12.3, 0.0, 0.0]
    assert [path.name for path in planned.folder.iterdir()] == ["status.json"]
    for damaged in ("{", '{"runs": [{}]}', "[]"):
        (planned.folder / "status.json").write_text(damaged)
        assert [at.seconds for at in standings.found(planned)] == [0.0] * 4


def test_the_status_names_records_and_what_decides(planned):
    first, second, *_ = planned.runs
    for run, content in ((first, "{"), (second, '{"figures": {"a/b": {}, "a/c": {}}}')):
        standings.figures_file(run).parent.mkdir(parents=True)
        standings.figures_file(run).write_text(content)
    standings.write_status(planned, standings.found(planned))
    told = json.loads((planned.folder / "status.json").read_text())
    assert told["decides"] == "a/b"
    assert [run["figures"] is None for run in told["runs"]] == [False, False, True, True]
    assert (planned.folder / told["runs"][1]["figures"]).read_text().startswith('{"figures"')


def test_arms_that_share_a_training_wait_for_one(sweep_file, tmp_path):
    adds = 'add("a"), add("b", sampling=dict(nfe=9)), add("c", sampling=dict(nfe=7))'
    found = standings.found(plan.read(sweep_file(adds), 3, None, tmp_path))
    first = [at._replace(state="done", seconds=20.0 * (at.run.arm == "a")) for at in found[:3]]
    assert table.to_go([*first, *found[3:]]) == 40.0
    assert table.to_go([*first, found[3]._replace(state="running", to_go=5.0), *found[4:]]) == 25.0


def test_the_table_has_a_row_for_each_run(planned):
    first, second, *others = standings.found(planned)
    seen = [
        first._replace(state="done", step=6, loss=0.123456, seconds=20.0),
        second._replace(state="running"),
        *others,
    ]
    assert table.plain(seen) == [
        "arm   seed  state    step  loss    to go",
        "slow  0     done     6/6   0.1235  -",
        "fast  0     running  0/6   -       -",
        "slow  1     waiting  0/6   -       -",
        "fast  1     waiting  0/6   -       -",
    ]
    assert table.to_go(seen) is None  # the one that runs has not told its pace
    seen[1] = seen[1]._replace(step=2, to_go=8.0)
    assert table.rows(seen)[1] == ("fast", "0", "running", "2/6", "-", "0:00:08")
    assert table.to_go(seen) == 8.0 + 2 * 20.0
    assert table.summary(planned, seen) == f"2 arms x 2 seeds in {planned.folder}: 1 done, 1 running, 2 waiting"
    assert table.to_go([*standings.found(planned)]) is None


def test_lines_say_what_became_of_a_run(planned):
    at = standings.Standing(planned.runs[0], step=2, loss=0.5, seconds=61.0)
    lines = {
        table.line(at._replace(state="running", step=0)),
        table.line(at._replace(state="running")),
        table.line(at._replace(state="done", step=6)),
        table.line(at._replace(state="failed", code=1, said="error: no")),
        table.line(at._replace(state="failed", code=-9)),
        table.line(at._replace(state="left")),
    }
    assert lines == {
        "slow, seed 0: begins",
        "slow, seed 0: goes on from step 2",
        "slow, seed 0: done at step 6/6, loss 0.5000, 0:01:01",
        "slow, seed 0: failed with code 1: error: no",
        "slow, seed 0: failed with code -9: it said nothing",
        "slow, seed 0: left at step 2/6",
    }


def test_on_a_terminal_a_table_lives(planned, monkeypatch, capsys):
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "120")
    seen = standings.found(planned)
    with table.shown(planned) as tell:
        tell(seen, None)
        seen[0] = seen[0]._replace(state="failed", code=1, said="error: [no] such thing")
        tell(seen, seen[0])
    out = capsys.readouterr().out
    assert out.count("slow, seed 0: failed with code 1: error: [no] such thing") == 1
    *_, last = out.split("┏")
    assert [word for word in last.replace("│", " ").split() if word in table.ORDER][:4] == ["failed", *["waiting"] * 3]
    assert table.last_lines(planned, seen) == [table.summary(planned, seen)]


def test_elsewhere_a_line_is_printed_where_a_run_begins_or_ends(planned, capsys):
    seen = standings.found(planned)
    with table.shown(planned) as tell:
        tell(seen, None)
        seen[0] = seen[0]._replace(state="done", step=6, loss=0.5, seconds=2.0)
        tell(seen, seen[0])
    assert capsys.readouterr().out == "slow, seed 0: done at step 6/6, loss 0.5000, 0:00:02; 0:00:06 to go\n"
