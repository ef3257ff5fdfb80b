"""Where the runs of a sweep stand while they are trained: told on the terminal, and in status.json."""

import contextlib
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from threading import RLock
from typing import NamedTuple

from diffusion_jax.sweeps import standings as stands
from diffusion_jax.sweeps import table
from diffusion_jax.sweeps.plan import Plan
from diffusion_jax.sweeps.standings import Standing

DIVERGED = "training diverged at"  # what `run` says of a loss that is no number


class Board(NamedTuple):
    """What a launcher says of run `number` of a plan; any thread may.

    waiting: the numbers of the runs that were not done at first. found: it is as its folder has it. begin, look, end:
    its process begins, goes on, has ended with a code. summary: after the end, the table once more, and status.json
    with the records that were made. failed: whether any run has.
    """

    waiting: list[int]
    found: Callable[[int], None]
    begin: Callable[[int], None]
    look: Callable[[int], None]
    end: Callable[[int, int | None], None]
    summary: Callable[[], None]
    failed: Callable[[], bool]


@contextlib.contextmanager
def shown(plan: Plan, asked_to_leave: Callable[[], bool]) -> Iterator[Board]:
    """The board of a sweep, which is drawn until the end."""
    standings = stands.found(plan)
    zero: dict[int, float] = {}
    turn = RLock()
    print(table.summary(plan, standings), flush=True)
    with table.shown(plan) as tell:

        def now(number: int, standing: Standing, changed: bool = True) -> None:
            with turn:
                standings[number] = standing
                stands.write_status(plan, standings)
                tell(standings, standing if changed else None)

        def begin(number: int) -> None:
            zero[number] = time.monotonic() - standings[number].seconds
            now(number, standings[number]._replace(state="running"))

        def look(number: int) -> None:
            seconds = time.monotonic() - zero[number]
            now(number, stands.looked_at(standings[number])._replace(seconds=seconds), changed=False)

        def end(number: int, code: int | None) -> None:
            look(number)
            now(number, at_the_end(standings[number]._replace(code=code), asked_to_leave()))

        def summary() -> None:
            stands.write_status(plan, standings)
            print("\n".join(table.last_lines(plan, standings)), flush=True)

        stands.write_status(plan, standings)
        yield Board(
            waiting=[number for number, standing in enumerate(standings) if standing.state != "done"],
            found=lambda number: now(number, stands.found_one(standings[number])),
            begin=begin,
            look=look,
            end=end,
            summary=summary,
            failed=lambda: any(standing.state in ("failed", "diverged") for standing in standings),
        )


def at_the_end(standing: Standing, asked: bool) -> Standing:
    """What became of a run whose process has ended."""
    standing = stands.looked_at(standing)
    if standing.code == 0 and stands.finished(standing.run):
        return standing._replace(state="done", step=standing.run.config.train.steps, to_go=0.0, said="")
    said = last_line(standing.run.folder / "log.txt")
    why = "diverged" if DIVERGED in said else "failed"
    return standing._replace(state="left" if asked else why, said=said)


def last_line(log: Path) -> str:
    """The last line of a file with anything in it; nothing where there is none."""
    if not log.exists():
        return ""
    lines = [each.strip() for each in log.read_text("utf-8", errors="replace").splitlines()]
    return next((each for each in reversed(lines) if each), "")
