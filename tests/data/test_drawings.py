"""Drawings become small pictures on white, and can refer to nothing outside themselves."""

import io

import numpy as np
import pytest
from PIL import Image

from diffusion_jax.data import drawings
from diffusion_jax.data.drawings import MAX_SVG_BYTES, SIZE, png, raster

CENTER, CORNER = (SIZE // 2, SIZE // 2), (1, 1)
SVG = '<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" viewBox="0 0 {} {}">{}</svg>'
DISC = '<circle cx="8" cy="8" r="6" fill="#ff0000"/>'


def webp(width, height, color):
    buffer = io.BytesIO()
    Image.new("RGBA", (width, height), color).save(buffer, "WEBP", lossless=True, exact=True)
    return buffer.getvalue()


def test_an_svg_is_drawn_on_white():
    pixels = raster(SVG.format(16, 16, DISC).encode())
    assert pixels.shape == (SIZE, SIZE, 3)
    assert pixels.dtype == np.uint8
    assert tuple(pixels[CENTER]) == (255, 0, 0)
    assert tuple(pixels[CORNER]) == (255, 255, 255)


@pytest.mark.parametrize(("alpha", "center"), [(255, (0, 0, 255)), (0, (255, 255, 255)), (51, (204, 204, 255))])
def test_transparency_lets_white_through(alpha, center):
    assert tuple(raster(webp(256, 256, (0, 0, 255, alpha)))[CENTER]) == center


@pytest.mark.parametrize("size", [(256, 64), (64, 256), (20, 5), (128, 32)])
def test_a_picture_that_is_not_square_is_centered(size):
    painted = (raster(webp(*size, (0, 0, 0, 255))) < 128).all(-1)
    rows, columns = np.flatnonzero(painted.any(1)), np.flatnonzero(painted.any(0))
    assert (columns.size, rows.size) == ((SIZE, SIZE // 4) if size[0] > size[1] else (SIZE // 4, SIZE))
    assert rows[0] + rows[-1] == columns[0] + columns[-1] == SIZE - 1


@pytest.mark.parametrize(
    "inside",
    [
        '<image href="/etc/passwd"/>',
        '<use xlink:href="file:///etc/passwd#a"/>',
        "<use href='other.svg#a'/>",
        '<rect fill="url(https://example.org/a#b)"/>',
        "<style>@import 'a.css'</style>",
        "<foreignObject/>",
        "<script>1</script>",
    ],
)
def test_an_svg_that_refers_outside_is_refused(inside):
    with pytest.raises(ValueError, match="refers to something outside itself"):
        raster(SVG.format(16, 16, inside).encode())


def test_an_svg_may_refer_to_its_own_parts():
    gradient = '<linearGradient id="a"><stop stop-color="#00ff00"/></linearGradient>'
    inside = f'{gradient}<rect id="b" width="8" height="16" fill="url(#a)"/><use xlink:href="#b" x="8"/>'
    assert tuple(raster(SVG.format(16, 16, inside).encode())[CENTER]) == (0, 255, 0)


@pytest.mark.parametrize(
    "drawing",
    [b"", b"not a drawing", b"<svg", b"<svg>" + b" " * MAX_SVG_BYTES, b"<svg>\xff</svg>", webp(9, 9, "red")[:24]],
    ids=["empty", "text", "cut SVG", "large SVG", "not UTF-8", "cut WebP"],
)
def test_what_is_no_drawing_is_a_value_error(drawing):
    with pytest.raises(ValueError, match=r"."):
        raster(drawing)


def test_the_number_of_pixels_is_bounded(monkeypatch):
    monkeypatch.setattr(drawings, "MAX_PIXELS", 64 * 64 - 1)
    with pytest.raises(ValueError, match="64x64 pixels are too many"):
        raster(webp(64, 64, "red"))


def test_equal_pixels_give_equal_bytes_and_nothing_is_lost():
    pixels = np.random.default_rng(0).integers(0, 256, (9, 7, 3), np.uint8)
    assert png(pixels) == png(pixels.copy())
    np.testing.assert_array_equal(np.asarray(Image.open(io.BytesIO(png(pixels)))), pixels)
