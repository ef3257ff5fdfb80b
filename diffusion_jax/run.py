"""An experiment in its folder: begin it or go on, watch it, leave everything there that it takes to use it."""

import contextlib
from collections.abc import Callable, Generator
from functools import partial
from pathlib import Path
from typing import NamedTuple

from ml_collections import ConfigDict

from diffusion_jax import agreement, build, placement, text, trained, watching
from diffusion_jax import config as entries
from diffusion_jax.data.broken import BrokenData
from diffusion_jax.data.pipeline import Batches
from diffusion_jax.data.shared import Share
from diffusion_jax.experiment import Experiment
from diffusion_jax.training import (
    checkpoint,
    checkpoint_files,
    leaving,
    loop,
    parallel,
    processes,
    profiling,
    run_folder,
    state,
    together,
)
from diffusion_jax.training.metrics import MetricsLog
from diffusion_jax.training.progress import Progress, progress


class Run(NamedTuple):
    """A training in its folder: what it consists of, from the config to the checkpoints."""

    config: ConfigDict
    folder: Path
    experiment: Experiment
    where: placement.Placed
    batches: Batches | Share
    checkpoints: checkpoint.Checkpoints


def say(line: str) -> None:
    """Print a line at once."""
    print(line, flush=True)


def train(
    config: ConfigDict, workdir: str | Path, data_dir: str, allow_changed: bool = False, profile: str | None = None
) -> Path:
    """Train until config.train.steps, from the newest checkpoint if the folder has one; returns the folder.

    The folder receives config.json, versions.json, metrics.jsonl, tensorboard/, samples/, curves.png, heartbeat/ and
    checkpoints/. allow_changed: go on with another config. profile: steps whose profile goes to profile/, see
    `training.profiling`.
    On SIGTERM or Ctrl-C the state is saved and the process leaves: SystemExit with 128 + the signal's number. Of
    several processes (`training.processes`) each runs this; the first one writes and speaks.
    Raises ValueError for a folder of another config, a batch that does not divide, or a loss that is no longer finite;
    OSError when the disk is full or another process trains there, `processes.Lost` when one of several is gone.
    """
    folder, mesh = Path(workdir), placement.mesh_of(config)
    parallel.meet(mesh)
    check_plan(config.train)
    if profile is not None:
        profiling.steps_of(profile)  # raises before anything is written
    experiment = build.build(config, data_dir)
    batches = build.batches(config, experiment, data_dir, parallel.local_rows(mesh, config.batch_size))
    sets = build.fixed_sets(config, experiment, data_dir)
    where = placement.placed(experiment, mesh)  # a model that cannot be built is known before anything is written
    looks = watching.looks(config, experiment, sets, where)
    begun = None  # where a run goes on, what it began with may be gone
    if config.get("begin") and not checkpoint_files.steps_in(folder / "checkpoints"):
        begun = trained.beginning(config.begin, where.shapes.params)

    with contextlib.ExitStack() as at_the_end:
        run = opened(config, folder, experiment, where, batches, at_the_end, allow_changed)
        now = newest(run) or placement.first_state(experiment, where, config.seed, begun)
        if int(now.step) >= config.train.steps:
            say(f"{folder} is trained: step {int(now.step)} of {config.train.steps}")
            return folder
        shown = progress(config.train.steps, int(now.step), config.batch_size)
        at_the_end.callback(shown.close)
        say_what_is_cut(experiment, sets, shown.say)
        leave = at_the_end.enter_context(leaving.leaving_politely())
        with last_good_named(run.checkpoints, folder):
            step = advance(run, now, looks, shown, leave.asked, profile, at_the_end)
    if step < config.train.steps:
        say(f"left at step {step}, as asked; the same command goes on from there")
        raise SystemExit(leave.code())
    return folder


def opened(
    config: ConfigDict,
    folder: Path,
    experiment: Experiment,
    where: placement.Placed,
    batches: Batches | Share,
    at_the_end: contextlib.ExitStack,
    allow_changed: bool = False,
) -> Run:
    """A training in its folder, which is made, or agrees with the config, and is held until the end."""
    with together.all_or_none():
        if together.first():
            folder.mkdir(parents=True, exist_ok=True)
            at_the_end.enter_context(run_folder.lock(folder))
            agreement.agree_on_config(folder, config, allow_changed)
            text.agree(experiment.text, folder / "text_encoder")
    kept = (config.train.get(name, 0) for name in ("keep_every", "keep_best"))
    checkpoints = checkpoint.open_checkpoints(folder, config.train.keep, *kept)
    at_the_end.callback(checkpoint.close, checkpoints)
    at_the_end.callback(batches.close)
    return Run(config, folder, experiment, where, batches, checkpoints)


def newest(run: Run, say: Callable[[str], None] = say) -> state.TrainState | None:
    """The state to go on from, with the batches where they were; None where there is none."""
    shapes = parallel.shapes_as(run.where.shapes, run.where.shardings)
    if (restored := checkpoint.restore(run.checkpoints, shapes, say)) is None:
        return None
    now, position = restored
    run.batches.set_state(position)
    say(f"going on from step {int(now.step)} in {run.folder}")
    return now


def say_what_is_cut(experiment: Experiment, sets: dict[str, dict], say: Callable[[str], None]) -> None:
    """A line where captions are longer than what is read of them."""
    if cut := experiment.text.truncated(sets["seen"]["captions"]):
        count = len(sets["seen"]["captions"])
        say(f"of {count} training captions, {cut} are longer than what is read of them")


def advance(
    run: Run,
    now: state.TrainState,
    looks: watching.Looks,
    shown: Progress,
    leave: Callable[[int], bool],
    profile: str | None,
    at_the_end: contextlib.ExitStack,
) -> int:
    """Train until the end, or until asked to leave, and save; returns the step."""
    take_step = placement.make_step(run.config, run.experiment, run.where)
    if profile is not None:
        steps = profiling.steps_of(profile, int(now.step))
        profiled = profiling.profiled(take_step, steps, run.folder / "profile", int(now.step), shown.say)
        take_step = at_the_end.enter_context(profiled)
    asking = partial(batch_by_batch, run, looks=looks, shown=shown, leave=leave, at_the_end=at_the_end)
    return int(loop.stepped(now, take_step, asking).step)


def batch_by_batch(
    run: Run,
    current: Callable[[], state.TrainState],
    looks: watching.Looks,
    shown: Progress,
    leave: Callable[[int], bool],
    at_the_end: contextlib.ExitStack,
) -> Generator[dict, dict, int]:
    """The training of a run for whoever takes its steps, see `loop.batch_by_batch`: watched, and saved at the end."""
    now = current()
    step, kept = int(now.step), watching.snapshots(run.config, run.folder, run.where, now)
    del now  # or it would be kept on the devices for as long as this goes on
    plan, write = run.config.train, open_metrics(run.folder, step, at_the_end)
    watched = watching.watch(run.config, run.folder, at_the_end)
    errors: dict[int, float] = {}  # on held-out pictures, by step

    def write_and_keep(at: int, record: dict) -> None:
        write(at, record)
        errors[at] = float(record["validation/matched"])

    def save(at: state.TrainState) -> None:
        position, config = run.batches.get_state(), entries.as_json(run.config)
        checkpoint.save(run.checkpoints, at, position, config, errors.get(int(at.step)))

    def finish(at: state.TrainState) -> None:
        save(at)
        checkpoint.finish(run.checkpoints)

    def log(at: int, values: dict) -> None:
        write(at, {f"train/{name}": value for name, value in values.items()})
        shown.note(at, values.get("loss", float("nan")), values["images_per_second"])
        watched.look(shown.say)

    every = watching.hooks(run.config, run.folder, write_and_keep, shown.say, looks)
    every = [(n, watched.patiently(hook)) for n, hook in [*every, *kept]]
    saving = (plan.save_every, watched.patiently(save))
    step = yield from loop.batch_by_batch(
        step,
        current,
        run.batches,
        steps=plan.steps,
        every=[*every, saving],  # saved last: a resumed run repeats what it cut short
        log=log,
        log_every=plan.log_every,
        batch_size=run.config.batch_size,
        tick=lambda step: (shown.tick(), watched.beat(step)),
        waiting=watched.waiting,
        skips=plan.get("skip_nonfinite", 0),
        leave=leave,
    )
    for n, hook in every:
        if n and step % n and step == plan.steps:
            hook(current())
    watched.patiently(finish)(current())
    return step


def open_metrics(folder: Path, step: int, at_the_end: contextlib.ExitStack):
    """(step, values) -> None: appends to the run's metrics in the first process, and does nothing in the others."""
    if not together.first():
        return lambda step, values: None
    metrics = MetricsLog(folder, step)
    at_the_end.callback(metrics.close)
    return metrics.write


def check_plan(plan: ConfigDict) -> None:
    """Raise ValueError for a number in config.train that makes no sense."""
    least = dict(steps=1, log_every=1, validate_every=0, sample_every=0, save_every=0, keep=1)
    least |= dict.fromkeys(("keep_every", "keep_best", "skip_nonfinite", "watchdog_minutes", "snapshot_every"), 0)
    for name, bound in least.items():
        if plan.get(name, bound) < bound:
            raise ValueError(f"config.train.{name} is {plan[name]}: it must be at least {bound}")


@contextlib.contextmanager
def last_good_named(checkpoints: checkpoint.Checkpoints, folder: Path):
    """Lets the errors that end a training say which checkpoint is there to go on from."""
    goes_on = f"the same command goes on in {folder}"
    try:
        yield
    except Exception as error:
        if processes.lost(error):
            why = f"another process is gone: {checkpoint_files.first_line(error)}"
            raise processes.Lost(f"training stopped: {why}; {last_good(checkpoints)}, and {goes_on}") from error
        if not isinstance(error, loop.Diverged | OSError | BrokenData):
            raise
        with contextlib.suppress(OSError):
            checkpoint.finish(checkpoints)
        if not isinstance(error, loop.Diverged):
            kind = BrokenData if isinstance(error, BrokenData) else OSError
            raise kind(f"training stopped: {error}; {last_good(checkpoints)}, and {goes_on}") from error
        raise ValueError(f"training diverged at {error}; {last_good(checkpoints)}, in {folder}") from error


def last_good(checkpoints: checkpoint.Checkpoints) -> str:
    """Which checkpoint is there, in words."""
    steps = checkpoint_files.steps_in(checkpoints.folder)
    return f"the last good checkpoint is step {max(steps)}" if steps else "there is no checkpoint yet"
