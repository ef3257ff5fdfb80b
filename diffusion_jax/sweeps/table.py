"""A sweep in words: what it would do, and where it stands; a table that lives on a terminal, lines anywhere else."""

import contextlib
import sys
from collections import Counter
from collections.abc import Callable, Iterator

from diffusion_jax.sweeps.plan import Plan
from diffusion_jax.sweeps.standings import Standing
from diffusion_jax.training.progress import duration

COLUMNS = ("arm", "seed", "state", "step", "loss", "to go")
ORDER = ("running", "failed", "diverged", "left", "waiting", "done")  # on a terminal, whose last rows may not be seen


def plan_lines(plan: Plan, standings: list[Standing]) -> list[str]:
    """What `--dry_run` prints: the question, how the arms differ from get_config(), and where the runs stand."""
    lines = [plan.about, ""] if plan.about else []
    for arm in plan.arms:
        lines += [f"arm {arm.name}", *(f"    {line}" for line in arm.differs or ("as get_config() has it",))]
    folders = [f"{standing.run.folder}: {standing.state}, step {_step(standing)}" for standing in standings]
    return [*lines, "", *folders, "", summary(plan, standings)]


def summary(plan: Plan, standings: list[Standing]) -> str:
    """Counts, in a line."""
    states = Counter(standing.state for standing in standings)
    counts = ", ".join(
        f"{states[state]} {state}" for state in ("done", "running", "waiting", "left", "diverged", "failed")
    )
    told = ", ".join(part for part in counts.split(", ") if not part.startswith("0 "))
    return f"{len(plan.arms)} arms x {plan.seeds} seeds in {plan.folder}: {told}"


def rows(standings: list[Standing]) -> list[tuple[str, ...]]:
    """The cells of a table, under COLUMNS; what is not known yet is a dash."""
    return [
        (
            standing.run.arm,
            str(standing.run.seed),
            standing.state,
            _step(standing),
            "-" if standing.loss is None else f"{standing.loss:.4f}",
            duration(standing.to_go) if standing.state == "running" and standing.to_go is not None else "-",
        )
        for standing in standings
    ]


def plain(standings: list[Standing]) -> list[str]:
    """The table as lines, each column as wide as its widest cell."""
    cells = [COLUMNS, *rows(standings)]
    widths = [max(len(row[i]) for row in cells) for i in range(len(COLUMNS))]
    return ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in cells]


def last_lines(plan: Plan, standings: list[Standing]) -> list[str]:
    """What is said at the end: the summary, after the table where none is on a terminal already."""
    return [*([] if sys.stdout.isatty() else plain(standings)), summary(plan, standings)]


def line(standing: Standing) -> str:
    """One run, as it begins or ends."""
    name, loss = f"{standing.run.arm}, seed {standing.run.seed}", standing.loss
    match standing.state:
        case "running":
            return f"{name}: goes on from step {standing.step}" if standing.step else f"{name}: begins"
        case "done":
            figures = "" if loss is None else f", loss {loss:.4f}"
            return f"{name}: done at step {_step(standing)}{figures}, {duration(standing.seconds)}"
        case "failed" | "diverged":
            return f"{name}: {standing.state} with code {standing.code}: {standing.said or 'it said nothing'}"
    return f"{name}: {standing.state} at step {_step(standing)}"


def to_go(standings: list[Standing]) -> float | None:
    """Seconds until all are trained, one after the other, if the others take as long as those that are; None: unknown.

    Arms that share a training wait for one.
    """
    ended = [standing.seconds for standing in standings if standing.state == "done" and standing.seconds]
    begun = {standing.run.folder for standing in standings if standing.state in ("running", "done")}
    running = [standing.to_go for standing in standings if standing.state == "running"]
    waiting = len({standing.run.folder for standing in standings if standing.state == "waiting"} - begun)
    if None in running or (waiting and not ended):
        return None
    return sum(running) + (waiting * sum(ended) / len(ended) if waiting else 0.0)


@contextlib.contextmanager
def shown(plan: Plan) -> Iterator[Callable[[list[Standing], Standing | None], None]]:
    """A function (standings, the one that begins or ends if one does) -> None that tells of it until the end.

    On a terminal a table is drawn anew each time; elsewhere a line is printed for each run that begins or ends.
    """
    if sys.stdout.isatty():
        with _live(plan) as tell:
            yield tell
        return

    def say(standings: list[Standing], changed: Standing | None) -> None:
        if changed is not None:
            left = to_go(standings) if changed.state == "done" else None
            print(line(changed) + (f"; {duration(left)} to go" if left else ""), flush=True)

    yield say


@contextlib.contextmanager
def _live(plan: Plan) -> Iterator[Callable[[list[Standing], Standing | None], None]]:
    from rich.live import Live
    from rich.table import Table

    def drawn(standings: list[Standing]) -> Table:
        left = to_go(standings)
        caption = summary(plan, standings) + (f"; {duration(left)} to go" if left else "")
        table = Table(*COLUMNS, title=plan.question, caption=caption)
        for row in rows(sorted(standings, key=lambda standing: ORDER.index(standing.state))):
            table.add_row(*row)
        return table

    with Live(auto_refresh=False, redirect_stderr=False) as live:

        def tell(standings: list[Standing], changed: Standing | None) -> None:
            if changed is not None and changed.state in ("failed", "diverged"):
                live.console.print(line(changed), markup=False, highlight=False)
            live.update(drawn(standings), refresh=True)

        yield tell


def _step(standing: Standing) -> str:
    return f"{standing.step}/{standing.run.config.train.steps}"
