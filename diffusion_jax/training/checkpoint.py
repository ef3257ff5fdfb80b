"""States on disk: written beside the run while it goes on, complete or not there at all.

A checkpoint is the folder checkpoints/<step>/ of a run: Orbax's items `state`, `data` (the data's position) and
`config`, and the digests of all their files, so that a damaged one is known before it is used.
"""

import contextlib
import fcntl
import functools
import hashlib
import json
import logging
import shutil
import sys
from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np
import orbax.checkpoint as ocp
from jaxtyping import PyTree

from diffusion_jax.training.state import TrainState

LISTING = "files.json"
UNFINISHED = "*.orbax-checkpoint-tmp*"


class Checkpoints(NamedTuple):
    """The checkpoints of one run, kept in `folder`/<step>/."""

    folder: Path
    manager: ocp.CheckpointManager


def open_checkpoints(run: Path, keep: int = 2, keep_every: int | None = None) -> Checkpoints:
    """Open the checkpoints of a run folder, whose lock is held, and clear away what a killed process left half-written.

    The newest `keep` stay, and those whose step divides by keep_every.
    """
    quiet_orbax()
    folder = Path(run).resolve() / "checkpoints"
    for left in folder.glob(UNFINISHED):
        shutil.rmtree(left)

    def seal():  # Orbax calls this when all is written, before the folder gets its final name
        for path in folder.glob(UNFINISHED):
            (path / LISTING).write_text(json.dumps(digests(path), indent=1))

    options = ocp.CheckpointManagerOptions(
        max_to_keep=keep,
        keep_period=keep_every,
        create=True,
        async_options=ocp.AsyncOptions(post_finalization_callback=seal),
    )
    return Checkpoints(folder, ocp.CheckpointManager(folder, options=options))


def save(checkpoints: Checkpoints, state: TrainState, data: dict, config: dict) -> None:
    """Write a state, the data's position and the config in the background; nothing if that step is there already.

    Raises OSError when this one, or the one before, cannot be written; see `finish`.
    """
    step = int(state.step)
    items = ocp.args.Composite(
        state=ocp.args.StandardSave(state._asdict()),
        data=ocp.args.JsonSave(data),
        config=ocp.args.JsonSave(config),
    )
    finish(checkpoints)
    if step not in steps_in(checkpoints.folder):
        with one_line(checkpoints):
            checkpoints.manager.save(step, args=items, force=True)


def finish(checkpoints: Checkpoints) -> None:
    """Wait until what is being written is whole. Raises OSError where it cannot be, as on a full disk."""
    with one_line(checkpoints):
        checkpoints.manager.wait_until_finished()


def close(checkpoints: Checkpoints) -> None:
    """Stop the threads that write. After an error this raises no second one: what is half-written stays unfinished."""
    with contextlib.suppress(Exception):
        checkpoints.manager.close()


def restore(checkpoints: Checkpoints, like: TrainState) -> tuple[TrainState, dict] | None:
    """The newest state and the data's position, laid out as `like` (arrays or shapes with shardings), or None.

    Raises ValueError for a checkpoint that is damaged, or that is not of this model.
    """
    steps = steps_in(checkpoints.folder)
    if not steps:
        return None
    path = checkpoints.folder / str(max(steps))
    check_files(path)
    items = ocp.args.Composite(state=ocp.args.StandardRestore(like._asdict()), data=ocp.args.JsonRestore())
    with unreadable(path):
        stored = stored_shapes(path)
    check_shapes(stored["params"], like.params, f"checkpoint {path}")
    with unreadable(path):
        restored = checkpoints.manager.restore(max(steps), args=items)
    return TrainState(**restored["state"]), restored["data"]


def load_params(run: str | Path) -> tuple[PyTree[np.ndarray], int]:
    """The EMA parameters of a run's newest checkpoint, as numpy arrays, and its step; on any kind of devices.

    Raises FileNotFoundError where there is no checkpoint, ValueError where it is damaged.
    """
    quiet_orbax()
    folder = Path(run).resolve() / "checkpoints"
    steps = steps_in(folder)
    if not steps:
        raise FileNotFoundError(f"{run} holds no checkpoint: train it first, or give the folder of another run")
    path = folder / str(max(steps))
    check_files(path)
    with unreadable(path), ocp.PyTreeCheckpointer() as reader:
        wanted = {"ema_params": jax.tree.map(lambda _: 0, stored_shapes(path)["ema_params"])}
        to_numpy = jax.tree.map(lambda _: ocp.RestoreArgs(restore_type="np.ndarray"), wanted)
        items = ocp.args.PyTreeRestore(wanted, restore_args=to_numpy, partial_restore=True)
        return reader.restore(path / "state", args=items)["ema_params"], max(steps)


def steps_in(folder: Path) -> list[int]:
    """The steps of the whole checkpoints in a folder; none where there is no such folder."""
    return list(ocp.utils.checkpoint_steps(folder)) if folder.is_dir() else []


def stored_shapes(path: Path) -> dict:
    """What a checkpoint's state holds: a tree whose leaves have a shape."""
    with ocp.PyTreeCheckpointer() as reader:
        return reader.metadata(path / "state").item_metadata.tree


def check_shapes(found: PyTree, expected: PyTree, title: str, wanted_by: str = "its config") -> None:
    """Raise ValueError, naming the first leaf that differs, unless two trees have leaves of the same shapes.

    title, wanted_by: what holds the parameters that were found, and what the expected ones are of.
    """
    there, wanted = (
        {jax.tree_util.keystr(path, simple=True, separator="/"): tuple(leaf.shape) for path, leaf in leaves}
        for leaves in map(jax.tree_util.tree_leaves_with_path, (found, expected))
    )
    wrong = sorted(name for name in there.keys() | wanted.keys() if there.get(name) != wanted.get(name))
    if wrong:
        raise ValueError(
            f"{title} does not hold the parameters of {wanted_by}: {len(wrong)} differ, first {wrong[0]}, "
            f"which is {there.get(wrong[0], 'missing')} and should be {wanted.get(wrong[0], 'absent')}"
        )


def digests(path: Path) -> dict[str, str]:
    """A digest of each file of each item of a checkpoint; Orbax's own notes beside the items still change later."""
    found = {}
    for file in sorted(path.glob("*/**/*")):
        if file.is_file():
            with open(file, "rb") as content:
                found[file.relative_to(path).as_posix()] = hashlib.file_digest(content, "blake2b").hexdigest()[:32]
    return found


def check_files(path: Path) -> None:
    """Raise ValueError, naming a file, unless a checkpoint's files are what was written."""
    with unreadable(path):
        if not (path / LISTING).exists():
            return  # of a version that wrote none
        written, found = json.loads((path / LISTING).read_text()), digests(path)
        for name, digest in written.items():
            if found.get(name) != digest:
                raise ValueError(f"{name} is {'damaged' if name in found else 'missing'}")


@contextlib.contextmanager
def unreadable(path: Path):
    """Turns any error into a ValueError of one line that says what to do about a checkpoint that cannot be read."""
    try:
        yield
    except Exception as error:
        advice = "delete that folder to go on from the one before"
        raise ValueError(f"checkpoint {path} cannot be read ({first_line(error)}): {advice}") from None


@contextlib.contextmanager
def one_line(checkpoints: Checkpoints):
    """Turns any error into an OSError of one line that says what is left."""
    try:
        yield
    except Exception as error:
        folder = checkpoints.folder
        raise OSError(f"a checkpoint could not be written to {folder}: {first_line(error)}") from None


def first_line(error: Exception) -> str:
    """What an error says, in short: the first line of its message, or its type where it has none."""
    known = ("No space left on device", "File too large", "Disk quota exceeded")  # after many words, in TensorStore's
    line = (str(error).strip().splitlines() or [type(error).__name__])[0]
    return next((words for words in known if words in str(error)), line[:200])


@functools.cache
def quiet_orbax() -> None:
    """Keep Orbax from the terminal: what goes wrong is raised, and then said in one line, not in hundreds."""
    logging.getLogger("absl").addFilter(not_of_orbax)
    logging.getLogger("asyncio").setLevel(logging.CRITICAL)  # mourns every array that a full disk had no room for
    before = sys.unraisablehook

    def hook(unraisable):
        if str(unraisable.exc_value) != "Event loop is closed":  # from arrays that were still being written
            before(unraisable)

    sys.unraisablehook = hook


def not_of_orbax(record: logging.LogRecord) -> bool:
    return "orbax" not in record.pathname


def lock(run: Path):
    """Hold the run folder until this file is closed or the process ends, however it ends.

    Raises OSError if another process trains there.
    """
    file = open(Path(run) / "lock", "w")  # noqa: SIM115  (held open: the kernel drops the lock with the process)
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        file.close()
        raise OSError(f"another process trains in {run}: wait for it, or choose another --workdir") from None
    return file


def read_config(run: Path) -> dict:
    """The config of a run folder. Raises FileNotFoundError where there is none, ValueError where it is damaged."""
    path = Path(run) / "config.json"
    if not path.exists():
        raise FileNotFoundError(f"{run} is no run folder: it holds no config.json")
    try:
        config = json.loads(path.read_text("utf-8"))
    except ValueError as error:
        raise ValueError(f"{path} is damaged: {error}") from error
    if not isinstance(config, dict):
        raise ValueError(f"{path} is damaged: it holds no config")
    return config
