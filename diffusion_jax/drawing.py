"""From sentences to pictures, with a trained experiment."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from diffusion_jax import build
from diffusion_jax.evaluation.images import to_uint8

CHUNK = 16  # pictures drawn at once: a last, smaller chunk is filled up, so one program draws any number of them


class Drawn(NamedTuple):
    """pictures: uint8 (batch, height, width, 3). noisy, estimates: x_t and the estimate of x_0, (level, batch, ...)."""

    pictures: np.ndarray
    noisy: np.ndarray
    estimates: np.ndarray
    sigmas: np.ndarray


def make_drawing(experiment: build.Experiment, sampling: ConfigDict, chunk: int = CHUNK) -> Callable:
    """A function (params, prompts, seed, ...) -> Drawn, compiled once for all prompts, seeds, scales and sigmas.

    Picture i is a function of (seed, numbers[i], prompts[i], negative) alone, whatever is drawn beside it; numbers are
    0, 1, 2, ... unless given. scale: guidance, 1 = none; config.cfg_scale unless given.
    """
    grid, draw = build.sampler(experiment, sampling)
    compiled = jax.jit(draw)

    def drawing(
        params, prompts: Sequence[str], seed: int, numbers: Sequence[int] | None = None, negative: str = "", scale=None
    ) -> Drawn:
        scale = jnp.float32(sampling.cfg_scale if scale is None else scale)
        sigmas = grid()
        numbers = np.arange(len(prompts)) if numbers is None else np.asarray(numbers)
        null = experiment.text.tokenize([negative])
        parts = []
        for start in range(0, len(prompts), chunk):
            here = list(prompts[start : start + chunk])
            fill = chunk - len(here)
            words = experiment.text.tokenize(here + [""] * fill)
            which = jnp.asarray(np.pad(numbers[start : start + chunk], (0, fill)))
            keys = jax.vmap(jax.random.fold_in, (None, 0))(jax.random.key(seed), which)
            pictures, xs, estimates = jax.device_get(compiled(params, words, null, keys, sigmas, scale))
            parts.append((pictures[: len(here)], xs[:, : len(here)], estimates[:, : len(here)]))
        pictures, xs, estimates = (np.concatenate(arrays, axis=-4) for arrays in zip(*parts, strict=True))
        sigmas = np.asarray(sigmas)
        noisy = xs / np.sqrt(1 + sigmas**2)[:, None, None, None, None]  # the scale at which noise is shown
        return Drawn(to_uint8(pictures), to_uint8(noisy), to_uint8(estimates), sigmas)

    return drawing
