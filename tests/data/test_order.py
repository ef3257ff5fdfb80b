import numpy as np
import pytest

from diffusion_jax.data.order import shuffled, uniform


@pytest.mark.parametrize("length", [1, 2, 3, 4, 5, 16, 17, 341, 1000, 4097])
def test_every_epoch_holds_every_example_once(length):
    order = shuffled(np.arange(3 * length), length, seed=5).reshape(3, length)
    assert (np.sort(order, 1) == np.arange(length)).all()


def test_epochs_and_seeds_have_their_own_orders():
    orders = [shuffled(np.arange(1000) + 1000 * epoch, 1000, seed) for seed in (0, 1, 2) for epoch in (0, 1, 2)]
    for i, a in enumerate(orders):
        for b in [*orders[:i], np.arange(1000)]:
            assert (a == b).mean() < 0.01


def test_a_position_does_not_depend_on_what_else_is_asked():
    whole = shuffled(np.arange(5000), 777, seed=3)
    assert (shuffled(np.array([4999, 0, 1234]), 777, seed=3) == whole[[4999, 0, 1234]]).all()


def test_every_place_is_as_likely_for_every_example():
    length, epochs = 7, 7000
    order = shuffled(np.arange(length * epochs), length, seed=0).reshape(epochs, length)
    counts = np.stack([(order == example).sum(0) for example in range(length)])
    expected = epochs / length
    assert ((counts - expected) ** 2 / expected).sum() < 80  # chi-square with 36 degrees of freedom: p < 1e-4


def test_neighbors_are_not_kept_together():
    order = shuffled(np.arange(20_000), 10_000, seed=1)
    assert abs(np.diff(order)).mean() == pytest.approx(10_000 / 3, rel=0.05)


def test_a_web_scale_length():
    order = shuffled(np.arange(10**12, 10**12 + 1000), 5 * 10**9, seed=0)
    assert len(np.unique(order)) == 1000
    assert 0 <= order.min() < order.max() < 5 * 10**9
    assert order.max() > 4 * 10**9


def test_the_order_is_the_same_on_every_machine():
    assert shuffled(np.arange(8), 8, seed=0).tolist() == [0, 7, 6, 5, 3, 2, 1, 4]
    assert (uniform(np.arange(3), 0, "caption") * 1000).astype(int).tolist() == [367, 917, 673]


def test_uniform_is_uniform_and_differs_by_purpose_and_seed():
    draws = [uniform(np.arange(20_000), seed, purpose) for seed, purpose in ((0, "a"), (1, "a"), (0, "b"))]
    for values in draws:
        assert 0 <= values.min() < values.max() < 1
        assert np.histogram(values, 10, (0, 1))[0].std() < 3 * 2000**0.5
    assert abs(np.corrcoef(draws) - np.eye(3)).max() < 0.03
