"""Is the denoiser better, and does it listen? The loss on held-out pictures, with their captions and with others'."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from diffusion_jax.diffusion import keys as random_keys
from diffusion_jax.diffusion.loss import eps_error

LEVELS = (-6.0, -4.0, -2.0, 0.0, 2.0, 4.0)  # log_snr, from a picture drowned in noise to one slightly touched


def make_validation_error(network: Callable, encode: Callable, schedule, parameterization, levels=LEVELS) -> Callable:
    """A pure function (params, batch, key) -> {"matched", "shuffled"}: x_0 errors of shape (batch, level).

    network: (params) -> Network; encode: (params, tokens, mask) -> Cond. The noise of an example is a function of key and
    its place, the levels are fixed: two models, or two moments of one, see the same. Shuffled: each picture with the
    caption of the next one. The error is the mean square of x_0 minus its estimate, in units of [-1, 1] squared.
    """

    def validation_error(params, batch, key):
        x_0 = batch["image"].astype(jnp.float32) / 127.5 - 1
        cond = encode(params, batch["tokens"], batch["mask"])
        shuffled = jax.tree.map(lambda a: jnp.roll(a, 1, axis=0), cond)
        keys = random_keys.for_example(key, jnp.zeros((), jnp.int32), x_0.shape[0])

        def at_level(level, name):
            eps = random_keys.normal(random_keys.for_purpose(keys, name), x_0.shape[1:])
            log_snr = jnp.full(x_0.shape[0], level)
            errors = [
                eps_error(network(params), x_0, eps, log_snr, c, schedule=schedule, parameterization=parameterization)
                for c in (cond, shuffled)
            ]
            return [error * jnp.exp(-level) for error in errors]  # eps error -> x_0 error: times (sigma_t / alpha_t)^2

        matched, other = zip(*(at_level(level, f"validation {level}") for level in levels), strict=True)
        return {"matched": jnp.stack(matched, axis=1), "shuffled": jnp.stack(other, axis=1)}

    return validation_error


def summarize(errors: list[dict[str, np.ndarray]], levels=LEVELS) -> dict:
    """One record from the errors of all batches: means over levels and examples, the gap, and its standard error.

    The gap is the error with another's caption minus the error with one's own: above zero, the text helps.
    """
    matched, shuffled = (np.concatenate([np.asarray(e[name], np.float64) for e in errors]) for name in ("matched", "shuffled"))
    gap = (shuffled - matched).mean(axis=1)
    return {
        "validation/matched": matched.mean(),
        "validation/shuffled": shuffled.mean(),
        "validation/gap": gap.mean(),
        "validation/gap_standard_error": gap.std(ddof=1) / np.sqrt(len(gap)) if len(gap) > 1 else 0.0,
        "validation/examples": float(len(gap)),
        "validation/log_snr": list(levels),
        "validation/matched_by_level": matched.mean(axis=0),
        "validation/shuffled_by_level": shuffled.mean(axis=0),
    }
