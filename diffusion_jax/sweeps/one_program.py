"""Which runs of a sweep are one program, but for its numbers and seeds, and the process that trains them at once."""

import hashlib
import sys
from collections.abc import Sequence
from pathlib import Path

import jax

from diffusion_jax import alike
from diffusion_jax.sweeps.plan import Plan, Run


def groups(plan: Plan, numbers: Sequence[int]) -> list[tuple[int, ...]]:
    """These runs of a plan in groups that are one program each."""
    return [group.places for group in _groups(plan, numbers)]


def _groups(plan: Plan, numbers: Sequence[int]) -> list[alike.Group]:
    """Networks are only traced here, on the CPU: an accelerator is left to the processes that train."""
    jax.config.update("jax_platforms", "cpu")
    found = alike.groups([plan.runs[number].config for number in numbers])
    return [group._replace(places=tuple(numbers[place] for place in group.places)) for group in found]


def lines(plan: Plan, numbers: Sequence[int]) -> list[str]:
    """What `--dry_run` says of these runs."""
    told = []
    for group in _groups(plan, numbers):
        names = [f"{plan.runs[place].arm}, seed {plan.runs[place].seed}" for place in group.places]
        differ = f", which differ in {', '.join(group.numbers) or 'their seeds'}" if len(names) > 1 else ""
        told.append(f"one program: {'; '.join(names)}{differ}")
    return told


def command(runs: Sequence[Run], data_dir: str) -> list[str]:
    """The words that train several runs at once, or go on with them."""
    words = [sys.executable, "-m", "diffusion_jax", "together", f"--data_dir={data_dir}"]
    return [*words, *(str(run.folder) for run in runs)]


def log_of(runs: Sequence[Run]) -> Path:
    """Where their process prints; what is said of one run alone is in its own log.txt."""
    told = hashlib.blake2b("\n".join(str(run.folder) for run in runs).encode(), digest_size=4).hexdigest()
    return runs[0].folder.parent.parent / f"together-{told}.log"
