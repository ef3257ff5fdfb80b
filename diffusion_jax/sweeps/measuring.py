"""The second half of a sweep: every run that is trained is measured as its arm's config says, one after the other.

Arms that differ in how they draw or are measured alone share a training, and each has a record of its own beside it,
in figures/. What is measured already stays. It is a process of its own, so that one which breaks breaks no sweep.
"""

import subprocess
import sys
import time
from collections.abc import Iterator

import jax

from diffusion_jax import build, trained
from diffusion_jax.measures import record
from diffusion_jax.sweeps import standings
from diffusion_jax.sweeps.plan import Arm, Plan, Run
from diffusion_jax.training import checkpoint


def words(plan: Plan, data_dir: str) -> list[str]:
    """The command that measures what a sweep has trained, and trains nothing."""
    told = [f"--seeds={plan.seeds}", f"--workdir={plan.folder.parent}", f"--data_dir={data_dir}", "--measure_only"]
    told += [f"--preset={plan.preset}"] if plan.preset else []
    return [sys.executable, "-m", "diffusion_jax", "sweep", str(plan.file), *told]


def left(plan: Plan) -> list[Run]:
    """The runs that are trained and not measured, where there is anything to measure."""
    return [
        run
        for run in plan.runs
        if run.config.figures and standings.finished(run) and not standings.figures_file(run).exists()
    ]


def measure_all(plan: Plan, data_dir: str) -> int:
    """Measure what is left; returns 1 where some could not be, which is said, and 0 otherwise."""
    failed = 0
    waiting = left(plan)
    for arm in plan.arms:
        runs = [run for run in waiting if run.arm == arm.name]
        if not runs:
            continue
        try:
            for run, seconds in measured(arm, runs, data_dir):
                print(f"{run.arm}, seed {run.seed}: measured in {seconds:.0f} s", flush=True)
        except (ValueError, OSError, FloatingPointError) as error:
            failed += 1
            print(f"{arm.name}: not measured: {error}", flush=True)
    return int(failed > 0)


def measured(arm: Arm, runs: list[Run], data_dir: str) -> Iterator[tuple[Run, float]]:
    """Measure runs of one arm, by programs compiled once; yields each when its record is written, and the seconds."""
    if arm.config.train.steps == 0:
        model = trained.begun(arm.config.begin)
        config, experiment = _as_told(model.config, arm), model.experiment
    else:
        model, config = None, arm.config
        experiment = build.build(config, data_dir)
    shapes = jax.eval_shape(experiment.init, jax.random.key(0))
    measure = record.make_measuring(config, experiment, data_dir)
    for run in runs:
        zero = time.monotonic()
        if model is None:
            params, step = checkpoint.load_params(run.folder)
            checkpoint.check_shapes(params, shapes, f"{run.folder} after {step:,} steps")
        else:
            params, step = model.params, 0
        about = {"arm": run.arm, "seed": run.seed, "step": step}
        record.write(standings.figures_file(run), measure(params, run.seed), about)
        yield run, time.monotonic() - zero


def _as_told(config, arm: Arm):
    """The config of a model that is only drawn with, with what the arm says of drawing and measuring."""
    told = config.copy_and_resolve_references()
    with told.unlocked():
        for name in ("sampling", "figures", "validation_size", "batch_size", "data"):
            told[name] = arm.config[name]
    return told


def in_a_process(plan: Plan, data_dir: str, children: list) -> int:
    """Measure what is left, if anything is, in a process that signals reach like a training; returns its exit code."""
    if not left(plan):
        return 0
    with subprocess.Popen(words(plan, data_dir)) as child:
        children.append(child)
        try:
            return child.wait()
        finally:
            children.remove(child)
