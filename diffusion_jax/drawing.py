"""From sentences to pictures, with a trained experiment."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from ml_collections import ConfigDict

from diffusion_jax import build
from diffusion_jax.evaluation.images import to_uint8
from diffusion_jax.sampling import sampler
from diffusion_jax.training import parallel

CHUNK = 16  # pictures drawn at once: a last, smaller chunk is filled up, so one program draws any number of them


class Drawn(NamedTuple):
    """pictures: uint8 (batch, height, width, 3). noisy, estimates: x_t and the estimate of x_0, (level, batch, ...)."""

    pictures: np.ndarray
    noisy: np.ndarray
    estimates: np.ndarray
    sigmas: np.ndarray


def make_drawing(
    experiment: build.Experiment, sampling: ConfigDict, chunk: int = CHUNK, mesh: Mesh | None = None
) -> Callable:
    """A function (params, prompts, seed, ...) -> Drawn, compiled once for all prompts, seeds, scales and sigmas.

    Picture i is a function of (seed, numbers[i], prompts[i], negative) alone, whatever is drawn beside it; numbers are
    0, 1, 2, ... unless given. scale: guidance, 1 = none; config.cfg_scale unless given. Trajectories are kept of the
    pictures that `watched` lists, of all unless given. mesh: all devices, unless given.
    Raises ValueError, here, for a way of sampling that does not exist, and when called for a scale that is no number.
    """
    mesh = parallel.device_mesh() if mesh is None else mesh
    chunk = parallel.rounded_up(chunk, mesh)
    grid, draw = sampler(experiment, sampling)
    compiled = parallel.spread(draw, mesh, split={1, 3})

    def drawing(
        params,
        prompts: Sequence[str],
        seed: int,
        numbers: Sequence[int] | None = None,
        negative: str = "",
        scale: float | None = None,
        watched: Sequence[int] | None = None,
    ) -> Drawn:
        scale = sampling.cfg_scale if scale is None else scale
        if not np.isfinite(scale):
            raise ValueError(f"cfg_scale={scale} is no finite number: 1 is no guidance, 3 to 7 are usual")
        numbers = np.arange(len(prompts)) if numbers is None else np.asarray(numbers)
        watched = np.arange(len(prompts)) if watched is None else np.asarray(watched, int)
        sigmas = grid()
        null = experiment.text.tokenize([negative])
        parts = []
        for start in range(0, len(prompts), chunk):
            rows = np.arange(start, min(start + chunk, len(prompts)))
            fill = chunk - len(rows)
            words = experiment.text.tokenize([prompts[row] for row in rows] + [""] * fill)
            which = jnp.asarray(np.pad(numbers[rows], (0, fill)))
            keys = jax.vmap(jax.random.fold_in, (None, 0))(jax.random.key(seed), which)
            drawn = jax.device_get(compiled(params, words, null, keys, sigmas, jnp.float32(scale)))
            parts.append(as_pictures(*drawn, np.asarray(sigmas), len(rows), watched[np.isin(watched, rows)] - start))
        pictures, noisy, estimates = (np.concatenate(arrays, axis=-4) for arrays in zip(*parts, strict=True))
        return Drawn(pictures, noisy, estimates, np.asarray(sigmas))

    return drawing


def as_pictures(pictures, xs, estimates, sigmas: np.ndarray, count: int, watched: np.ndarray) -> tuple:
    """The first `count` pictures of a chunk, and the trajectories of those that are watched, as bytes."""
    unit = np.sqrt(1 + sigmas**2)[:, None, None, None, None]  # noise is shown at the scale of x_t
    return to_uint8(pictures[:count]), to_uint8(xs[:, watched] / unit), to_uint8(estimates[:, watched])
