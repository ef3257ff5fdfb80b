"""Several trainings read one stream: each sees every batch, which is made once."""

import grain
import numpy as np
import pytest

from diffusion_jax.data.pipeline import Batches
from diffusion_jax.data.shared import shares


@pytest.fixture
def two():
    """Two shares of batches that are numbers, and those that were made."""
    made = []
    numbers = grain.MapDataset.range(100).map(lambda number: made.append(int(number)) or {"number": np.array(number)})
    read = Batches(numbers, {"seed": 0}, lambda dataset: dataset.to_iter_dataset(grain.ReadOptions(0, 0)))
    return made, shares(read, 2)


def test_each_sees_all_and_each_is_made_once(two):
    made, (first, second) = two
    seen = [(next(first)["number"], next(second)["number"]) for _ in range(3)]
    assert seen == [(0, 0), (1, 1), (2, 2)]
    assert made == [0, 1, 2]


def test_a_position_is_ones_own(two):
    _, (first, second) = two
    next(first)
    assert first.get_state() == {"next_batch": 1, "seed": 0}
    assert second.get_state() == {"next_batch": 0, "seed": 0}


def test_it_goes_on_where_it_was_though_another_that_waits_was_elsewhere(two):
    made, (first, second) = two
    first.set_state({"next_batch": 5, "seed": 0})
    second.set_state({"next_batch": 9, "seed": 0})
    assert [next(first)["number"] for _ in range(2)] == [5, 6]
    assert made == [5, 6]
    with pytest.raises(ValueError, match="go in step"):
        next(second)


def test_another_seeds_position_is_refused(two):
    _, (first, _) = two
    with pytest.raises(ValueError, match="seed"):
        first.set_state({"next_batch": 5, "seed": 1})
