"""An experiment in its folder: begin it or go on, watch it, leave everything there that it takes to use it."""

import importlib.metadata
import json
import platform
from collections.abc import Callable
from functools import partial
from pathlib import Path

import jax
import numpy as np
from ml_collections import ConfigDict
from tqdm import tqdm

from diffusion_jax import build, drawing
from diffusion_jax import config as entries
from diffusion_jax.evaluation import images, plots, validation
from diffusion_jax.training import checkpoint, loop, parallel, state, step
from diffusion_jax.training.metrics import MetricsLog

VERSIONS = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "grain", "numpy", "transformers", "diffusion_jax")
FREE = ("train", "sampling", "loader", "validation_size")  # what may change between two stretches of one run


def train(config: ConfigDict, workdir: str | Path, data_dir: str) -> Path:
    """Train until config.train.steps, from the newest checkpoint if the folder has one; returns the folder.

    The folder receives config.json, versions.json, metrics.jsonl, tensorboard/, samples/, curves.png and checkpoints/.
    Raises ValueError for a folder of another config, a batch that does not divide, or a loss that is no longer finite;
    OSError when the disk is full or another process trains there.
    """
    folder = Path(workdir)
    mesh = parallel.data_mesh()
    parallel.check_batch_size(config.batch_size, mesh)
    experiment = build.build(config)
    batches = build.batches(config, experiment, data_dir)
    held_out = build.held_out(config, experiment, data_dir)

    folder.mkdir(parents=True, exist_ok=True)
    lock = checkpoint.lock(folder)
    agree_on_config(folder, config)
    checkpoints = checkpoint.open_checkpoints(folder, config.train.keep)
    run_key = jax.random.key(config.seed)
    current = parallel.replicate(jax.jit(partial(initial_state, experiment))(run_key), mesh)
    restored = checkpoint.restore(checkpoints, current)
    if restored is not None:
        current, position = restored
        batches.set_state(position)
        print(f"going on from step {int(current.step)} in {folder}", flush=True)
    if int(current.step) >= config.train.steps:
        print(f"{folder} is trained: step {int(current.step)} of {config.train.steps}", flush=True)
        return folder

    metrics = MetricsLog(folder, int(current.step))
    update = parallel.data_parallel(step.make_train_step(experiment.loss, experiment.optimizer, config.ema_decay), mesh)
    training_key = parallel.replicate(jax.random.fold_in(run_key, 1), mesh)
    progress = tqdm(total=config.train.steps, initial=int(current.step), unit="step", smoothing=0.02)

    def take_step(before, batch):
        batch = {name: batch[name] for name in ("image", "tokens", "mask")}
        return update(before, parallel.split_batch(batch, mesh), training_key)

    def save(now, last):
        checkpoint.save(checkpoints, now, batches.get_state(), wait=last)

    def log(at, values):
        metrics.write(at, {f"train/{name}": value for name, value in values.items()})

    validate = make_validation(experiment, held_out, config.batch_size)

    def judge(now, last):
        if last and int(now.step) % config.train.validate_every == 0:
            return
        record = validate(now.ema_params)
        metrics.write(int(now.step), record)
        plots.training_curves(folder / "metrics.jsonl", folder / "curves.png")
        gap, spread = record["validation/gap"], record["validation/gap_standard_error"]
        progress.write(
            f"step {int(now.step)}: error on held-out pictures {record['validation/matched']:.4f}, "
            f"with the wrong captions {gap:+.4f} +- {spread:.4f}"
        )

    draw = drawing.make_drawing(experiment, config.sampling)

    def show(now, last):
        if last and int(now.step) % config.train.sample_every == 0:
            return
        prompts = list(config.sampling.prompts)
        drawn = draw(now.ema_params, prompts, seed=0)
        grid = images.grid(drawn.pictures, captions=prompts)
        (folder / "samples").mkdir(exist_ok=True)
        images.write_png(folder / "samples" / f"step_{int(now.step):07d}.png", grid)

    plan = config.train
    try:
        loop.train(
            current,
            take_step,
            batches,
            steps=plan.steps,
            every=[(plan.save_every, save), (plan.validate_every, judge), (plan.sample_every, show)],
            log=log,
            log_every=plan.log_every,
            batch_size=config.batch_size,
            progress=progress,
        )
    except loop.Diverged as error:
        checkpoints.manager.wait_until_finished()
        last = checkpoints.manager.latest_step()
        good = f"the last good checkpoint is step {last}" if last is not None else "there is no checkpoint yet"
        raise ValueError(f"training diverged at {error}; {good}, in {folder}") from error
    finally:
        progress.close()
        metrics.close()
        checkpoints.manager.close()
        lock.close()
    return folder


def initial_state(experiment: build.Experiment, key) -> state.TrainState:
    """The state at step 0."""
    return state.init_state(experiment.init(key), experiment.optimizer)


def agree_on_config(folder: Path, config: ConfigDict) -> None:
    """Write config.json and versions.json, or check that the folder's config trains the same model the same way.

    Raises ValueError with what differs; only the entries in FREE may.
    """
    path = folder / "config.json"
    new = json.loads(config.to_json_best_effort())
    if path.exists():
        old = checkpoint.read_config(folder)
        fixed = [{k: v for k, v in c.items() if k not in FREE} for c in (old, new)]
        changes = entries.differences(*fixed)
        if changes:
            raise ValueError(f"{folder} has another config ({'; '.join(changes)}): choose another --workdir")
    write_json(path, new)
    write_json(folder / "versions.json", versions())


def versions() -> dict[str, str]:
    """What this process runs with."""
    machine = {
        "python": platform.python_version(),
        "platform": platform.platform(),
        "devices": f"{jax.device_count()} x {jax.devices()[0].device_kind}",
    }
    return machine | {name: importlib.metadata.version(name) for name in VERSIONS}


def write_json(path: Path, content) -> None:
    """Write a file whole or not at all."""
    temporary = path.with_suffix(".tmp")
    temporary.write_text(json.dumps(content, indent=2) + "\n")
    temporary.rename(path)


def make_validation(experiment: build.Experiment, held_out: dict, batch_size: int) -> Callable:
    """A function from parameters to one record of losses on the held-out pictures, with the same noise every time."""
    error = jax.jit(
        validation.make_validation_error(
            experiment.network, experiment.encode, experiment.schedule, experiment.parameterization
        )
    )
    count = len(held_out["image"])
    size = min(batch_size, count)
    parts = [np.arange(i, i + size) for i in range(0, count - size + 1, size)]

    def validate(params) -> dict:
        errors = []
        for number, rows in enumerate(parts):
            batch = {name: held_out[name][rows] for name in ("image", "tokens", "mask")}
            errors.append(error(params, batch, jax.random.fold_in(jax.random.key(0), number)))
        return validation.summarize(jax.device_get(errors))

    return validate
