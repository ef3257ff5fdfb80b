"""What looks at a training: at each step whether it lives, now and then at losses, curves and pictures."""

import contextlib
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np
from jax.sharding import Mesh
from ml_collections import ConfigDict

from diffusion_jax import drawing, placement
from diffusion_jax.evaluation import images, plots, validation
from diffusion_jax.experiment import Experiment
from diffusion_jax.training import ema_snapshots, heartbeat, parallel, state, together, watchdog


class Watched(NamedTuple):
    """beat: (step). waiting: () -> a context. patiently: hook -> hook. look: (say), which names a slow host, once."""

    beat: Callable
    waiting: Callable
    patiently: Callable
    look: Callable


def watch(config: ConfigDict, folder: Path, at_the_end: contextlib.ExitStack) -> Watched:
    """A watchdog and a heartbeat of this process, until the end."""
    process = jax.process_index()
    minutes = config.train.get("watchdog_minutes", 0)
    dog = at_the_end.enter_context(watchdog.watching(60 * minutes, folder, process, begin=2))
    heart = heartbeat.heartbeat(folder, config.batch_size, process)
    slow: set[str] = set()

    def beat(step: int) -> None:
        dog.beat()
        heart.beat(step)

    def patiently(hook: Callable) -> Callable:
        def longer(now: state.TrainState) -> None:
            with dog.longer():
                hook(now)

        return longer

    def look(tell: Callable[[str], None]) -> None:
        line = heartbeat.straggler(folder, jax.process_count()) if together.first() else None
        if line and (host := line.partition(")")[0]) not in slow:
            slow.add(host)
            tell(line)

    return Watched(beat, heart.waiting, patiently, look)


class Looks(NamedTuple):
    """validate: (parameters) -> record, see `make_validation`. draw: (parameters, prompts, seed), see `drawing`."""

    validate: Callable
    draw: Callable


def looks(config: ConfigDict, experiment: Experiment, sets: dict[str, dict], where: placement.Placed) -> Looks:
    """How a training looks at its averaged parameters, which lie as `where` says."""
    gather = placement.gather(where)
    validate = make_validation(experiment, sets, config.validation_size, config.batch_size, where.mesh)
    draw = drawing.make_drawing(experiment, config.sampling, mesh=where.mesh)
    return Looks(lambda params: validate(gather(params)), lambda params, *words: draw(gather(params), *words))


def hooks(config: ConfigDict, folder: Path, write: Callable, say: Callable, look: Looks) -> list[tuple]:
    """(every how many steps, function of the state): all processes compute, and the first one writes.

    write: (step, record) appends to the metrics. say: (line).
    """

    def judge(now: state.TrainState) -> None:
        record = look.validate(now.ema_params)
        write(int(now.step), record)
        if together.first():
            plots.training_curves(folder / "metrics.jsonl", folder / "curves.png")
        words = {"validation": "held-out concepts", "seen": "training pictures"}
        gaps = (
            f"{record[f'{title}/gap']:+.4f} +- {record[f'{title}/gap_standard_error']:.4f} on {kind}"
            for title, kind in words.items()
        )
        say(f"step {int(now.step)}: wrong captions change the error by {' and '.join(gaps)}")

    def show(now: state.TrainState) -> None:
        prompts = list(config.sampling.prompts)
        if prompts:
            pictures = look.draw(now.ema_params, prompts, 0).pictures
            if together.first():
                grid = images.grid(pictures, captions=prompts)
                images.write_png(folder / "samples" / f"step_{int(now.step):07d}.png", grid)

    return [(config.train.validate_every, judge), (config.train.sample_every, show)]


def snapshots(config: ConfigDict, folder: Path, where: placement.Placed, now: state.TrainState) -> list[tuple]:
    """What keeps the averages of config.ema_lengths in ema/ every config.train.snapshot_every steps, as `hooks` has it.

    Those in the folder that a killed run had written beyond its checkpoint, after `now`, go.
    """
    lengths, home = tuple(config.get("ema_lengths", ())), folder / "ema"
    if not lengths:
        return []
    whole = jax.jit(lambda tree: tree, out_shardings=parallel.everywhere(where.mesh))
    if together.first():
        ema_snapshots.forget_after(home, int(now.opt_state.count))

    def snapshot(at: state.TrainState) -> None:
        averages = whole(parallel.placed(at.opt_state.averages, parallel.everywhere(where.mesh)))  # of all processes
        if together.first():
            ema_snapshots.save(home, int(at.opt_state.count), averages, lengths)

    return [(config.train.get("snapshot_every", 0), snapshot)]


def make_validation(
    experiment: Experiment, sets: dict[str, dict], validation_size: int, batch_size: int, mesh: Mesh | None = None
) -> Callable:
    """A function from parameters to one record of losses, NAME/... for each named set of captioned pictures.

    A set of fewer pictures than validation_size goes through as many times as fit into it. The figures are the same for
    any batch_size: the last batch is filled up with pictures that then do not count. mesh: all devices unless given.
    """
    mesh = parallel.device_mesh() if mesh is None else mesh
    rounds = {title: max(validation_size // len(pictures["captions"]), 1) for title, pictures in sets.items()}
    columns = {title: validation.with_others(pictures, rounds[title]) for title, pictures in sets.items()}
    size = parallel.rounded_up(min(batch_size, max(len(each["place"]) for each in columns.values())), mesh)
    error = validation.make_validation_error(
        experiment.network, experiment.encode, experiment.schedule, experiment.parameterization
    )
    compiled = parallel.spread(error, mesh, split={1})

    def errors_on(params, examples: dict) -> list[dict]:
        count, parts = len(examples["place"]), []
        for start in range(0, count, size):
            rows = np.arange(start, start + size) % count
            part = jax.device_get(compiled(params, {name: column[rows] for name, column in examples.items()}))
            parts.append({name: errors[: count - start] for name, errors in part.items()})
        return parts

    def validate(params) -> dict:
        record = {}
        for title, examples in columns.items():
            record |= validation.summarize(errors_on(params, examples), title=title, rounds=rounds[title])
        return record

    return validate
