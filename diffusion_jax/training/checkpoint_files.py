"""The files of checkpoints: their digests, and the newest of which all are as they were written."""

import contextlib
import hashlib
import itertools
import json
from collections.abc import Callable
from pathlib import Path

import jax
import orbax.checkpoint as ocp

from diffusion_jax.training import together

LISTING = "files.json"
UNFINISHED = "*.orbax-checkpoint-tmp*"
DAMAGED = ".damaged"  # what the name of a checkpoint ends with that is left aside


def steps_in(folder: Path) -> list[int]:
    """The steps of the finished checkpoints in a folder; none where there is no such folder."""
    return list(ocp.utils.checkpoint_steps(folder)) if folder.is_dir() else []


def stored_shapes(path: Path) -> dict:
    """What a checkpoint's state holds: a tree whose leaves have a shape."""
    with ocp.PyTreeCheckpointer() as reader:
        return reader.metadata(path / "state").item_metadata.tree


def files_of(path: Path) -> list[str]:
    """The files of the items of a checkpoint; Orbax's own notes beside the items still change after it is written."""
    return sorted(file.relative_to(path).as_posix() for file in path.glob("*/**/*") if file.is_file())


def digest(file: Path) -> str:
    """BLAKE2b of a file, 128 of its bits in hexadecimal."""
    with open(file, "rb") as content:
        return hashlib.file_digest(content, "blake2b").hexdigest()[:32]


def seal(path: Path) -> None:
    """List the digests of a checkpoint's files in it."""
    (path / LISTING).write_text(json.dumps({name: digest(path / name) for name in files_of(path)}, indent=1))


def check_files(path: Path, share: int = 0, shares: int = 1) -> None:
    """Raise an error, naming a file where it can, unless a checkpoint's files are what was written.

    Of `shares` processes that check the same checkpoint, each reads one file of so many. A checkpoint without digests,
    of a version that wrote none, is only asked what it holds.
    """
    if not (path / LISTING).exists():
        stored_shapes(path)
        return
    written = json.loads((path / LISTING).read_text())
    if missing := written.keys() - set(files_of(path)):
        raise ValueError(f"{min(missing)} is missing")
    for name in sorted(written)[share::shares]:
        if digest(path / name) != written[name]:
            raise ValueError(f"{name} is damaged")


def newest_whole(folder: Path, say: Callable[[str], None]) -> int | None:
    """The step of the newest checkpoint whose files are as they were written; None where there is no checkpoint.

    All processes check a share of the files of each, and all get the same step. Newer ones, which are damaged, are left
    aside as `folder`/<step>.damaged: they count no longer, and nothing deletes them. say: told of each in a line.
    Raises ValueError where none is whole, and renames none then.
    """
    damaged: dict[int, str] = {}
    while (step := _newest(folder, before=min(damaged, default=None))) is not None:
        if not (what := _damage(folder / str(step))):
            break
        damaged[step] = what
    if damaged and step is None:
        raise ValueError(
            f"{damaged[max(damaged)]}: no checkpoint in {folder} is whole, so bring back a copy of one, or choose "
            "another --workdir"
        )
    for number in sorted(damaged, reverse=True):
        with together.all_or_none():
            aside = _set_aside(folder / str(number)) if together.first() else None
        say(f"{damaged[number]}: going on from step {step}{f', and that one is now {aside.name}' if aside else ''}")
    return step


def _newest(folder: Path, before: int | None) -> int | None:
    steps = [step for step in steps_in(folder) if before is None or step < before]
    return None if (found := together.number_of_first(max(steps, default=-1))) < 0 else found


def _damage(path: Path) -> str:
    """What a process found in its share of a checkpoint, the same for all of them; nothing where all is well."""
    line = ""
    try:
        with unreadable(path):
            check_files(path, jax.process_index(), jax.process_count())
    except ValueError as error:
        line = str(error)
    return next(filter(None, together.lines_of_all(line)), "")


def _set_aside(path: Path) -> Path:
    names = itertools.chain([f"{path.name}{DAMAGED}"], (f"{path.name}{DAMAGED}-{n}" for n in itertools.count(2)))
    aside = next(place for name in names if not (place := path.with_name(name)).exists())
    return path.rename(aside)


@contextlib.contextmanager
def unreadable(path: Path, advice: str = ""):
    """Turns any error into a ValueError of one line that says what is wrong with which checkpoint, and then advice."""
    try:
        yield
    except Exception as error:
        told = f"checkpoint {path} cannot be read ({first_line(error)})"
        raise ValueError(f"{told}: {advice}" if advice else told) from None


def first_line(error: Exception) -> str:
    """What an error says, in short: the first line of its message, or its type where it has none."""
    chain = [error]
    while (before := chain[-1].__cause__ or chain[-1].__context__) is not None:
        chain.append(before)
    said = "\n".join(map(str, chain))
    for words in ("No space left on device", "File too large", "Disk quota exceeded"):
        if words in said:  # after many words, in TensorStore's
            return words
    if "DEADLINE_EXCEEDED" in said:
        return "another process did not write its part in time"
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
