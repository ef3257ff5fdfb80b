"""Bytes of unknown origin to square uint8 RGB pictures."""

import io

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF")  # others are rare, and some of PIL's readers start programs
MAX_PIXELS = 64 << 20  # 64 Mpx is 192 MiB of RGB; a few kilobytes of PNG can claim far more


def decode(data: bytes | Image.Image, max_pixels: int = MAX_PIXELS) -> np.ndarray:
    """One picture as uint8 (height, width, 3) RGB in its own size, from encoded bytes or a PIL image.

    Transparency is laid on white, 16-bit is scaled to 8, CMYK, palette and gray become RGB, the first frame of an
    animation is taken and EXIF orientation is applied. The pixel count is checked before any pixel is decoded.

    Raises ValueError (one line) when the bytes are no picture, are cut short, or hold more than max_pixels.
    """
    try:
        image = Image.open(io.BytesIO(data), formats=FORMATS) if isinstance(data, bytes) else data
        width, height = image.size
        if width * height > max_pixels:
            raise ValueError(f"The picture is {width}x{height}, more than {max_pixels} pixels: shrink it first.")
        image.seek(0)
        return np.asarray(_rgb(ImageOps.exif_transpose(image)))
    except UnidentifiedImageError:
        raise ValueError(f"The bytes are no picture in a known format ({', '.join(FORMATS)}).") from None
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):  # PIL's own, higher bound
        raise ValueError(f"The picture has far more than {max_pixels} pixels: shrink it first.") from None
    except ValueError:
        raise
    except Exception as error:  # broken files raise OSError, SyntaxError, struct.error, EOFError, IndexError, ...
        raise ValueError(f"The picture cannot be decoded: {type(error).__name__}: {error}") from None


def square(image: np.ndarray, resolution: int, fit: str = "crop") -> np.ndarray:
    """A uint8 (height, width, 3) picture as uint8 (resolution, resolution, 3).

    fit="crop" cuts the middle square out; fit="pad" keeps everything and fills up with white.
    Shrinking averages over area (PIL's BOX): each new pixel is the mean of the old pixels it covers, which neither
    aliases nor rings, and ringing is what a model at 16 to 64 px would learn as a halo. Growing is bicubic.
    """
    check_square(resolution, fit)
    height, width = image.shape[:2]
    if height == width == resolution:
        return image
    if fit == "pad":
        return _padded(image, resolution)
    side = min(height, width)
    left, top = (width - side) / 2, (height - side) / 2
    resample = Image.Resampling.BOX if side > resolution else Image.Resampling.BICUBIC
    box = (left, top, left + side, top + side)
    return np.asarray(Image.fromarray(image).resize((resolution, resolution), resample, box=box))


def check_square(resolution: int, fit: str) -> None:
    """Raises ValueError unless `square` takes these arguments."""
    if fit not in ("crop", "pad"):
        raise ValueError(f'fit is {fit!r}; choose "crop" or "pad".')
    if resolution < 1:
        raise ValueError(f"resolution is {resolution}; it must be positive.")


def _padded(image: np.ndarray, resolution: int) -> np.ndarray:
    height, width = image.shape[:2]
    scale = resolution / max(height, width)
    size = max(1, round(width * scale)), max(1, round(height * scale))
    resample = Image.Resampling.BOX if scale < 1 else Image.Resampling.BICUBIC
    canvas = np.full((resolution, resolution, 3), 255, np.uint8)
    top, left = (resolution - size[1]) // 2, (resolution - size[0]) // 2
    canvas[top : top + size[1], left : left + size[0]] = Image.fromarray(image).resize(size, resample)
    return canvas


def _rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith(("I", "F")):
        return _eight_bits(image)
    if image.mode in ("RGBA", "LA", "PA", "La", "RGBa") or "transparency" in image.info:
        image = image.convert("RGBA")
        white = Image.new("RGBA", image.size, (255, 255, 255, 255))
        return Image.alpha_composite(white, image).convert("RGB")
    return image.convert("RGB")


def _eight_bits(image: Image.Image) -> Image.Image:
    """Gray with more than 8 bits: PIL would clip at 255, so scale 16 bits down, and floats by their own range."""
    values = np.asarray(image, np.float64)
    if image.mode == "F":
        finite = values[np.isfinite(values)]
        low, high = (finite.min(), finite.max()) if finite.size else (0.0, 1.0)
        values = np.nan_to_num((values - low) / max(high - low, 1e-12), nan=0.0, posinf=1.0, neginf=0.0)
    else:
        values = values / (65535.0 if values.max(initial=0) > 255 or image.mode.startswith("I;16") else 255.0)
    return Image.fromarray(np.uint8(np.clip(values, 0, 1) * 255 + 0.5)).convert("RGB")
