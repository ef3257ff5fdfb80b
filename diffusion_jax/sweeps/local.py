"""The runs of a sweep on this machine, one or some at a time, each a `diffusion-jax train` in a process of its own.

Or several of them as one program, in the process of a `diffusion-jax together`.

A run folder receives, besides what a training leaves there, config.py, by which it can be trained by hand too, and
log.txt, with what its processes printed.
"""

import ast
import contextlib
import pprint
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from diffusion_jax.files import write_whole
from diffusion_jax.sweeps import board, measuring, one_program
from diffusion_jax.sweeps.plan import Plan, Run
from diffusion_jax.training import run_folder

EVERY = 2.0  # seconds between two looks at a run


def run_all(plan: Plan, data_dir: str, at_once: int = 1, together: bool = False) -> int:
    """Train every run that is not done, then measure them; returns the exit code, see `sweeps.run`.

    at_once: processes that train side by side. together: runs that are one program share a process. A run that fails
    stops no other. SIGTERM and Ctrl-C are passed on, so that what runs is saved, and end the sweep.
    """
    with passing_on() as (children, received):
        with board.shown(plan, lambda: bool(received)) as told:
            homes: dict[Path, list[int]] = {}  # arms that share a training: the first one trains
            for number in told.waiting:
                homes.setdefault(plan.runs[number].folder, []).append(number)
            firsts = [numbers[0] for numbers in homes.values()]
            groups = one_program.groups(plan, firsts) if together else [(number,) for number in firsts]

            def one(numbers: Sequence[int]) -> None:
                if received:
                    return
                told.begin(numbers)
                code = train([plan.runs[number] for number in numbers], data_dir, children, received, told.look)
                told.end(numbers, code)
                for number in numbers:
                    for other in homes[plan.runs[number].folder][1:]:
                        told.shared(other, code)

            with ThreadPoolExecutor(at_once) as pool:
                list(pool.map(one, groups))  # an error of ours is raised
        unmeasured = 0 if received else measuring.in_a_process(plan, data_dir, children)
        told.summary()
    if received:
        print("left, as asked; the same command goes on from there", flush=True)
        return 128 + received[0]
    return int(told.failed() or bool(unmeasured))


def train(
    runs: Sequence[Run], data_dir: str, children: list, received: list[int], look: Callable[[], None]
) -> int | None:
    """Train runs in a process, and look now and then; returns its exit code, None where it was not begun any more.

    Where another process trains one, which a sweep that was killed has left behind, say, that one goes first.
    """
    while not all(map(free, runs)) and not received:
        look()
        time.sleep(EVERY)
    if received:
        return None
    with contextlib.ExitStack() as logs:
        log, *others = [logs.enter_context(open_log(run)) for run in runs]
        if others:
            log = logs.enter_context(open(one_program.log_of(runs), "ab"))
        words = one_program.command(runs, data_dir) if others else command(runs[0], data_dir)
        child = logs.enter_context(subprocess.Popen(words, **apart(log)))
        children.append(child)
        if received:  # between the question above and now
            child.send_signal(received[0])
        while (code := ended(child)) is None:
            look()
        children.remove(child)
    return code


def free(run: Run) -> bool:
    """Whether no process trains in the folder of a run."""
    run.folder.mkdir(parents=True, exist_ok=True)
    try:
        run_folder.lock(run.folder).close()
    except OSError as error:
        if error.errno is not None:  # the disk's or the system's; that the lock is held has no number
            raise
        return False
    return True


def command(run: Run, data_dir: str) -> list[str]:
    """The words that train a run, or go on with it."""
    words = [f"--config={run.folder / 'config.py'}", f"--workdir={run.folder}", f"--data_dir={data_dir}"]
    return [sys.executable, "-m", "diffusion_jax", "train", *words]


def config_file(run: Run) -> str:
    """A Python file whose get_config() returns the config of a run, tuples and all.

    Raises ValueError for a config with anything that is no plain number, string, list, tuple or dict.
    """
    told = run.config.to_dict()
    text = pprint.pformat(told, width=112, sort_dicts=False)
    try:
        same = ast.literal_eval(text) == told
    except (ValueError, SyntaxError):
        same = False
    if not same:
        raise ValueError(f"arm {run.arm}: its config holds what cannot be written down as numbers, words and dicts")
    about = f'"""Arm {run.arm}, seed {run.seed}, as diffusion-jax sweep trains it."""'
    return f"{about}\n\nfrom ml_collections import ConfigDict\n\n\ndef get_config():\n    return ConfigDict(\n{text})\n"


def open_log(run: Run):
    """The run's log.txt, after what is in it; config.py is written beside it."""
    write_whole(run.folder / "config.py", lambda file: file.write(config_file(run).encode()))
    return open(run.folder / "log.txt", "ab")


def apart(log) -> dict:
    """How a process is started: in a session of its own, as Ctrl-C would reach it twice otherwise, and end it."""
    return dict(stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT, start_new_session=True)


def ended(child: subprocess.Popen) -> int | None:
    """The exit code of a process, waited for a little while."""
    with contextlib.suppress(subprocess.TimeoutExpired):
        return child.wait(timeout=EVERY)
    return None


@contextlib.contextmanager
def passing_on() -> Iterator[tuple[list[subprocess.Popen], list[int]]]:
    """The processes that SIGTERM and Ctrl-C are passed on to within it, and the signals that came."""
    children: list[subprocess.Popen] = []
    received: list[int] = []

    def pass_on(number, _):
        received.append(number)
        for child in children:
            child.send_signal(number)

    before = {number: signal.signal(number, pass_on) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield children, received
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
