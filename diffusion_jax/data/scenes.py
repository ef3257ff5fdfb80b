"""Scenes of one to three colored shapes: what may be in them, how they are said, and how a sentence is read back.

    a large red circle on the left
    three small green triangles
    a small red circle left of two large blue squares

A scene is one group of equal objects, or two groups and how the first lies to the second.
"""

import re
from collections.abc import Iterator
from typing import NamedTuple

COLORS = {
    "red": (220, 30, 30),
    "orange": (255, 140, 0),
    "yellow": (250, 215, 30),
    "green": (30, 160, 70),
    "cyan": (0, 190, 220),
    "blue": (40, 80, 220),
    "purple": (140, 60, 200),
    "black": (20, 20, 20),
}
SHAPES = ("circle", "square", "triangle", "cross")
SIZES = {"small": 0.18, "large": 0.29}  # square root of the area, in picture widths: the same for every shape
COUNTS = ("a", "two", "three")
PLACES = ("on the left", "on the right", "at the top", "at the bottom", "in the middle")  # of a lone object
RELATIONS = ("left of", "right of", "above", "below")  # of the first group to the second

# each color and shape is seen in training, but never these together
HELD_OUT = (("red", "circle"), ("purple", "square"), ("cyan", "triangle"), ("yellow", "cross"))


class Group(NamedTuple):
    """`count` equal objects; size "" is any size (in a sentence that does not say)."""

    count: int
    size: str
    color: str
    shape: str


class Scene(NamedTuple):
    """One or two groups; where is a place (one object), a relation (two groups) or "" for anywhere."""

    groups: tuple[Group, ...]
    where: str = ""


def sample_scene(draw: Iterator[float], held_out: bool) -> Scene:
    """A scene from uniform numbers in [0, 1). With held_out, its first group is of HELD_OUT; without, no group is."""
    kind = next(draw)
    count = 1 + (kind >= 0.3) + (kind >= 0.4)  # 30% one object, 20% two or three equal ones, 50% two groups
    if kind < 0.5:
        where = choose(("", *PLACES), draw) if count == 1 else ""
        return Scene((_sample_group(count, draw, held_out),), where)
    counts = choose(((1, 1), (1, 2), (2, 1)), draw)
    first = _sample_group(counts[0], draw, held_out)
    second = _sample_group(counts[1], draw, False)
    while second[2:] == first[2:]:  # or a sentence could not tell them apart
        second = _sample_group(counts[1], draw, False)
    return Scene((first, second), choose(RELATIONS, draw))


def captions_of(scene: Scene) -> tuple[str, ...]:
    """True sentences about the scene: everything first, then without sizes, then without places and relations."""
    without_sizes = scene._replace(groups=tuple(group._replace(size="") for group in scene.groups))
    return tuple(dict.fromkeys(caption(s) for s in (scene, without_sizes, scene._replace(where=""))))


def caption(scene: Scene) -> str:
    """The sentence that says all that the scene record says; `read_caption` is its inverse."""
    first, *rest = map(_phrase, scene.groups)
    return " ".join([first, scene.where or "and", *rest] if rest else filter(None, [first, scene.where]))


def read_caption(text: str) -> Scene:
    """The scene that a sentence of this language describes. Raises ValueError for any other sentence."""
    found = _SENTENCE.fullmatch(text.strip().lower())
    if found is None:
        raise ValueError(f'"{text[:80]}" is no sentence about shapes, such as "{caption(_EXAMPLE)}".')
    groups = tuple(_read_group(found, n) for n in ("1", "2") if found[f"shape{n}"])
    return Scene(groups, found["place"] or (found["relation"] or "").replace("and", ""))


def choose(options: tuple, draw: Iterator[float]):
    """One of the options, each as likely."""
    return options[int(next(draw) * len(options))]


def _sample_group(count: int, draw: Iterator[float], held_out: bool) -> Group:
    size = choose(tuple(SIZES), draw)
    if held_out:
        return Group(count, size, *choose(HELD_OUT, draw))
    return Group(count, size, *choose(_SEEN, draw))


def _phrase(group: Group) -> str:
    words = [word for word in (group.size, group.color) if word]
    article = "an" if words[0][0] in "aeiou" else "a"
    plural = "" if group.count == 1 else "es" if group.shape.endswith("s") else "s"
    return " ".join([article if group.count == 1 else COUNTS[group.count - 1], *words, group.shape + plural])


def _read_group(found: re.Match, n: str) -> Group:
    count = COUNTS.index(found[f"count{n}"].replace("an", "a")) + 1
    return Group(count, found[f"size{n}"] or "", found[f"color{n}"], found[f"shape{n}"])


def _pattern(n: int) -> str:
    def any_of(words):
        return "|".join(words)

    return (
        rf"(?P<count{n}>an|{any_of(COUNTS)}) ((?P<size{n}>{any_of(SIZES)}) )?"
        rf"(?P<color{n}>{any_of(COLORS)}) (?P<shape{n}>{any_of(SHAPES)})(es|s)?"
    )


_SEEN = tuple((color, shape) for color in COLORS for shape in SHAPES if (color, shape) not in HELD_OUT)
_SENTENCE = re.compile(
    rf"{_pattern(1)}( (?P<place>{'|'.join(PLACES)})| (?P<relation>and|{'|'.join(RELATIONS)}) {_pattern(2)})?"
)
_EXAMPLE = Scene((Group(1, "small", "red", "circle"), Group(2, "large", "blue", "square")), "left of")
