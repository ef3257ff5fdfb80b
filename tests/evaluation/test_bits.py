"""Bits against those of laws whose density is known: above it, and near it with draws and a long schedule."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffusion_jax.diffusion import likelihood, oracle, parameterization, schedules
from diffusion_jax.evaluation import bits

STD, SHADES = 0.2, (-0.3, 0.3)  # of pixels around the shade that the caption tells
SHAPE = (2, 2, 3)
MEANS = jnp.stack([jnp.full(SHAPE, shade) for shade in SHADES])


def pictures(count=512):
    rng = np.random.default_rng(0)
    which = np.arange(count) % 2
    values = np.asarray(SHADES)[which][:, None, None, None] + rng.normal(0, STD, (count, *SHAPE))
    return {
        "image": np.clip(np.floor((values + 1) * 128), 0, 255).astype(np.uint8),
        "tokens": which[:, None].astype(np.int32),
        "mask": np.ones((count, 1), bool),
        "place": np.arange(count),
    }


def encode(params, tokens, mask):
    return oracle.label(tokens[:, 0], 2)


def found(low=0.002, high=200.0, width=STD, encode=encode, rows=slice(None), **settings):
    schedule, predict = schedules.geometric(low, high), parameterization.v_prediction
    law = oracle.labeled_mixture(MEANS, width, jnp.ones(2))

    def network(params):
        return oracle.network(law.denoise, schedule, predict)

    measure = jax.jit(bits.make_bits(network, encode, schedule, predict, **settings))
    return measure(None, {name: jnp.asarray(column[rows]) for name, column in pictures().items()})


def exact():
    """Of the same dequantized pictures, by the density of their law."""
    every = pictures()
    keys = jax.vmap(jax.random.fold_in, (None, 0))(jax.random.key(bits.SEED), jnp.asarray(every["place"]))
    x_0 = np.asarray(likelihood.dequantize(keys, jnp.asarray(every["image"])), np.float64)
    off = x_0 - np.asarray(SHADES)[every["tokens"][:, 0]][:, None, None, None]
    nats = 0.5 * (np.square(off / STD).sum((1, 2, 3)) + math.prod(SHAPE) * math.log(2 * math.pi * STD**2))
    return nats / (math.prod(SHAPE) * math.log(2)) + 7


def test_it_is_above_the_exact_bits_and_near_them_with_a_long_schedule_and_many_draws():
    truth = exact()
    entropy = 7 + 0.5 * math.log2(2 * math.pi * math.e * STD**2)  # bytes are 1 / 128 wide, and 2^7 is 128
    assert abs(truth.mean() - entropy) < 0.05
    slack, errors = [], []
    for ends, draws in [((0.05, 5.0), 64), ((0.002, 200.0), 16), ((0.002, 200.0), 128)]:
        told = found(*ends, draws=draws)
        off = np.asarray(told["total"], np.float64) - truth
        error = off.std(ddof=1) / len(off) ** 0.5
        assert off.mean() > -3.5 * error
        slack.append(off.mean())
        errors.append(error)
        known = bits.summarize([told])
        assert abs(known.interval.mean - truth.mean() - off.mean()) < 1e-6
        assert 0.8 < known.draws_error / error < 1.5  # all that differs from the exact bits is the draws
        assert known.prior + known.diffusion + known.reconstruction + 7 == pytest.approx(known.interval.mean, abs=1e-4)
    assert slack[0] > 5 * errors[0]
    assert abs(slack[1]) < 3.5 * errors[1] + 0.001
    assert abs(slack[2]) < 3.5 * errors[2] + 0.001
    assert errors[2] < 0.5 * errors[1]


def test_captions_are_read_and_a_wrong_network_needs_more():
    known = np.asarray(found(draws=64)["total"], np.float64)

    def swapped(params, tokens, mask):
        return encode(params, 1 - tokens, mask)

    for other in (found(draws=64, encode=swapped), found(draws=64, width=2 * STD)):
        more = np.asarray(other["total"], np.float64) - known
        assert more.mean() > 5 * more.std(ddof=1) / len(more) ** 0.5


def test_batches_do_not_count():
    whole, part = found(draws=4), found(draws=4, rows=[7, 3])
    for name in whole:
        np.testing.assert_allclose(part[name], np.asarray(whole[name])[[7, 3]], rtol=1e-4, atol=1e-5)


def test_the_summary_is_that_of_all_batches():
    rng = np.random.default_rng(1)
    whole = {name: rng.normal(4, 1, 10) for name in ("total", "prior", "diffusion", "reconstruction", "error")}
    parts = [{name: column[rows] for name, column in whole.items()} for rows in (slice(0, 7), slice(7, 10))]
    told = bits.summarize(parts)
    assert told.n == 10
    assert told.interval.mean == pytest.approx(whole["total"].mean())
    assert told.standard_error == pytest.approx(whole["total"].std(ddof=1) / 10**0.5)
    assert told.draws_error == pytest.approx(np.sqrt(np.mean(whole["error"] ** 2) / 10))
    with pytest.raises(ValueError, match="2 seeds or more"):
        bits.summarize([{name: column[:1] for name, column in whole.items()}])
