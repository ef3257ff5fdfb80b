"""One trained model, measured by all that its config names: a record of figures, curves and pictures."""

import math
import time
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np
from ml_collections import ConfigDict

from diffusion_jax import build, drawing, measures
from diffusion_jax import config as entries
from diffusion_jax.evaluation import images
from diffusion_jax.experiment import Experiment
from diffusion_jax.files import write_json
from diffusion_jax.measures.contract import Found, Subject

MOST_AT_ONCE = 64  # pictures drawn together


class Measured(NamedTuple):
    """figures, curves: by MEASURE/NAME, ready for JSON. pictures: uint8 (prompt, height, width, 3), of `prompts`."""

    figures: dict[str, dict]
    curves: dict[str, dict]
    prompts: list[str]
    pictures: np.ndarray
    axes: dict
    cost: dict


def make_measuring(config: ConfigDict, experiment: Experiment, data_dir: str) -> Callable:
    """A function (params, seed) -> Measured, by config.figures, whose programs are compiled once for all parameters.

    Pictures are drawn as config.sampling has it, one for each held-out caption, `validation_size` of them, from noise
    that the seed decides; those of sampling.prompts come along. Where neither is asked for nothing is drawn.
    Raises ValueError, naming the entry, for a measure that does not exist or does not fit.
    """
    sets = build.fixed_sets(config, experiment, data_dir)
    subject = Subject(config, experiment, sets)
    by_name = {}
    for number, entry in enumerate(config.figures):
        try:
            by_name[entry["name"].rpartition(":")[2]] = entries.bind(entry, measures, given=1)(subject)
        except (ValueError, FileNotFoundError) as error:
            raise type(error)(f"config.figures[{number}]: {error}") from error
    prompts, captions = list(config.sampling.prompts), list(sets["validation"]["captions"])
    total = len(prompts) + len(captions)
    chunk = math.ceil(total / math.ceil(total / MOST_AT_ONCE))
    draw = drawing.make_drawing(experiment, config.sampling, chunk)
    warm = []

    def measure(params, seed: int) -> Measured:
        seconds = None

        @cache
        def all_drawn() -> np.ndarray:
            nonlocal seconds
            words = [*prompts, *captions]
            if not warm:
                draw(params, words[:1], seed, watched=())
                warm.append(True)
            zero = time.perf_counter()
            pictures = draw(params, words, seed, watched=()).pictures
            seconds = (time.perf_counter() - zero) / len(words)
            return pictures

        found = {name: take(params, seed, lambda: all_drawn()[len(prompts) :]) for name, take in by_name.items()}
        pictures = all_drawn()[: len(prompts)] if prompts else np.zeros((0, *experiment.picture_shape), np.uint8)
        axes = dict(
            cfg_scale=config.sampling.cfg_scale,
            nfe=config.sampling.nfe,
            sampler=config.sampling.sampler.name,
            seconds_per_picture=seconds,
        )
        cost = dict(
            parameters=sum(leaf.size for leaf in jax.tree.leaves(params)),
            network_calls_per_picture=config.sampling.nfe,
            seconds_per_picture=seconds,
        )
        return Measured(*_told(found), prompts, pictures, axes, cost)

    return measure


def write(path: Path, measured: Measured, about: dict) -> None:
    """Write a record as JSON, after its pictures, a row of tiles in a PNG beside it; `about` comes first in it."""
    name = None
    if len(measured.pictures):
        name = f"{path.stem}.png"
        images.write_png(path.parent / name, np.concatenate(list(measured.pictures), axis=1))
    told = measured._asdict() | {"pictures": name}
    write_json(path, about | told)


def _told(found: dict[str, Found]) -> tuple[dict, dict]:
    """Figures and curves as JSON has them; what is no number is null."""

    def number(value):
        return float(value) if value is not None and np.isfinite(value) else None

    figures, curves = {}, {}
    for measure, each in found.items():
        for name, figure in each.figures.items():
            told = figure._asdict() | {"value": number(figure.value), "floor": number(figure.floor)}
            figures[f"{measure}/{name}"] = told
        for name, curve in each.curves.items():
            known = curve._asdict()
            curves[f"{measure}/{name}"] = known | {axis: [number(value) for value in known[axis]] for axis in "xy"}
    return figures, curves
