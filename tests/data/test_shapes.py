import numpy as np
import pytest

from diffusion_jax.data.scenes import COLORS, HELD_OUT, SHAPES, SIZES
from diffusion_jax.data.shapes import Drawn, coverage, layout, render, shapes
from diffusion_jax.data.splits import SPLITS


@pytest.mark.parametrize("split", SPLITS)
def test_an_example_depends_on_seed_split_and_index_alone(split):
    a, b = shapes(split, seed=3, size=16), shapes(split, seed=3, size=16, count=900)
    later = b[777]
    for index in (0, 1, 777):
        x, y = a[index], b[index]
        np.testing.assert_array_equal(x.pop("image"), y.pop("image"))
        assert x == y
        assert b.captions(index) == x["captions"]
    assert later["captions"] == a[777]["captions"]


def test_seeds_and_splits_differ():
    sources = [shapes("train", 0), shapes("train", 1), shapes("validation", 0)]
    pictures = [np.stack([source[i]["image"] for i in range(50)]) for source in sources]
    for i in range(3):
        same = (pictures[i] == pictures[i - 1]).all((1, 2, 3))
        assert same.sum() == 0


def test_the_picture_has_the_asked_size_and_every_size_shows_the_same_scene():
    for index in range(20):
        small, large = (shapes("train", size=size)[index] for size in (16, 64))
        assert small["image"].shape == (16, 16, 3)
        assert large["image"].shape == (64, 64, 3)
        assert small["captions"] == large["captions"]
        shrunk = large["image"].reshape(16, 4, 16, 4, 3).mean((1, 3))
        assert abs(shrunk - small["image"]).max() < 20


def test_pairs_of_color_and_shape_are_held_out():
    train, held = shapes("train", size=16, count=400), shapes("validation", size=16, count=400)
    assert not any(group[2:] in HELD_OUT for example in train for group in example["scene"].groups)
    for index, example in enumerate(held):
        assert example["held_out"] == (index % 2 == 1)
        assert any(group[2:] in HELD_OUT for group in example["scene"].groups) == example["held_out"]


def test_objects_keep_apart_and_inside():
    rng = np.random.default_rng(0)
    for index in range(300):
        scene = shapes("train", size=16)[index]["scene"]
        objects = layout(scene, iter(rng.random(16).tolist()))
        assert len(objects) == sum(group.count for group in scene.groups)
        covers = np.zeros((160, 160))
        for thing in objects:
            rows, columns, cover = coverage(thing.shape, thing.x, thing.y, thing.scale, 160)
            assert cover.sum() == pytest.approx((thing.scale * 160) ** 2, rel=0.02)  # nothing is cut off at the border
            frame = slice(max(0, rows.start - 6), rows.stop + 6), slice(max(0, columns.start - 6), columns.stop + 6)
            assert covers[frame].max() == 0
            covers[rows, columns] += cover


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("size", [16, 33, 64])
def test_a_shape_has_its_area_and_its_center_of_mass_where_it_was_put(shape, size):
    for x, y, scale in [(0.5, 0.5, 0.29), (0.4, 0.37, 0.18), (0.61, 0.52, 0.25)]:
        rows, columns, cover = coverage(shape, x, y, scale, size)
        middles = (np.arange(size) + 0.5) / size
        assert 0 <= cover.min() <= cover.max() <= 1
        assert cover.sum() == pytest.approx((scale * size) ** 2, rel=0.04)
        assert cover.sum(0) @ middles[columns] / cover.sum() == pytest.approx(x, abs=0.01)
        assert cover.sum(1) @ middles[rows] / cover.sum() == pytest.approx(y, abs=0.01)


def test_the_colors_are_as_named():
    for name, color in COLORS.items():
        picture = render([Drawn(name, "square", 0.5, 0.5, SIZES["large"])], 32)
        assert tuple(picture[16, 16].tolist()) == color
        assert (picture[0] == 255).all()


@pytest.mark.parametrize("bad", [{"split": "test"}, {"size": 15}, {"count": 0}, {"seed": -1}])
def test_bad_arguments(bad):
    with pytest.raises(ValueError, match=r"choose|shapes needs"):
        shapes(**{"split": "train", **bad})
