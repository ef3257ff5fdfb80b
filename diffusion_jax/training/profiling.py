"""A few steps under the magnifying glass: what host and devices do in them, written for xprof and TensorBoard."""

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import jax

from diffusion_jax.training.state import TrainState

SETTLED = 10  # steps after which compilation and the first reading of data are over


def steps_of(text: str, begun: int = 0) -> range:
    """The steps that are meant: "10:15" are 10 to 14, as they are logged; "5" the five after the tenth from here.

    begun: steps done before. Raises ValueError for anything else, and where there is no step in it.
    """
    if found := re.fullmatch(r"([0-9]+):([0-9]+)", text):
        steps = range(int(found[1]), int(found[2]))
    else:
        first = begun + SETTLED + 1
        steps = range(first, first + int(text)) if re.fullmatch("[0-9]+", text) else range(0)
    if not steps or steps[0] < 1:
        raise ValueError(
            f"--profile={text}: give a number of steps, as 5, or the first and the one after the last, as 10:15"
        )
    return steps


@contextmanager
def profiled(
    train_step: Callable, steps: range, folder: str | Path, begun: int = 0, say: Callable[[str], None] = print
) -> Iterator[Callable]:
    """Within it, the yielded step does what train_step does, and what is done in these `steps` goes to the folder.

    train_step: (state, batch) -> (state, metrics), called once for each step after `begun`. The files are
    FOLDER/plugins/profile/TIME/HOST.xplane.pb; each of several processes has its own folder, FOLDER/process_0. They are
    written after the last of the steps, or at the end of the context, however it comes. A profile that cannot be
    written, or whose steps are over, ends no training: `say` is told.
    """
    folder = Path(folder) / (f"process_{jax.process_index()}" if jax.process_count() > 1 else "")
    at, first, tracing = begun, 0, False
    if begun >= steps[-1]:
        say(f"nothing is profiled: step {steps[-1]} is over, training goes on from step {begun}")

    def begin(state: TrainState) -> None:
        nonlocal first, tracing
        jax.block_until_ready(state)  # what was still on its way belongs to the steps before
        with told(folder, say):
            (folder / "plugins" / "profile").mkdir(parents=True, exist_ok=True)  # or else known only after the steps
            jax.profiler.start_trace(folder)
            first, tracing = at, True

    def end() -> None:
        nonlocal tracing
        tracing = False
        with told(folder, say):
            jax.profiler.stop_trace()
            say(f"profile of steps {first} to {at}: tensorboard --logdir={folder}, with xprof installed")

    def take_step(state: TrainState, batch: dict) -> tuple[TrainState, dict]:
        nonlocal at
        at += 1
        if at not in steps:
            return train_step(state, batch)
        if not tracing and at == max(steps[0], begun + 1):
            begin(state)
        with jax.profiler.StepTraceAnnotation("train", step_num=at):
            state, metrics = train_step(state, batch)
        if tracing and at == steps[-1]:
            jax.block_until_ready((state, metrics))
            end()
        return state, metrics

    try:
        yield take_step
    finally:
        if tracing:
            end()


@contextmanager
def told(folder: Path, say: Callable[[str], None]) -> Iterator[None]:
    """Turns an error of the profiler into a line."""
    try:
        yield
    except (OSError, RuntimeError) as error:
        say(f"no profile in {folder}: {(str(error).splitlines() or [type(error).__name__])[0]}")
