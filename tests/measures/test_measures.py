"""What is measured of a model, with parameters that nobody trained."""

import json

import jax
import numpy as np
import pytest
from PIL import Image

from diffusion_jax import build
from diffusion_jax.data import shapes_parser
from diffusion_jax.evaluation import vit_features
from diffusion_jax.evaluation.features import Features
from diffusion_jax.measures import record
from diffusion_jax.measures.contract import Figure, Found
from diffusion_jax.measures.pictures import alignment, clip_score, features
from experiments import tiny


def brightness(subject, scale=1.0):
    """A measure of somebody's own: it sees what was drawn."""

    def measure(params, seed, drawn):
        mean = scale * float(drawn().mean())
        figure = Figure(mean, "mean of a channel", None, len(drawn()), "pictures")
        return Found({"mean": figure, "none": figure._replace(value=np.nan)})

    return measure


def config_of(*figures, **changes):
    config = tiny.get_config()
    config.denoiser.update(dict(channels=8, multipliers=(1,), self_attention=(), cross_attention=(4,)))
    config.text_encoder.update(dict(dim=8, d_kv=4, d_ff=8, heads=1))
    config.validation_size = 32
    config.sampling.nfe = 2
    config.update(changes)
    config.figures = figures
    return config


@pytest.fixture(scope="module")
def measured():
    """(config, parameters, the measuring function) of a small model."""
    own = dict(name=f"{__name__}:brightness", scale=2.0)
    config = config_of(dict(name="held_out"), dict(name="alignment"), dict(name="pixels"), own)
    experiment = build.build(config)
    params = jax.jit(experiment.init)(jax.random.key(0))
    return config, params, record.make_measuring(config, experiment, "data")


def test_figures_come_with_what_has_to_be_known_of_them(measured):
    config, params, measure = measured
    found = measure(params, 0)
    assert next(iter(found.figures)) == "held_out/error"
    for name, figure in found.figures.items():
        assert figure["n"] == 32, name
        assert figure["title"]
        assert (figure["value"] is None) == name.endswith("none")
    assert found.figures["brightness/none"]["value"] is None  # NaN is no JSON
    assert found.figures["alignment/caption"]["floor"] == 1.0
    assert found.figures["pixels/energy"]["floor"] < found.figures["pixels/energy"]["value"]
    assert found.axes["nfe"] == 2
    assert found.cost["parameters"] == sum(leaf.size for leaf in jax.tree.leaves(params))
    assert found.pictures.shape == (len(config.sampling.prompts), 16, 16, 3)


def test_the_seed_decides_what_is_drawn_and_nothing_of_the_losses(measured):
    _, params, measure = measured
    first, again, other = (measure(params, seed) for seed in (0, 0, 1))
    values = [{name: figure["value"] for name, figure in each.figures.items()} for each in (first, again, other)]
    assert values[0] == values[1]
    assert values[0]["held_out/error"] == values[2]["held_out/error"]
    assert values[0]["brightness/mean"] != values[2]["brightness/mean"]
    np.testing.assert_array_equal(first.pictures, again.pictures)
    assert (first.pictures != other.pictures).any()


def test_the_error_of_a_network_that_says_nothing_is_that_of_v(measured):
    """v has the variance of a picture's pixels or of the noise's, so an answer of zero errs by about one."""
    _, params, measure = measured
    silent = jax.tree.map(np.zeros_like, params)
    error = measure(silent, 0).figures["held_out/error"]["value"]
    assert 0.5 < error < 1.5


def test_the_pictures_are_written_as_a_row_beside_the_record(measured, tmp_path):
    _, params, measure = measured
    found = measure(params, 0)
    record.write(tmp_path / "figures" / "key.json", found, {"arm": "a", "seed": 3})
    told = json.loads((tmp_path / "figures" / "key.json").read_text())
    assert list(told)[:2] == ["arm", "seed"]
    assert told["figures"] == found.figures
    tiles = np.asarray(Image.open(tmp_path / "figures" / told["pictures"]))
    np.testing.assert_array_equal(np.split(tiles, len(found.prompts), axis=1), found.pictures)


def test_alignment_is_that_of_the_pictures_drawn(measured):
    config, params, _ = measured
    sets = build.fixed_sets(config, build.build(config), "data")
    held_out = sets["validation"]
    measure = alignment(record.Subject(config, None, sets))
    moved = np.roll(held_out["image"], 1, axis=0)
    found = measure(params, 0, lambda: moved).figures["caption"]
    assert found.value == shapes_parser.alignment(moved, held_out["captions"])["caption"] < found.floor


@pytest.mark.parametrize(
    ("figures", "line"),
    [
        ((dict(name="held_in"),), r"config\.figures\[0\]: .* has no 'held_in': did you mean held_out"),
        ((dict(name="held_out", rounds=3),), "held_out takes no argument 'rounds'"),
        ((dict(name="held_out"), dict(name="features", network=dict(name="inceptio"))), r"config\.figures\[1\]: "),
    ],
)
def test_measures_that_do_not_fit_are_one_line(figures, line):
    config = config_of(*figures)
    with pytest.raises(ValueError, match=line):
        record.make_measuring(config, build.build(config), "data")


def test_more_calls_come_nearer_to_the_solution_and_the_long_run_is_there():
    errors = {}
    for name, nfe in (("euler", 4), ("euler", 16), ("heun", 31)):
        config = config_of(dict(name="solved", nfe=31))
        config.sampling.update(dict(nfe=nfe, sampler=dict(name=name), cfg_scale=1.0))
        experiment = build.build(config)
        params = jax.jit(experiment.init)(jax.random.key(1))
        found = record.make_measuring(config, experiment, "data")(params, 5)
        errors[name, nfe] = found.figures["solved/error"]["value"]
    assert errors["euler", 4] > errors["euler", 16] > errors["heun", 31] == 0


def corners(width=2):
    """A network of two features, with nothing to install: the first pixels."""
    extract = lambda pictures: np.asarray(pictures, np.float32).reshape(len(pictures), -1)[:, :width]  # noqa: E731
    return Features("corners", "0123456789abcdef", width, extract)


def test_features_of_any_network_are_told_with_its_digest_and_floor(measured):
    _, params, _ = measured
    entry = dict(name="features", network=dict(name=f"{__name__}:corners", width=3))
    config = config_of(entry)
    sets = build.fixed_sets(config, build.build(config), "data")
    measure = features(record.Subject(config, None, sets), entry["network"])
    drawn = np.random.default_rng(0).integers(0, 200, sets["seen"]["image"].shape).astype(np.uint8)
    found = measure(params, 0, lambda: drawn).figures
    assert list(found) == ["kid", "frechet", "precision", "recall", "density", "coverage"]
    assert {(figure.features, figure.n) for figure in found.values()} == {("corners 0123456789ab", 32)}
    assert found["kid"].value > found["kid"].floor
    assert found["frechet"].value > found["frechet"].floor
    assert found["precision"].value < found["precision"].floor
    itself = measure(params, 0, lambda: sets["seen"]["image"]).figures
    assert itself["frechet"].value == pytest.approx(0, abs=1e-6)
    assert itself["coverage"].value == 1


def test_clip_scores_are_of_each_picture_with_its_own_caption(monkeypatch):
    config = config_of(dict(name="clip_score", folder="somewhere"))
    sets = build.fixed_sets(config, build.build(config), "data")
    captions = list(sets["validation"]["captions"])
    one_hot = np.eye(len(captions))
    network = Features("clip", "0123456789abcdef", 2, lambda pictures: one_hot[pictures[:, 0, 0, 0]])
    monkeypatch.setattr(vit_features, "clip", lambda folder: network)
    encode = lambda told: one_hot[[captions.index(caption) for caption in told]]  # noqa: E731
    monkeypatch.setattr(vit_features, "clip_captions", lambda folder: encode)
    sets["validation"]["image"] = np.zeros((len(captions), 1, 1, 3), np.uint8)
    right = np.arange(len(captions)).astype(np.uint8)[:, None, None, None]
    measure = clip_score(record.Subject(config, None, sets), "somewhere")
    (figure,) = measure(None, 0, lambda: right).figures.values()
    assert (figure.value, figure.n, figure.features) == (100.0, len(captions), "clip 0123456789ab")
    assert figure.floor == pytest.approx(100 / len(captions))
    assert measure(None, 0, lambda: np.roll(right, 1, axis=0)).figures["mean"].value == 0
