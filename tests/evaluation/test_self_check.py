"""The stored features are those of the recipe, and one that is off is told; tests/reference has the numbers."""

import json

import numpy as np
import pytest

from diffusion_jax.evaluation import feature_distances, self_check


def test_this_machine_measures_what_it_must():
    found = self_check.self_check()
    assert set(found) == set(json.loads(self_check.EXPECTED.read_text()))
    assert found["fd_of_few"] > found["fd"] > 0.5


def test_the_file_is_small_and_holds_what_the_recipe_draws():
    assert self_check.FILE.stat().st_size < 200_000
    for name, value in self_check.drawn().items():
        stored = self_check.stored()[name]
        assert stored.dtype == np.float32
        np.testing.assert_allclose(stored, value, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("name", ["fd", "kid", "neighborhoods"])
def test_a_distance_that_is_off_in_the_fourth_digit_is_told(monkeypatch, name):
    function = getattr(feature_distances, name)

    def off(*inputs):
        found = function(*inputs)
        return found * 1.0002 if name == "fd" else type(found)(*(value * 1.0002 for value in found))

    monkeypatch.setattr(feature_distances, name, off)
    with pytest.raises(ValueError, match=r"this machine measures other distances.* is .*, not "):
        self_check.self_check()
