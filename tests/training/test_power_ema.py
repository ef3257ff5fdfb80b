"""The averages weigh the parameters as their formula says, from the first update on, however the steps are run."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from diffusion_jax.training import checkpoint, layout, nonfinite, parallel, power_ema, state, step

LENGTHS = (0.05, 0.10)
GAMMAS = tuple(map(power_ema.gamma_of, LENGTHS))


@pytest.mark.parametrize(
    ("sigma_rel", "gamma"), [(0.25, 0.72), (0.20, 1.83), (0.15, 3.56), (0.10, 6.94), (0.05, 16.97)]
)
def test_exponents_are_those_of_the_papers_figure_24(sigma_rel, gamma):
    assert power_ema.gamma_of(sigma_rel) == pytest.approx(gamma, abs=0.005)


@pytest.mark.parametrize("sigma_rel", [0.0015, 0.01, 0.05, 0.123, 0.25, 0.2886])
def test_exponents_solve_the_papers_cubic_and_lengths_come_back(sigma_rel):
    gamma = power_ema.gamma_of(sigma_rel)
    assert gamma > 0
    np.testing.assert_allclose(gamma**3 + 7 * gamma**2 + 16 * gamma + 12, (gamma + 1) / sigma_rel**2, rtol=1e-9)
    assert power_ema.sigma_rel_of(gamma) == pytest.approx(sigma_rel, rel=1e-9)


@pytest.mark.parametrize("sigma_rel", [0.0, -0.1, 12**-0.5, 0.3, 5.0, float("nan"), float("inf")])
def test_a_length_out_of_range_is_told(sigma_rel):
    with pytest.raises(ValueError, match=r"sigma_rel is .* below 0\.2887") as caught:
        power_ema.gamma_of(sigma_rel)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("sigma_rel", [0.02, 0.05, 0.1, 0.2, 0.28])
def test_a_profile_sums_to_one_and_is_as_long_as_was_asked(sigma_rel):
    count = 20_000
    weights = power_ema.profile(count, power_ema.gamma_of(sigma_rel))
    assert (weights > 0).all() or sigma_rel < 0.05  # the first ones of a short average are below the smallest number
    assert weights.sum() == pytest.approx(1, abs=1e-12)
    times = (np.arange(count) + 0.5) / count
    mean = weights @ times
    assert np.sqrt(weights @ (times - mean) ** 2) == pytest.approx(sigma_rel, rel=1e-5)
    gamma = power_ema.gamma_of(sigma_rel)
    assert mean == pytest.approx((gamma + 1) / (gamma + 2), rel=1e-6)  # Equation 122


def test_a_profile_is_the_power_function_integrated_over_each_step():
    weights = power_ema.profile(7, 2.5)
    ends = (np.arange(8) / 7) ** 3.5
    np.testing.assert_allclose(weights, np.diff(ends), rtol=1e-13)
    np.testing.assert_array_equal(power_ema.profile(1, 2.5), [1.0])


def averaged(history, begun, chunks):
    """The averages of a history of parameters, run as one compiled scan for each chunk of it."""

    @jax.jit
    def run(carry, part):
        def one(carry, params):
            averages, count = carry
            return (power_ema.update(averages, params, count, GAMMAS), count + 1), None

        return jax.lax.scan(one, carry, part)[0]

    carry, at = (power_ema.begin(begun, 2), jnp.int32(0)), 0
    for size in chunks:
        carry = run(carry, jax.tree.map(lambda leaf, at=at, size=size: leaf[at : at + size], history))
        at += size
    assert at == len(jax.tree.leaves(history)[0])
    return carry[0]


def test_unit_impulses_come_out_as_the_profile():
    count = 400
    impulses = {"w": jnp.eye(count)}  # after update i, parameter i is 1 and all others are 0
    found = averaged(impulses, {"w": jnp.full(count, 1e6)}, [count])
    for average, gamma in zip(found, GAMMAS, strict=True):
        np.testing.assert_allclose(average["w"], power_ema.profile(count, gamma), rtol=2e-4, atol=1e-9)


def test_after_the_first_update_the_average_is_the_parameters():
    first = {"w": jnp.float32(0.1)}
    found = power_ema.update(power_ema.begin({"w": jnp.float32(-3)}, 1), first, jnp.int32(0), [6.94])
    assert float(found[0]["w"]) == pytest.approx(0.1, rel=1e-5)


def test_shares_are_exact_in_float32_after_a_million_updates():
    steps = np.array([0, 1, 10, 999, 10**5, 10**6, 2**24 - 1])
    for gamma in GAMMAS:
        t = steps[1:] + np.float64(1)
        exact = [1.0, *-np.expm1((gamma + 1) * np.log1p(-1 / t))]
        found = jax.vmap(lambda step, gamma=gamma: power_ema.share_at(step, gamma))(jnp.asarray(steps, jnp.int32))
        np.testing.assert_allclose(found, exact, rtol=1e-6)


@pytest.mark.parametrize("chunks", [[1] * 100, [7, 93], [50, 49, 1]], ids=["one by one", "two", "three"])
def test_not_a_bit_depends_on_how_the_steps_are_cut(chunks):
    rng = np.random.default_rng(0)
    history = {"w": jnp.asarray(rng.standard_normal((100, 33)), jnp.float32)}
    begun = {"w": jnp.zeros(33)}
    chex.assert_trees_all_equal(averaged(history, begun, chunks), averaged(history, begun, [100]))


@pytest.mark.parametrize("moves", [0.0, 0.001], ids=["settled", "moving"])
def test_rounding_stays_within_its_bound(moves):
    count, rng = 20_000, np.random.default_rng(0)
    settling = 0.01 * np.exp(-20 * np.arange(count) / count)[:, None]
    history = (1 + settling + moves * rng.standard_normal((count, 8))).astype(np.float32)
    found = averaged({"w": jnp.asarray(history)}, {"w": jnp.zeros(8)}, [count])
    for average, gamma in zip(found, GAMMAS, strict=True):
        exact = power_ema.profile(count, gamma) @ history.astype(np.float64)
        bound = 2**-24 * count / (gamma + 2) * (0.1 if moves else 1)
        np.testing.assert_allclose(average["w"], exact, rtol=bound)


def test_averages_are_in_float32_and_no_alias_of_the_parameters():
    params = {"a": jnp.ones(2), "b": jnp.ones(2, jnp.bfloat16)}
    averages = power_ema.begin(params, 2)
    pointers = {leaf.unsafe_buffer_pointer() for leaf in jax.tree.leaves((params, averages))}
    assert len(pointers) == 6
    for tree in (averages, power_ema.update(averages, params, jnp.int32(3), GAMMAS)):
        assert all(leaf.dtype == jnp.float32 for leaf in jax.tree.leaves(tree))


def loss(params, batch, keys, rows):
    return jnp.mean((batch["image"] @ params["w"] - 1) ** 2) + 0 * params["still"].sum(), {}


def trained(optimizer, batches, wrap=lambda take: take, params=None):
    params = params or {"w": jnp.arange(4.0), "still": jnp.ones(3)}
    take = jax.jit(wrap(step.make_train_step(loss, optimizer, 0.9, fixed=("still",))))
    now, seen = state.init_state(params, optimizer, ("still",)), []
    for batch in batches:
        now, _ = take(now, {"image": jnp.asarray(batch)}, jax.random.key(0))
        seen.append(np.asarray(now.params["w"], np.float64))
    return now, np.stack(seen)


BATCHES = np.random.default_rng(1).standard_normal((30, 8, 4)).astype(np.float32)


def test_a_followed_optimizer_trains_as_before_and_averages_what_it_trained():
    plain, _ = trained(optax.adam(0.1), BATCHES)
    now, seen = trained(power_ema.following(optax.adam(0.1), LENGTHS), BATCHES)
    chex.assert_trees_all_equal(now.params, plain.params)
    chex.assert_trees_all_equal(now.opt_state.inner, plain.opt_state)
    assert int(now.opt_state.count) == 30
    for average, gamma in zip(now.opt_state.averages, GAMMAS, strict=True):
        assert average.keys() == {"w"}  # what is not trained needs no average
        np.testing.assert_allclose(average["w"], power_ema.profile(30, gamma) @ seen, rtol=1e-5)


def test_steps_that_are_skipped_are_none_of_the_averages():
    spoilt = np.insert(BATCHES, [0, 11], np.nan, axis=0)
    optimizer = power_ema.following(optax.adam(0.1), LENGTHS)
    now, _ = trained(optimizer, BATCHES)
    skipped, _ = trained(optimizer, spoilt, nonfinite.skipping)
    assert (int(skipped.step), int(skipped.opt_state.count)) == (32, 30)
    chex.assert_trees_all_close(skipped.opt_state.averages, now.opt_state.averages, rtol=1e-6)


def test_no_lengths_change_nothing():
    optimizer = optax.adam(0.1)
    assert power_ema.following(optimizer, ()) is optimizer


def test_lengths_that_make_no_sense_are_told():
    with pytest.raises(ValueError, match="there twice"):
        power_ema.following(optax.adam(0.1), (0.05, 0.05))
    with pytest.raises(ValueError, match=r"sigma_rel is 0\.5"):
        power_ema.following(optax.adam(0.1), (0.05, 0.5))


def test_averages_lie_as_their_parameters_do_and_are_in_the_checkpoint(tmp_path):
    params = {"dense": {"kernel": jnp.ones((128, 64)), "bias": jnp.zeros(64)}}
    optimizer = power_ema.following(optax.adam(0.1), LENGTHS)
    now = state.init_state(params, optimizer)
    mesh = parallel.device_mesh(data=2, fsdp=4)
    shardings = layout.layout(now, mesh)
    assert shardings.params["dense"]["kernel"].spec[0] == "fsdp"
    for average in shardings.opt_state.averages:
        chex.assert_trees_all_equal(average, shardings.params)

    now = parallel.place(now._replace(step=jnp.int32(3)), shardings)
    checkpoints = checkpoint.open_checkpoints(tmp_path)
    try:
        checkpoint.save(checkpoints, now, {}, {})
        checkpoint.finish(checkpoints)
        found, _ = checkpoint.restore(checkpoints, parallel.shapes_as(now, shardings))
    finally:
        checkpoint.close(checkpoints)
    chex.assert_trees_all_equal(found.opt_state.averages, now.opt_state.averages)
