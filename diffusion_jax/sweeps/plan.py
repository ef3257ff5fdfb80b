"""From a sweep file to its runs: arms x seeds, each in a folder whose name follows from what it learns.

A sweep file has a docstring (the question, what is known, what it costs), get_config() and sweep(add), which calls add
for each arm; both may take the preset too:

    add("eps", parameterization=dict(name="eps_prediction"))
    add("slower", {"optimizer.learning_rate": 1e-4})

A dict with a name takes the place of an entry of the config; one without changes the entries in it that it names. The
sweep sets config.seed to 0, 1, 2, ... in every arm: batches, first parameters where shapes agree, noise and levels are
then those of the other arms with that seed.

AGAINST = "eps" in the file has all arms compared with that one alone, which takes fewer seeds than each with each.

Arms whose configs differ in `sampling` and `figures` alone share their trainings. With train.steps = 0 nothing is
trained: config.begin says what is drawn with, and seeds are draws of noise.
"""

import difflib
import hashlib
import importlib.util
import inspect
import json
import re
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import NamedTuple

from ml_collections import ConfigDict

from diffusion_jax import agreement
from diffusion_jax import config as entries

PRESETS = ("cpu", "full")
FIGURES = ("train.steps", "validation_size")  # free in a training that goes on; what a sweep reports depends on them


class Arm(NamedTuple):
    """config: of no seed in particular. differs: from get_config(), a line for each entry.

    digest: of what is learned. measured: of how that is drawn and measured.
    """

    name: str
    differs: tuple[str, ...]
    config: ConfigDict
    digest: str
    measured: str


class Run(NamedTuple):
    """An arm with a seed. folder: of its training, which other arms may share; then they differ in `measured`."""

    arm: str
    digest: str
    measured: str
    seed: int
    folder: Path
    config: ConfigDict


class Plan(NamedTuple):
    """A sweep: `runs` has all arms of seed 0, then of seed 1, so that what is there early can be compared.

    against: the arm that the others are compared with; None: each with each.
    """

    file: Path
    question: str
    about: str
    preset: str | None
    folder: Path
    seeds: int
    against: str | None
    arms: tuple[Arm, ...]
    runs: tuple[Run, ...]


def read(file: str | Path, seeds: int, preset: str | None = None, workdir: str | Path = "runs/sweeps") -> Plan:
    """The sweep of a file, in workdir/<name of the file>/<arm>-<digest>/seed_<k>.

    preset: given to get_config where that takes one, "cpu" unless told.
    Raises FileNotFoundError for no such file; ValueError, naming it, for one without get_config, sweep or arms, an arm
    that changes an entry which is not there or of another type, two arms of one name or one config, or seeds < 1.
    """
    file = Path(file)
    if seeds < 1:
        raise ValueError(f"--seeds={seeds}: a sweep needs one at least, and five to say anything")
    if ":" in str(workdir):
        raise ValueError(f"--workdir={workdir}: a config's path cannot hold a colon, so choose another folder")
    module = _module(file)
    try:
        base, preset = _base(module, preset)
        told = entries.accepted(module.sweep, preset=preset)
        arms = _arms(base, partial(module.sweep, **told))
    except ValueError as error:
        raise ValueError(f"{file}: {error}") from error
    folder = Path(workdir) / file.stem
    homes = _homes(folder, arms)
    runs = tuple(_run(arm, seed, homes[arm.digest]) for seed in range(seeds) for arm in arms)
    against = getattr(module, "AGAINST", None)
    if against is not None and against not in {arm.name for arm in arms}:
        raise ValueError(f"{file}: AGAINST is {against!r}, and there is no such arm")
    return Plan(file, file.stem, inspect.getdoc(module) or "", preset, folder, seeds, against, arms, runs)


def digest(config: ConfigDict) -> str:
    """Twelve hexadecimal digits that two configs share if, and but for chance only if, they learn and report the same.

    The seed is left out, and so is what changes neither, see `agreement.FREE`.
    """
    told = agreement.LATER | entries.as_json(config)
    kept = {name: _at(told, name) for name in FIGURES}
    for name in ("seed", *agreement.FREE):
        _drop(told, name)
    return _hashed([told, kept])


def digest_of_measuring(config: ConfigDict) -> str:
    """Twelve hexadecimal digits of how a trained model is drawn with, and by what it is measured."""
    told = entries.as_json(config)
    return _hashed([told.get("sampling"), told.get("figures")])


def _hashed(told) -> str:
    return hashlib.blake2b(json.dumps(told, sort_keys=True).encode(), digest_size=6).hexdigest()


def _module(file: Path) -> ModuleType:
    if not file.is_file():
        raise FileNotFoundError(f"no sweep file {file}")
    spec = importlib.util.spec_from_file_location(f"sweep_file_{file.stem}", file)
    if spec is None:
        raise ValueError(f"{file} is no Python file: its name has to end in .py")
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except (ImportError, SyntaxError, ValueError) as error:
        raise ValueError(f"{file} cannot be read: {error}") from error
    for name in ("get_config", "sweep"):
        if not callable(getattr(module, name, None)):
            raise ValueError(f"{file} has no {name}(): a sweep file has get_config() and sweep(add)")
    return module


def _base(module: ModuleType, preset: str | None) -> tuple[ConfigDict, str | None]:
    """What get_config returns, and the preset that it was told."""
    takes = bool(inspect.signature(module.get_config).parameters)
    if preset is not None and not takes:
        raise ValueError(f"--preset={preset}: its get_config() takes no preset")
    preset = (preset or PRESETS[0]) if takes else None
    base = module.get_config(preset) if takes else module.get_config()
    if not isinstance(base, ConfigDict):
        raise ValueError(f"get_config() returns a {type(base).__name__}: it has to be a ConfigDict")
    for name in ("seed", "figures", "sampling", *FIGURES):
        if _at(base, name) is None:
            raise ValueError(f"get_config() has no entry {name}; experiments/base.py has all")
    if base.train.steps == 0 and not base.get("begin"):
        raise ValueError("get_config() has train.steps = 0 and no begin: name what nothing is to be trained of")
    return base, preset


def _arms(base: ConfigDict, sweep: Callable) -> tuple[Arm, ...]:
    arms: dict[str, Arm] = {}

    def add(name: str, overrides: Mapping | None = None, /, **more) -> None:
        changes = dict(overrides or {}) | more
        if not re.fullmatch(r"\w[\w.+=-]*", name):
            raise ValueError(f"arm {name!r}: it names a folder, so use letters, digits and any of _ . + = -")
        if name in arms:
            raise ValueError(f"arm {name}: there are two of that name")
        if "seed" in changes:
            raise ValueError(f"arm {name} sets seed, which the sweep does: --seeds=N gives every arm 0 to N - 1")
        config = ConfigDict(base.copy_and_resolve_references())
        _change(config, changes, f"arm {name}: ")
        differs = entries.differences(entries.as_json(base), entries.as_json(config))
        arm = Arm(name, tuple(differs), config, digest(config), digest_of_measuring(config))
        for other in arms.values():
            if other[-2:] == arm[-2:]:
                raise ValueError(
                    f"arms {other.name} and {name} are one config, and would be one run: for two runs that differ in "
                    "nothing, give each an entry that is read by nobody, such as config.label"
                )
        arms[name] = arm

    sweep(add)
    if not arms:
        raise ValueError("sweep(add) has added no arm")
    return tuple(arms.values())


def _change(config: ConfigDict, changes: Mapping, who: str, where: str = "") -> None:
    """Apply an arm's changes. New names may come where a function's arguments are: whether it takes them, it says."""
    for key, value in changes.items():
        name, _, rest = key.partition(".")
        value = {rest: value} if rest else value
        entry, before = f"{where}{name}", config.get(name)
        if name not in config and "name" not in config:
            near = difflib.get_close_matches(name, list(config), n=1)
            hint = f"did you mean {where}{near[0]}?" if near else f"it has {', '.join(config)}"
            raise ValueError(f"{who}the config has no entry {entry}: {hint}")
        if isinstance(value, Mapping) and isinstance(before, ConfigDict) and "name" not in value:
            _change(before, value, who, f"{entry}.")
        elif rest:
            raise ValueError(f"{who}the config's {entry} is {before!r}, and has no entry {rest}")
        else:
            try:
                with config.unlocked():
                    config[name] = value
            except TypeError as error:
                raise ValueError(f"{who}{entry}={value!r} does not take the place of {before!r}: {error}") from error


def _homes(folder: Path, arms: Sequence[Arm]) -> dict[str, Path]:
    """For each digest its folder: the one that is there, under whatever name, or one named for its first arm."""
    homes = {arm.digest: folder / f"{arm.name}-{arm.digest}" for arm in reversed(arms)}
    there = {digest: sorted(folder.glob(f"*-{digest}")) for digest in homes}
    return {digest: there[digest][0] if there[digest] else home for digest, home in homes.items()}


def _run(arm: Arm, seed: int, home: Path) -> Run:
    config = ConfigDict(arm.config)
    config.seed = seed
    return Run(arm.name, arm.digest, arm.measured, seed, home / f"seed_{seed}", config)


def _at(told: Mapping | ConfigDict, name: str):
    for part in name.split("."):
        told = told.get(part) if isinstance(told, Mapping | ConfigDict) else None
    return told


def _drop(told: dict, name: str) -> None:
    first, _, rest = name.partition(".")
    if not rest:
        told.pop(first, None)
    elif isinstance(told.get(first), dict):
        _drop(told[first], rest)
