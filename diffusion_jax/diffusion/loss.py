"""The training loss: at a random level, how far is the network from the noise that was added?"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Int, Key

from diffusion_jax.diffusion.keys import for_purpose, normal
from diffusion_jax.diffusion.parameterization import Parameterization, eps_error_factor, target
from diffusion_jax.diffusion.schedules import Schedule
from diffusion_jax.diffusion.weighting import with_uncertainty
from diffusion_jax.types import Cond, Image, Keys, LogSnr, Network, Scalar


def diffusion_loss(
    network: Network,
    x_0: Image,
    cond: Cond,
    keys: Key[Array, " whole_batch"],
    *,
    schedule: Schedule,
    parameterization: Parameterization,
    noise_levels: Callable,
    weighting: Callable,
    uncertainty: Callable | None = None,
    rows: Int[Array, " batch"] | None = None,
) -> tuple[Scalar, dict[str, Scalar]]:
    """The mean over the batch of weight times squared error in eps, and what is worth logging of it.

    Each example draws its level and its noise from its own key. keys: of the examples; with `rows`, of those of a
    larger batch, in which x_0 and cond are these rows. Where the law of the levels returns weights, errors
    are multiplied by them in the metrics as well: what is logged then means what it means for uniform levels. With
    `uncertainty`, log_snr -> u, the first answer is `weighting.with_uncertainty` of that loss, and the metrics stay.
    """
    log_snr, weight, error = measured(network, x_0, cond, keys, schedule, parameterization, noise_levels, rows)
    each = weighting(log_snr) * error
    metrics = {"loss": jnp.mean(weight * each), "eps_error": jnp.mean(weight * error)}
    if uncertainty is None:
        return metrics["loss"], metrics
    return jnp.mean(weight * with_uncertainty(each, uncertainty(log_snr))), metrics


def scatter(
    network: Network,
    x_0: Image,
    cond: Cond,
    keys: Keys,
    *,
    schedule: Schedule,
    parameterization: Parameterization,
    noise_levels: Callable,
    weighting: Callable,
) -> Scalar:
    """The mean square of the losses of the examples, in the square of their mean: what a learned schedule makes small.

    With a weighting under which all schedules of one range have one expected loss (`weighting.per_log_snr`, `elbo`),
    that is one more than the loss's relative variance, which VDM's schedule is learned to make small (Kingma et al.
    2021, Appendix I.2). The mean has no gradient here.
    """
    log_snr, weight, error = measured(network, x_0, cond, keys, schedule, parameterization, noise_levels)
    each = weight * weighting(log_snr) * error
    return jnp.mean(jnp.square(each / jax.lax.stop_gradient(jnp.mean(each))))


def measured(
    network: Network,
    x_0: Image,
    cond: Cond,
    keys: Key[Array, " whole_batch"],
    schedule: Schedule,
    parameterization: Parameterization,
    noise_levels: Callable,
    rows: Int[Array, " batch"] | None = None,
) -> tuple[LogSnr, LogSnr, LogSnr]:
    """The level that each example drew, its weight by the law of the levels, and the error in eps there."""
    log_snr, weight = drawn(noise_levels, for_purpose(keys, "level"), schedule)  # a law may look at the whole batch
    if rows is not None:
        log_snr, weight, keys = log_snr[rows], weight[rows], keys[rows]
    eps = normal(for_purpose(keys, "noise"), x_0.shape[1:], log_snr.dtype)
    error = eps_error(network, x_0, eps, log_snr, cond, schedule=schedule, parameterization=parameterization)
    return log_snr, weight, error


def drawn(noise_levels: Callable, keys: Keys, schedule: Schedule) -> tuple[LogSnr, LogSnr]:
    """The levels of a law and their weights, which are 1 if it returns none."""
    levels = noise_levels(keys, schedule)
    return levels if isinstance(levels, tuple) else (levels, jnp.ones_like(levels))


def eps_error(
    network: Network,
    x_0: Image,
    eps: Image,
    log_snr: LogSnr,
    cond: Cond,
    *,
    schedule: Schedule,
    parameterization: Parameterization,
) -> LogSnr:
    """Mean squared error in eps of each example, from the error in whatever the network predicts.

    To recover eps from a prediction of x_0 would divide a difference of nearly equal pictures by sigma_t. The error in
    the prediction times an exact factor is the same number without that. Computed in the type of log_snr.
    """
    x_0, eps = x_0.astype(log_snr.dtype), eps.astype(log_snr.dtype)
    alpha_t, sigma_t = schedule.alpha_sigma(log_snr)
    x_t = alpha_t[:, None, None, None] * x_0 + sigma_t[:, None, None, None] * eps
    y = target(x_0, eps, alpha_t, sigma_t, parameterization)
    squared = jnp.mean(jnp.square(network(x_t, log_snr, cond).astype(y.dtype) - y), axis=(1, 2, 3))
    return jnp.square(eps_error_factor(alpha_t, sigma_t, parameterization)) * squared
