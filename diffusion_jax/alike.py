"""Which trainings are one program: those whose configs differ in numbers alone that a program can take as arguments.

Whether it can is tried: the experiment and its step are built with a traced number in the config's place. Code that
looks at the number, to check it, to branch or to make a shape of it, raises, and then arms of other numbers are other
programs. So each config is first built with its own numbers, whose checks then say what they say of any config.
"""

import json
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from diffusion_jax import build, placement
from diffusion_jax import config as entries
from diffusion_jax.experiment import Experiment
from diffusion_jax.training import state

TRACED = (  # entries whose numbers may be arguments of the step
    "schedule",
    "parameterization",
    "noise_levels",
    "weighting",
    "uncertainty",
    "learned_schedule",
    "caption_dropout",
    "text_encoder",
    "denoiser",
    "optimizer",
    "ema_decay",
    "ema_lengths",
)
EQUAL = (  # entries of the pictures, of the course of a training, and of where it runs
    "data",
    "resolution",
    "batch_size",
    "loader",
    "validation_size",
    "tokenizer",
    "train",
    "parallel",
    "microbatch",
    "begin",
    "lora",
)
# What is in neither is the seed, which each run has its own of, `sampling`, which only drawing reads, or a mere label.

LEFT_OUT = (OSError, ValueError, TypeError, KeyError, AttributeError)  # what a config may raise that is none


class Group(NamedTuple):
    """Configs that are one program: their places among all, and the names of the numbers in which they differ."""

    places: tuple[int, ...]
    numbers: tuple[str, ...]


def groups(configs: Sequence[ConfigDict]) -> list[Group]:
    """All configs in groups, in the order of their first ones; one that is a program by itself is a group too."""
    experiments = [_built(config) for config in configs]
    classes: dict[str, list[int]] = {}
    for place, config in enumerate(configs):
        apart = experiments[place] is None or why_not(config, experiments[place])
        classes.setdefault(f"alone {place}" if apart else _but_for_numbers(config), []).append(place)
    found = []
    for places in classes.values():
        found += _in_class(configs, experiments[places[0]], places)
    return sorted(found, key=lambda group: group.places[0])


def why_not(config: ConfigDict, experiment: Experiment) -> str:
    """Why a config's training is none of many in one program; nothing where it can be."""
    if config.get("begin") or experiment.text.load or experiment.fixed:
        return "it begins with parameters from elsewhere"
    if ConfigDict(config.get("lora", {})).get("rank", 0):
        return "config.lora.rank is set"
    try:
        mesh = placement.mesh_of(config)
    except ValueError as error:
        return str(error)
    entry = placement.PARALLEL | ConfigDict(config.get("parallel", {})).to_dict()
    if entry["name"] != "jit" or (mesh.shape["fsdp"], mesh.shape["tensor"]) != (1, 1):
        return "config.parallel has its state on several devices, or is pmap"
    return "there are several processes" if jax.process_count() > 1 else ""


def numbers_in(config: ConfigDict) -> dict[str, float | int]:
    """The numbers that may be arguments, by their names in the config; no number within a tuple is among them."""
    return dict(_numbers(config.to_dict()))


def _numbers(told: Mapping, prefix: str = ""):
    for name, value in told.items():
        if not prefix and name not in TRACED:
            continue
        if isinstance(value, Mapping):
            yield from _numbers(value, f"{prefix}{name}.")
        elif isinstance(value, int | float) and not isinstance(value, bool):
            yield f"{prefix}{name}", value


def with_numbers(config: ConfigDict, numbers: Mapping[str, object]) -> ConfigDict:
    """The config with other values, traced ones perhaps, in these places."""
    told = config.to_dict()
    for name, value in numbers.items():
        *path, last = name.split(".")
        entry = told
        for part in path:
            entry = entry[part]
        entry[last] = value
    return ConfigDict(told)


def stacked_numbers(configs: Sequence[ConfigDict], names: Sequence[str]) -> list[dict[str, np.generic]]:
    """For each config its numbers of these names: float32 where one of them is no int, else int32."""
    known = [numbers_in(config) for config in configs]
    kinds = {name: np.float32 if any(isinstance(k[name], float) for k in known) else np.int32 for name in names}
    return [{name: kinds[name](k[name]) for name in names} for k in known]


def init(config: ConfigDict, numbers: dict, seed) -> state.TrainState:
    """The state at step 0 of the config with these numbers and this seed."""
    return placement.initial_state(build.build(with_numbers(config, numbers)), jax.random.key(seed))


def update(config: ConfigDict, numbers: dict, now: state.TrainState, batch: dict, key):
    """(state, metrics) after a step of the config with these numbers."""
    changed = with_numbers(config, numbers)
    return placement.one_update(changed, build.build(changed))(now, batch, key)


def takes(config: ConfigDict, experiment: Experiment, names: Sequence[str]) -> bool:
    """Whether init and step of a config can be traced with these numbers as arguments; nothing is computed."""
    rows = jax.eval_shape(lambda: [jnp.zeros(a.shape, a.dtype) for a in experiment.text.tokenize([""])])
    shapes = dict(zip(("tokens", "mask"), [(leaf.shape[1:], leaf.dtype) for leaf in rows], strict=True))
    shapes["image"] = (experiment.picture_shape, np.uint8)
    batch = {name: jax.ShapeDtypeStruct((config.batch_size, *shape), dtype) for name, (shape, dtype) in shapes.items()}

    def both(numbers, batch, seed):
        now = init(config, numbers, seed)
        return now, update(config, numbers, now, batch, placement.step_key(0))[0]

    (numbers,) = stacked_numbers([config], names)
    try:
        before, after = jax.eval_shape(both, numbers, batch, np.uint32(0))
    except Exception:  # whatever a function says to a number that it cannot look at
        return False
    return jax.tree.map(_kind, before) == jax.tree.map(_kind, after)


def _kind(leaf) -> tuple:
    return leaf.shape, leaf.dtype


def _built(config: ConfigDict) -> Experiment | None:
    try:
        return build.build(config)
    except LEFT_OUT:
        return None


def _but_for_numbers(config: ConfigDict) -> str:
    told = entries.as_json(with_numbers(config, dict.fromkeys(numbers_in(config), "number")))
    return json.dumps({name: told.get(name) for name in (*TRACED, *EQUAL)}, sort_keys=True)


def _in_class(configs: Sequence[ConfigDict], experiment: Experiment | None, places: list[int]) -> list[Group]:
    """The groups of configs that differ in nothing but numbers."""
    known = {place: numbers_in(configs[place]) for place in places} if experiment else {}
    names = [name for name in known.get(places[0], ()) if len({known[place][name] for place in places}) > 1]
    config = configs[places[0]]
    taken = names
    if names and not takes(config, experiment, names):
        taken = [name for name in names if len(names) > 1 and takes(config, experiment, [name])]
        taken = taken if len(taken) < 2 or takes(config, experiment, taken) else []
    parts: dict[tuple, list[int]] = {}
    for place in places:
        parts.setdefault(tuple(known[place][name] for name in names if name not in taken), []).append(place)
    return [
        Group(tuple(part), tuple(name for name in taken if len({known[place][name] for place in part}) > 1))
        for part in parts.values()
    ]
