"""Captions: whatever the text, lines that fit and no error."""

import pytest
from PIL import Image

from diffusion_jax.evaluation import lettering

TEXTS = [
    "",
    "a red heart",
    "🎉 party 😀",
    "a " * 5000,
    "x" * 10_000,
    "\ud800 lone",
    "a\n\t\x00b",
    "قلب أحمر",
    "👩‍🚀",
    " ",
]


@pytest.mark.parametrize("text", TEXTS)
@pytest.mark.parametrize("width", [20, 112])
def test_any_text_fits(text, width):
    lines = lettering.wrap(text, width, 3)
    assert len(lines) <= 3
    assert all(lettering.length(line) <= width for line in lines)
    lettering.write(Image.new("RGB", (200, 100)), lines, 0, 0, center=width)


def test_words_are_kept_whole_and_all_there():
    assert lettering.wrap("a smiling face with red hearts", 112, 3) == ["a smiling face", "with red hearts"]


def test_what_does_not_fit_ends_in_an_ellipsis():
    lines = lettering.wrap("one two three four five six seven eight nine ten", 60, 2)
    assert lines[-1].endswith("…")
    assert lettering.wrap("", 60, 2) == []


def test_long_words_are_broken_without_loss():
    word = "abcdefghijklmnopqrstuvwxyz"
    assert "".join(lettering.wrap(word, 60, 9)) == word


@pytest.mark.parametrize(
    ("text", "drawn"), [("a\n\t b\x07", "a b"), ("\ud800", "?"), ("❤️", "❤"), ("e\u0301", "e\u0301")]
)
def test_plain(text, drawn):
    assert lettering.plain(text) == drawn
