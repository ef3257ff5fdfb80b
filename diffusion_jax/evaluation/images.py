"""Pictures for people: captioned grids, film strips and GIFs."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

from diffusion_jax.evaluation import lettering
from diffusion_jax.files import write_whole

MIN_SIDE = 112  # pixels: smaller pictures are enlarged, so that pixels stay crisp and captions fit
GAP, SEAM = 12, 4  # pixels between pictures of a grid and of a strip
LINES = 3  # of a caption; the rest is an ellipsis
BACKGROUND, FRAME = "#ffffff", "#dddddd"


def to_uint8(pictures) -> np.ndarray:
    """Floats in [-1, 1] to bytes, any shape: -1 is 0, 1 is 255, beyond is clipped.

    Raises ValueError when a value is not a number: such a picture would be drawn as if nothing were wrong.
    """
    pictures = np.asarray(pictures, np.float32)
    if np.isnan(pictures).any():
        raise ValueError("the pictures hold NaN: the model or the guidance scale has overflowed")
    return np.rint(np.clip(pictures, -1, 1) * 127.5 + 127.5).astype(np.uint8)


def grid(
    pictures: np.ndarray,
    captions: Sequence[str] | None = None,
    *,
    columns: int | None = None,
    scale: int | None = None,
    header: str | None = None,
) -> Image.Image:
    """Pictures (n, height, width, 3) uint8 in rows, each with its caption underneath.

    columns: as many as make a full and somewhat wide rectangle, unless given. scale: whole factor of enlargement.
    """
    count, height, width = checked(pictures).shape[:3]
    if captions is not None and len(captions) != count:
        raise ValueError(f"a grid of {count} pictures got {len(captions)} captions: it needs one each")
    columns = min(columns or even_columns(count), count)
    scale = scale or enlargement(height, width)
    height, width = height * scale, width * scale
    texts = [lettering.wrap(caption, width, LINES) for caption in captions or [""] * count]
    rows = [range(start, min(start + columns, count)) for start in range(0, count, columns)]
    pitches = [height + GAP + lettering.height(max((texts[i] for i in row), key=len)) for row in rows]
    canvas = Image.new("RGB", (columns * (width + GAP) + GAP, GAP + sum(pitches)), BACKGROUND)
    top = GAP
    for row, pitch in zip(rows, pitches, strict=True):
        for place, i in enumerate(row):
            left = GAP + place * (width + GAP)
            paste(canvas, pictures[i], left, top, scale)
            lettering.write(canvas, texts[i], left, top + height + 3, center=width)
        top += pitch
    return titled(canvas, header, GAP)


def strip(
    rows: Mapping[str, np.ndarray],
    labels: Sequence[str],
    *,
    columns: int = 10,
    scale: int | None = None,
    header: str | None = None,
) -> Image.Image:
    """A film strip: each row a name and its frames (n, height, width, 3) uint8, each column a label, such as its sigma.

    columns: at most so many frames are shown, evenly spread, the first and the last among them.
    """
    for name, frames in rows.items():
        if len(checked(frames)) != len(labels):
            raise ValueError(f"row {name!r} of a strip has {len(frames)} frames, and there are {len(labels)} labels")
    shown = np.unique(np.rint(np.linspace(0, len(labels) - 1, min(columns, len(labels)))).astype(int))
    height, width = next(iter(rows.values())).shape[1:3]
    scale = scale or enlargement(height, width)
    height, width = height * scale, width * scale
    margin = 2 * GAP + max(map(lettering.length, rows))
    below = GAP + lettering.height(["one line"])
    size = (margin + len(shown) * (width + SEAM) + GAP, below + len(rows) * (height + SEAM) + GAP)
    canvas = Image.new("RGB", size, BACKGROUND)
    for row, (name, frames) in enumerate(rows.items()):
        top = below + row * (height + SEAM)
        lettering.write(canvas, [lettering.plain(name)], GAP, top + (height - lettering.height([name])) // 2)
        for place, i in enumerate(shown):
            paste(canvas, frames[i], margin + place * (width + SEAM), top, scale)
    for place, i in enumerate(shown):
        label = lettering.wrap(labels[i], width, 1)
        lettering.write(canvas, label, margin + place * (width + SEAM), GAP, center=width)
    return titled(canvas, header, margin)


def titled(body: Image.Image, header: str | None, left: int) -> Image.Image:
    """The picture with a line or two above it."""
    lines = lettering.wrap(header or "", body.width - left - GAP, 2)
    if not lines:
        return body
    canvas = Image.new("RGB", (body.width, body.height + GAP + lettering.height(lines)), BACKGROUND)
    canvas.paste(body, (0, GAP + lettering.height(lines)))
    lettering.write(canvas, lines, left, GAP)
    return canvas


def stacked(pictures: Sequence[Image.Image]) -> Image.Image:
    """Pictures of any size, one below the other."""
    canvas = Image.new("RGB", (max(p.width for p in pictures), sum(p.height for p in pictures)), BACKGROUND)
    top = 0
    for picture in pictures:
        canvas.paste(picture, (0, top))
        top += picture.height
    return canvas


def even_columns(count: int) -> int:
    """How many columns leave the fewest empty places in a rectangle about 1.6 times as wide as high."""
    if count <= 5:
        return count
    fits = range(int(count**0.5), int(2 * count**0.5) + 1)
    return min(fits, key=lambda n: (-count % n, abs(n - (1.6 * count) ** 0.5)))


def enlargement(height: int, width: int) -> int:
    """The whole factor that brings a small picture to a size in which one sees something."""
    return max(1, -(-MIN_SIDE // min(height, width)))


def checked(pictures: np.ndarray) -> np.ndarray:
    """The pictures themselves; raises ValueError unless they are uint8 (n, height, width, 3) with n > 0."""
    if pictures.dtype != np.uint8 or pictures.ndim != 4 or pictures.shape[-1] != 3 or 0 in pictures.shape:
        raise ValueError(f"expected uint8 (n, height, width, 3), got {pictures.dtype} {pictures.shape}; see to_uint8")
    return pictures


def enlarged(picture: np.ndarray, scale: int) -> Image.Image:
    """One picture (height, width, 3) with each pixel a square of scale x scale."""
    return Image.fromarray(np.repeat(np.repeat(picture, scale, axis=0), scale, axis=1))


def paste(canvas: Image.Image, picture: np.ndarray, left: int, top: int, scale: int) -> None:
    """Put a picture on the canvas with a hairline around it, for a white picture ends somewhere too."""
    big = enlarged(picture, scale)
    ImageDraw.Draw(canvas).rectangle([left - 1, top - 1, left + big.width, top + big.height], outline=FRAME)
    canvas.paste(big, (left, top))


def write_png(path: str | Path, image: Image.Image | np.ndarray) -> None:
    """Write a picture (or uint8 (height, width, 3)) to a PNG, whole or not at all; makes its folder."""
    image = image if isinstance(image, Image.Image) else Image.fromarray(image)
    write_whole(Path(path), lambda file: image.save(file, format="PNG", optimize=True))


def write_gif(path: str | Path, frames: Sequence[Image.Image] | np.ndarray, ms: int = 80, hold_ms: int = 1500) -> None:
    """Write pictures, or uint8 (n, height, width, 3), as an endless GIF of so many milliseconds a frame.

    The last frame stays for hold_ms. Each frame has the 256 colors that suit it, undithered. Whole or not at all.
    """
    if isinstance(frames, np.ndarray):
        scale = enlargement(*checked(frames).shape[1:3])
        frames = [enlarged(frame, scale) for frame in frames]
    first, *rest = [frame.convert("RGB").quantize(256, dither=Image.Dither.NONE) for frame in frames]
    duration = [ms] * len(rest) + [hold_ms]
    write_whole(
        Path(path),
        lambda file: first.save(
            file, format="GIF", save_all=True, append_images=rest, duration=duration, loop=0, disposal=1
        ),
    )
