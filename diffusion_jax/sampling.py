"""How does a config draw? Its `sampling` entry, as functions."""

from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp
from ml_collections import ConfigDict

from diffusion_jax import config as entries
from diffusion_jax.build import INNER, Experiment, named_part
from diffusion_jax.diffusion import denoiser, grids, guidance, samplers
from diffusion_jax.diffusion import keys as random_keys
from diffusion_jax.diffusion.schedules import Schedule
from diffusion_jax.types import Cond, Denoiser, Params, Sigmas


def sampler(experiment: Experiment, sampling: ConfigDict) -> tuple[Callable, Callable]:
    """How a config's `sampling` entry draws: (grid, draw).

    grid: () -> sigmas, as many as nfe network calls allow. draw: (params, text, null_text, keys, sigmas, scale) ->
    (pictures, xs, estimates), where text and null_text are (tokens, mask), and xs and estimates hold the trajectory, of
    shape (levels, batch, height, width, channel). Guidance scale and sigmas are arrays: changing them compiles nothing.
    Raises ValueError, naming the entry, where one does not fit: guidance is tried on shapes, so none fails later.
    """
    take = named_part(sampling, "sampler", samplers, given=5)
    grid = levels(sampling, experiment.schedule)
    guide = partial(_guided, sampling.get("guidance", ConfigDict(dict(name="cfg"))), experiment)

    def draw(params, text, null_text, keys, sigmas, scale):
        cond, null_cond = experiment.encode(params, *text), experiment.encode(params, *null_text)
        noise = random_keys.normal(random_keys.for_purpose(keys, "start"), experiment.picture_shape)
        guided = guide(params, null_cond, sigmas, scale)
        pictures, trajectory = take(guided, noise * sigmas[0], sigmas, cond, keys, trace=True)
        return pictures, *trajectory

    def attempt(params, sigmas):
        cond = _encoded(experiment, params, "")
        guided = guide(params, cond, sigmas, sampling.cfg_scale)
        return guided(jnp.zeros((1, *experiment.picture_shape)), sigmas[0], cond)

    try:
        jax.eval_shape(attempt, jax.eval_shape(experiment.init, jax.random.key(0)), grid())
    except ValueError as error:
        raise ValueError(f"config.sampling.guidance: {error}") from error
    return grid, draw


def levels(sampling: ConfigDict, schedule: Schedule) -> Callable:
    """() -> the sigmas of a config's `sampling` entry, as many as nfe network calls allow."""
    if not 0 < sampling.sigma_min < sampling.sigma_max < float("inf"):
        raise ValueError(f"config.sampling: {sampling.sigma_min=} must be positive and below {sampling.sigma_max=}")
    n = samplers.steps_for(named_part(sampling, "sampler", samplers, given=5), sampling.nfe)
    make = named_part(sampling, "grid", grids, given=3, named=("schedule",), inner=INNER)
    return partial(make, n, sampling.sigma_min, sampling.sigma_max, **entries.accepted(make, schedule=schedule))


def _guided(
    entry: ConfigDict, experiment: Experiment, params: Params, null_cond: Cond, sigmas: Sigmas, scale
) -> Denoiser:
    """The denoiser of a guidance entry. Entries within it are denoisers, or scales that change with sigma; `others`,
    captions."""
    about = dict(schedule=experiment.schedule, parameterization=experiment.parameterization)
    bridged = partial(denoiser.denoiser, **about)

    def weaken(perturbed: tuple[str, ...], skipped: tuple[str, ...]) -> Denoiser:
        return bridged(experiment.network(params, perturbed=perturbed, skipped=skipped))

    def encoded(captions: tuple[str, ...]) -> list[Cond]:
        return [_encoded(experiment, params, caption) for caption in captions]

    plain = bridged(experiment.network(params))
    known = about | dict(
        denoise=plain,
        plain=plain,
        guided=guidance.cfg(plain, null_cond, scale),
        weaken=weaken,
        null_cond=null_cond,
        scale=scale,
        sigmas=sigmas,
        alpha_sigma=experiment.schedule.alpha_sigma,
    )

    def make(entry: ConfigDict):
        inner = INNER | dict.fromkeys(("denoise", "guided", "weaker", "scale"), make) | {"others": encoded}
        bound = entries.bind(entry, guidance, named=tuple(known), inner=inner)
        return bound(**entries.accepted(bound, **known))

    return make(entry)


def _encoded(experiment: Experiment, params: Params, caption: str) -> Cond:
    return experiment.encode(params, *map(jnp.asarray, experiment.text.tokenize([caption])))
