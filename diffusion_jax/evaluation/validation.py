"""Is the denoiser better, and does it listen? The loss on held-out pictures, with their captions and with others'."""

from collections.abc import Callable, Sequence
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

from diffusion_jax.diffusion import keys as random_keys
from diffusion_jax.diffusion.loss import eps_error

LEVELS = (-6.0, -4.0, -2.0, 0.0, 2.0, 4.0)  # log_snr, from a picture drowned in noise to one slightly touched
SEED = 0


def make_validation_error(network: Callable, encode: Callable, schedule, parameterization, levels=LEVELS) -> Callable:
    """A pure function (params, batch) -> {"matched", "shuffled"}: x_0 errors of shape (batch, level).

    network: (params) -> Network; encode: (params, tokens, mask) -> Cond. batch: image, tokens, mask, the tokens and
    mask of another picture's caption as other_tokens and other_mask, and each picture's place among all of them.
    The noise is a function of the place and the level, which are fixed: two models, or two moments of one, see the
    same in batches of any size. The error is the mean square of x_0 minus its estimate, in units of [-1, 1] squared.
    """

    def validation_error(params, batch):
        x_0 = batch["image"].astype(jnp.float32) / 127.5 - 1
        own = encode(params, batch["tokens"], batch["mask"])
        other = encode(params, batch["other_tokens"], batch["other_mask"])
        keys = jax.vmap(jax.random.fold_in, (None, 0))(jax.random.key(SEED), batch["place"])
        error_of = partial(eps_error, network(params), schedule=schedule, parameterization=parameterization)

        def at_level(cond, level, index):
            eps = random_keys.normal(random_keys.folded(keys, index), x_0.shape[1:])
            error = error_of(x_0, eps, jnp.full(len(x_0), level), cond)
            return error * jnp.exp(-level)  # from eps to x_0: times (sigma_t / alpha_t)^2

        def at_all_levels(cond):
            at = jnp.asarray(levels), jnp.arange(len(levels))
            return jax.lax.map(lambda each: at_level(cond, *each), at).T

        both = jax.tree.map(lambda *conds: jnp.stack(conds), own, other)  # one network in the program, not two
        matched, shuffled = jax.lax.map(at_all_levels, both)
        return {"matched": matched, "shuffled": shuffled}

    return validation_error


def others(captions: Sequence[str], rounds: int = 1) -> np.ndarray:
    """For each picture the next ones, in a circle, that have another caption, one a round: (round, picture).

    Where there are fewer they come again; a picture whose caption all others share is its own other.
    """
    count = len(captions)

    def next_others(i: int) -> list[int]:
        circle = [(i + step) % count for step in range(1, count)]
        return [j for j in circle if captions[j] != captions[i]] or [i]

    return np.array([np.resize(next_others(i), rounds) for i in range(count)]).T


def with_others(pictures: dict, rounds: int = 1) -> dict[str, np.ndarray]:
    """The columns of a set of captioned pictures that a validation takes its batches from.

    All pictures come once a round, each time with other noise and with the caption of another other.
    """
    other = others(pictures["captions"], rounds).reshape(-1)
    own = np.tile(np.arange(len(pictures["captions"])), rounds)
    columns = {name: pictures[name][own] for name in ("image", "tokens", "mask")} | {"place": np.arange(len(own))}
    return columns | {f"other_{name}": pictures[name][other] for name in ("tokens", "mask")}


def summarize(
    errors: Sequence[dict[str, np.ndarray]], levels=LEVELS, title: str = "validation", rounds: int = 1
) -> dict:
    """One record, TITLE/..., from the errors of all batches: means over levels and examples, the gap, its spread.

    The gap is the error with another's caption minus the error with one's own: above zero, the text helps. Its spread
    is the standard error of the mean over pictures, each of which counts with its mean over the rounds.
    """

    def by_picture(name: str) -> np.ndarray:
        every = np.concatenate([np.asarray(part[name], np.float64) for part in errors])
        return every.reshape(rounds, -1, every.shape[-1]).mean(axis=0)

    matched, shuffled = by_picture("matched"), by_picture("shuffled")
    gap = (shuffled - matched).mean(axis=1)
    return {
        f"{title}/matched": matched.mean(),
        f"{title}/shuffled": shuffled.mean(),
        f"{title}/gap": gap.mean(),
        f"{title}/gap_standard_error": gap.std(ddof=1) / np.sqrt(len(gap)) if len(gap) > 1 else 0.0,
        f"{title}/examples": float(len(gap)),
        f"{title}/log_snr": list(levels),
        f"{title}/matched_by_level": matched.mean(axis=0),
        f"{title}/shuffled_by_level": shuffled.mean(axis=0),
    }
