"""Trainings that differ in numbers only, as one program; each in its folder, where it leaves what `run.train` would.

A folder receives log.txt as well: what is said of its training, a line each.
"""

import contextlib
import functools
import json
import runpy
from collections.abc import Callable, Generator, Sequence
from pathlib import Path
from typing import NamedTuple, TextIO

import jax
import numpy as np
from ml_collections import ConfigDict

from diffusion_jax import alike, build, placement, run, watching
from diffusion_jax import config as entries
from diffusion_jax.data.shared import Share, shares
from diffusion_jax.experiment import Experiment
from diffusion_jax.training import checkpoint_files, leaving, many, parallel, state
from diffusion_jax.training.progress import progress


class Work(NamedTuple):
    """What the trainings share.

    numbers: of each. where: a state lies when it is read, on one device. first_state: (numbers, seed). looks: (config,
    its experiment), on all devices.
    """

    configs: Sequence[ConfigDict]
    folders: Sequence[Path]
    data_dir: str
    numbers: list[dict[str, np.generic]]
    where: placement.Placed
    sets: dict[str, dict]
    first_state: Callable
    looks: Callable


class Member(NamedTuple):
    """One of the trainings, open. now: its state, on the host. log: of its folder. close: all that is open of it."""

    place: int
    run: run.Run
    now: state.TrainState
    log: TextIO
    close: contextlib.ExitStack


class Row(NamedTuple):
    """A number among those of many trainings, brought from the devices with all others when the first is read."""

    fetch: Callable
    name: str
    row: int

    def __float__(self) -> float:
        return float(self.fetch()[self.name][self.row])


def train(configs: Sequence[ConfigDict], workdirs: Sequence[str | Path], data_dir: str) -> dict[Path, str]:
    """Train all until config.train.steps, each from its newest checkpoint; returns, by folder, why some were not.

    Where one diverges or cannot write, the others go on without it. Those that stand at an earlier step than others
    catch up first. On SIGTERM or Ctrl-C all are saved: SystemExit with 128 + the signal's number.
    Raises ValueError for configs that are not one program, see `alike`, or that `run.train` would not take.
    """
    work = shared_work(configs, [Path(folder) for folder in workdirs], data_dir)
    failed: dict[int, str] = {}

    def to_do() -> list[int]:
        return [place for place in range(len(configs)) if place not in failed and not done(work, place)]

    with leaving.leaving_politely() as leave:
        while left := to_do():
            asked = functools.cache(leave.asked)  # a signal may come between two trainings: all leave at one step
            try:
                stage(work, left, failed, asked)
            except Exception as error:
                for place in left:
                    tell(work.folders[place], f"error: {checkpoint_files.first_line(error)}")
                raise
            if leave.asked(0) and to_do():
                run.say("left, as asked; the same command goes on from there")
                raise SystemExit(leave.code())
    return {work.folders[place]: why for place, why in failed.items()}


def shared_work(configs: Sequence[ConfigDict], folders: Sequence[Path], data_dir: str) -> Work:
    """What the trainings share. Raises ValueError where they are not one program, or one of them makes no sense."""
    config = configs[0]
    run.check_plan(config.train)
    experiment = build.build(config)
    if why := alike.why_not(config, experiment):
        raise ValueError(f"{folders[0]} is not trained together with others: {why}; train it by itself")
    first, *others = alike.groups(configs)
    if others:
        other = folders[others[0].places[0]]
        raise ValueError(f"{folders[0]} and {other} are not one program but for its numbers: train them apart")
    everywhere = placement.placed(experiment, placement.mesh_of(config))
    where = placement.placed(experiment, parallel.device_mesh(devices=jax.devices()[:1]))
    sets = build.fixed_sets(config, experiment, data_dir)
    known: dict[str, watching.Looks] = {}

    def looks(own: ConfigDict, its_experiment: Experiment) -> watching.Looks:
        told = json.dumps(entries.as_json(own) | {"seed": 0}, sort_keys=True)
        if told not in known:
            known[told] = watching.looks(own, its_experiment, sets, everywhere)
        return known[told]

    numbers = alike.stacked_numbers(configs, first.numbers)
    differ = ", ".join(first.numbers) or "their seeds alone"
    run.say(f"{len(configs)} trainings in one program, which differ in {differ}")
    init = jax.jit(functools.partial(alike.init, config))
    return Work(configs, folders, data_dir, numbers, where, sets, init, looks)


def done(work: Work, place: int) -> bool:
    """Whether a checkpoint of the last step is there."""
    steps = checkpoint_files.steps_in(work.folders[place] / "checkpoints")
    return max(steps, default=0) >= work.configs[place].train.steps


def stage(work: Work, left: list[int], failed: dict[int, str], asked: Callable[[int], bool]) -> None:
    """Train those that stand at the earliest step, until they are where others stand, or to the end.

    failed: receives, by place, why one ended before.
    """
    with contextlib.ExitStack() as at_the_end:
        members = []
        readers: dict[int, list[Share]] = {}
        for place in left:
            config = work.configs[place]
            experiment = build.build(config)
            if config.seed not in readers:
                read = build.batches(config, experiment, work.data_dir)
                at_the_end.callback(read.close)
                readers[config.seed] = shares(read, len(left))
            with alone(work.folders[place], place, failed):
                members.append(opened(work, place, experiment, readers[config.seed].pop(), at_the_end))
        steps = sorted({int(member.now.step) for member in members})
        until = steps[1] if len(steps) > 1 else work.configs[0].train.steps
        first = [member for member in members if int(member.now.step) == steps[0]]
        if first:
            in_step(work, first, failed, lambda step: step >= until or asked(step))


def opened(work: Work, place: int, experiment: Experiment, batches: Share, at_the_end: contextlib.ExitStack) -> Member:
    """One of the trainings, with the state that it goes on from."""
    config, folder = work.configs[place], work.folders[place]
    folder.mkdir(parents=True, exist_ok=True)
    close = at_the_end.enter_context(contextlib.ExitStack())
    log = open(folder / "log.txt", "a")  # noqa: SIM115  (open for the life of the run)
    close.callback(log.close)
    its_run = run.opened(config, folder, experiment, work.where, batches, close)
    now = run.newest(its_run, lambda line: print(line, file=log, flush=True))
    now = now or work.first_state(work.numbers[place], np.uint32(config.seed))
    return Member(place, its_run, jax.device_get(now), log, close)


def in_step(work: Work, members: list[Member], failed: dict[int, str], leave: Callable[[int], bool]) -> None:
    """Train members that stand at one step, until they leave."""
    mesh = many.mesh_of(len(members))
    states = many.stacked([member.now for member in members], mesh)
    asks = {row: asking(work, member, lambda row=row: state_of(row), leave) for row, member in enumerate(members)}

    def state_of(row: int) -> state.TrainState:
        return many.one_of(states, row)

    seeds = sorted({member.run.config.seed for member in members})
    numbers = many.stacked([work.numbers[member.place] for member in members], mesh)
    keys = many.stacked([placement.step_key(member.run.config.seed) for member in members], mesh)
    which = many.stacked([np.int32(seeds.index(member.run.config.seed)) for member in members], mesh)
    take_step = many.make_step(functools.partial(alike.update, work.configs[0]), mesh)
    newest: dict[int, dict] = {}  # batches, by seed
    metrics: dict[int, dict | None] = dict.fromkeys(asks)
    while asks:
        for row, member in enumerate(members):
            if row not in asks:
                continue
            batch = None
            folder = work.folders[member.place]
            with alone(folder, member.place, failed), run.last_good_named(member.run.checkpoints, folder):
                batch = asked_for(asks[row], metrics[row])
            if batch is None:  # it has ended, in whatever way
                del asks[row]
                member.close.close()
            else:
                newest[member.run.config.seed] = {name: batch[name] for name in placement.COLUMNS}
        if asks:
            batches = many.batches_on([newest[seed] for seed in seeds], mesh)
            states, told = take_step(numbers, states, batches, which, keys)
            fetch = functools.cache(functools.partial(jax.device_get, told))
            metrics = {row: {name: Row(fetch, name, row) for name in told} for row in asks}


def asking(work: Work, member: Member, current: Callable, leave: Callable[[int], bool]) -> Generator:
    """The loop of a training, which asks for its steps."""
    config, experiment = member.run.config, member.run.experiment
    shown = progress(config.train.steps, int(member.now.step), config.batch_size, member.log)
    member.close.callback(shown.close)
    run.say_what_is_cut(experiment, work.sets, shown.say)
    return run.batch_by_batch(member.run, current, work.looks(config, experiment), shown, leave, member.close)


def asked_for(asks: Generator, metrics: dict | None) -> dict | None:
    """The next batch that a training asks for, or None at its end."""
    try:
        return asks.send(metrics)
    except StopIteration:
        return None


@contextlib.contextmanager
def alone(folder: Path, place: int, failed: dict[int, str]):
    """Notes the error that ends one training, in its log too, and lets the others go on."""
    try:
        yield
    except (OSError, ValueError) as error:
        failed[place] = str(error)
        tell(folder, f"error: {error}")


def tell(folder: Path, line: str) -> None:
    """Append a line to the log of a training."""
    with contextlib.suppress(OSError), open(folder / "log.txt", "a") as log:
        log.write(f"{line}\n")


def config_of(folder: str | Path) -> ConfigDict:
    """The config of a run that a sweep has begun. Raises FileNotFoundError where there is none."""
    path = Path(folder) / "config.py"
    if not path.is_file():
        raise FileNotFoundError(f"{folder} holds no config.py, as diffusion-jax sweep writes it")
    return runpy.run_path(str(path))["get_config"]()
