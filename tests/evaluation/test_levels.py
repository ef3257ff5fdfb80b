"""Errors by level: right where they are known, the same in any batch, with intervals that hold the truth."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffusion_jax.diffusion import oracle, parameterization, schedules
from diffusion_jax.evaluation import levels, paired
from diffusion_jax.types import Cond

BINS, LOW, HIGH = 4, -6.0, 6.0
STD = 0.25  # four of it within the bytes: cut off is next to nothing


def pictures(count=48, side=4):
    values = np.random.default_rng(0).normal(0, STD, (count, side, side, 3))
    return {
        "image": np.clip(np.round((values + 1) * 127.5), 0, 255).astype(np.uint8),
        "tokens": np.zeros((count, 1), np.int32),
        "mask": np.ones((count, 1), bool),
        "place": np.arange(count),
        "log_snr": levels.strata(count, BINS, LOW, HIGH),
    }


def encode(params, tokens, mask):
    return Cond(tokens[:, :, None].astype(jnp.float32), mask)


def errors(network, predict, batch, schedule=None):
    error = levels.make_level_error(lambda params: network, encode, schedule or schedules.cosine(), predict)
    return np.asarray(jax.jit(error)(None, {name: jnp.asarray(column) for name, column in batch.items()}))


def silent(x_t, log_snr, cond):
    return jnp.zeros_like(x_t)


def optimal(schedule, predict):
    """A network that knows the law of the pictures."""
    denoise = oracle.gaussian(jnp.zeros((4, 4, 3)), STD).denoise

    def at_each(x_t, log_snr, cond):
        alpha_t, sigma_t = schedule.alpha_sigma(log_snr)
        kept = STD**2 / (STD**2 + jnp.exp(-log_snr))  # what the oracle says, at a level for each example
        x_0 = (kept / alpha_t)[:, None, None, None] * x_t
        eps = (x_t - alpha_t[:, None, None, None] * x_0) / sigma_t[:, None, None, None]
        return parameterization.target(x_0, eps, alpha_t, sigma_t, predict)

    one = at_each(jnp.ones((1, 4, 4, 3)), jnp.zeros(1), None)
    alpha_t, sigma_t = schedule.alpha_sigma(jnp.zeros(1))
    x = jnp.ones((1, 4, 4, 3)) / alpha_t[0]
    known = denoise(x, jnp.asarray(1.0), Cond(jnp.zeros((1, 1, 1)), jnp.ones((1, 1), bool)))
    eps = (1 - alpha_t[0] * known) / sigma_t[0]
    np.testing.assert_allclose(one, parameterization.target(known, eps, alpha_t, sigma_t, predict), rtol=1e-5)
    return at_each


def test_each_bin_has_a_picture_in_each_of_its_equal_parts():
    found = levels.strata(50, BINS, LOW, HIGH)
    borders = levels.edges(BINS, LOW, HIGH)
    for b in range(BINS):
        part = (found[:, b] - borders[b]) / (borders[b + 1] - borders[b]) * 50
        assert sorted(np.floor(part)) == list(range(50))
    assert np.abs(np.corrcoef(found.T) - np.eye(BINS)).max() < 0.5  # another order in each
    assert (found != levels.strata(50, BINS, LOW, HIGH, seed=1)).all()


@pytest.mark.parametrize("predict", [parameterization.v_prediction, parameterization.x0_prediction])
def test_the_error_of_the_best_network_is_that_of_theory(predict):
    """For normal pixels it is STD^2 / (STD^2 snr + 1) in x_0, at each level."""
    batch, schedule = pictures(count=400), schedules.cosine()
    found = errors(optimal(schedule, predict), predict, batch)
    borders = levels.edges(BINS, LOW, HIGH)
    fine = borders[:-1, None] + (borders[1] - borders[0]) * (np.arange(1000) + 0.5)[None] / 1000
    in_x_0 = STD**2 / (STD**2 * np.exp(fine) + 1)
    for unit, factor in (("eps", np.exp(fine)), ("x_0", 1.0), ("v", np.exp(fine) + 1)):
        told = levels.summarize(levels.in_units(found, batch["log_snr"], unit))
        truth = (in_x_0 * factor).mean(1)
        np.testing.assert_allclose(told.bins.mean, truth, rtol=0.03)
        np.testing.assert_allclose(told.overall.mean, truth.mean(), rtol=0.03)
        assert told.n == 400


def test_in_v_a_schedule_of_another_scale_has_the_same_error():
    """The same denoiser behind alpha_t = 1: nothing of the unit is the schedule's."""
    batch, found = pictures(), []
    for schedule in (schedules.cosine(), schedules.edm()):
        network = optimal(schedule, parameterization.x0_prediction)
        found.append(errors(network, parameterization.x0_prediction, batch, schedule))
    np.testing.assert_allclose(*found, rtol=2e-3)


def test_batches_do_not_count():
    def copies(x_t, log_snr, cond):
        return x_t

    batch = pictures()
    whole = errors(copies, parameterization.v_prediction, batch)
    part = errors(copies, parameterization.v_prediction, {name: column[[7, 3]] for name, column in batch.items()})
    np.testing.assert_allclose(part, whole[[7, 3]], rtol=1e-6)
    noise = errors(silent, parameterization.eps_prediction, batch)  # the mean of its squares, whatever the level
    assert len(np.unique(noise)) == noise.size


def test_intervals_hold_the_truth_and_pairs_are_closer():
    """Over 60 sets: a network that says nothing errs by mean |eps|^2 = 1, in each bin."""
    every = errors(silent, parameterization.eps_prediction, pictures(count=60 * 16, side=2))
    told = [levels.summarize(part).bins for part in np.split(every, 60)]
    held = np.mean([(bins.low <= 1) & (bins.high >= 1) for bins in told])
    assert 0.88 < held < 0.995
    batch = pictures()
    one = errors(silent, parameterization.eps_prediction, batch)
    other = errors(lambda *given: 0.01 + silent(*given), parameterization.eps_prediction, batch)
    difference, alone = paired.difference(one.T, other.T), levels.summarize(one).bins
    assert ((difference.high - difference.low) < 0.1 * (alone.high - alone.low)).all()


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: levels.edges(0, -1.0, 1.0), "no 0 bins"),
        (lambda: levels.edges(2, 1.0, 1.0), "from 1 to 1"),
        (lambda: levels.strata(0, 2, -1.0, 1.0), "0 pictures"),
        (lambda: levels.in_units(np.ones((2, 3)), np.ones((2, 3)), "w"), "no unit 'w': choose one of eps, x_0, v"),
        (lambda: levels.in_units(np.ones((2, 3)), np.ones((3, 2)), "v"), r"errors are \(2, 3\) and levels \(3, 2\)"),
        (lambda: levels.summarize(np.ones((1, 3))), "2 seeds or more"),
    ],
)
def test_what_is_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()
