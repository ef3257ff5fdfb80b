"""Captions on pictures: any text, in few lines of a given width, never an error."""

from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path

import matplotlib
from PIL import Image, ImageDraw, ImageFont

FONT_SIZE = 12
INK = "#333333"
UNDRAWN = "\ufe0f\u200d"  # selector and joiner of emoji


@cache
def font() -> ImageFont.FreeTypeFont:
    """DejaVu Sans, which comes with matplotlib; it has the letters of most scripts, and a box for the rest."""
    path = Path(matplotlib.get_data_path()) / "fonts" / "ttf" / "DejaVuSans.ttf"
    return ImageFont.truetype(path, FONT_SIZE, layout_engine=ImageFont.Layout.BASIC)


def height(lines: Sequence[str]) -> int:
    """Pixels that lines below each other need, with a little air; nothing for none."""
    return len(lines) * pitch() + 4 * bool(lines)


def pitch() -> int:
    """Pixels from line to line."""
    return sum(font().getmetrics()) + 1


def length(text: str) -> int:
    """Pixels that a text on one line needs."""
    return round(font().getlength(plain(text)))


def write(canvas: Image.Image, lines: Sequence[str], left: int, top: int, center: int = 0) -> None:
    """Write lines below each other, each in the middle of `center` pixels if given."""
    draw = ImageDraw.Draw(canvas)
    for number, line in enumerate(lines):
        shift = max(0, (center - length(line)) // 2) if center else 0
        draw.text((left + shift, top + number * pitch()), line, font=font(), fill=INK)


def plain(text: str) -> str:
    """The text on one line: control characters become spaces, lone surrogates question marks."""
    text = text[:1000].encode("utf-8", "replace").decode("utf-8")
    return " ".join("".join(c if c.isprintable() else " " for c in text if c not in UNDRAWN).split())


def wrap(text: str, width: int, lines: int) -> list[str]:
    """The text in at most so many lines of at most so many pixels; an ellipsis stands for what does not fit."""
    done, words = [], plain(text).split(" ")
    while words and words != [""] and len(done) < lines:
        last = len(done) == lines - 1
        done.append(last_line(" ".join(words), width) if last else next_line(words, width))
    return done


def next_line(words: list[str], width: int) -> str:
    """Takes the words off the front that fit the width; of a word wider than that, the letters that fit."""
    line = words.pop(0)
    if font().getlength(line) > width:
        kept = longest(line, lambda part: font().getlength(part) <= width)
        words.insert(0, line[len(kept) :])
        return kept
    while words and font().getlength(f"{line} {words[0]}") <= width:
        line += " " + words.pop(0)
    return line


def last_line(text: str, width: int) -> str:
    if font().getlength(text) <= width:
        return text
    return longest(text, lambda part: font().getlength(part.rstrip() + "…") <= width).rstrip() + "…"


def longest(text: str, fits: Callable[[str], bool]) -> str:
    """The longest beginning of a text that fits, and one letter at least."""
    return text[: next((n for n in range(min(len(text), 400), 1, -1) if fits(text[:n])), 1)]
