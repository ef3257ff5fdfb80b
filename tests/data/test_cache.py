import pickle

import numpy as np
import pytest

from diffusion_jax.data.cache import OVERHEAD, decoded
from diffusion_jax.data.examples import Indexed, Source

ASKED = []


def example(index: int) -> dict:
    ASKED.append(index)
    return {"image": np.full((30, 20, 3), index, np.uint8), "captions": [f"{index}", "x"], "id": f"{index}", "more": 1}


@pytest.fixture
def source() -> Source:
    ASKED.clear()
    return Indexed(10, example)


def test_pictures_are_made_once(source):
    small = decoded(source, 8)
    assert len(small) == 10
    for _ in range(3):
        assert (small[4]["image"] == np.full((8, 8, 3), 4)).all()
        assert small[4]["captions"] == ("4", "x")
        assert small[4]["id"] == "4"
    assert ASKED == [4]


def test_kept_pictures_cannot_be_changed(source):
    with pytest.raises(ValueError, match="read-only"):
        decoded(source, 8)[0]["image"][0] = 1


@pytest.mark.parametrize(("missing", "asked"), [(0, [0, 1]), (1, [0, 1, 0, 1])])
def test_a_source_that_does_not_fit_is_made_anew_at_every_visit(source, missing, asked):
    small = decoded(source, 8, max_bytes=10 * (8 * 8 * 3 + OVERHEAD) - missing)
    for index in (0, 1, 0, 1):
        assert small[index]["image"][0, 0, 0] == index
    assert asked == ASKED


def test_a_kept_picture_does_not_hold_its_original():
    originals = np.zeros((4, 8, 8, 3), np.uint8)
    small = decoded(Indexed(4, lambda i: {"image": originals[i], "captions": ("a",), "id": "b"}), 8)
    assert not np.shares_memory(small[0]["image"], originals)
    assert originals.flags.writeable


def test_a_copy_starts_empty(source):
    small = decoded(source, 8)
    small[1]
    again = pickle.loads(pickle.dumps(small))
    assert (again[1]["image"] == small[1]["image"]).all()
    assert ASKED == [1, 1]


def test_a_source_ends_where_it_says(source):
    assert [e["id"] for e in source] == [str(i) for i in range(10)]
    for index in (-1, 10):
        with pytest.raises(IndexError):
            source[index]
