import numpy as np
import pytest

from diffusion_jax.data.scenes import Group, Scene, read_caption
from diffusion_jax.data.shapes import Drawn, render, shapes
from diffusion_jax.data.shapes_parser import alignment, judge, parse


def examples(count: int, size: int, split: str = "validation"):
    source = shapes(split, seed=11, size=size)
    chosen = [source[i] for i in range(count)]
    return np.stack([e["image"] for e in chosen]), chosen


@pytest.mark.parametrize(("size", "count"), [(16, 200), (17, 60), (24, 60), (32, 120), (64, 40)])
def test_clean_pictures_are_read_without_error(size, count):
    pictures, chosen = examples(count, size)
    for found, example in zip(parse(pictures), chosen, strict=True):
        groups = example["scene"].groups
        asked = sorted((g.size, g.color, g.shape) for g in groups for _ in range(g.count))
        assert sorted(thing[:3] for thing in found) == asked, example["captions"]
    for captions in ([e["captions"][0] for e in chosen], [e["captions"][-1] for e in chosen]):
        assert set(alignment(pictures, captions).values()) == {1.0}


def test_where_objects_are_and_how_large():
    drawn = [Drawn("red", "cross", 0.3, 0.2, 0.18), Drawn("red", "triangle", 0.6, 0.7, 0.29)]
    (found,) = parse(render(drawn, 32)[None])
    for thing, truth in zip(found, drawn, strict=True):
        assert (thing.color, thing.shape) == truth[:2]
        assert (thing.x, thing.y, thing.scale) == pytest.approx(truth[2:], abs=0.01)


def test_a_white_picture_shows_nothing():
    assert parse(np.full((2, 16, 16, 3), 255, np.uint8)) == [[], []]


def score(size: int, spoil) -> dict[str, float]:
    pictures, chosen = examples(80, size)
    return alignment(spoil(pictures), [e["captions"][0] for e in chosen])


def noisy(pictures: np.ndarray, std: float) -> np.ndarray:
    return np.uint8(np.clip(pictures + np.random.default_rng(0).normal(0, std, pictures.shape), 0, 255))


def blurred(pictures: np.ndarray) -> np.ndarray:
    wide = np.pad(pictures.astype(float), ((0, 0), (1, 1), (1, 1), (0, 0)), mode="edge")
    size = pictures.shape[1]
    shifts = [wide[:, i : i + size, j : j + size] for i in range(3) for j in range(3)]
    return np.uint8(np.mean(shifts, 0))


@pytest.mark.parametrize(("size", "std", "least"), [(16, 10, 0.95), (16, 20, 0.8), (32, 20, 0.95), (64, 20, 0.98)])
def test_noise_is_borne(size, std, least):
    assert score(size, lambda p: noisy(p, std))["caption"] >= least


def test_blur_is_borne():
    assert score(32, blurred)["caption"] >= 0.95


def test_more_noise_is_worse_and_colors_are_the_last_to_go():
    scores = [score(24, lambda p, std=std: noisy(p, std)) for std in (10, 40, 80)]
    assert scores[0]["caption"] > scores[1]["caption"] > scores[2]["caption"]
    assert scores[1]["color"] > 0.9


def test_a_shade_that_a_network_may_draw_is_read_as_its_color():
    pictures, chosen = examples(60, 32)
    pale = np.uint8(255 - (255 - pictures.astype(float)) * 0.85)
    assert alignment(pale, [e["captions"][0] for e in chosen])["color"] == 1


def test_wrong_captions_score_at_chance():
    pictures, chosen = examples(150, 16)
    captions = [e["captions"][0] for e in chosen]
    scores = alignment(pictures, captions[1:] + captions[:1])
    assert scores["caption"] < 0.01
    assert scores["binding"] < 0.03
    assert scores["color"] < 0.1


RED, BLUE = Drawn("red", "circle", 0.25, 0.5, 0.18), Drawn("blue", "square", 0.75, 0.55, 0.29)


@pytest.mark.parametrize(
    ("caption", "wrong"),
    [
        ("a small red circle left of a large blue square", set()),
        ("a red circle and a blue square", set()),
        ("a large blue square right of a small red circle", set()),
        ("a small red circle right of a large blue square", {"relation"}),
        ("a small red circle above a large blue square", {"relation"}),
        ("a large red circle left of a large blue square", {"size"}),
        ("a small red square left of a large blue circle", {"binding", "size", "relation"}),
        ("a small red circle left of two large blue squares", {"count"}),
        ("two red circles and a blue square", {"count"}),
        ("a small red circle left of a large green square", {"color", "binding", "size", "relation"}),
        ("a small red circle left of a large blue cross", {"shape", "binding", "size", "relation"}),
        ("a small red circle on the left", {"color", "shape", "binding", "count", "size"}),
    ],
)
def test_each_part_of_a_caption_is_judged_alone(caption, wrong):
    (found,) = parse(render([RED, BLUE], 32)[None])
    verdict = judge(found, read_caption(caption))
    assert {name for name, right in verdict.items() if not right} - {"caption"} == wrong
    assert verdict["caption"] == (not wrong)


@pytest.mark.parametrize(
    ("x", "y", "where"),
    [
        (0.25, 0.5, "on the left"),
        (0.75, 0.55, "on the right"),
        (0.5, 0.2, "at the top"),
        (0.48, 0.8, "at the bottom"),
        (0.53, 0.46, "in the middle"),
    ],
)
def test_the_place_of_a_lone_object(x, y, where):
    (found,) = parse(render([Drawn("black", "cross", x, y, 0.18)], 32)[None])
    group = (Group(1, "small", "black", "cross"),)
    for said in ("on the left", "on the right", "at the top", "at the bottom", "in the middle"):
        assert judge(found, Scene(group, said))["relation"] == (said == where)


def test_bad_arguments():
    picture = np.zeros((1, 16, 16, 3), np.uint8)
    with pytest.raises(ValueError, match="1 pictures and 2 captions"):
        alignment(picture, ["a red circle", "a red cross"])
    with pytest.raises(ValueError, match="no sentence about shapes"):
        alignment(picture, ["a dog"])
    for bad in (picture.astype(np.float32), picture[0], picture[:, :8, :8], picture[:, :8]):
        with pytest.raises(ValueError, match="parse takes uint8"):
            parse(bad)
