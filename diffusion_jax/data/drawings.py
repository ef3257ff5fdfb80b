"""How a drawing becomes pixels: SVG and WebP bytes to small RGB pictures on white."""

import io
import re

import numpy as np
from PIL import Image

SIZE = 128  # pixels of a side; twice the largest resolution that the emoji presets train at
MAX_SVG_BYTES = 2**20
MAX_PIXELS = 2**20

# What could load a file, a page or code. A drawing needs none of it: its references are to its own parts ("#a").
OUTSIDE = re.compile(
    r"""<(image|foreignObject|script|style)\b|<!(ENTITY|DOCTYPE)|href\s*=\s*["'](?!\#)|url\(\s*["']?(?!["'\s\#])"""
)


def raster(drawing: bytes) -> np.ndarray:
    """Pixels of an SVG or WebP drawing on white: uint8 (SIZE, SIZE, 3); one that is not square is centered.

    Raises:
        ValueError: not a drawing, over the size limits, or an SVG that refers to something outside itself.
    """
    image = svg_to_png(drawing) if drawing.lstrip()[:1] == b"<" else drawing
    try:
        picture = Image.open(io.BytesIO(image), formats=["PNG", "WEBP"])
        if picture.width * picture.height > MAX_PIXELS:
            raise ValueError(f"{picture.width}x{picture.height} pixels are too many (limit {MAX_PIXELS}).")
        picture = picture.convert("RGBA")
    except (OSError, SyntaxError, Image.DecompressionBombError) as error:
        raise ValueError(f"not a picture: {error}") from error
    scale = SIZE / max(picture.size)
    if scale != 1:  # Pillow weighs colors by alpha here, so no fringe of a transparent color appears
        sides = tuple(max(1, round(scale * side)) for side in picture.size)
        picture = picture.resize(sides, Image.Resampling.LANCZOS)
    canvas = Image.new("RGBA", (SIZE, SIZE), "white")
    canvas.alpha_composite(picture, ((SIZE - picture.width) // 2, (SIZE - picture.height) // 2))
    return np.asarray(canvas.convert("RGB"))


def svg_to_png(svg: bytes) -> bytes:
    """PNG bytes, with alpha, of an SVG drawn into a square of SIZE pixels."""
    import resvg_py  # here, because it is of the extra "emoji", and reading the built data needs no renderer

    if len(svg) > MAX_SVG_BYTES:
        raise ValueError(f"SVG of {len(svg)} bytes is too large (limit {MAX_SVG_BYTES}).")
    text = svg.decode()
    outside = OUTSIDE.search(text)
    if outside:
        raise ValueError(f"SVG refers to something outside itself: {text[outside.start() :][:40]!r}.")
    return bytes(resvg_py.svg_to_bytes(svg_string=text, width=SIZE, height=SIZE, skip_system_fonts=True))


def png(pixels: np.ndarray) -> bytes:
    """Lossless bytes of uint8 (height, width, 3) pixels; equal pixels give equal bytes."""
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()
