"""The loop around a step: watch it, look at it now and then, leave when asked to."""

import time
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext

import numpy as np

from diffusion_jax.training import nonfinite
from diffusion_jax.training.state import TrainState


class Diverged(ValueError):
    """The loss is no longer a number."""


def train(
    state: TrainState,
    train_step: Callable[[TrainState, dict], tuple[TrainState, dict]],
    batches: Iterator[dict],
    **settings,
) -> TrainState:
    """Step until the end, or until asked to leave; returns the last state. settings: of `batch_by_batch`."""
    return stepped(state, train_step, lambda current: batch_by_batch(int(state.step), current, batches, **settings))


def stepped(state: TrainState, train_step: Callable, asking: Callable[[Callable], Generator]) -> TrainState:
    """The last state of a loop that yields a batch for each step: asking(current), where current() is the state."""
    asks, metrics = asking(lambda: state), None
    while True:
        try:
            batch = asks.send(metrics)
        except StopIteration:
            return state
        state, metrics = train_step(state, batch)


def batch_by_batch(
    step: int,
    current: Callable[[], TrainState],
    batches: Iterator[dict],
    *,
    steps: int,
    every: Sequence[tuple[int, Callable[[TrainState], None]]],
    log: Callable[[int, dict], None],
    log_every: int,
    batch_size: int,
    tick: Callable[[int], None] = lambda step: None,
    waiting: Callable[[], AbstractContextManager] = nullcontext,
    skips: int = 0,
    leave: Callable[[int], bool] = lambda step: False,
) -> Generator[dict, dict, int]:
    """The loop from `step` on: yields the batch of each step, is sent the metrics of it, returns the steps done.

    Who asks it for batches takes the steps, of this training alone or of many at once. It ends when `steps` updates are
    done, or leave(updates done so far) says so. current: () -> the state after the last step.
    every: (n, hook) pairs; hook(state) runs after each n-th step, never for n = 0. tick(step) runs after each step,
    and waiting() is the context of every wait for the devices.
    log receives the means over the steps since the last log, images/s, and the share of time spent waiting for data;
    the first step, which compiles, and the hooks are not in that time.
    The metrics of a step are read while the next one runs. Raises Diverged, naming the step, at the first metric that
    is no number, before any hook sees that state; and where a step leaves such out (`nonfinite`), after more than
    `skips` of them in a row.
    """
    first = step + 1
    window: list[dict] = []
    pending, waited, begun, skipped = None, 0.0, time.perf_counter(), 0

    def take(at: int, metrics: dict) -> None:
        nonlocal skipped
        with waiting():
            window.append(read(at, metrics))
        skipped = nonfinite.in_a_row(skipped, window[-1])
        if skipped > skips:
            raise Diverged(f"step {at}: the loss or its gradient is not finite, {skipped} times in a row")

    def report():
        nonlocal window, waited, begun
        seconds = max(time.perf_counter() - begun, 1e-9)
        means = nonfinite.means(window)
        counted = len(window) - (step - len(window) + 1 == first)  # the first step was over when the clock began
        log(step, means | {"images_per_second": counted * batch_size / seconds, "data_wait": waited / seconds})
        window, waited, begun = [], 0.0, time.perf_counter()

    while step < steps and not leave(step):
        before = time.perf_counter()
        batch = next(batches)
        waited += time.perf_counter() - before
        metrics = yield batch
        step += 1
        if pending is not None:
            take(step - 1, pending)
        pending = metrics
        due = [hook for n, hook in every if n and step % n == 0]
        to_log = step % log_every == 0 or step == steps
        if due or to_log or step == first:
            take(step, pending)
            pending = None
        if step == first:
            waited, begun = 0.0, time.perf_counter()
        if to_log:
            report()
        paused = time.perf_counter()
        for hook in due:
            hook(current())
        begun += time.perf_counter() - paused
        tick(step)
    if pending is not None:
        take(step, pending)
    if window:
        report()
    return step


def read(step: int, metrics: dict) -> dict[str, float]:
    """The metrics of a step as numbers. Raises Diverged where one is none."""
    values = {name: float(value) for name, value in metrics.items()}
    bad = [name for name, value in values.items() if not np.isfinite(value)]
    if bad:
        raise Diverged(f"step {step}: {', '.join(bad)} {'is' if len(bad) == 1 else 'are'} not finite")
    return values
