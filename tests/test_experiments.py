import importlib
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from diffusion_jax import build, measures, sampling, trained
from diffusion_jax import config as entries
from diffusion_jax.data.examples import Indexed
from diffusion_jax.sweeps import plan as sweeps

NAMES = sorted(
    path.stem for path in (Path(__file__).parents[1] / "experiments").glob("*.py") if path.stem != "__init__"
)
ABLATIONS = Path(__file__).parents[1] / "experiments" / "ablations"
SWEEPS = sorted(path.stem for path in ABLATIONS.glob("*.py") if "def sweep(" in path.read_text())


def config_of(name, *arguments):
    return importlib.import_module(f"experiments.{name}").get_config(*arguments)


@pytest.mark.parametrize("name", [*NAMES, "emoji32:bytes"])
def test_every_experiment_fits_together(name):
    config = config_of(*name.split(":"))
    experiment = build.build(config)
    params = jax.eval_shape(experiment.init, jax.random.key(0))
    learned = set() if config.text_encoder.get("cached") else {"text_encoder"}
    assert set(params) == {"denoiser"} | learned
    grid, _ = sampling.sampler(experiment, config.sampling)
    sigmas = grid()
    assert (jnp.diff(sigmas) < 0).all()
    assert sigmas[-1] > 0


@pytest.mark.parametrize("name", SWEEPS)
def test_every_arm_of_every_sweep_fits_together(name, tmp_path):
    assert len(sweeps.read(ABLATIONS / f"{name}.py", 1, "full", tmp_path).arms) > 1
    planned = sweeps.read(ABLATIONS / f"{name}.py", 1, "cpu", tmp_path)
    assert planned.about
    built = {}
    for arm in planned.arms:
        if arm.digest not in built:
            built[arm.digest] = build.build(arm.config)
        if any(line.startswith("sampling.") for line in arm.differs):
            sampling.sampler(built[arm.digest], arm.config.sampling)
        for entry in arm.config.figures:
            entries.bind(entry, measures, given=1)


def test_own_schedule_is_a_schedule():
    config = config_of("own_schedule")
    schedule = build.build(config).schedule
    t = jnp.linspace(0.01, 0.99, 50)
    log_snr = schedule.log_snr(t)
    assert (jnp.diff(log_snr) < 0).all()
    np.testing.assert_allclose(schedule.t(log_snr), t, atol=1e-5)
    plain = build.build(config_of("tiny")).schedule
    np.testing.assert_allclose(log_snr, plain.log_snr(t**config.schedule.power), rtol=1e-6)


def test_own_pictures_are_read_from_a_folder(tmp_path):
    for number in range(40):
        Image.new("RGB", (20, 10), (number, 0, 0)).save(tmp_path / f"{number}.png")
        (tmp_path / f"{number}.txt").write_text(f"shade {number}")
    config = config_of("own_pictures")
    config.data.path = str(tmp_path)
    splits = [build.source(config, split, "data") for split in ("train", "validation")]
    captions = {source[i]["captions"][0] for source in splits for i in range(len(source))}
    assert captions == {f"shade {number}" for number in range(40)}


def test_readme_shows_the_file_that_is_tested():
    root = Path(__file__).parents[1]
    code = (root / "experiments" / "own_schedule.py").read_text().split("\n\n\n", 1)[1]
    assert code.strip() in (root / "README.md").read_text()


def test_the_text_encoder_ablation_says_the_same_pictures_in_other_words(monkeypatch):
    ablation = importlib.import_module("experiments.ablations.text_encoder")
    config = ablation.get_config()
    names = {split: ["what is not asked", *others] for split, others in ablation.PARAPHRASES.items()}

    def source(config, split, data_dir):
        def example(index):
            name = names[split][index]
            picture = np.full((16, 16, 3), index, np.uint8)
            return {"image": picture, "captions": (f"{name}, noto style", name, "key, words"), "id": str(index)}

        return Indexed(len(names[split]), example)

    monkeypatch.setattr(build, "source", source)
    sets = ablation.sets_of(trained.Trained("", config, build.build(config), {}), "data")
    for split, others in ablation.PARAPHRASES.items():
        named, paraphrased = sets[f"{split}_named"], sets[f"{split}_paraphrased"]
        np.testing.assert_array_equal(named["image"], paraphrased["image"])
        told = [names[split][picture[0, 0, 0]] for picture in named["image"]]
        assert sorted(told) == sorted(others)
        assert named["captions"] == [f"{name}, noto style" for name in told]
        assert paraphrased["captions"] == [f"{others[name]}, noto style" for name in told]
        assert not np.array_equal(named["tokens"], paraphrased["tokens"])


def test_arms_of_the_text_encoder_ablation_differ_in_the_text_alone():
    get_config = importlib.import_module("experiments.ablations.text_encoder").get_config
    changed = entries.differences(entries.as_json(get_config("bytes")), entries.as_json(get_config("minilm")))
    assert {line.split(":")[0].split(".")[0] for line in changed} == {"tokenizer", "text_encoder"}
    with pytest.raises(ValueError, match="choose minilm or bytes"):
        get_config("words")
