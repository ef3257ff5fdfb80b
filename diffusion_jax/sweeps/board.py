"""Where the runs of a sweep stand while they are trained: told on the terminal, and in status.json."""

import contextlib
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from threading import RLock
from typing import NamedTuple

from diffusion_jax.sweeps import standings as stands
from diffusion_jax.sweeps import table
from diffusion_jax.sweeps.plan import Plan
from diffusion_jax.sweeps.standings import Standing

DIVERGED = "training diverged at"  # what `run` says of a loss that is no number


class Board(NamedTuple):
    """What a launcher says of the runs of a plan, by their numbers; any thread may.

    waiting: those that were not done at first. begin, end: the process of these begins, or has ended with a code.
    shared: another arm's training, which is this one's too, has ended with a code. look: at all that run. summary:
    after the end, the table once more, and status.json with the records that were made. failed: whether any run has.
    """

    waiting: list[int]
    shared: Callable[[int, int | None], None]
    begin: Callable[[Sequence[int]], None]
    look: Callable[[], None]
    end: Callable[[Sequence[int], int | None], None]
    summary: Callable[[], None]
    failed: Callable[[], bool]


@contextlib.contextmanager
def shown(plan: Plan, asked_to_leave: Callable[[], bool]) -> Iterator[Board]:
    """The board of a sweep, which is drawn until the end."""
    standings = stands.found(plan)
    begun: dict[int, tuple[float, float, int]] = {}
    turn = RLock()
    print(table.summary(plan, standings), flush=True)
    with table.shown(plan) as tell:

        def now(number: int, standing: Standing, changed: bool = True) -> None:
            with turn:
                standings[number] = standing
                stands.write_status(plan, standings)
                tell(standings, standing if changed else None)

        def begin(numbers: Sequence[int]) -> None:
            for number in numbers:
                begun[number] = (time.monotonic(), standings[number].seconds, len(numbers))
                now(number, standings[number]._replace(state="running"))

        def look() -> None:
            with turn:
                for number, (zero, before, of) in begun.items():
                    seconds = before + (time.monotonic() - zero) / of  # runs of one process share its time
                    now(number, stands.looked_at(standings[number])._replace(seconds=seconds), changed=False)

        def end(numbers: Sequence[int], code: int | None) -> None:
            look()
            with turn:
                for number in numbers:
                    del begun[number]
                    ended = standings[number]._replace(code=code)
                    now(number, at_the_end(ended, asked_to_leave(), together=len(numbers) > 1))

        def shared(number: int, code: int | None) -> None:
            if stands.finished(plan.runs[number]):
                now(number, stands.found_one(standings[number]))
            else:
                now(number, at_the_end(standings[number]._replace(code=code), asked_to_leave()))

        def summary() -> None:
            stands.write_status(plan, standings)
            print("\n".join(table.last_lines(plan, standings)), flush=True)

        stands.write_status(plan, standings)
        yield Board(
            waiting=[number for number, standing in enumerate(standings) if standing.state != "done"],
            shared=shared,
            begin=begin,
            look=look,
            end=end,
            summary=summary,
            failed=lambda: any(standing.state in ("failed", "diverged") for standing in standings),
        )


def at_the_end(standing: Standing, asked: bool, together: bool = False) -> Standing:
    """What became of a run whose process has ended; where it trained others `together`, its code is of them all."""
    standing = stands.looked_at(standing)
    if stands.finished(standing.run) and (standing.code == 0 or together):
        return standing._replace(state="done", code=0, step=standing.run.config.train.steps, to_go=0.0, said="")
    said = last_line(standing.run.folder / "log.txt")
    why = "diverged" if DIVERGED in said else "failed"
    return standing._replace(state="left" if asked else why, said=said)


def last_line(log: Path) -> str:
    """The last line of a file with anything in it; nothing where there is none."""
    if not log.exists():
        return ""
    lines = [each.strip() for each in log.read_text("utf-8", errors="replace").splitlines()]
    return next((each for each in reversed(lines) if each), "")
