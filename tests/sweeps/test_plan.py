"""From a file to runs: what is one config, what is not, and what is refused."""

import importlib
from pathlib import Path

import pytest
from ml_collections import ConfigDict

from diffusion_jax.sweeps import plan, standings

ABLATIONS = Path(__file__).parents[2] / "experiments" / "ablations"


@pytest.fixture
def read(sweep_file, tmp_path):
    return lambda *adds, seeds=2, preset=None, **replaced: plan.read(
        sweep_file(*adds, **replaced), seeds, preset, tmp_path / "sweeps"
    )


def test_runs_are_arms_by_seeds_in_folders_of_their_own(read, tmp_path):
    found = read()
    assert (found.question, found.about, found.preset, found.seeds) == ("rates", "Which rate?", "cpu", 2)
    assert [(run.arm, run.seed) for run in found.runs] == [("slow", 0), ("fast", 0), ("slow", 1), ("fast", 1)]
    assert [run.config.seed for run in found.runs] == [0, 0, 1, 1]
    assert [run.config.optimizer.learning_rate for run in found.runs] == [1e-4, 1e-2, 1e-4, 1e-2]
    slow, fast = found.arms
    assert found.runs[3].folder == tmp_path / "sweeps" / "rates" / f"fast-{fast.digest}" / "seed_1"
    assert slow.differs == ("optimizer.learning_rate: 0.001 -> 0.0001",)
    assert len({run.folder for run in found.runs}) == 4


def test_a_folder_is_the_same_whatever_other_arms_there_are(read):
    alone = read('add("fast", optimizer=dict(learning_rate=1e-2))')
    assert alone.arms[0] == read().arms[1]


def test_the_preset_is_told_to_get_config(read):
    assert read(preset="full").runs[0].config.train.steps == 60
    assert read(preset="full").arms[0].digest != read(preset="cpu").arms[0].digest


def test_a_dict_with_a_name_replaces_and_one_without_changes(read):
    found = read(
        'add("a", schedule=dict(name="sigmoid")), add("b", denoiser=dict(channels=24, zero=2)), '
        'add("c", {"denoiser.multipliers": [1, 3], "train.steps": 9})'
    )
    a, b, c = (arm.config for arm in found.arms)
    assert a.schedule.to_dict() == {"name": "sigmoid"}
    assert (b.denoiser.name, b.denoiser.channels, b.denoiser.zero) == ("UNet", 24, 2)
    assert (c.denoiser.multipliers, c.train.steps, c.train.log_every) == ((1, 3), 9, 10)
    assert a.denoiser.channels == 16


SHARED = (
    'add("a", sampling=dict(nfe=4)), add("b", sampling=dict(nfe=9)), add("c", {"sampling.nfe": 9, "ema_decay": 0.9})'
)


def test_arms_that_draw_or_are_measured_differently_share_a_training(read, tmp_path):
    a, b, c = read(SHARED).arms
    assert a.digest == b.digest != c.digest
    assert a.measured != b.measured == c.measured
    homes = [run.folder.parent.name for run in read(SHARED, seeds=1).runs]
    assert homes == [f"a-{a.digest}"] * 2 + [f"c-{c.digest}"]
    (tmp_path / "sweeps" / "rates" / homes[0]).mkdir(parents=True)
    other = read('add("b", sampling=dict(nfe=9)), add("figures", figures=(dict(name="pixels"),))', seeds=1)
    assert [run.folder.parent.name for run in other.runs] == homes[:1] * 2  # it goes by the digest, whoever was first


def test_nothing_is_trained_of_something(read):
    with pytest.raises(ValueError, match=r"train\.steps = 0 and no begin"):
        read(**{"dict(cpu=6, full=60)[preset]": "0"})
    found = read(**{"dict(cpu=6, full=60)[preset]": '0; config.begin = "emoji"'})
    assert {at.state for at in standings.found(found)} == {"done"}


@pytest.fixture
def tiny(monkeypatch):
    monkeypatch.syspath_prepend(ABLATIONS.parents[1])
    return importlib.import_module("experiments.tiny").get_config


def test_the_digest_is_of_what_is_learned_and_reported(tiny):
    first = plan.digest(tiny())
    assert len(first) == 12
    for name, value in {
        "seed": 3, "loader.prefetch": 1, "loader.workers": 2, "microbatch": 4, "train.save_every": 1,
        "train.keep": 9, "sampling.nfe": 7,
    }.items():  # fmt: skip
        config = tiny()
        config.update_from_flattened_dict({name: value})
        assert plan.digest(config) == first, name
    for name, value in {
        "train.steps": 61, "validation_size": 33, "batch_size": 8, "ema_decay": 0.9, "data.size": 17,
        "schedule.name": "sigmoid", "denoiser.channels": 8,
    }.items():  # fmt: skip
        config = tiny()
        config.update_from_flattened_dict({name: value})
        assert plan.digest(config) != first, name


def test_the_digest_knows_no_order_and_no_entry_that_says_what_goes_without_saying(tiny):
    config = tiny()
    backwards = ConfigDict(dict(reversed(list(config.to_dict().items()))))
    assert plan.digest(backwards) == plan.digest(config)
    for name in ("begin", "lora", "parallel", "microbatch"):
        del config[name]
    assert plan.digest(config) == plan.digest(tiny())


@pytest.mark.parametrize(
    ("adds", "line"),
    [
        ("pass", r"sweep\(add\) has added no arm"),
        ('add("a"), add("a", label="b")', "arm a: there are two of that name"),
        ('add("a"), add("b", loader=dict(prefetch=1))', "arms a and b are one config, and would be one run"),
        ('add("a/b")', "arm 'a/b': it names a folder"),
        ('add("..")', "arm '..': it names a folder"),
        ('add("a", shedule=dict(name="cosine"))', "arm a: the config has no entry shedule: did you mean schedule?"),
        ('add("a", {"train.step": 3})', "arm a: the config has no entry train.step: did you mean train.steps?"),
        ('add("a", {"seed.a": 3})', "arm a: the config's seed is 0, and has no entry a"),
        ('add("a", seed=3)', "arm a sets seed, which the sweep does"),
        ('add("a", batch_size="many")', "arm a: batch_size='many' does not take the place of 16"),
        ('add("a", schedule="cosine")', "arm a: schedule='cosine' does not take the place of"),
        ('raise ValueError("no such thing")', "no such thing"),
    ],
)
def test_arms_that_make_no_sense_are_one_line(read, adds, line):
    with pytest.raises(ValueError, match=line) as caught:
        read(adds)
    assert "rates.py: " in str(caught.value)


@pytest.mark.parametrize(
    ("old", "new", "line"),
    [
        ("def sweep", "def sweeps", r"has no sweep\(\): a sweep file has"),
        ("def get_config", "def config", r"has no get_config\(\)"),
        ("return config", "return 3", r"get_config\(\) returns a int"),
        ("return config", "del config.seed\n    return config", r"get_config\(\) has no entry seed"),
        ("return config", "del config.train\n    return config", r"get_config\(\) has no entry train.steps"),
        ("import tiny", "import tinny", "rates.py cannot be read: cannot import"),
        ("import tiny", "import", "rates.py cannot be read: "),
    ],
)
def test_files_that_are_no_sweep_are_one_line(read, old, new, line):
    with pytest.raises(ValueError, match=line):
        read(**{old: new})


def test_seeds_presets_and_folders_that_make_no_sense_are_one_line(read, sweep_file, tmp_path):
    with pytest.raises(ValueError, match="--seeds=0: a sweep needs one at least"):
        read(seeds=0)
    with pytest.raises(ValueError, match=r"--preset=full: its get_config\(\) takes no preset"):
        read(preset="full", **{'preset="cpu"': "", "[preset]": '["cpu"]'})
    with pytest.raises(FileNotFoundError, match=r"no sweep file nowhere\.py"):
        plan.read("nowhere.py", 1)
    with pytest.raises(ValueError, match="cannot hold a colon"):
        plan.read(sweep_file(), 1, None, "a:b")
    text = tmp_path / "sweep.txt"
    text.write_text("")
    with pytest.raises(ValueError, match="is no Python file"):
        plan.read(text, 1)


@pytest.mark.parametrize("name", ["prediction", "null"])
@pytest.mark.parametrize("preset", plan.PRESETS)
def test_the_sweeps_of_the_house_are_sweeps(monkeypatch, name, preset):
    monkeypatch.syspath_prepend(ABLATIONS.parents[1])
    found = plan.read(ABLATIONS / f"{name}.py", 5, preset)
    changed = {line.split(":")[0] for arm in found.arms for line in arm.differs}
    assert changed == {"prediction": {"parameterization.name"}, "null": {"label"}}[name]
    assert len(found.runs) == 5 * len(found.arms)
