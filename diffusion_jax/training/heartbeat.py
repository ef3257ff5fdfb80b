"""A sign of life of each process of a run, in a small file: for scripts outside, and to find the host that is slow.

`folder`/heartbeat/<process>.json holds

    process, host, pid      who writes it
    step                    updates done so far
    time                    when it was written, ISO 8601 in UTC; one that grows old is a process that stands still
    step_seconds            of a step from end to end, the median of the last ones
    own_seconds             of these, what the process did itself: waited for data, sent work to its devices, ran hooks
    images_per_second       of the whole run, over the last steps

All processes take equally long for a step, because each waits for all in it. Who keeps the others waiting has more
seconds of its own. A slow device does not show in them: its own process waits for it as the others do.
"""

import contextlib
import datetime
import json
import os
import socket
import statistics
import time
from collections import deque
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

from diffusion_jax.files import write_json

FOLDER = "heartbeat"


class Heartbeat(NamedTuple):
    """beat: (step) after each step. waiting: () -> a context; the time in it is spent waiting for the devices."""

    beat: Callable
    waiting: Callable


def heartbeat(
    folder: Path,
    batch_size: int,
    process: int = 0,
    every: float | int = 10,
    window: int = 50,
    clock: Callable[[], float] = time.monotonic,
) -> Heartbeat:
    """Writes the file of this process at its first beat, and then at a beat if `every` seconds have passed since.

    Figures are of the last `window` steps; the first step, which compiles, is not among them. batch_size: the run's,
    of all processes. A disk that does not take the file stops nothing: the file grows old then.
    """
    path = Path(folder) / FOLDER / f"{process}.json"
    about = {"process": process, "host": socket.gethostname(), "pid": os.getpid()}
    steps: deque[tuple[float, float]] = deque(maxlen=window)
    ended, written, waited = None, None, 0.0

    @contextlib.contextmanager
    def waiting() -> Iterator[None]:
        nonlocal waited
        begun = clock()
        try:
            yield
        finally:
            waited += clock() - begun

    def beat(step: int) -> None:
        nonlocal ended, written, waited
        now = clock()
        if ended is not None:
            steps.append((now - ended, now - ended - waited))
        ended, waited = now, 0.0
        if written is None or now - written >= every:
            written = now
            with contextlib.suppress(OSError):
                write_json(path, about | {"step": step, "time": utc()} | figures(steps, batch_size))

    return Heartbeat(beat, waiting)


def figures(steps: deque[tuple[float, float]], batch_size: int) -> dict[str, float | None]:
    """What is said of steps, each of (seconds, seconds of the process's own); null where there is none yet."""
    if not steps:
        return {"step_seconds": None, "own_seconds": None, "images_per_second": None}
    whole, own = zip(*steps, strict=True)
    return {
        "step_seconds": round(statistics.median(whole), 6),
        "own_seconds": round(statistics.median(own), 6),
        "images_per_second": round(batch_size * len(whole) / max(sum(whole), 1e-9), 3),
    }


def utc() -> str:
    """The time of day, to the second."""
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")


def read(folder: Path, processes: int) -> list[dict]:
    """What the processes 0 to processes - 1 of a run say of themselves; those that say nothing are left out."""
    found = []
    for process in range(processes):
        with contextlib.suppress(OSError, ValueError):
            found.append(json.loads((Path(folder) / FOLDER / f"{process}.json").read_text("utf-8")))
    return [record for record in found if isinstance(record, dict) and "own_seconds" in record]


def straggler(folder: Path, processes: int, ratio: float = 1.2) -> str | None:
    """A line that names the host that makes all others wait, or None where none does.

    It is the one with the most seconds of its own, if without what it has more than the median process a step would be
    shorter by this ratio: what is hidden behind the devices' work is nothing to report.
    """
    records = [record for record in read(folder, processes) if record["own_seconds"] is not None]
    if len(records) < 2:
        return None
    slowest = max(records, key=lambda record: record["own_seconds"])
    usual = statistics.median_low(record["own_seconds"] for record in records)
    step = statistics.median_low(record["step_seconds"] for record in records)
    more = slowest["own_seconds"] - usual
    if step <= ratio * (step - more):
        return None
    return (
        f"slowest host: process {slowest['process']} ({slowest['host']}), {slowest['own_seconds']:.3g} s of its own in "
        f"a step of {step:.3g} s, median of all {usual:.3g} s"
    )
