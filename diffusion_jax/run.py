"""An experiment in its folder: begin it or go on, watch it, leave everything there that it takes to use it."""

import contextlib
import importlib.metadata
import platform
from collections.abc import Callable
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from diffusion_jax import build, drawing, text, trained
from diffusion_jax import config as entries
from diffusion_jax.evaluation import images, plots, validation
from diffusion_jax.files import write_json
from diffusion_jax.training import checkpoint, loop, parallel, state, step
from diffusion_jax.training.metrics import MetricsLog
from diffusion_jax.training.progress import progress
from diffusion_jax.types import Params

VERSIONS = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "grain", "numpy", "transformers", "diffusion_jax")
FREE = (  # what may change between two stretches of one run: none of it changes what is learned
    "train",
    "sampling",
    "validation_size",
    *(f"loader.{name}" for name in ("workers", "threads", "prefetch", "cache_bytes")),
)
LATER = dict(begin="", lora=dict(rank=0, alpha=8.0, where=""))  # what a config without them means


def train(config: ConfigDict, workdir: str | Path, data_dir: str) -> Path:
    """Train until config.train.steps, from the newest checkpoint if the folder has one; returns the folder.

    The folder receives config.json, versions.json, metrics.jsonl, tensorboard/, samples/, curves.png and checkpoints/.
    On SIGTERM or Ctrl-C the state is saved and the process leaves: SystemExit with 128 + the signal's number.
    Raises ValueError for a folder of another config, a batch that does not divide, or a loss that is no longer finite;
    OSError when the disk is full or another process trains there.
    """
    folder, mesh = Path(workdir), parallel.data_mesh()
    check_plan(config.train)
    parallel.check_batch_size(config.batch_size, mesh)
    experiment = build.build(config, data_dir)
    batches = build.batches(config, experiment, data_dir)
    sets = build.fixed_sets(config, experiment, data_dir)
    validate = make_validation(experiment, sets, config.validation_size, config.batch_size)
    draw = drawing.make_drawing(experiment, config.sampling)
    key = jax.random.key(config.seed)
    shapes = jax.eval_shape(partial(initial_state, experiment), key)  # a model that cannot be built is known before

    begun = None  # where a run goes on, what it began with may be gone
    if config.get("begin") and not checkpoint.steps_in(folder / "checkpoints"):
        begun = trained.beginning(config.begin, shapes.params)

    folder.mkdir(parents=True, exist_ok=True)
    with contextlib.ExitStack() as at_the_end:
        at_the_end.enter_context(checkpoint.lock(folder))
        agree_on_config(folder, config)
        text.agree(experiment.text, folder / "text_encoder")
        checkpoints = checkpoint.open_checkpoints(folder, config.train.keep)
        at_the_end.callback(checkpoint.close, checkpoints)
        at_the_end.callback(batches.close)
        restored = checkpoint.restore(checkpoints, parallel.replicated_shapes(shapes, mesh))
        now, position = restored or (parallel.replicate(first_state(experiment, key, begun), mesh), None)
        if restored:
            batches.set_state(position)
            print(f"going on from step {int(now.step)} in {folder}", flush=True)
        if int(now.step) >= config.train.steps:
            print(f"{folder} is trained: step {int(now.step)} of {config.train.steps}", flush=True)
            return folder

        metrics = MetricsLog(folder, int(now.step))
        at_the_end.callback(metrics.close)
        shown = progress(config.train.steps, int(now.step), config.batch_size)
        at_the_end.callback(shown.close)
        if cut := experiment.text.truncated(sets["seen"]["captions"]):
            shown.say(
                f"of {len(sets['seen']['captions'])} training captions, {cut} are longer than what is read of them"
            )
        every = hooks(config, folder, metrics, shown.say, validate, draw)
        received = at_the_end.enter_context(loop.leaving_politely())

        def save(at: state.TrainState) -> None:
            checkpoint.save(checkpoints, at, batches.get_state(), entries.as_json(config))

        def log(at: int, values: dict) -> None:
            metrics.write(at, {f"train/{name}": value for name, value in values.items()})
            shown.note(at, values["loss"], values["images_per_second"])

        with last_good_named(checkpoints, folder):
            now = loop.train(
                now,
                make_step(config, experiment, mesh),
                batches,
                steps=config.train.steps,
                every=[*every, (config.train.save_every, save)],  # saved last: a resumed run repeats what it cut short
                log=log,
                log_every=config.train.log_every,
                batch_size=config.batch_size,
                tick=shown.tick,
                asked_to_leave=received,
            )
            for n, hook in every:
                if n and int(now.step) % n and not received:
                    hook(now)
            save(now)
            checkpoint.finish(checkpoints)
    if received and int(now.step) < config.train.steps:
        print(f"left at step {int(now.step)}, as asked; the same command goes on from there", flush=True)
        raise SystemExit(128 + received[0])
    return folder


def check_plan(plan: ConfigDict) -> None:
    """Raise ValueError for a number in config.train that makes no sense."""
    least = dict(steps=1, log_every=1, validate_every=0, sample_every=0, save_every=0, keep=1)
    for name, bound in least.items():
        if plan[name] < bound:
            raise ValueError(f"config.train.{name} is {plan[name]}: it must be at least {bound}")


def make_step(config: ConfigDict, experiment: build.Experiment, mesh) -> Callable:
    """(state, host batch) -> (state, metrics), on all devices of the mesh."""
    update = step.make_train_step(experiment.loss, experiment.optimizer, config.ema_decay, experiment.fixed)
    compiled = parallel.data_parallel(update, mesh)
    key = parallel.replicate(jax.random.fold_in(jax.random.key(config.seed), 1), mesh)

    def take_step(now: state.TrainState, batch: dict) -> tuple[state.TrainState, dict]:
        arrays = {name: batch[name] for name in ("image", "tokens", "mask")}
        return compiled(now, parallel.split_batch(arrays, mesh), key)

    return take_step


@partial(jax.jit, static_argnums=0)
def initial_state(experiment: build.Experiment, key) -> state.TrainState:
    """The state at step 0, with nothing that was trained elsewhere."""
    return state.init_state(experiment.init(key), experiment.optimizer, experiment.fixed)


def first_state(experiment: build.Experiment, key, begun: Params | None = None) -> state.TrainState:
    """The state at step 0, with a text encoder that was trained elsewhere if it has one, or with all that has begun."""
    now = initial_state(experiment, key)
    if begun is None:
        begun = {"text_encoder": experiment.text.load()} if experiment.text.load else {}
    copied = jax.tree.map(jnp.copy, begun)
    return now._replace(params=now.params | begun, ema_params=now.ema_params | copied)


def hooks(config, folder: Path, metrics: MetricsLog, say: Callable, validate: Callable, draw: Callable) -> list[tuple]:
    """What looks at the state now and then: (every how many steps, function of the state)."""

    def judge(now: state.TrainState) -> None:
        record = validate(now.ema_params)
        metrics.write(int(now.step), record)
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
            grid = images.grid(draw(now.ema_params, prompts, seed=0).pictures, captions=prompts)
            images.write_png(folder / "samples" / f"step_{int(now.step):07d}.png", grid)

    return [(config.train.validate_every, judge), (config.train.sample_every, show)]


@contextlib.contextmanager
def last_good_named(checkpoints: checkpoint.Checkpoints, folder: Path):
    """Lets the errors that end a training say which checkpoint is there to go on from."""
    try:
        yield
    except (loop.Diverged, OSError) as error:
        with contextlib.suppress(OSError):
            checkpoint.finish(checkpoints)
        steps = checkpoint.steps_in(checkpoints.folder)
        good = f"the last good checkpoint is step {max(steps)}" if steps else "there is no checkpoint yet"
        if isinstance(error, OSError):
            raise OSError(f"training stopped: {error}; {good}, and the same command goes on in {folder}") from error
        raise ValueError(f"training diverged at {error}; {good}, in {folder}") from error


def agree_on_config(folder: Path, config: ConfigDict) -> None:
    """Write config.json and versions.json, or check that the folder's config trains the same model the same way.

    Raises ValueError with what differs; only the entries in FREE may.
    """
    path = folder / "config.json"
    if path.exists():
        before, now = (LATER | told for told in (checkpoint.read_config(folder), entries.as_json(config)))
        changes = entries.differences(before, now)
        fixed = [line for line in changes if not f"{line.split(':')[0]}.".startswith(tuple(f"{key}." for key in FREE))]
        if fixed:
            raise ValueError(f"{folder} has another config ({'; '.join(fixed)}): choose another --workdir")
    write_json(path, entries.as_json(config))
    write_json(folder / "versions.json", versions())


def versions() -> dict[str, str]:
    """What this process runs with."""
    machine = {
        "python": platform.python_version(),
        "platform": platform.platform(),
        "devices": f"{jax.device_count()} x {jax.devices()[0].device_kind}",
    }
    return machine | {name: importlib.metadata.version(name) for name in VERSIONS}


def make_validation(
    experiment: build.Experiment, sets: dict[str, dict], validation_size: int, batch_size: int
) -> Callable:
    """A function from parameters to one record of losses, NAME/... for each named set of captioned pictures.

    A set of fewer pictures than validation_size goes through as many times as fit into it. The figures are the same for
    any batch_size: the last batch is filled up with pictures that then do not count.
    """
    mesh = parallel.data_mesh()
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
        params, record = parallel.replicate(params, mesh), {}
        for title, examples in columns.items():
            record |= validation.summarize(errors_on(params, examples), title=title, rounds=rounds[title])
        return record

    return validate
