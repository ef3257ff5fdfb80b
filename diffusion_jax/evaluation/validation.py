"""Is the denoiser better, and does it listen? The loss on held-out pictures, with their captions and with others'."""

from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

from diffusion_jax.diffusion import keys as random_keys
from diffusion_jax.diffusion.loss import eps_error

LEVELS = (-6.0, -4.0, -2.0, 0.0, 2.0, 4.0)  # log_snr, from a picture drowned in noise to one slightly touched


def make_validation_error(network: Callable, encode: Callable, schedule, parameterization, levels=LEVELS) -> Callable:
    """A pure function (params, batch, key) -> {"matched", "shuffled"}: x_0 errors of shape (batch, level).

    network: (params) -> Network; encode: (params, tokens, mask) -> Cond. The noise of an example is a function of key
    and its place, the levels are fixed: two models, or two moments of one, see the same. Shuffled: each picture with
    the caption of the one before. The error is the mean square of x_0 minus its estimate, in units of [-1, 1] squared.
    """

    def validation_error(params, batch, key):
        x_0 = batch["image"].astype(jnp.float32) / 127.5 - 1
        count = x_0.shape[0]
        cond = encode(params, batch["tokens"], batch["mask"])
        both = jax.tree.map(lambda a: jnp.concatenate([a, jnp.roll(a, 1, axis=0)]), cond)
        keys = random_keys.for_purpose(random_keys.for_example(key, jnp.zeros((), jnp.int32), count), "noise")
        error_of = partial(eps_error, network(params), schedule=schedule, parameterization=parameterization)

        def at_level(level, index):
            eps = random_keys.normal(random_keys.folded(keys, index), x_0.shape[1:])
            error = error_of(jnp.concatenate([x_0, x_0]), jnp.concatenate([eps, eps]), jnp.full(2 * count, level), both)
            return error * jnp.exp(-level)  # from eps to x_0: times (sigma_t / alpha_t)^2

        errors = jax.lax.map(lambda each: at_level(*each), (jnp.asarray(levels), jnp.arange(len(levels))))
        return {"matched": errors[:, :count].T, "shuffled": errors[:, count:].T}

    return validation_error


def summarize(errors: list[dict[str, np.ndarray]], levels=LEVELS) -> dict:
    """One record from the errors of all batches: means over levels and examples, the gap, and its standard error.

    The gap is the error with another's caption minus the error with one's own: above zero, the text helps.
    """
    names = ("matched", "shuffled")
    matched, shuffled = (np.concatenate([np.asarray(e[name], np.float64) for e in errors]) for name in names)
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
