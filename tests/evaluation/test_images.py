"""Grids, strips, GIFs and files: every pixel where it belongs, and nothing half written."""

import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from diffusion_jax.evaluation import images


def pictures(count, side=16):
    return np.random.default_rng(0).integers(0, 255, (count, side, side, 3), dtype=np.uint8)


def holds(canvas, picture, scale):
    """Whether the enlarged picture stands somewhere on the canvas, pixel by pixel."""
    big = picture.repeat(scale, 0).repeat(scale, 1)
    pixels = np.asarray(canvas)
    height, width = big.shape[:2]
    for top, left in np.argwhere((pixels == big[0, 0]).all(-1)):
        here = pixels[top : top + height, left : left + width]
        if here.shape == big.shape and (here == big).all():
            return True
    return False


def test_every_byte_survives_the_way_through_floats():
    every = np.arange(256, dtype=np.uint8)
    np.testing.assert_array_equal(images.to_uint8(jnp.asarray(every) / 127.5 - 1), every)


def test_beyond_the_range_is_clipped_and_nan_is_refused():
    np.testing.assert_array_equal(images.to_uint8([-7.0, -1.0, 0.0, 1.0, np.inf]), [0, 0, 128, 255, 255])
    with pytest.raises(ValueError, match="NaN"):
        images.to_uint8([0.0, np.nan])


@pytest.mark.parametrize("captions", [None, ["a red heart"] * 7])
def test_a_grid_shows_every_picture(captions):
    canvas = images.grid(pictures(7), captions)
    assert all(holds(canvas, picture, 7) for picture in pictures(7))
    corners = [canvas.getpixel(place) for place in ((0, 0), (canvas.width - 1, canvas.height - 1))]
    assert corners == [(255, 255, 255)] * 2


def test_a_grid_obeys_columns_and_scale():
    canvas = images.grid(pictures(6), columns=2, scale=3, header="six")
    assert canvas.width == 2 * (48 + images.GAP) + images.GAP
    assert holds(canvas, pictures(6)[5], 3)


@pytest.mark.parametrize(("side", "factor"), [(1, 112), (16, 7), (32, 4), (64, 2), (112, 1), (256, 1)])
def test_small_pictures_are_enlarged_by_whole_factors(side, factor):
    assert images.enlargement(side, side) == factor


@pytest.mark.parametrize(("count", "columns"), [(1, 1), (3, 3), (6, 3), (7, 4), (8, 4), (10, 5), (12, 4), (16, 4)])
def test_columns_leave_few_places_empty(count, columns):
    assert images.even_columns(count) == columns


def test_captions_differ_on_the_picture():
    grids = [np.asarray(images.grid(pictures(1), [caption])) for caption in ("a red heart", "a red heard")]
    assert (grids[0] != grids[1]).any()


@pytest.mark.parametrize(
    "wrong", [np.zeros((2, 8, 8, 3)), np.zeros((8, 8, 3), np.uint8), np.zeros((0, 8, 8, 3), np.uint8)]
)
def test_a_grid_of_something_else_is_refused(wrong):
    with pytest.raises(ValueError, match="expected uint8"):
        images.grid(wrong)


def test_captions_and_labels_must_fit_in_number():
    with pytest.raises(ValueError, match="2 pictures got 1 captions"):
        images.grid(pictures(2), ["one"])
    with pytest.raises(ValueError, match="row 'x' of a strip has 2 frames"):
        images.strip({"x": pictures(2)}, ["one"])


def test_a_strip_shows_first_and_last_and_no_more_than_its_columns():
    frames = pictures(20)
    canvas = images.strip({"x": frames, "x_0": frames[::-1]}, [f"{i}" for i in range(20)], columns=5, header="a heart")
    shown = [i for i in range(20) if holds(canvas, frames[i], 7)]
    assert shown[0] == 0
    assert shown[-1] == 19
    assert len(set(shown)) <= 10
    assert canvas.width < 7 * 112


def test_pictures_one_below_the_other():
    wide, high = Image.new("RGB", (9, 2), "red"), Image.new("RGB", (3, 5), "blue")
    both = images.stacked([wide, high])
    assert both.size == (9, 7)
    assert [both.getpixel(place) for place in ((8, 1), (2, 6), (3, 6))] == [(255, 0, 0), (0, 0, 255), (255, 255, 255)]


def test_png_and_gif_read_back(tmp_path):
    frames = pictures(3)
    images.write_png(tmp_path / "new" / "a.png", frames[0])
    with Image.open(tmp_path / "new" / "a.png") as back:
        np.testing.assert_array_equal(np.asarray(back), frames[0])
    images.write_gif(tmp_path / "a.gif", frames, ms=50, hold_ms=900)
    with Image.open(tmp_path / "a.gif") as back:
        assert (back.n_frames, back.size) == (3, (112, 112))
        durations = []
        for i in range(3):
            back.seek(i)
            durations.append(back.info["duration"])
            np.testing.assert_array_equal(np.asarray(back.convert("RGB"))[::7, ::7], frames[i])
        assert durations == [50, 50, 900]
