"""Pictures of scenes, drawn on white as numpy arrays: captioned data without end, without a download.

A picture is a pure function of (seed, split, index). Some pairs of color and shape (`scenes.HELD_OUT`) appear in the
validation split alone, so what a model makes of them is composition and not memory.
"""

import functools
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np

from diffusion_jax.data.examples import Example, Indexed, Source
from diffusion_jax.data.order import uniform
from diffusion_jax.data.scenes import COLORS, SIZES, Group, Scene, captions_of, sample_scene
from diffusion_jax.data.splits import check_split

MARGIN = 0.04  # free space around each object, in picture widths: neighbors stay apart even at 16 pixels
MIN_SIZE = 16  # below, a small object is two pixels wide and the shapes are no longer told apart

# what lies left of, right of, above and below the center of mass of a shape of area 1, and which (u, v) are inside
_TALL, _ARM = 2**0.5, 0.2**0.5
_EXTENTS = {
    "circle": (np.pi**-0.5,) * 4,
    "square": (0.5,) * 4,
    "triangle": (_TALL / 2, _TALL / 2, 2 * _TALL / 3, _TALL / 3),
    "cross": (1.5 * _ARM,) * 4,
}
_INSIDE = {
    "circle": lambda u, v: u**2 + v**2 <= 1 / np.pi,
    "square": lambda u, v: (abs(u) <= 0.5) & (abs(v) <= 0.5),
    "triangle": lambda u, v: (v <= _TALL / 3) & (2 * abs(u) <= v + 2 * _TALL / 3),
    "cross": lambda u, v: (np.minimum(abs(u), abs(v)) <= _ARM / 2) & (np.maximum(abs(u), abs(v)) <= 1.5 * _ARM),
}


class Drawn(NamedTuple):
    """One object of a picture: x to the right and y down, in picture widths; scale is the square root of its area."""

    color: str
    shape: str
    x: float
    y: float
    scale: float


def shapes(split: str, seed: int = 0, size: int = 32, count: int = 1_000_000) -> Source:
    """`count` captioned scenes of size x size pixels; another seed gives others.

    Examples hold image, captions, id, scene (a `Scene`) and held_out (bool): in "validation", every second example
    shows a pair of color and shape that "train" never does.

    Raises ValueError for another split, a size below MIN_SIZE, or a count or seed out of range.
    """
    check_split(split)
    if size < MIN_SIZE or count < 1 or not 0 <= seed < 2**32:
        raise ValueError(f"shapes needs size >= {MIN_SIZE}, count >= 1, seed >= 0: got {size}, {count} and {seed}.")
    example, captions = functools.partial(_example, split, seed, size), functools.partial(_captions, split, seed)
    return Indexed(count, example, captions)


def layout(scene: Scene, draw: Iterator[float]) -> list[Drawn]:
    """Positions for the scene's objects, from uniform numbers: as its words say, apart, and inside the picture.

    Two groups (or the two parts of a group of equal objects) take a half of the picture each.
    """
    members = [[group] * group.count for group in scene.groups]
    if len(members) == 1 and len(members[0]) == 1:
        return [_put(scene.groups[0], *_PLACES[scene.where], draw)]
    if len(members) == 1:
        members = [members[0][:1], members[0][1:]]
    forward = scene.where in ("left of", "above") or (not scene.where and next(draw) < 0.5)
    upright = scene.where in ("above", "below") or (not scene.where and next(draw) < 0.5)
    lone = all(len(part) == 1 for part in members)
    line = 0.5 + (0.2 * next(draw) - 0.1) * lone  # lone objects differ less across the direction than along it
    placed = []
    for part, along in zip(members, (_FIRST, _SECOND) if forward else (_SECOND, _FIRST), strict=True):
        for group, across in zip(part, [_near(line)] if len(part) == 1 else [_FIRST, _SECOND], strict=True):
            placed.append(_put(group, *((across, along) if upright else (along, across)), draw))
    return placed


def render(objects: Sequence[Drawn], size: int) -> np.ndarray:
    """The objects on white, antialiased: uint8 (size, size, 3)."""
    picture = np.full((size, size, 3), 255.0, np.float32)
    for thing in objects:
        rows, columns, cover = coverage(thing.shape, thing.x, thing.y, thing.scale, size)
        patch = picture[rows, columns]
        patch += cover[:, :, None] * (np.asarray(COLORS[thing.color], np.float32) - patch)
    return np.uint8(picture + 0.5)


def coverage(shape: str, x: float, y: float, scale: float, size: int) -> tuple[slice, slice, np.ndarray]:
    """How much of each pixel a shape covers: rows, columns and float32 fractions, by sampling inside the pixels."""
    left, right, top, bottom = (extent * scale for extent in _EXTENTS[shape])
    fine = max(4, 256 // size)
    u, columns = _samples(x, left, right, scale, size, fine)
    v, rows = _samples(y, top, bottom, scale, size, fine)
    inside = _INSIDE[shape](u[None, :], v[:, None])
    blocks = inside.reshape(len(v) // fine, fine, len(u) // fine, fine)
    return rows, columns, blocks.sum((1, 3), dtype=np.float32) / fine**2


def _scene(split: str, seed: int, index: int) -> tuple[Scene, bool, Iterator[float]]:
    draw = iter(uniform(index * 64 + np.arange(64), seed, split).tolist())
    held_out = split == "validation" and index % 2 == 1
    return sample_scene(draw, held_out), held_out, draw


def _captions(split: str, seed: int, index: int) -> tuple[str, ...]:
    return captions_of(_scene(split, seed, index)[0])


def _example(split: str, seed: int, size: int, index: int) -> Example:
    scene, held_out, draw = _scene(split, seed, index)
    return {
        "image": render(layout(scene, draw), size),
        "captions": captions_of(scene),
        "id": f"shapes/{split}/{seed}/{index}",
        "scene": scene,
        "held_out": held_out,
    }


class _Cell(NamedTuple):
    """Where the whole object has to lie along one axis (free space included), or else where its center has to."""

    low: float
    high: float
    whole: bool = True


def _near(center: float) -> _Cell:
    return _Cell(center - 0.05, center + 0.05, whole=False)


_FIRST, _SECOND, _ANYWHERE, _MIDDLE = _Cell(0, 0.5), _Cell(0.5, 1), _Cell(0, 1), _near(0.5)
_PLACES = {
    "": (_ANYWHERE, _ANYWHERE),
    "on the left": (_FIRST, _MIDDLE),
    "on the right": (_SECOND, _MIDDLE),
    "at the top": (_MIDDLE, _FIRST),
    "at the bottom": (_MIDDLE, _SECOND),
    "in the middle": (_MIDDLE, _MIDDLE),
}


def _put(group: Group, column: _Cell, row: _Cell, draw: Iterator[float]) -> Drawn:
    scale = SIZES[group.size]
    left, right, top, bottom = (extent * scale + MARGIN for extent in _EXTENTS[group.shape])
    x, y = _between(column, left, right, next(draw)), _between(row, top, bottom, next(draw))
    return Drawn(group.color, group.shape, x, y, scale)


def _between(cell: _Cell, before: float, after: float, draw: float) -> float:
    low, high = (cell.low + before, cell.high - after) if cell.whole else (cell.low, cell.high)
    return low + (high - low) * draw


def _samples(center: float, before: float, after: float, scale: float, size: int, fine: int):
    start, stop = max(0, int((center - before) * size)), min(size, int((center + after) * size) + 1)
    fractions = (np.arange(start * fine, stop * fine) + 0.5) / (size * fine)
    return (fractions - center) / scale, slice(start, stop)
