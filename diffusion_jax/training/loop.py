"""The loop around a step: watch it, save it, leave when asked to."""

import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import numpy as np

from diffusion_jax.training.state import TrainState


class Diverged(ValueError):
    """The loss is no longer a number."""


def train(
    state: TrainState,
    train_step: Callable[[TrainState, dict], tuple[TrainState, dict]],
    batches: Iterator[dict],
    *,
    steps: int,
    every: list[tuple[int, Callable]],
    log: Callable[[int, dict], None],
    log_every: int,
    batch_size: int,
    progress,
) -> TrainState:
    """Step until `steps` updates are done or SIGTERM comes; returns the last state.

    every: (n, hook) pairs; hook(state, last) runs after each n-th step, and with last=True once at the end.
    log receives the means over the last log_every steps, images/s, and the share of time spent waiting for data.
    The metrics of step s are read while step s + 1 runs. Raises Diverged, naming the step, at the first loss that is no
    number, before any hook sees that state.
    """
    step = int(state.step)
    window: list[dict] = []
    pending, waited, begun = None, 0.0, time.perf_counter()
    with sigterm_noticed() as asked_to_leave:
        while step < steps and not asked_to_leave():
            before = time.perf_counter()
            batch = next(batches)
            waited += time.perf_counter() - before
            state, metrics = train_step(state, batch)
            step += 1
            if pending is not None:
                window.append(read(step - 1, pending))
            pending = metrics
            due = [hook for n, hook in every if n and step % n == 0]
            if due or step % log_every == 0 or step == steps:
                window.append(read(step, pending))
                pending = None
            if step % log_every == 0 or step == steps:
                seconds = max(time.perf_counter() - begun, 1e-9)
                means = {name: float(np.mean([m[name] for m in window])) for name in window[0]}
                rates = {"images_per_second": len(window) * batch_size / seconds, "data_wait": waited / seconds}
                log(step, means | rates)
                progress.set_postfix_str(f"loss {means['loss']:.4f}, {rates['images_per_second']:.0f} images/s")
                window, waited, begun = [], 0.0, time.perf_counter()
            progress.update(1)
            paused = time.perf_counter()
            for hook in due:
                hook(state, False)
            begun += time.perf_counter() - paused  # a hook's time is not the step's
        if pending is not None:
            read(step, pending)
    for _, hook in every:
        hook(state, True)
    return state


def read(step: int, metrics: dict) -> dict[str, float]:
    """The metrics of a step as numbers. Raises Diverged where one is none."""
    values = {name: float(value) for name, value in metrics.items()}
    bad = [name for name, value in values.items() if not np.isfinite(value)]
    if bad:
        raise Diverged(f"step {step}: {', '.join(bad)} is not finite")
    return values


@contextmanager
def sigterm_noticed():
    """Within it, SIGTERM sets a mark, which the yielded function reads, instead of ending the process."""
    received = []
    before = signal.signal(signal.SIGTERM, lambda *_: received.append(True))
    try:
        yield lambda: bool(received)
    finally:
        signal.signal(signal.SIGTERM, before)
