import io
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from diffusion_jax.data.transforms import decode, square

RED = (255, 0, 0)


def encoded(image: Image.Image, kind: str = "PNG", **options) -> bytes:
    out = io.BytesIO()
    image.save(out, kind, **options)
    return out.getvalue()


def palette_with_transparency() -> bytes:
    image = Image.new("P", (2, 2), 0)
    image.putpalette([255, 0, 0, 0, 0, 255])
    image.putpixel((1, 0), 1)
    return encoded(image, transparency=1)


@pytest.mark.parametrize(
    ("data", "left", "right"),
    [
        (encoded(Image.new("RGB", (2, 2), RED)), RED, RED),
        (encoded(Image.new("L", (2, 2), 77)), (77, 77, 77), (77, 77, 77)),
        (encoded(Image.new("1", (2, 2), 1)), (255, 255, 255), (255, 255, 255)),
        (encoded(Image.new("RGBA", (2, 2), (255, 0, 0, 0))), (255, 255, 255), (255, 255, 255)),
        (encoded(Image.new("RGBA", (2, 2), (255, 0, 0, 51))), (255, 204, 204), (255, 204, 204)),
        (encoded(Image.new("LA", (2, 2), (0, 0))), (255, 255, 255), (255, 255, 255)),
        (palette_with_transparency(), RED, (255, 255, 255)),
        (encoded(Image.fromarray(np.full((2, 2), 0x8000, np.uint16))), (128, 128, 128), (128, 128, 128)),
        (encoded(Image.fromarray(np.full((2, 2), 200, np.uint16))), (1, 1, 1), (1, 1, 1)),
        (encoded(Image.new("CMYK", (2, 2), (0, 255, 255, 0)), "TIFF"), RED, RED),
        (encoded(Image.fromarray(np.array([[0.0, 2.0]], np.float32)), "TIFF"), (0, 0, 0), (255, 255, 255)),
    ],
    ids=["rgb", "gray", "1-bit", "clear", "alpha", "gray-alpha", "palette", "16-bit", "16-bit dark", "cmyk", "float"],
)
def test_every_mode_becomes_rgb_on_white(data, left, right):
    pixels = decode(data)
    assert pixels.dtype == np.uint8
    assert pixels.shape[2:] == (3,)
    assert tuple(pixels[0, 0].tolist()) == left
    assert tuple(pixels[0, 1].tolist()) == right


def test_cmyk_jpeg():
    pixels = decode(encoded(Image.new("CMYK", (8, 8), (0, 255, 255, 0)), "JPEG", quality=95))
    assert abs(pixels.astype(int) - RED).max() < 12


@pytest.mark.parametrize("kind", ["GIF", "PNG", "WEBP"])
def test_the_first_frame_of_an_animation(kind):
    frames = [Image.new("RGB", (4, 4), color) for color in (RED, (0, 0, 255))]
    data = encoded(
        frames[0], kind, save_all=True, append_images=frames[1:], **({"lossless": True} if kind == "WEBP" else {})
    )
    assert (decode(data) == RED).all()


def test_exif_orientation_is_applied():
    image = Image.fromarray(np.array([[RED, (0, 0, 255)]], np.uint8))
    exif = Image.Exif()
    exif[0x0112] = 6  # to be shown turned by 90 degrees
    pixels = decode(encoded(image, exif=exif))
    assert pixels.shape == (2, 1, 3)
    assert tuple(pixels[0, 0].tolist()) == RED


def test_a_pil_image_is_taken_as_it_is():
    assert (decode(Image.new("RGB", (3, 2), RED)) == RED).all()


whole = encoded(Image.fromarray(np.random.default_rng(0).integers(0, 255, (64, 64, 3), dtype=np.uint8)))


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"hello",
        whole[: len(whole) // 2],
        whole[:30],
        b"<svg></svg>",
        b"%!PS-Adobe-3.0 EPSF-3.0",
        b"\xff\xd8\xff\xe0",
    ],
)
def test_a_broken_picture_is_one_clear_line(data):
    with pytest.raises(ValueError, match="picture") as caught:
        decode(data)
    assert "\n" not in str(caught.value)


def bomb(width: int, height: int) -> bytes:
    """A PNG that claims to be large: its header alone is read before the size is judged."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"\0" * 100)) + chunk(b"IEND", b"")
    )


@pytest.mark.parametrize("size", [(100_000, 100_000), (2**30, 1), (10_000, 10_000), (9000, 9000)])
def test_too_many_pixels_are_refused_before_decoding(size):
    with pytest.raises(ValueError, match="more than 67108864 pixels: shrink it first"):
        decode(bomb(*size))


def test_shrinking_by_a_whole_factor_is_the_mean_of_each_block():
    image = np.random.default_rng(1).integers(0, 256, (32, 32, 3), dtype=np.uint8)
    means = image.reshape(8, 4, 8, 4, 3).mean((1, 3))
    assert abs(square(image, 8) - means).max() <= 1


def test_a_thin_line_is_neither_lost_nor_does_it_ring():
    image = np.full((130, 130, 3), 255, np.uint8)
    image[64] = 0
    small = square(image, 16)
    rows = small[:, 0, 0].astype(int)
    assert abs((255 - rows).sum() - 255 * 16 / 130) <= 2
    assert (rows < 255).sum() <= 2


def test_one_pixel_grows():
    assert (square(np.array([[RED]], np.uint8), 16) == np.array(RED)).all()
    assert square(np.array([[RED]], np.uint8), 16).shape == (16, 16, 3)


def wide() -> np.ndarray:
    image = np.full((20, 60, 3), 255, np.uint8)
    image[:, 20:40] = RED
    image[:, :10] = (0, 0, 255)
    return image


@pytest.mark.parametrize("turn", [False, True])
def test_crop_takes_the_middle_square(turn):
    image = wide().transpose(1, 0, 2) if turn else wide()
    assert (square(np.ascontiguousarray(image), 10) == RED).all()


@pytest.mark.parametrize("turn", [False, True])
def test_pad_keeps_everything_and_fills_with_white(turn):
    image = np.ascontiguousarray(wide().transpose(1, 0, 2)) if turn else wide()
    small = square(image, 12, "pad")
    small = small.transpose(1, 0, 2) if turn else small
    assert (small[:4] == 255).all()
    assert (small[8:] == 255).all()
    assert (small[4:8, 4:8] == RED).all()
    assert (small[4:8, :2] == (0, 0, 255)).all()


@pytest.mark.parametrize("shape", [(1, 1000), (1000, 1), (3, 2), (17, 16)])
@pytest.mark.parametrize("fit", ["crop", "pad"])
def test_any_shape_becomes_a_square(shape, fit):
    assert square(np.zeros((*shape, 3), np.uint8), 16, fit).shape == (16, 16, 3)


def test_bad_arguments():
    image = np.zeros((4, 4, 3), np.uint8)
    with pytest.raises(ValueError, match='fit is \'stretch\'; choose "crop" or "pad"'):
        square(image, 4, "stretch")
    with pytest.raises(ValueError, match="resolution is 0"):
        square(image, 0)
