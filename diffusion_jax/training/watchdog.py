"""A training that stands still says where, and leaves so that it can be started again."""

import contextlib
import datetime
import faulthandler
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

from diffusion_jax.training.leaving import AGAIN

STDERR = 2


class Watchdog(NamedTuple):
    """beat: () after each step. longer: (times=10) -> a context in which so many times as long may pass without one."""

    beat: Callable
    longer: Callable


@contextlib.contextmanager
def watching(seconds: float | int, folder: Path, process: int = 0, begin: float | int = 10) -> Iterator[Watchdog]:
    """Within it, the process leaves once so many seconds have passed since the last beat; never where seconds is 0.

    Until the first beat, `begin` times as long may pass: the first step compiles.

    It leaves with exit code 75, after it has written the stacks of all its threads to stderr and to
    `folder`/stacks_<process>.txt. That takes Python's lock (the GIL), which what waits for other devices or for a disk
    gives back. Where it is held for good, stacks go to stderr alone, from a thread that needs no lock, and then SIGALRM
    ends the process: a shell sees 142. That is later by at most a minute, and by no more than `seconds`.

    Raises ValueError for negative seconds.
    """
    if seconds < 0:
        raise ValueError(f"a watchdog cannot wait for {seconds} seconds: 0 is none")
    if not seconds:
        yield Watchdog(lambda: None, lambda times=10: contextlib.nullcontext())
        return
    often = min(seconds / 4, 15.0)  # between two looks: the alarms below are set again at each
    last, allowed, over = time.monotonic(), begin * seconds, threading.Event()

    def beat() -> None:
        nonlocal last, allowed
        last, allowed = time.monotonic(), seconds

    @contextlib.contextmanager
    def longer(times: float | int = 10) -> Iterator[None]:
        nonlocal last, allowed
        before = allowed
        last, allowed = time.monotonic(), times * seconds
        try:
            yield
        finally:
            last, allowed = time.monotonic(), before

    def watch() -> None:
        while not over.is_set():
            left = last + allowed - time.monotonic()
            if left <= 0:
                leave(f"no step for {allowed:g} seconds", Path(folder) / f"stacks_{process}.txt")
            faulthandler.dump_traceback_later(left + 2 * often, file=STDERR)
            signal.setitimer(signal.ITIMER_REAL, left + 3 * often)
            over.wait(min(left, often))

    thread = threading.Thread(target=watch, name="watchdog", daemon=True)
    thread.start()
    try:
        yield Watchdog(beat, longer)
    finally:
        over.set()
        thread.join()
        faulthandler.cancel_dump_traceback_later()
        signal.setitimer(signal.ITIMER_REAL, 0)


def leave(why: str, path: Path) -> None:
    """End this process with exit code 75, after the stacks of all its threads went to stderr and to the end of a file.

    Nothing is waited for: no other thread, no process, and no disk that takes nothing (for that there is the alarm).
    """
    line = f"{datetime.datetime.now(datetime.UTC):%Y-%m-%dT%H:%M:%SZ} {why}: leaving with exit code {AGAIN}\n".encode()
    os.write(STDERR, line)
    faulthandler.dump_traceback(STDERR, all_threads=True)
    with contextlib.suppress(OSError), open(path, "ab", buffering=0) as file:
        file.write(line)
        faulthandler.dump_traceback(file, all_threads=True)
    os._exit(AGAIN)
