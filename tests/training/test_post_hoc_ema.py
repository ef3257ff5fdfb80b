"""Averages of any length: exact where they were stored, and as close as the paper says where they were not."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffusion_jax.training import ema_snapshots, post_hoc_ema, power_ema

LENGTHS = (0.05, 0.10)
GAMMAS = tuple(map(power_ema.gamma_of, LENGTHS))
COUNT, SIZE = 4096, 64


def stored_profiles(snapshots, count=COUNT):
    """(steps, gammas, profiles over all steps) of averages stored at so many equal distances."""
    steps = np.repeat(count * np.arange(1, snapshots + 1) // snapshots, 2).astype(np.float64)
    gammas = np.tile(GAMMAS, snapshots)
    return steps, gammas, np.stack([whole(int(t), g, count) for t, g in zip(steps, gammas, strict=True)])


def whole(step, gamma, count=COUNT):
    return np.pad(power_ema.profile(step, gamma), (0, count - step))


def test_inner_products_are_those_of_the_profiles():
    count = 40_000
    for step_a, a, step_b, b in [(count, 6.94, count, 16.97), (count, 6.94, 30_000, 0.7), (20_000, 9.0, 35_000, 2.0)]:
        summed = whole(step_a, a, count) @ whole(step_b, b, count)
        assert float(post_hoc_ema.inner_product(step_a, a, step_b, b)) == pytest.approx(summed, rel=1e-3)
        swapped = post_hoc_ema.inner_product(step_b, b, step_a, a)
        assert float(swapped) == pytest.approx(float(post_hoc_ema.inner_product(step_a, a, step_b, b)), rel=1e-14)


def test_inner_products_of_long_trainings_and_short_averages_do_not_overflow():
    assert np.isfinite(post_hoc_ema.inner_product(10.0, 500.0, 1e9, 500.0))
    assert float(post_hoc_ema.inner_product(1e9, 500.0, 1e9, 500.0)) == pytest.approx(501**2 / 1001 / 1e9)


@pytest.mark.parametrize("snapshots", [1, 8, 64])
def test_least_squares_find_a_stored_average_by_itself(snapshots):
    steps, gammas, _ = stored_profiles(snapshots)
    for place in (0, len(steps) // 2, len(steps) - 1):
        barely_another = gammas[place] * (1 + 1e-12)  # the equations are solved, and have to find it
        found = post_hoc_ema.fit(steps, gammas, int(steps[place]), barely_another)
        expected = np.zeros(len(steps))
        expected[place] = 1
        np.testing.assert_allclose(found.coefficients, expected, atol=1e-8)
        exact = post_hoc_ema.fit(steps, gammas, int(steps[place]), gammas[place])
        np.testing.assert_array_equal(exact.coefficients, expected)
        assert (exact.error, exact.gain) == (0.0, 1.0)


@pytest.mark.parametrize("sigma_rel", [0.02, 0.07, 0.15, 0.25])
def test_no_other_coefficients_that_sum_to_one_come_closer(sigma_rel):
    steps, gammas, profiles = stored_profiles(8)
    wanted = whole(COUNT, power_ema.gamma_of(sigma_rel))
    found = post_hoc_ema.fit(steps, gammas, COUNT, power_ema.gamma_of(sigma_rel))
    assert found.coefficients.sum() == pytest.approx(1, abs=1e-12)
    best = np.linalg.norm(found.coefficients @ profiles - wanted)
    assert found.error == pytest.approx(best / np.linalg.norm(wanted), rel=0.02)
    # numpy's least squares, with the last coefficient as what the others leave
    others, *_ = np.linalg.lstsq((profiles[:-1] - profiles[-1]).T, wanted - profiles[-1], rcond=None)
    reference = np.linalg.norm(np.append(others, 1 - others.sum()) @ profiles - wanted)
    assert reference <= best * (1 + 1e-12)
    assert best == pytest.approx(reference, rel=1e-3)


@pytest.mark.parametrize("sigma_rel", [0.03, 0.07, 0.15, 0.2])
def test_the_squared_error_falls_with_the_fourth_power_of_the_snapshots(sigma_rel):
    """As the caption of the paper's figure 4 reports."""
    gamma, numbers = power_ema.gamma_of(sigma_rel), [16, 32, 64, 128]
    squared = []
    for snapshots in numbers:
        steps, gammas, _ = stored_profiles(snapshots)
        squared.append(post_hoc_ema.fit(steps, gammas, COUNT, gamma).error ** 2)
    slope = np.polyfit(np.log(numbers), np.log(squared), 1)[0]
    assert -4.3 < slope < -3.5


def test_the_papers_snapshots_reach_its_range_of_lengths():
    """Appendix C.5: two averages, 80 snapshots or more, are nearly perfect for sigma_rel in [0.015, 0.250]."""
    steps, gammas, _ = stored_profiles(80, count=80 * 4096)
    errors = {
        sigma_rel: post_hoc_ema.fit(steps, gammas, 80 * 4096, power_ema.gamma_of(sigma_rel)).error
        for sigma_rel in (0.015, 0.03, 0.07, 0.15, 0.25)
    }
    assert max(errors.values()) < 0.02
    assert max(errors[length] for length in (0.03, 0.07, 0.15)) < 0.002


def walk(seed=0):
    """Parameters that wander from update to update, float32: (updates, elements)."""
    steps = np.random.default_rng(seed).standard_normal((COUNT, SIZE))
    return np.cumsum(0.01 * steps, axis=0).astype(np.float32)


def train(folder, history, every, dtype="float32"):
    """Averages of a history in files, as a training makes them."""

    @jax.jit
    def run(carry, part):
        def one(carry, params):
            averages, count = carry
            return (power_ema.update(averages, {"w": params}, count, GAMMAS), count + 1), None

        return jax.lax.scan(one, carry, part)[0]

    carry = power_ema.begin({"w": jnp.zeros(history.shape[1])}, 2), jnp.int32(0)
    for at in range(0, len(history), every):
        carry = run(carry, jnp.asarray(history[at : at + every]))
        ema_snapshots.save(folder, at + every, carry[0], LENGTHS, dtype)
    return carry[0]


def distance(found, history, sigma_rel, step=COUNT):
    """From the average that follows the parameters all the time, over how far that is from the last parameters."""
    exact = power_ema.profile(step, power_ema.gamma_of(sigma_rel)) @ history[:step].astype(np.float64)
    return np.linalg.norm(found.params["w"] - exact) / np.linalg.norm(exact - history[step - 1])


def test_a_stored_average_comes_back_bit_for_bit(tmp_path):
    averages = train(tmp_path, walk(), COUNT // 4)
    for length, average in zip(LENGTHS, averages, strict=True):
        found = post_hoc_ema.reconstruct(tmp_path, length)
        assert (found.step, found.sigma_rel, found.fit.error) == (COUNT, length, 0.0)
        np.testing.assert_array_equal(found.params["w"], average["w"])
        assert found.params["w"].dtype == np.float32


def test_new_lengths_agree_with_averages_that_followed_and_more_snapshots_agree_more(tmp_path):
    history = walk()
    bounds = {8: 0.15, 32: 0.005, 128: 0.0005}
    errors = {sigma_rel: [] for sigma_rel in (0.03, 0.07, 0.15, 0.2)}
    for snapshots, bound in bounds.items():
        train(tmp_path / str(snapshots), history, COUNT // snapshots)
        for sigma_rel, series in errors.items():
            found = post_hoc_ema.reconstruct(tmp_path / str(snapshots), sigma_rel, tolerance=0.2)
            series.append(distance(found, history, sigma_rel))
            assert series[-1] < bound, (snapshots, sigma_rel)
    for sigma_rel, series in errors.items():
        assert series[1] < series[0] / 8, sigma_rel
        assert series[2] < series[1] / 4, sigma_rel


def test_on_a_random_walk_a_sum_of_one_comes_closer_than_the_papers_free_sum():
    steps, gammas, profiles = stored_profiles(4)
    history = walk().astype(np.float64)
    products = post_hoc_ema.inner_product(steps[:, None], gammas[:, None], steps, gammas)
    for sigma_rel in (0.01, 0.03, 0.07, 0.15, 0.2, 0.25):
        gamma = power_ema.gamma_of(sigma_rel)
        free = np.linalg.solve(products, post_hoc_ema.inner_product(steps, gammas, COUNT, gamma))
        ours = post_hoc_ema.fit(steps, gammas, COUNT, gamma).coefficients
        wanted = whole(COUNT, gamma)
        apart = [np.linalg.norm((c @ profiles - wanted) @ history) for c in (ours, free, free / free.sum())]
        assert apart[0] < min(apart[1:]), sigma_rel


@pytest.mark.parametrize("step", [1024, 2048, 4032])
def test_the_average_of_an_earlier_step_with_a_snapshot_is_as_good(tmp_path, step):
    history = walk()
    train(tmp_path, history, COUNT // 64)
    for sigma_rel in (0.05, 0.15):
        found = post_hoc_ema.reconstruct(tmp_path, sigma_rel, step)
        assert found.step == step
        assert distance(found, history, sigma_rel, step) < 0.005
        assert len(found.fit.coefficients) == 2 * step // 64  # nothing of what came later


@pytest.mark.parametrize(("step", "bound"), [(1000, 0.15), (2500, 0.15), (4095, 0.15)])
def test_between_snapshots_an_average_is_rough_and_only_given_when_that_is_fine(tmp_path, step, bound):
    history = walk()
    train(tmp_path, history, COUNT // 64)
    near = {1000: 1024, 2500: 2496, 4095: 4096}[step]
    with pytest.raises(ValueError, match=rf"0\.05 at step {step} with an error of .*%, beyond 1\.0%: .*step {near},"):
        post_hoc_ema.reconstruct(tmp_path, 0.05, step, tolerance=0.01)
    found = post_hoc_ema.reconstruct(tmp_path, 0.15, step, tolerance=0.3)
    assert 0.01 < found.fit.error < 0.3
    assert distance(found, history, 0.15, step) < bound


def test_an_average_that_is_too_short_for_its_snapshots_is_refused(tmp_path):
    train(tmp_path, walk(), COUNT // 8)
    with pytest.raises(ValueError, match=r"8 snapshots give .*sigma_rel=0\.01 .*ask for a length nearer") as caught:
        post_hoc_ema.reconstruct(tmp_path, 0.01)
    assert "\n" not in str(caught.value)
    assert post_hoc_ema.reconstruct(tmp_path, 0.01, tolerance=1.0).fit.error > 0.3


def test_what_comes_after_the_next_snapshot_is_not_read(tmp_path):
    history = walk()
    train(tmp_path / "all", history, COUNT // 16)
    train(tmp_path / "some", history[: COUNT // 2], COUNT // 16)
    step = COUNT // 2 - 10
    found = [
        post_hoc_ema.reconstruct(tmp_path / name, 0.07, step, tolerance=1.0).params["w"] for name in ("all", "some")
    ]
    np.testing.assert_array_equal(*found)


def test_half_precision_costs_what_the_gain_says(tmp_path):
    history = walk() + np.float32(1)
    for dtype in ("float32", "float16"):
        train(tmp_path / dtype, history, COUNT // 64, dtype)
    for sigma_rel in (0.015, 0.03, 0.07, 0.15):
        full, half = (post_hoc_ema.reconstruct(tmp_path / dtype, sigma_rel) for dtype in ("float32", "float16"))
        rounding = np.sqrt(np.mean((half.params["w"] - full.params["w"]) ** 2))
        size = np.sqrt(np.mean(full.params["w"].astype(np.float64) ** 2))
        assert rounding < full.fit.gain * 2**-11 * size
        assert full.fit.gain < (1.3 if sigma_rel >= 0.07 else 60)


def test_averages_that_were_followed_in_float32_stay_close_to_exact_ones(tmp_path):
    history = walk() + np.float32(1)
    averages = train(tmp_path, history, COUNT)
    for gamma, average in zip(GAMMAS, averages, strict=True):
        exact = power_ema.profile(COUNT, gamma) @ history.astype(np.float64)
        np.testing.assert_allclose(average["w"], exact, rtol=1e-6, atol=1e-6)


def test_trees_keep_their_shape(tmp_path):
    tree = {"unet": {"kernel": np.ones((2, 3)), "gain": np.ones(())}, "head": {"bias": np.ones(4)}}
    for step in (10, 20):
        ema_snapshots.save(tmp_path, step, [tree, tree], LENGTHS)
    found = post_hoc_ema.reconstruct(tmp_path, 0.15, tolerance=1.0).params
    assert jax.tree.structure(found) == jax.tree.structure(tree)
    for ours, theirs in zip(jax.tree.leaves(found), jax.tree.leaves(tree), strict=True):
        assert (ours.shape, ours.dtype) == (theirs.shape, np.float32)
        np.testing.assert_allclose(ours, theirs, rtol=1e-6)  # constant parameters are their own average


@pytest.mark.parametrize("steps", [[1], [1, 2], [999_999, 1_000_000], [1, 2, 3, 10**7]])
def test_snapshots_at_odd_steps_still_give_an_average(tmp_path, steps):
    for step in steps:
        ema_snapshots.save(tmp_path, step, [{"w": np.ones(3)}] * 2, LENGTHS)
    found = post_hoc_ema.reconstruct(tmp_path, 0.07, tolerance=0.2)
    np.testing.assert_allclose(found.params["w"], 1, rtol=1e-6)


def test_each_file_is_read_once(tmp_path, monkeypatch):
    train(tmp_path, walk()[:40], 10)
    read, tensors = [], post_hoc_ema.tensors
    monkeypatch.setattr(post_hoc_ema, "tensors", lambda s, number: read.append((s.step, number)) or tensors(s, number))
    post_hoc_ema.reconstruct(tmp_path, 0.15, tolerance=1.0)
    assert read == [(step, number) for step in (10, 20, 30, 40) for number in (0, 1)]
    read.clear()
    post_hoc_ema.reconstruct(tmp_path, 0.1)
    assert read == [(40, 1)]


def test_what_cannot_be_is_one_clear_line(tmp_path):
    with pytest.raises(FileNotFoundError, match="no snapshots of averages"):
        post_hoc_ema.reconstruct(tmp_path, 0.1)
    for step in (10, 20):
        ema_snapshots.save(tmp_path, step, [{"w": np.ones(3)}] * 2, LENGTHS)
    for length in (0.0, 0.2887, float("nan")):
        with pytest.raises(ValueError, match=r"lies above 0 and below 0\.2887"):
            post_hoc_ema.reconstruct(tmp_path, length)
    for step in (0, -1, 21):
        with pytest.raises(ValueError, match=f"no averages of step {step}: its snapshots end at step 20"):
            post_hoc_ema.reconstruct(tmp_path, 0.1, step)


@pytest.mark.parametrize(
    ("other", "message"),
    [
        ({"w": np.ones(4)}, r"000000020.*'w' is \(4,\) and was \(3,\)"),
        ({"w": np.ones(3), "v": np.ones(1)}, r"000000020.*'v' is \(1,\) and was absent"),
        ({"v": np.ones(3)}, "000000020.*'v' is .* and was absent"),
        ({}, "000000020.*'w' is missing"),
        ({"w": np.array([1, np.inf, 1])}, "000000020.*not finite"),
    ],
)
def test_a_snapshot_of_another_model_or_of_none_is_named(tmp_path, other, message):
    for step, tree in ((10, {"w": np.ones(3)}), (20, other), (30, {"w": np.ones(3)})):
        ema_snapshots.save(tmp_path, step, [tree, tree], LENGTHS)
    with pytest.raises(ValueError, match=message) as caught:
        post_hoc_ema.reconstruct(tmp_path, 0.15, tolerance=1.0)
    assert "\n" not in str(caught.value)


def test_a_damaged_snapshot_is_named(tmp_path):
    for step in (10, 20):
        path = ema_snapshots.save(tmp_path, step, [{"w": np.ones(3)}] * 2, LENGTHS)
    path.write_bytes(path.read_bytes()[:-4])
    with pytest.raises(ValueError, match=r"000000020\.safetensors is truncated"):
        post_hoc_ema.reconstruct(tmp_path, 0.15)
