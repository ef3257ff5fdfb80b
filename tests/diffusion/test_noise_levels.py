"""What every law of noise levels must be. A new law is a new row of LAWS, with its distribution function."""

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from scipy.special import ndtr

from diffusion_jax.diffusion import noise_levels as n
from diffusion_jax.diffusion import schedules as s
from diffusion_jax.diffusion.level_density import density, effective_weight
from diffusion_jax.diffusion.loss import drawn

MANY = 4096
KOLMOGOROV = 1.95 / MANY**0.5  # the largest gap to the true distribution function, in all cases but 1 in 1,000


class Law(NamedTuple):
    """A law, and the share of levels with less noise than t on a given schedule."""

    levels: Callable
    below: Callable  # (t, log_snr), both float64 -> share


def mode_below(scale):
    """By the published map of u to t, of which this is the inverse."""
    u = np.linspace(0, 1, 100_001)
    t = 1 - u - scale * (np.cos(np.pi / 2 * u) ** 2 - 1 + u)
    return lambda at, log_snr: np.interp(at, t[::-1], 1 - u[::-1])


def logit(t):
    return np.log(t / (1 - t))


def bump(log_snr):
    return 0.05 + jnp.exp(-((log_snr - 1.0) ** 2) / 4)


def by_loss_below(schedule, power, floor):
    middles = schedule.log_snr(jnp.linspace(0, 1, 65)[:-1] + 1 / 128)
    expected = np.asarray(bump(middles), np.float64) ** power
    share = (1 - floor) * expected / expected.sum() + floor / 64
    return lambda t, log_snr: np.interp(t, np.linspace(0, 1, 65), np.append(0, np.cumsum(share)))


SCHEDULE = s.cosine()
LAWS = {
    "uniform": Law(n.uniform, lambda t, _: t),
    "stratified": Law(n.stratified, lambda t, _: t),
    "log_normal": Law(n.log_normal, lambda _, level: ndtr((-level / 2 + 1.2) / 1.2)),
    "log_normal, EDM2": Law(partial(n.log_normal, mean=-0.4, std=1.0), lambda _, level: ndtr(-level / 2 + 0.4)),
    "logit_normal": Law(n.logit_normal, lambda t, _: ndtr(logit(t))),
    "logit_normal, late": Law(partial(n.logit_normal, mean=0.5, std=0.6), lambda t, _: ndtr((logit(t) - 0.5) / 0.6)),
    "mode": Law(n.mode, mode_below(1.29)),
    "mode, ends": Law(partial(n.mode, scale=-0.8), mode_below(-0.8)),
    "mode, none": Law(partial(n.mode, scale=0.0), lambda t, _: t),
    "by_loss": Law(partial(n.by_loss, loss_at=bump), by_loss_below(SCHEDULE, 1.0, 0.1)),
    "by_loss, root": Law(partial(n.by_loss, loss_at=bump, power=0.5, floor=0.3), by_loss_below(SCHEDULE, 0.5, 0.3)),
}
every_law = pytest.mark.parametrize("name", LAWS)


@pytest.mark.parametrize("name", [name for name in LAWS if name != "stratified"])
def test_a_level_belongs_to_its_example(some_keys, name):
    three, eight = (drawn(LAWS[name].levels, some_keys(batch), SCHEDULE) for batch in (3, 8))
    np.testing.assert_array_equal(three, jnp.stack(eight)[:, :3])


@every_law
def test_the_levels_have_the_distribution_of_the_law(some_keys, name):
    log_snr, _ = drawn(LAWS[name].levels, some_keys(MANY), SCHEDULE)
    log_snr = np.sort(np.asarray(log_snr, np.float64))[::-1]
    t = np.asarray(SCHEDULE.t(jnp.asarray(log_snr, jnp.float32)), np.float64)
    share = LAWS[name].below(t, log_snr)
    assert abs(share - (np.arange(MANY) + 0.5) / MANY).max() < KOLMOGOROV


@every_law
def test_the_density_is_that_of_the_law(name):
    edges, draws = jnp.linspace(-9, 9, 19), 2**15
    t = np.asarray(SCHEDULE.t(edges), np.float64)
    share = -np.diff(LAWS[name].below(t, np.asarray(edges, np.float64)))  # noise falls as the edges rise
    found = density(LAWS[name].levels, SCHEDULE, edges, draws)
    np.testing.assert_array_less(abs(found - share), 4.5 * np.sqrt((share + 1 / draws) / draws))


@pytest.mark.parametrize("schedule", [s.cosine(), s.linear_beta(), s.geometric()])
def test_uniform_is_uniform_in_the_time_of_the_schedule(some_keys, schedule):
    t = np.sort(schedule.t(n.uniform(some_keys(MANY), schedule)))
    assert abs(t - np.linspace(0, 1, MANY)).max() < KOLMOGOROV


@pytest.mark.parametrize(("mean", "std"), [(-1.2, 1.2), (0.4, 0.5)])
def test_log_normal_has_the_moments_of_edm(some_keys, mean, std):
    log_sigma = -0.5 * n.log_normal(some_keys(MANY), s.edm(), mean, std)
    assert abs(log_sigma.mean() - mean) < 4 * std / MANY**0.5
    assert abs(log_sigma.std() - std) < 4 * std / (2 * MANY) ** 0.5


def test_logit_normal_on_a_straight_line_is_log_normal(some_keys):
    line = s.rectified_flow(-40.0, 40.0)
    given = some_keys(64)
    np.testing.assert_allclose(n.logit_normal(given, line, 0.5, 0.8), n.log_normal(given, line, 0.5, 0.8), atol=1e-4)


def test_stratified_times_are_evenly_spaced_however_the_batch_is_laid_out(some_keys):
    mesh = Mesh(np.array(jax.devices()), ("data",))
    given = some_keys(16)
    split = jax.device_put(given, NamedSharding(mesh, PartitionSpec("data")))
    here, spread = n.stratified(given, SCHEDULE), jax.jit(n.stratified, static_argnums=1)(split, SCHEDULE)
    np.testing.assert_allclose(here, spread, atol=1e-5)
    np.testing.assert_allclose(np.diff(np.sort(SCHEDULE.t(here))), 1 / 16, atol=1e-5)
    later = n.stratified(some_keys(16, step=1), SCHEDULE)
    assert abs(later - here).min() > 1e-3


def of_batches(levels, some_keys, batches=256, batch=16):
    """The mean of weight times a loss, for many batches; the loss has an integral over t that is known."""
    given = some_keys(batches * batch).reshape(batches, batch)
    log_snr, weight = jax.vmap(lambda keys: drawn(levels, keys, SCHEDULE))(given)
    return np.asarray((weight * bump(log_snr)).mean(axis=1), np.float64)


@pytest.mark.parametrize(
    ("levels", "share"),  # of the variance of uniform levels that is left at most
    [
        (n.stratified, 0.02),
        (partial(n.by_loss, loss_at=bump), 0.05),
        (partial(n.by_loss, loss_at=lambda level: bump(level) ** 2, power=0.5), 0.05),
        (partial(n.by_loss, loss_at=lambda level: bump(level + 0.5), floor=0.3), 0.5),  # a guess that is off
    ],
)
def test_the_expected_loss_is_that_of_uniform_levels_and_its_variance_less(some_keys, levels, share):
    exact = float(bump(SCHEDULE.log_snr((jnp.arange(4096.0) + 0.5) / 4096)).mean())
    found, plain = of_batches(levels, some_keys), of_batches(n.uniform, some_keys)
    assert abs(found.mean() - exact) < 4 * found.std() / len(found) ** 0.5
    assert found.var() < share * plain.var()


@pytest.mark.parametrize("power", [1.0, 0.5, 2.0])
def test_weights_undo_the_density_whatever_the_guess(power):
    """The effective weight of a law that is weighed to be uniform is the density of uniform levels."""
    edges, draws = jnp.linspace(-9, 9, 10), 2**15
    law = partial(n.by_loss, loss_at=bump, power=power, floor=0.2)
    found = effective_weight(law, jnp.ones_like, SCHEDULE, edges, draws)
    share = -np.diff(SCHEDULE.t(edges)) / 2
    np.testing.assert_array_less(abs(found - share), 4.5 * np.sqrt(5 * share / draws))  # no weight exceeds 5


def test_no_gradient_passes_through_the_guess_of_the_loss(some_keys):
    def total(height):
        levels, weight = n.by_loss(some_keys(8), SCHEDULE, lambda level: height * bump(level))
        return (levels * weight).sum()

    assert jax.grad(total)(2.0) == 0


def test_settings_may_be_traced_without_compiling_again(some_keys):
    @jax.jit
    def levels(scale, power, floor):
        given = some_keys(4)
        return n.mode(given, SCHEDULE, scale), n.by_loss(given, SCHEDULE, bump, power, floor)[0]

    first, second = levels(0.5, 1.0, 0.1), levels(1.0, 0.5, 0.2)
    assert all(abs(a - b).min() > 0 for a, b in zip(first, second, strict=True))
    assert levels._cache_size() == 1
