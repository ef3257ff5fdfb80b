import itertools

import numpy as np
import pytest

from diffusion_jax.data.scenes import (
    COLORS,
    HELD_OUT,
    PLACES,
    RELATIONS,
    SHAPES,
    SIZES,
    Group,
    Scene,
    caption,
    captions_of,
    read_caption,
    sample_scene,
)

TWO = Scene((Group(1, "small", "red", "circle"), Group(2, "large", "orange", "cross")), "left of")


def scenes(count: int, held_out: bool):
    rng = np.random.default_rng(0)
    return [sample_scene(iter(rng.random(64).tolist()), held_out) for _ in range(count)]


@pytest.mark.parametrize(
    ("scene", "text"),
    [
        (TWO, "a small red circle left of two large orange crosses"),
        (TWO._replace(where=""), "a small red circle and two large orange crosses"),
        (Scene((Group(1, "", "orange", "square"),), "in the middle"), "an orange square in the middle"),
        (Scene((Group(3, "large", "black", "triangle"),)), "three large black triangles"),
    ],
)
def test_scenes_are_said_in_plain_english(scene, text):
    assert caption(scene) == text
    assert read_caption(text) == scene


def test_reading_is_the_inverse_of_saying():
    groups = [Group(*g) for g in itertools.product((1, 2, 3), ("", *SIZES), COLORS, SHAPES)]
    for number, group in enumerate(groups):
        other = groups[(number * 7 + 3) % len(groups)]
        for scene in (Scene((group,)), Scene((group, other)), Scene((group, other), RELATIONS[number % 4])):
            assert read_caption(caption(scene)) == scene
        assert read_caption(caption(Scene((group,), PLACES[number % 5]))) == Scene((group,), PLACES[number % 5])


def test_captions_say_less_and_less_and_stay_true():
    assert captions_of(TWO) == (
        "a small red circle left of two large orange crosses",
        "a red circle left of two orange crosses",
        "a small red circle and two large orange crosses",
    )
    assert captions_of(Scene((Group(2, "small", "red", "cross"),))) == ("two small red crosses", "two red crosses")


@pytest.mark.parametrize("held_out", [False, True])
def test_sampled_scenes_are_well_formed(held_out):
    for scene in scenes(2000, held_out):
        total = sum(group.count for group in scene.groups)
        assert 1 <= total <= 3
        assert len({group[2:] for group in scene.groups}) == len(scene.groups)
        if len(scene.groups) == 2:
            assert scene.where in RELATIONS
        else:
            assert scene.where in (("", *PLACES) if total == 1 else ("",))


def test_everything_occurs():
    sampled = scenes(4000, False)
    groups = [group for scene in sampled for group in scene.groups]
    assert {group.color for group in groups} == set(COLORS)
    assert {group.shape for group in groups} == set(SHAPES)
    assert {(group.count, group.size) for group in groups} == set(itertools.product((1, 2, 3), SIZES))
    assert {scene.where for scene in sampled} == {"", *PLACES, *RELATIONS}


def test_held_out_pairs_are_new_but_their_parts_are_not():
    seen = {group[2:] for scene in scenes(4000, False) for group in scene.groups}
    assert not seen & set(HELD_OUT)
    assert len(seen) == len(COLORS) * len(SHAPES) - len(HELD_OUT)
    for color, shape in HELD_OUT:
        assert any(pair[0] == color for pair in seen)
        assert any(pair[1] == shape for pair in seen)
    for scene in scenes(200, True):
        assert sum(group[2:] in HELD_OUT for group in scene.groups) == 1


@pytest.mark.parametrize(
    "text", ["", "a red", "a photo of a dog", "four red circles", "a red circle beside a blue cross"]
)
def test_other_sentences_are_refused(text):
    with pytest.raises(ValueError, match="is no sentence about shapes"):
        read_caption(text)
