"""What a picture of shapes shows, read exactly: text alignment is scored without any learned model.

A pixel is white mixed with one of the colors, so which color, and how much of it, is a projection. Connected pixels of
a color make an object; its area is its size, and its shape is the one that, drawn at its center with its area, differs
least from it. Pictures that `shapes` draws are read without error from 16 pixels on; with noise and blur, errors come
gradually.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from diffusion_jax.data.scenes import COLORS, PLACES, SHAPES, SIZES, Group, Scene, read_caption
from diffusion_jax.data.shapes import MIN_SIZE, coverage

CORE = 0.55  # a pixel with this much color belongs to an object: lets neighbors touch at no more than half a pixel
FRAGMENT = 0.4  # an area below this fraction of a small object's is no object
CHUNK = 128  # pictures read together: bounds the memory
MIDDLE = 0.09  # a lone object is "in the middle" within this distance of the center along both axes

_NAMES = tuple(COLORS)
_TO_COLOR = np.array([COLORS[name] for name in _NAMES], np.float32) - 255  # from white to each color
_SIZE_BORDER = (SIZES["small"] * SIZES["large"]) ** 0.5


class Reading(NamedTuple):
    """One object that a picture shows: its names, and what was measured (x, y and scale in picture widths)."""

    size: str
    color: str
    shape: str
    x: float
    y: float
    scale: float


def parse(pictures: np.ndarray) -> list[list[Reading]]:
    """The objects in each of the pictures, uint8 (n, size, size, 3) with size of at least 16."""
    size = pictures.shape[1] if pictures.ndim == 4 else 0
    if pictures.dtype != np.uint8 or pictures.shape[1:] != (size, size, 3) or size < MIN_SIZE:
        got = f"{pictures.dtype} {pictures.shape}"
        raise ValueError(f"parse takes uint8 (n, size, size, 3) pictures of size {MIN_SIZE} or more: got {got}.")
    parts = [pictures[i : i + CHUNK] for i in range(0, len(pictures), CHUNK)]
    return [objects for part in parts for objects in _parse(part)]


def _parse(pictures: np.ndarray) -> list[list[Reading]]:
    amounts, colors = _unmix(pictures)
    cores = _components(np.where(np.take_along_axis(amounts, colors[..., None], 3)[..., 0] > CORE, colors, -1))
    return [_objects(*parts) for parts in zip(amounts, colors, cores, _widened(_widened(cores)), strict=True)]


def alignment(pictures: np.ndarray, captions: Sequence[str]) -> dict[str, float]:
    """How well pictures show what their captions say: fractions in [0, 1] over the captions that say anything about it.

    color, shape: the set of colors (shapes) is right. binding: the set of (color, shape) pairs is right. count: the
    number of objects is right. size: the pairs are right and each has its size. relation: the place of a lone object,
    or the relation of the two groups, is right. caption: all that the caption says is so, and nothing else is there.

    Raises ValueError for a caption that is not of `scenes`' language, or another number of captions than pictures.
    """
    if len(pictures) != len(captions):
        raise ValueError(f"There are {len(pictures)} pictures and {len(captions)} captions.")
    scores = [judge(found, read_caption(text)) for found, text in zip(parse(pictures), captions, strict=True)]
    names = ("color", "shape", "binding", "count", "size", "relation", "caption")
    said = {name: [score[name] for score in scores if name in score] for name in names}
    return {name: float(np.mean(values)) for name, values in said.items() if values}


def judge(found: Sequence[Reading], scene: Scene) -> dict[str, bool]:
    """Which parts of a scene the objects found agree with; what the scene leaves open has no entry."""
    asked = scene.groups
    pairs = {(thing.color, thing.shape) for thing in found}
    verdict = {
        "color": {thing.color for thing in found} == {group.color for group in asked},
        "shape": {thing.shape for thing in found} == {group.shape for group in asked},
        "binding": pairs == {group[2:] for group in asked},
        "count": len(found) == sum(group.count for group in asked),
    }
    members = [[thing for thing in found if (thing.color, thing.shape) == group[2:]] for group in asked]
    whole = verdict["binding"] and all(len(m) == g.count for m, g in zip(members, asked, strict=True))
    if any(group.size for group in asked):
        sized = all(_sized(things, group) for things, group in zip(members, asked, strict=True))
        verdict["size"] = verdict["binding"] and sized
    if scene.where:
        verdict["relation"] = all(members) and scene.where == _where(members)
    return verdict | {"caption": whole and verdict.get("size", True) and verdict.get("relation", True)}


def _sized(things: Sequence[Reading], group: Group) -> bool:
    return not group.size or all(thing.size == group.size for thing in things)


def _where(members: Sequence[Sequence[Reading]]) -> str:
    centers = [np.mean([(thing.x, thing.y) for thing in things], 0) for things in members]
    dx, dy = centers[0] - (centers[1] if len(centers) == 2 else 0.5)
    if len(centers) == 2:
        return ("left of" if dx < 0 else "right of") if abs(dx) > abs(dy) else ("above" if dy < 0 else "below")
    if max(abs(dx), abs(dy)) < MIDDLE:
        return PLACES[4]
    return (PLACES[0] if dx < 0 else PLACES[1]) if abs(dx) > abs(dy) else (PLACES[2] if dy < 0 else PLACES[3])


def _unmix(pictures: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """How much of each color a pixel holds if it is white mixed with that one, (..., colors); and which fits best."""
    offset = pictures.astype(np.float32) - 255
    amounts = offset @ (_TO_COLOR / (_TO_COLOR**2).sum(1, keepdims=True)).T
    limited = np.clip(amounts, 0, 1)
    # |offset - a d|^2 without the picture-sized difference; |offset|^2 is the same for all colors
    misfit = limited**2 * (_TO_COLOR**2).sum(1) - 2 * limited * (offset @ _TO_COLOR.T)
    return limited, misfit.argmin(3)


def _components(colors: np.ndarray) -> np.ndarray:
    """Connected regions of equal color (n, h, w): a pixel gets the largest pixel number of its region, -1 outside."""
    _, height, width = colors.shape
    labels = np.where(colors >= 0, np.arange(height * width, dtype=np.int32).reshape(1, height, width), np.int32(-1))
    beside, below = colors[:, :, 1:] == colors[:, :, :-1], colors[:, 1:] == colors[:, :-1]
    while True:
        before = labels.copy()
        for a, b, same in (
            (labels[:, :, 1:], labels[:, :, :-1], beside),
            (labels[:, 1:], labels[:, :-1], below),
        ):
            np.maximum(a, b.copy(), out=a, where=same)
            np.maximum(b, a.copy(), out=b, where=same)
        if np.array_equal(before, labels):
            return labels


def _widened(labels: np.ndarray) -> np.ndarray:
    """Each region with the pixels around it that no other region holds: its soft rim."""
    _, height, width = labels.shape
    wide = np.pad(labels, ((0, 0), (1, 1), (1, 1)), constant_values=-1)
    around = np.max([wide[:, i : i + height, j : j + width] for i in range(3) for j in range(3)], axis=0)
    return np.where(labels < 0, around, labels)


def _objects(amounts: np.ndarray, colors: np.ndarray, cores: np.ndarray, regions: np.ndarray) -> list[Reading]:
    smallest, found = FRAGMENT * (SIZES["small"] * len(cores)) ** 2, []
    values, where, counts = np.unique(cores, return_index=True, return_counts=True)
    for value, first, count in zip(values, where, counts, strict=True):
        if value >= 0 and count > CORE * smallest:
            color = colors.flat[first]
            amount = np.where(regions == value, amounts[:, :, color], 0)
            if amount.sum() > smallest:
                found.append(_reading(amount, _NAMES[color]))
    return sorted(found, key=lambda thing: (thing.y, thing.x))


def _reading(amount: np.ndarray, color: str) -> Reading:
    size, area = len(amount), float(amount.sum())
    middles = (np.arange(size) + 0.5) / size
    x, y = float(amount.sum(0) @ middles) / area, float(amount.sum(1) @ middles) / area
    scale = area**0.5 / size
    shape = min(SHAPES, key=lambda name: _misfit(amount, name, x, y, scale))
    return Reading("small" if scale < _SIZE_BORDER else "large", color, shape, x, y, scale)


def _misfit(amount: np.ndarray, shape: str, x: float, y: float, scale: float) -> float:
    """Squared difference from a drawn shape, sharp or blurred, whichever is nearer: networks draw soft edges."""
    drawn = np.zeros_like(amount)
    rows, columns, cover = coverage(shape, x, y, scale, len(amount))
    drawn[rows, columns] = cover
    misfits = []
    for _ in range(3):
        misfits.append(float(((amount - drawn) ** 2).sum()))
        for axis in (0, 1):
            drawn = (np.roll(drawn, 1, axis) + 2 * drawn + np.roll(drawn, -1, axis)) / 4
    return min(misfits)
