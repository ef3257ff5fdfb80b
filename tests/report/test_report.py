"""What a report says of sweeps whose truth is known, and of those that went wrong."""

import csv
import io
import json
from html.parser import HTMLParser

import numpy as np
import pytest

from diffusion_jax import report as room
from diffusion_jax.__main__ import main
from diffusion_jax.evaluation import paired, verdicts
from diffusion_jax.report import findings, judged, parts, tables
from diffusion_jax.report.findings import Run, Sweep

NAN = float("nan")
NOT_A_NUMBER = '{"figures": {"held_out/error": {"value": "0.1"}}}'
THREE = {"a": [1.0, 1.1, 0.9, 1.05, 1.0], "b": [2.0, 2.2, 1.8, 2.1, 2.0], "c": [1.01, 1.09, 0.91, 1.06, 1.0]}


def swept(values, about=(), **changes):
    """A sweep in memory, {arm: array of seeds}."""
    known = dict(title="", better="lower", relevant=0.1, relevant_of="mean", n=9, of="", floor=None, features=None)
    known |= dict(about)
    runs = {}
    for arm, figures in values.items():
        for seed, value in enumerate(figures):
            record = {"figures": {"m/x": known | {"value": float(value)}}}
            runs[arm, seed] = Run(arm, seed, "done", None, 1.0, "", record, "", [], {})
    seeds = max(map(len, values.values()))
    made = Sweep(None, "q", "", "cpu", seeds, "training", None, {arm: [] for arm in values}, runs)
    return made._replace(**changes)


def simulated(repeats, gap, spread, shared, seeds=5, seed=0):
    """The verdicts on two arms in many sweeps: what a seed does to both (shared) and to one (spread) is normal."""
    rng = np.random.default_rng(seed)
    found = []
    for _ in range(repeats):
        both = 1 + shared * rng.normal(size=seeds)
        arms = {"a": both + spread * rng.normal(size=seeds), "b": both + gap + spread * rng.normal(size=seeds)}
        (result,) = judged.results(swept(arms))
        found.append(result)
    return found


def test_two_arms_that_are_alike_show_no_difference():
    found = simulated(600, 0.0, 0.05, 0.3)
    same = np.mean([result.verdicts[0].verdict == verdicts.NO_DIFFERENCE for result in found])
    assert 0.93 <= same <= 0.97  # 95%, and two standard errors


def test_a_planted_gap_of_a_tenth_is_found_with_the_power_that_is_claimed():
    """Pairing is what finds it: what the seeds do to both arms is six times the spread of the difference."""
    spread = 0.05
    found = simulated(400, 0.1, spread, 0.3, seed=1)
    better = np.mean([result.verdicts[0].verdict == verdicts.BETTER for result in found])
    claimed = paired.power(0.1, spread * 2**0.5, 5)
    assert abs(better - claimed) <= 0.06
    needed = np.median([result.verdicts[0].needed.seeds for result in found])
    assert abs(needed - paired.seeds_needed(0.1, spread * 2**0.5)) <= 2


def test_intervals_of_the_difference_cover_as_they_say():
    found = simulated(600, 0.1, 0.05, 0.3, seed=2)
    covered = np.mean([each.verdicts[0].low <= -0.1 <= each.verdicts[0].high for each in found])
    assert 0.93 <= covered <= 0.97


def test_what_decides_is_told_first_with_its_arms_and_pairs(write_sweep, capsys):
    folder = write_sweep(THREE, curves=True, pictures=True, others={"pixels/energy": {"better": None}})
    home = room.report(str(folder))
    out = capsys.readouterr().out
    assert "a against b: better, by 1.01" in out
    assert out.endswith(f"{home / 'report.html'}\n")
    page, text = (home / "report.html").read_text(), (home / "report.md").read_text()
    for told in (page, text):
        assert told.index("What") < told.index("a against b") < told.index("Also measured") < told.index("0.12.0")
        assert "no difference shown" in told
    assert "| **a** | 1.01 |" in text
    assert {path.suffix for path in home.iterdir()} == {".html", ".md", ".csv", ".svg", ".png"}


def test_csv_holds_what_the_verdicts_are(write_sweep):
    home = room.report(str(write_sweep(THREE)))
    rows = list(csv.DictReader(io.StringIO((home / "pairs.csv").read_text())))
    values = {arm: dict(enumerate(figures)) for arm, figures in THREE.items()}
    expected = verdicts.verdicts(values, range(5), lower_is_better=True, relevant=0.05)
    assert [(row["a"], row["b"], row["verdict"]) for row in rows] == [
        (each.a, each.b, each.verdict) for each in expected
    ]
    for row, each in zip(rows, expected, strict=True):
        assert (row["a"], row["b"], row["verdict"]) == (each.a, each.b, each.verdict)
        assert (float(row["p_holm"]), float(row["difference"])) == (each.p_holm, each.difference)
    of_arms = {row["arm"]: row for row in csv.DictReader(io.StringIO((home / "arms.csv").read_text()))}
    assert float(of_arms["a"]["mean"]) == np.mean(THREE["a"])
    of_runs = list(csv.DictReader(io.StringIO((home / "runs.csv").read_text())))
    assert [float(row["held_out/error"]) for row in of_runs[:5]] == THREE["a"]


def test_crashed_diverged_and_missing_runs_are_named_and_never_averaged(write_sweep):
    values = {"a": [1.0, 1.1, 0.9, NAN, 1.0], "b": [2.0, None, 1.8, 2.1, "missing"], "whole": [3.0, 3.1, 2.9, 3.0, 3.2]}
    folder = write_sweep(values)
    home = room.report(str(folder))
    page, text = (home / "report.html").read_text(), (home / "report.md").read_text()
    for told in (page, text):
        assert "a seed 3: 1 run of 15: diverged." in told
        assert "b seed 1: 1 run of 15: crashed." in told
        assert "b seed 4: 1 run of 15: not begun, or not done." in told
    of_arms = {row["arm"]: row for row in csv.DictReader(io.StringIO((home / "arms.csv").read_text()))}
    assert float(of_arms["a"]["mean"]) == 1.0
    assert (of_arms["a"]["diverged"], of_arms["b"]["crashed"], of_arms["b"]["missing"]) == ("3", "1", "4")
    assert "withheld" in text  # a is better, but diverged where `whole` finished
    assert "nan" not in text.lower()


def test_a_record_that_is_damaged_or_gone_counts_as_missing_and_is_named(write_sweep):
    folder = write_sweep(THREE)
    for seed, content in ((0, '{"figures": {"held_out/error": {"val'), (1, "[]"), (2, None), (3, NOT_A_NUMBER)):
        (path,) = folder.glob(f"a-*/seed_{seed}/figures/key.json")
        path.unlink() if content is None else path.write_text(content)
    sweep = findings.read(folder)
    (result,) = judged.results(sweep)
    assert result.arms[0].fates.missing == (0, 1, 2, 3)
    (line,) = judged.undone(sweep)
    assert line.count("is damaged") == 3
    assert line.count("is gone") == 1


def test_the_state_of_a_run_counts_and_not_what_an_earlier_process_measured(write_sweep):
    folder = write_sweep(THREE)
    told = json.loads((folder / "status.json").read_text())
    told["runs"][0]["state"], told["runs"][1]["state"] = "failed", "diverged"
    (folder / "status.json").write_text(json.dumps(told))
    (result,) = judged.results(findings.read(folder))
    assert (result.arms[0].fates.crashed, result.arms[0].fates.diverged) == ((0,), (1,))
    assert result.arms[0].mean == np.mean(THREE["a"][2:])


def test_runs_that_were_measured_otherwise_are_not_compared(write_sweep, capsys):
    for change in ({"n": 64}, {"features": "another network"}):
        folder = write_sweep(THREE, name=f"q{len(change)}{next(iter(change))}")
        (path,) = folder.glob("c-*/seed_0/figures/key.json")
        record = json.loads(path.read_text())
        record["figures"]["held_out/error"] |= change
        path.write_text(json.dumps(record))
        home = room.report(str(folder))
        assert "Runs were not measured alike, so there is no verdict" in capsys.readouterr().out
        assert len((home / "pairs.csv").read_text().splitlines()) == 1


def test_what_an_earlier_report_had_drawn_is_gone(write_sweep):
    folder = write_sweep(THREE, curves=True)
    home = room.report(str(folder))
    assert (home / "curve_held_out_by_level.svg").exists()
    (home / "notes.txt").write_text("mine")
    for path in folder.glob("*/*/figures/key.json"):
        path.write_text(json.dumps(json.loads(path.read_text()) | {"curves": {}}))
    room.report(str(folder))
    assert not (home / "curve_held_out_by_level.svg").exists()
    assert (home / "notes.txt").exists()


def test_one_seed_has_no_verdict_and_says_so(write_sweep, capsys):
    home = room.report(str(write_sweep({arm: values[:1] for arm, values in THREE.items()})))
    assert "One seed: no verdict" in capsys.readouterr().out
    page = (home / "report.html").read_text()
    assert "One seed: no verdict" in page
    assert "is better<" not in page


def test_an_arm_settled_before_is_the_only_one_compared_with(write_sweep):
    folder = write_sweep(THREE, against="c")
    (result,) = judged.results(findings.read(folder))
    assert [(each.a, each.b) for each in result.verdicts] == [("a", "c"), ("b", "c")]


def test_draws_of_one_model_are_not_told_as_trainings(write_sweep):
    for replicates, told in (("drawing", True), ("training", False)):
        home = room.report(str(write_sweep(THREE, name=replicates, replicates=replicates)))
        assert (parts.DRAWING in (home / "report.md").read_text()) is told
        assert (parts.DRAWING in (home / "report.html").read_text()) is told


class Page(HTMLParser):
    """Notes what opens and closes, and what a reader cannot see."""

    VOID = ("meta", "link", "img", "br")

    def __init__(self):
        super().__init__()
        self.open, self.links, self.alts, self.ids, self.text = [], [], [], [], []

    def handle_starttag(self, tag, attributes):
        told = dict(attributes)
        self.links += [told[name] for name in ("src", "href") if name in told]
        self.alts += [told.get("alt")] if tag == "img" else []
        self.ids += [told["id"]] if "id" in told else []
        assert tag != "script"
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text.append(data)


def test_the_page_is_whole_and_needs_nothing_from_elsewhere(write_sweep):
    values = {"a<b>&": THREE["a"], "b": THREE["b"]}
    home = room.report(str(write_sweep(values, curves=True, pictures=True)))
    page = Page()
    page.feed((home / "report.html").read_text())
    assert page.open == []
    assert all(link.startswith("data:") for link in page.links)
    assert len(page.links) > 20
    assert all(page.alts)
    assert len(set(page.ids)) == len(page.ids)
    assert "a<b>&" in page.text
    assert "Which <one>?" in page.text
    assert "a <red> circle" in page.text


def test_the_same_sweep_makes_the_same_bytes(write_sweep):
    folder = write_sweep(THREE, curves=True, pictures=True)
    first = {path.name: path.read_bytes() for path in room.report(str(folder)).iterdir()}
    again = {path.name: path.read_bytes() for path in room.report(str(folder)).iterdir()}
    assert first == again


def test_many_arms_stay_readable(write_sweep):
    rng = np.random.default_rng(0)
    values = {f"kind{i % 3}-{i}": list(1 + i + 0.1 * rng.normal(size=3)) for i in range(15)}
    folder = write_sweep(values)
    (result,) = judged.results(findings.read(folder))
    assert len(result.verdicts) == 105
    assert len(judged.sentences_of(findings.read(folder), result)) <= 23
    assert len(tables.pairs(result).rows) == tables.MOST_PAIRS
    home = room.report(str(folder))
    assert len((home / "pairs.csv").read_text().splitlines()) == 106


def test_a_sweep_whose_figures_scatter_in_drawing_alone_has_plots_over_the_calls(write_sweep):
    folder = write_sweep({"euler-5": [3.0, 3.1], "euler-9": [2.0, 2.1], "heun-9": [1.0, 1.2]})
    told = json.loads((folder / "status.json").read_text())
    for arm in told["arms"]:
        arm["differs"] = [f"sampling.nfe: 20 -> {arm['arm'].split('-')[1]}"]
    (folder / "status.json").write_text(json.dumps(told))
    for path in folder.glob("*/seed_*/figures/key.json"):
        record = json.loads(path.read_text())
        record["axes"]["nfe"] = int(record["arm"].split("-")[1])
        path.write_text(json.dumps(record))
    home = room.report(str(folder))
    rows = list(csv.reader(io.StringIO((home / "held_out_error_over_nfe.csv").read_text())))
    assert [(row[0], float(row[1])) for row in rows[1:]] == [("euler-5", 5.0), ("euler-9", 9.0), ("heun-9", 9.0)]


@pytest.mark.parametrize(
    ("change", "error", "line"),
    [
        (lambda folder: (folder / "status.json").unlink(), FileNotFoundError, "is no sweep: it has no status.json"),
        (lambda folder: (folder / "status.json").write_text("{"), ValueError, "status.json is damaged"),
        (lambda folder: (folder / "status.json").write_text("{}"), ValueError, "status.json is damaged"),
        (
            lambda folder: [path.unlink() for path in folder.glob("*/*/figures/*")],
            ValueError,
            "nothing is measured yet",
        ),
    ],
)
def test_what_is_no_sweep_is_one_line_and_leaves_nothing(write_sweep, change, error, line):
    folder = write_sweep({"a": THREE["a"]})
    change(folder)
    with pytest.raises(error, match=line):
        room.report(str(folder))
    assert not (folder / "report").exists()


def test_the_file_of_a_sweep_will_do(write_sweep, tmp_path, capsys):
    write_sweep(THREE)
    (tmp_path / "question.py").write_text("")
    assert main(["report", str(tmp_path / "question.py"), f"--workdir={tmp_path}"]) == 0
    assert capsys.readouterr().out.endswith(f"{tmp_path / 'question' / 'report' / 'report.html'}\n")
    assert main(["report", str(tmp_path / "nowhere")]) == 1
    line = "is no sweep: it has no status.json, which diffusion-jax sweep writes"
    assert capsys.readouterr().err == f"error: {tmp_path / 'nowhere'} {line}\n"
